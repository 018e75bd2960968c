"""What this server grants its partners: one file each, changeable while it runs.

Owns ``ROOT/partners/NAME/partner.toml`` and refuses what it does not know: a misspelt
limit would be silently without effect.  coopfs-config(5), "The server's partners".
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from coopfs.bandwidth import Schedule
from coopfs.dirs import make_private_folder, write_private
from coopfs.errors import ConfigError, FormatUnsupported, UsageError

PARTNERS: Final = "partners"  # the folder below the server's root
SETTINGS_FILE: Final = "partner.toml"
VERSION: Final = 1
RETENTION_DAYS: Final = 30
RETENTION_DAYS_MAX: Final = 3650
FILE_LEN_MAX: Final = 1 << 20  # bytes; hundreds of certificates
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class PartnerSettings:
    """One partner as its server knows it.  Frozen: a change is a new value, saved."""

    name: str  # also the first part of the path of every request
    writers: tuple[str, ...] = ()  # certificates in PEM: put, get, list
    admins: tuple[str, ...] = ()  # certificates in PEM: may delete, too
    diallers: tuple[str, ...] = ()  # certificates in PEM: may leave lines here, nothing else
    quota_bytes: int = 0  # 0: whatever the disk holds
    per_day_bytes: int = 0  # 0: no limit of its own
    retention_days: int = RETENTION_DAYS  # how long what was deleted stays in the trash
    receive_rate: str = ""  # schedules, see coopfs/bandwidth.py; uploads by the partner
    send_rate: str = ""  # what the partner reads
    keeps_until: str = ""  # ISO date: this side leaves, takes nothing new, keeps what is here
    writer_tokens: tuple[str, ...] = ()  # SHA-256 of tokens for --http, in hex
    admin_tokens: tuple[str, ...] = ()

    @cached_property
    def writer_pins(self) -> frozenset[str]:
        """SHA-256 of the writers' certificates (DER), in hex."""
        return frozenset(map(pin_of_pem, self.writers))

    @cached_property
    def admin_pins(self) -> frozenset[str]:
        """SHA-256 of the admins' certificates (DER), in hex."""
        return frozenset(map(pin_of_pem, self.admins))

    @cached_property
    def dialler_pins(self) -> frozenset[str]:
        """SHA-256 of the certificates (DER) of those who dial in, in hex."""
        return frozenset(map(pin_of_pem, self.diallers))

    @property
    def pins(self) -> frozenset[str]:
        """SHA-256 of every certificate of the partner."""
        return self.writer_pins | self.admin_pins | self.dialler_pins

    def check(self) -> PartnerSettings:
        """Return the settings if they make sense.

        Raises:
            UsageError: what does not.
        """
        check_partner_name(self.name)
        for pem in (*self.writers, *self.admins, *self.diallers):
            pin_of_pem(pem)
        if both := self.writer_pins & self.admin_pins:
            raise UsageError(f"certificate {min(both)[:16]}… is a writer's and an admin's at once")
        if both := self.dialler_pins & (self.writer_pins | self.admin_pins):
            raise UsageError(f"certificate {min(both)[:16]}… may dial in and come in at once")
        for what, count in (
            ("quota_bytes", self.quota_bytes),
            ("per_day_bytes", self.per_day_bytes),
        ):
            if count < 0:
                raise UsageError(
                    f"{what} is {count}; expected a number of bytes, or 0 for no limit"
                )
        if not 1 <= self.retention_days <= RETENTION_DAYS_MAX:
            raise UsageError(
                f"retention_days is {self.retention_days}; expected 1 to {RETENTION_DAYS_MAX}"
            )
        Schedule.parse(self.receive_rate)
        Schedule.parse(self.send_rate)
        if self.keeps_until:
            try:
                date.fromisoformat(self.keeps_until)
            except ValueError as exc:
                raise UsageError(
                    f"keeps_until is {self.keeps_until!r}; expected a date such as 2027-01-31"
                ) from exc
        for token in (*self.writer_tokens, *self.admin_tokens):
            if not _SHA256.match(token):
                raise UsageError("a token is kept as its SHA-256 in hex, not as itself")
        return self


