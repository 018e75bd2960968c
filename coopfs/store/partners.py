"""What this machine knows of its partners: where their servers are, and how to come in.

Owns ``partners/NAME.toml`` in the config folder, one file a partner, written by
``coopfs pair`` and read for ``coop://NAME``; refuses what it does not know.
coopfs-config(5), "Partners".
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coopfs.bandwidth import Schedule
from coopfs.dirs import Dirs, make_private_folder, sync_folder, write_private
from coopfs.errors import ConfigError, FormatUnsupported, NotFound, UsageError
from coopfs.format.invitation import Endpoint, check_partner_name, parse_endpoint
from coopfs.identity import parse_certificate, parse_pin, pin_of

VERSION: Final = 1
SCHEME: Final = "coop"
SUFFIX: Final = ".toml"
IDENTITY_FOLDER: Final = "identity"


@dataclass(frozen=True, slots=True)
class PartnerAccess:
    """How this machine reaches one partner's server, and as whom."""

    name: str  # what this machine calls the partner
    endpoint: Endpoint | None  # None: the partner dials in, and `socket` leads to it
    socket: str | None  # unix socket of our own server, for a partner who dials in
    certificate: str  # PEM of the partner's server
    path: str  # the name under which that server knows us
    identity: str  # file of ours, in the config folder unless absolute
    quota: int | None = None  # bytes the partner promised; None: unknown
    retention_days: int | None = None  # how long what we delete can be had back
    receive_rate: str = ""  # a schedule: how fast we may upload, as told at pairing
    send_rate: str = ""  # ... and read
    dials: bool = False  # our server is reached by nobody: it dials out to the partner's

    @property
    def pin(self) -> str:
        """SHA-256 of the server certificate's DER, hex."""
        return pin_of(parse_certificate(self.certificate, f"partner {self.name}"))

    @property
    def address(self) -> str:
        """Where the partner is, for people."""
        return str(self.endpoint) if self.endpoint else "dials in"


def partner_of_address(address: str) -> str | None:
    """Return the partner's name in ``coop://NAME``; None for an address of another kind.

    Raises:
        UsageError: no partner can have that name.
    """
    scheme, colon, name = address.partition("://")
    if not colon or scheme.lower() != SCHEME:
        return None
    return check_partner_name(name.rstrip("/"))


def partners_folder(dirs: Dirs) -> Path:
    """Return the folder of the partners' files."""
    return dirs.config / "partners"


def access_path(dirs: Dirs, name: str) -> Path:
    """Return the file of the partner called *name* (UsageError: no such name is possible)."""
    return partners_folder(dirs) / f"{check_partner_name(name)}{SUFFIX}"


def partner_names(dirs: Dirs) -> list[str]:
    """Return the names of the partners whose stores this machine uses, sorted (ConfigError)."""
    folder = partners_folder(dirs)
    names = []
    try:
        for entry in folder.iterdir():
            if entry.suffix == SUFFIX:
                with suppress(UsageError):
                    names.append(check_partner_name(entry.stem))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be read: {exc.strerror}") from exc
    return sorted(names)


def load_access(dirs: Dirs, name: str) -> PartnerAccess:
    """Read what is known of the partner called *name*.

    Raises:
        UsageError: no partner can have that name.
        NotFound: there is no such partner.
        ConfigError: its file cannot be read or does not say what it must.
        FormatUnsupported: written for a newer coopfs.
    """
    import tomllib

    path = access_path(dirs, name)
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as exc:
        known = ", ".join(partner_names(dirs)) or "none"
        raise NotFound(
            f"no partner is called {name!r} here ({path} is missing); there is: {known}; "
            '"coopfs pair" makes one'
        ) from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    try:
        return _parse(table, name, path)
    except UsageError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def save_access(dirs: Dirs, access: PartnerAccess, *, replace: bool = True) -> None:
    """Write the partner's file, atomically and durably (ConfigError)."""
    import tomli_w

    table = {
        "version": VERSION,
        "address": str(access.endpoint) if access.endpoint else None,
        "socket": access.socket,
        "path": access.path,
        "identity": access.identity,
        "quota": access.quota,
        "retention_days": access.retention_days,
        "receive_rate": access.receive_rate or None,
        "send_rate": access.send_rate or None,
        "dials": access.dials or None,
        "pin": access.pin,
        "certificate": access.certificate,
    }
    text = "# A partner of coopfs, whose store is used from here: coopfs-config(5).\n"
    text += tomli_w.dumps(
        {key: value for key, value in table.items() if value is not None}, multiline_strings=True
    )
    path = access_path(dirs, access.name)
    make_private_folder(path.parent)
    write_private(path, text.encode(), replace=replace)


def remove_access(dirs: Dirs, name: str) -> None:
    """Forget how the partner is reached (NotFound, ConfigError)."""
    path = access_path(dirs, name)
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError as exc:
        raise NotFound(f"no partner is called {name!r} here ({path} is missing)") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be deleted: {exc.strerror}") from exc


def identity_path(dirs: Dirs, access: PartnerAccess) -> Path:
    """Return the file of the identity with which this machine comes to that partner."""
    return Path(os.path.join(dirs.config, access.identity))


_KIND_WORDS: Final = {int: "a whole number", str: "text", bool: "true or false"}


def _parse(table: dict[str, Any], name: str, path: Path) -> PartnerAccess:
    rest = dict(table)

    def take(key: str, kind: type, *, is_needed: bool = True) -> Any:
        value = rest.pop(key, None)
        if value is None and not is_needed:
            return None
        if type(value) is not kind:
            missing = "is missing" if value is None else f"is {value!r}"
            raise ConfigError(f"{path}: {key} {missing}; expected {_KIND_WORDS[kind]}")
        return value

    version = take("version", int)
    if version > VERSION:
        raise FormatUnsupported(
            f"{path}: a partner of version {version}; this coopfs knows {VERSION}, update coopfs"
        )
    address = take("address", str, is_needed=False)
    socket = take("socket", str, is_needed=False)
    if (address is None) == (socket is None):
        raise ConfigError(f"{path}: expected either an address or, if it dials in, a socket")
    certificate = take("certificate", str)
    pin = parse_pin(take("pin", str), "pin")
    found = pin_of(parse_certificate(certificate, "certificate"))
    if pin != found:
        raise ConfigError(f"{path}: the pin is {pin}, but the certificate's is {found}")
    access = PartnerAccess(
        name=name,
        endpoint=parse_endpoint(address, "address") if address is not None else None,
        socket=socket,
        certificate=certificate,
        path=check_partner_name(take("path", str)),
        identity=take("identity", str),
        quota=take("quota", int, is_needed=False),
        retention_days=take("retention_days", int, is_needed=False),
        receive_rate=Schedule.parse(take("receive_rate", str, is_needed=False) or "").text,
        send_rate=Schedule.parse(take("send_rate", str, is_needed=False) or "").text,
        dials=bool(take("dials", bool, is_needed=False)),
    )
    if rest:
        raise ConfigError(f"{path}: unknown setting {min(rest)!r}; see coopfs-config(5)")
    return access
