"""The addresses of stores behind FTP, as coopfs(1) lists them.

    ftp://[USER[:PASSWORD]@]HOST[:PORT]/PATH
    ftps://[USER[:PASSWORD]@]HOST[:PORT]/PATH[?pin=HEX|?ca=FILE]

PATH is from the server's root; ``/~/PATH`` from the login's folder.  What an address
lacks, COOPFS_FTP_USERNAME, COOPFS_FTP_PASSWORD and ~/.netrc may have.  Messages never
repeat an address: it may hold a password.
"""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from coopfs.errors import ConfigError, UsageError
from coopfs.store.shown import shown_address

USERNAME_VARIABLE: Final = "COOPFS_FTP_USERNAME"
PASSWORD_VARIABLE: Final = "COOPFS_FTP_PASSWORD"  # noqa: S105 - a variable's name
DEFAULT_PORT: Final = 21
IMPLICIT_PORT: Final = 990  # where TLS comes before the first word
ANONYMOUS: Final = "anonymous"

_FORM: Final = "expected ftps://USER:PASSWORD@HOST:PORT/PATH"
_URL = re.compile(
    r"(ftps?)://(?:([^@/]*)@)?(\[[0-9A-Fa-f:.%]+\]|[^:@/\[\]?]+)(?::([0-9]+))?(/[^?]*)(?:\?(.*))?",
    re.I | re.S,
)
_PIN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FtpAddress:
    """A server, the folder of the store on it, and how both sides know each other."""

    host: str
    port: int
    has_tls: bool
    path: str  # absolute, or relative to the login's folder
    shown: str  # the address as it was written, without the password
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pin: str | None = None  # SHA-256 of the certificate's DER in hex
    ca_file: str | None = None

    @property
    def where(self) -> str:
        """How messages name the server."""
        return f"{self.host}:{self.port}"

    def login(self, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
        """Return user and password (ConfigError: ~/.netrc cannot be read)."""
        environ = os.environ if environ is None else environ
        user, password = self.user, self.password
        user = environ.get(USERNAME_VARIABLE) if user is None else user
        password = environ.get(PASSWORD_VARIABLE) if password is None else password
        if user is None or password is None:
            known = _from_netrc(self.host)
            if known is not None and user in (None, known[0]):
                user, password = known[0], known[1] if password is None else password
        if user is None:
            return ANONYMOUS, password or "coopfs@"
        return user, password or ""


def parse_ftp_address(address: str) -> FtpAddress:
    """Take *address* apart.

    Raises:
        UsageError: it is not such an address.
    """
    found = _URL.fullmatch(address)
    if found is None:
        raise UsageError(f"an ftp address names a server and a folder there; {_FORM}")
    scheme, userinfo, host, port_text, path, query = found.groups()
    has_tls = scheme.lower() == "ftps"
    user, colon, password = (userinfo or "").partition(":")
    host = unquote(host.strip("[]"))
    port = DEFAULT_PORT if port_text is None else int(port_text)
    if not 0 < port < 65536:
        raise UsageError(f"an ftp address has a port from 1 to 65535; {_FORM}")
    path, user, password = unquote(path), unquote(user), unquote(password)
    for text in (host, path, user, password):
        # Each becomes part of a line that the server obeys.
        if not text.isprintable() and any(mark in text for mark in "\r\n\0"):
            raise UsageError(f"an ftp address with a line break or a NUL in it; {_FORM}")
    if any(part in (".", "..") for part in path.split("/")):
        raise UsageError(f'the path of the address has "." or ".." in it; {_FORM}')
    if path == "/~" or path.startswith("/~/"):
        path = path[3:].lstrip("/") or "."
    return FtpAddress(
        host,
        port,
        has_tls,
        path.rstrip("/") or "/",
        shown_address(address),
        user or None,
        password if colon else None,
        **_options(query, has_tls=has_tls),
    )


def _options(query: str | None, *, has_tls: bool) -> dict[str, str]:
    if not query:
        return {}
    options = parse_qsl(query, keep_blank_values=True)
    if len(options) != 1 or options[0][0] not in ("pin", "ca") or not has_tls:
        raise UsageError(
            "what follows the question mark of an ftps address is pin=SHA256 or ca=FILE; in a "
            'path a question mark is written "%3F"'
        )
    ((name, value),) = options
    if name == "ca":
        if not os.path.isabs(value):
            raise UsageError("ca= expects the absolute path of a file with certificates (PEM)")
        return {"ca_file": value}
    pin = value.replace(":", "").lower()
    if not _PIN.fullmatch(pin):
        raise UsageError(
            "pin= expects the SHA-256 of the server's certificate, 64 hex digits, as "
            '"openssl x509 -noout -fingerprint -sha256" prints it'
        )
    return {"pin": pin}


def _from_netrc(host: str) -> tuple[str, str] | None:
    """Return user and password that ~/.netrc has for *host*."""
    try:
        known = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return None
    except (OSError, netrc.NetrcParseError) as exc:
        raise ConfigError(
            f"~/.netrc cannot be used ({exc}); mend it, or give user and password in the "
            f"address or in {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}"
        ) from exc
    return None if known is None else (known[0], known[2] or "")