def without_certificates(settings: PartnerSettings, pins: Sequence[str]) -> PartnerSettings:
    """Return *settings* without the writers and admins whose pins, or their beginnings, these are.

    Raises:
        UsageError: none, or more than one, is meant.
    """
    for wanted in pins:
        known = [*settings.writers, *settings.admins]
        digits = wanted.lower().replace(":", "")
        meant = {pem for pem in known if digits and pin_of_pem(pem).startswith(digits)}
        if len(meant) != 1:
            shown = ", ".join(sorted(settings.writer_pins | settings.admin_pins)) or "none"
            raise UsageError(
                f"{wanted!r} is the beginning of {len(meant)} certificates of partner "
                f"{settings.name!r}; there is: {shown}"
            )
        settings = replace(
            settings,
            writers=tuple(pem for pem in settings.writers if pem not in meant),
            admins=tuple(pem for pem in settings.admins if pem not in meant),
        )
    return settings


def check_partner_name(name: str) -> str:
    """Return *name* if it may name a partner (UsageError)."""
    if not _NAME.match(name):
        raise UsageError(
            f"partner name {name!r}: expected letters, digits, '.', '_' and '-', 64 at most, "
            "beginning with a letter or digit"
        )
    return name


def pin_of_pem(pem: str) -> str:
    """Return the SHA-256 of a certificate's DER in hex (UsageError: not one certificate)."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except ValueError as exc:
        raise UsageError(f"not a certificate in PEM: {exc}") from exc


def partner_folder(root: Path, name: str) -> Path:
    """Return the folder with everything of one partner."""
    return root / PARTNERS / name


def load_partners(root: Path) -> dict[str, PartnerSettings]:
    """Read the settings of all partners, by name; none are none.

    Raises:
        ConfigError: a file cannot be read or does not say what it must.
        FormatUnsupported: one was written for a newer coopfs.
    """
    partners, problems = read_partners(root)
    for problem in problems.values():
        raise problem
    return partners


def read_partners(
    root: Path,
) -> tuple[dict[str, PartnerSettings], dict[str, ConfigError | FormatUnsupported]]:
    """Return the settings that can be used and, by name, what is wrong with the others.

    One partner's damaged file keeps no other partner out.

    Raises:
        ConfigError: the folder cannot be read.
    """
    found: dict[str, PartnerSettings] = {}
    problems: dict[str, ConfigError | FormatUnsupported] = {}
    owner: dict[str, str] = {}  # pin -> partner
    for name in _partner_names(root):
        path = partner_folder(root, name) / SETTINGS_FILE
        try:
            settings = _load(path, name)
            for pin in settings.pins:
                if owner.setdefault(pin, name) != name:
                    # Whose objects would it be shown?
                    raise ConfigError(
                        f"{path}: certificate {pin[:16]}… is partner {owner[pin]!r}'s already"
                    )
            found[name] = settings
        except (ConfigError, FormatUnsupported) as exc:
            problems[name] = exc
    return found, problems


def load_partner(root: Path, name: str) -> PartnerSettings:
    """Read one partner's settings.

    Raises:
        ConfigError, FormatUnsupported: as :func:`load_partners`; there is no such partner.
    """
    return _load(partner_folder(root, name) / SETTINGS_FILE, name)


def change_partner(
    root: Path, name: str, change: Callable[[PartnerSettings], PartnerSettings]
) -> PartnerSettings:
    """Save what *change* makes of a partner's settings, or of those of a new one; return it.

    Raises:
        UsageError: the outcome makes no sense.
        ConfigError, FormatUnsupported: the file cannot be read or written.
    """
    check_partner_name(name)
    folder = partner_folder(root, name)
    make_private_folder(folder)
    # Two commands at once must not undo each other.  The folder, not the file: that is replaced.
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        is_new = not (folder / SETTINGS_FILE).exists()
        settings = change(PartnerSettings(name) if is_new else load_partner(root, name))
        others, _ = read_partners(root)
        for other in others.values():
            if other.name != name and (both := other.pins & settings.pins):
                raise UsageError(
                    f"certificate {min(both)[:16]}… is partner {other.name!r}'s already"
                )
        save_partner(root, settings)
        return settings
    finally:
        os.close(fd)


def save_partner(root: Path, settings: PartnerSettings) -> None:
    """Write a partner's settings, atomically and durably; its folder is made if need be.

    Raises:
        UsageError: the settings make no sense.
        ConfigError: the file cannot be written.
    """
    import tomli_w

    settings.check()
    table: dict[str, Any] = {"version": VERSION, "name": settings.name}
    for key, kind, default in _KEYS:
        value = getattr(settings, key)
        if value != default or key in ("quota_bytes", "retention_days"):
            table[key] = list(value) if kind is list else value
    text = "# A partner of this server: coopfs-config(5).  Changes hold within seconds.\n"
    text += tomli_w.dumps(table, multiline_strings=True)
    folder = partner_folder(root, settings.name)
    make_private_folder(folder)
    write_private(folder / SETTINGS_FILE, text.encode(), replace=True)


_KEYS: Final[tuple[tuple[str, type, Any], ...]] = (
    ("quota_bytes", int, 0),
    ("per_day_bytes", int, 0),
    ("retention_days", int, RETENTION_DAYS),
    ("receive_rate", str, ""),
    ("send_rate", str, ""),
    ("keeps_until", str, ""),
    ("writers", list, ()),
    ("admins", list, ()),
    ("diallers", list, ()),
    ("writer_tokens", list, ()),
    ("admin_tokens", list, ()),
)
_KIND_WORDS: Final = {int: "a whole number", str: "text", list: "a list of texts"}


def _partner_names(root: Path) -> list[str]:
    try:
        return sorted(
            entry.name
            for entry in (root / PARTNERS).iterdir()
            if _NAME.match(entry.name) and (entry / SETTINGS_FILE).is_file()
        )
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigError(f"{root / PARTNERS}: cannot be read: {exc.strerror}") from exc


def _load(path: Path, name: str) -> PartnerSettings:
    import tomllib

    try:
        with path.open("rb") as file:
            text = file.read(FILE_LEN_MAX + 1)
        if len(text) > FILE_LEN_MAX:
            raise ConfigError(f"{path}: more than {FILE_LEN_MAX} bytes; not written by coopfs")
        table = tomllib.loads(text.decode())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    version = table.pop("version", None)
    if type(version) is not int or version < 1:
        raise ConfigError(f"{path}: version is {version!r}; expected {VERSION}")
    if version > VERSION:
        raise FormatUnsupported(
            f"{path}: settings of version {version}; this coopfs knows {VERSION}, update coopfs"
        )
    if (said := table.pop("name", name)) != name:
        raise ConfigError(f"{path}: these are the settings of partner {said!r}, not {name!r}")
    values = {key: _take(table, key, kind, default, path) for key, kind, default in _KEYS}
    if table:
        raise ConfigError(f"{path}: unknown setting {min(table)!r}; see coopfs-config(5)")
    try:
        return PartnerSettings(name=name, **values).check()
    except UsageError as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def _take(table: dict[str, Any], key: str, kind: type, default: Any, path: Path) -> Any:
    value: Any = table.pop(key, default)
    if value is default:
        return value
    fits = type(value) is kind
    if isinstance(value, list):
        fits = fits and all(type(item) is str for item in value)
    if not fits:
        raise ConfigError(f"{path}: {key} is {value!r}; expected {_KIND_WORDS[kind]}")
    return tuple(value) if kind is list else value
