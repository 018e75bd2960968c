"""The addresses of stores behind the restic REST protocol, as coopfs(1) lists them.

    rest+https://[USER[:PASSWORD]@]HOST[:PORT]/PATH[?pin=HEX][?ca=FILE]
    rest+http://…                      rest+http+unix:///SOCKET:/PATH
    rest:https://…                     restic's way to write the same

Messages never repeat an address: it may hold a password.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from coopfs.errors import UsageError
from coopfs.store.http import Endpoint, HttpPool, Trust, pin_trust, public_trust, stall_s
from coopfs.store.retry import Patience
from coopfs.store.shown import shown_address

DEFAULT_PORT: Final = 8000  # rest-server's
USERNAME_VARIABLE: Final = "COOPFS_REST_USERNAME"
PASSWORD_VARIABLE: Final = "COOPFS_REST_PASSWORD"  # noqa: S105 - a variable's name

_FORM: Final = "expected rest+https://USER:PASSWORD@HOST:PORT/PATH"
_UNIX_FORM: Final = "expected rest+http+unix:///PATH/TO/SOCKET:/PATH"
_SCHEME = re.compile(r"rest[+:](https?|http\+unix)://", re.IGNORECASE)
_PIN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RestAddress:
    """A server, the place of the store on it, and how both sides know each other."""

    endpoint: Endpoint
    path: str  # quoted; begins and ends with a slash
    shown: str  # the address as it was written, without the password
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pin: str | None = None  # SHA-256 of the certificate's DER in hex
    ca_file: str | None = None

    def trust(self) -> Trust | None:
        """Return by what the server is recognised; None over plain HTTP (ConfigError)."""
        if self.endpoint.scheme == "http":
            return None
        return pin_trust(self.pin) if self.pin else public_trust(self.ca_file)

    def connections(self, patience: Patience) -> HttpPool:
        """Return connections to the server, not yet made (ConfigError)."""
        return HttpPool(
            self.endpoint,
            self.shown,
            trust=self.trust(),
            headers=self.headers(),
            stall_s=stall_s(patience),
        )

    def headers(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the headers that say who we are; what the address lacks, *environ* may have."""
        environ = os.environ if environ is None else environ
        user, password = self.user, self.password
        if user is None:
            user = environ.get(USERNAME_VARIABLE)
        if password is None:
            password = environ.get(PASSWORD_VARIABLE, "")
        if not user:
            return {}
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}


def parse_address(address: str) -> RestAddress:
    """Take *address* apart.

    Raises:
        UsageError: it is not such an address.
    """
    scheme = _SCHEME.match(address)
    if not scheme:
        raise UsageError(f"not the address of a REST store: {_FORM}")
    kind = scheme[1].lower()
    if not address.isprintable() or " " in address:
        raise UsageError(f"an address with blanks or control characters in it: {_FORM}")
    try:
        parts = urlsplit(f"x://{address[scheme.end() :]}")
        port = parts.port
    except ValueError as exc:
        raise UsageError(f"the host or the port of the address is none; {_FORM}") from exc
    if parts.fragment or "#" in address:
        raise UsageError(f'a "#" in an address is written "%23"; {_FORM}')
    if kind == "http+unix":
        endpoint, path = _unix_endpoint(parts)
    else:
        endpoint = _tcp_endpoint("https" if kind == "https" else "http", parts, port)
        path = parts.path
    if any(part in (".", "..") for part in unquote(path).split("/")):
        raise UsageError(f'the path of the address has "." or ".." in it; {_FORM}')
    user = parts.username and unquote(parts.username)
    if user and ":" in user:
        raise UsageError("a user name with a colon in it cannot be sent to a server")
    return RestAddress(
        endpoint,
        quote(f"/{path.strip('/')}/".replace("//", "/"), safe="/%!$&'()*+,;=:@~"),
        shown_address(address),
        user,
        unquote(parts.password) if parts.password is not None else None,
        **_options(parts.query, endpoint.scheme),
    )


def _tcp_endpoint(
    scheme: Literal["http", "https"], parts: SplitResult, port: int | None
) -> Endpoint:
    if not parts.hostname:
        raise UsageError(f"the address names no host; {_FORM}")
    return Endpoint(scheme, parts.hostname, DEFAULT_PORT if port is None else port)


def _unix_endpoint(parts: SplitResult) -> tuple[Endpoint, str]:
    socket_path, colon, path = parts.path.partition(":/")
    if not colon:
        socket_path = parts.path.removesuffix(":")
    if parts.hostname or len(socket_path) < 2:
        raise UsageError(f"the address names no socket; {_UNIX_FORM}")
    return Endpoint("http", "localhost", 80, unquote(socket_path)), path


def _options(query: str, scheme: str) -> dict[str, str]:
    try:
        found = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as exc:
        raise UsageError(f"what follows the address's question mark is no option; {_FORM}") from exc
    options: dict[str, str] = {}
    for name, value in found:
        if name not in ("pin", "ca") or name in options:
            raise UsageError(f"the address has an option {name!r}; expected pin= or ca=, once")
        options[name] = value
    if options and scheme != "https":
        raise UsageError("pin= and ca= are for rest+https:// addresses: without TLS nobody is sure")
    if len(options) > 1:
        raise UsageError("pin= and ca= exclude each other: a pinned certificate needs no authority")
    if "ca" in options:
        if not os.path.isabs(options["ca"]):
            raise UsageError("ca= expects the absolute path of a file with certificates (PEM)")
        return {"ca_file": options["ca"]}
    if "pin" in options:
        pin = options["pin"].replace(":", "").lower()
        if not _PIN.fullmatch(pin):
            raise UsageError(
                "pin= expects the SHA-256 of the server's certificate, 64 hex digits, as "
                '"openssl x509 -noout -fingerprint -sha256" prints it'
            )
        return {"pin": pin}
    return {}
