"""An archive's settings on this host: which store, which host name, which series.

Owns ``archives/NAME/archive.toml`` in the config folder and refuses what it does not
know, since a misspelt setting would be silently without effect.  coopfs-config(5).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from blake3 import blake3

from coopfs.archive.effort import AUTO, check_effort
from coopfs.bandwidth import Schedule
from coopfs.dirs import Dirs, write_private
from coopfs.errors import ConfigError, FormatUnsupported, NoArchive, UsageError
from coopfs.format.invitation import Endpoint, parse_endpoint
from coopfs.format.snapshot import check_label
from coopfs.format.sntp import PORT as NTP_PORT
from coopfs.ids import ARCHIVE_ID_LEN, ArchiveId
from coopfs.store.open import absolute_address
from coopfs.store.shown import shown_address

SETTINGS_FILE: Final = "archive.toml"
DEFAULT_NAME: Final = "default"
VERSION: Final = 1
PARTIAL_INTERVAL_S: Final = 4 * 3600  # DESIGN: "every few hours"
PARTIAL_INTERVAL_MIN_S: Final = 60
CACHE_MAX: Final = 4 << 30  # bytes of sealed blocks kept on disk for a remote store
NTP_SERVERS_MAX: Final = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_ARCHIVE_ID = re.compile(rf"[0-9a-f]{{{2 * ARCHIVE_ID_LEN}}}\Z")


@dataclass(frozen=True, slots=True)
class SeriesRule:
    """Snapshots of *path* (absolute) belong to *series* unless --series says otherwise."""

    path: str
    series: str


@dataclass(frozen=True, slots=True)
class OtherStore:
    """A store with a copy of the archive, which ``coopfs copy`` writes."""

    name: str
    address: str  # absolute; may hold a password


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """What this host knows about one archive, secrets apart."""

    name: str
    store: str  # address, absolute; may hold a password
    archive_id: ArchiveId
    host: str  # this host's name in its snapshots, as it was enrolled
    series: tuple[SeriesRule, ...] = ()
    partial_interval_s: int = PARTIAL_INTERVAL_S  # 0: no partial snapshots
    cache_max: int = CACHE_MAX  # bytes
    ntp_servers: tuple[Endpoint, ...] = ()  # asked at every snapshot; none: the local daemon
    compression: str = AUTO  # one of coopfs.archive.effort's words
    upload_rate: str = ""  # schedules, see coopfs/bandwidth.py; of the line to the store
    download_rate: str = ""
    others: tuple[OtherStore, ...] = ()
    home: str = ""  # the archive's own store, where `store` is another for now; never saved

    @property
    def is_in_copy(self) -> bool:
        """Whether `store` is not the archive's own but one with a copy."""
        return self.home not in ("", self.store)

    def state_folder(self, dirs: Dirs) -> Path:
        """Return where this host keeps what it knows of the archive as `store` shows it.

        What one store has shown says nothing about another, which may be behind.
        """
        folder = dirs.archive_state(self.archive_id)
        if self.is_in_copy:
            folder = folder / "copies" / blake3(self.store.encode()).hexdigest(8)
        return folder

    def address_of(self, name: str) -> str:
        """Return the address of the store that is called *name*, or has it as its address.

        Raises:
            UsageError: there is none of that name, and it is no address.
        """
        by_name = {other.name: other.address for other in self.others}
        if name in by_name:
            return by_name[name]
        if "/" in name or ":" in name:
            return absolute_address(name)
        known = ", ".join(sorted(by_name)) or "none"
        raise UsageError(
            f"archive {self.name!r} has no other store called {name!r} (there is: {known}); "
            f'"coopfs store add" names one, and a folder of that name is written "./{name}"'
        )

    def aimed_at(self, name: str) -> Self:
        """Return these settings for the copy in the store *name* (UsageError)."""
        return replace(self, store=self.address_of(name), home=self.home or self.store)

    @property
    def shown_store(self) -> str:
        """The address as it may be shown."""
        return shown_address(self.store)

    def series_for(self, paths: tuple[str, ...]) -> str | None:
        """Return the series the settings name for exactly these absolute paths, if any.

        All of *paths* must have a rule, and the same series.
        """
        by_path = {rule.path: rule.series for rule in self.series}
        named = {by_path.get(path) for path in paths}
        return named.pop() if len(named) == 1 else None


def check_archive_name(name: str) -> str:
    """Return *name* if it may name an archive on this host (UsageError)."""
    if not _NAME.match(name):
        raise UsageError(
            f"archive name {name!r}: expected letters, digits, '.', '_' and '-', 64 at most, "
            "beginning with a letter or digit"
        )
    return name


def archive_names(dirs: Dirs) -> list[str]:
    """Return the names of the archives this host knows, sorted.

    Raises:
        ConfigError: the config folder cannot be read.
    """
    try:
        return sorted(
            entry.name
            for entry in dirs.archives.iterdir()
            if _NAME.match(entry.name) and (entry / SETTINGS_FILE).is_file()
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise ConfigError(f"{dirs.archives}: cannot be read: {exc.strerror}") from exc


def name_here(dirs: Dirs, archive_id: ArchiveId) -> str | None:
    """Return what the archive is called on this host; None: it is not here (ConfigError).

    An archive whose own settings are unusable is nobody's.
    """
    for name in archive_names(dirs):
        with suppress(ConfigError, FormatUnsupported):
            if load_settings(dirs, name).archive_id == archive_id:
                return name
    return None


def choose_archive(dirs: Dirs, name: str | None) -> str:
    """Return *name*, or without one the only archive's, or "default".

    Raises:
        NoArchive: this host knows none, or not that one.
        UsageError: there are several, and none is called "default".
    """
    if name is not None:
        check_archive_name(name)
        if (dirs.archive_config(name) / SETTINGS_FILE).exists():
            return name
    names = archive_names(dirs)
    if not names:
        raise NoArchive(
            f"no archive is set up here ({dirs.archives} has none); "
            'make one with "coopfs init STORE"'
        )
    if name is not None:
        raise NoArchive(f"no archive is called {name!r} on this host; there is: {', '.join(names)}")
    if len(names) == 1:
        return names[0]
    if DEFAULT_NAME in names:
        return DEFAULT_NAME
    raise UsageError(
        f"there are several archives here ({', '.join(names)}); "
        "choose one with --archive or COOPFS_ARCHIVE"
    )


def load_settings(dirs: Dirs, name: str | None) -> ArchiveSettings:
    """Read the settings of the archive called *name* (None: see :func:`choose_archive`).

    Raises:
        NoArchive, UsageError: as :func:`choose_archive`.
        ConfigError: the file cannot be read or does not say what it must.
        FormatUnsupported: written for a newer coopfs.
    """
    import tomllib

    name = choose_archive(dirs, name)
    path = dirs.archive_config(name) / SETTINGS_FILE
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    return _parse(table, name, path)


def save_settings(dirs: Dirs, settings: ArchiveSettings, *, folder: Path | None = None) -> None:
    """Write the settings file, atomically; its folder must exist.

    *folder* stands in for the archive's own while that is being made.

    Raises:
        ConfigError: it cannot be written.
    """
    import tomli_w

    table: dict[str, Any] = {
        "version": VERSION,
        "archive_id": settings.archive_id.hex(),
        "store": settings.store,
        "host": settings.host,
    }
    if settings.partial_interval_s != PARTIAL_INTERVAL_S:
        table["partial_interval_s"] = settings.partial_interval_s
    if settings.cache_max != CACHE_MAX:
        table["cache_max"] = settings.cache_max
    if settings.compression != AUTO:
        table["compression"] = settings.compression
    if settings.others:
        table["stores"] = {other.name: other.address for other in settings.others}
    for key in ("upload_rate", "download_rate"):
        if rate := getattr(settings, key):
            table[key] = rate
    if settings.ntp_servers:
        table["ntp_servers"] = [str(server) for server in settings.ntp_servers]
    if settings.series:
        table["series"] = {rule.path: rule.series for rule in settings.series}
    text = "# An archive of coopfs as this host knows it: coopfs-config(5).\n"
    text += tomli_w.dumps(table)
    folder = folder or dirs.archive_config(settings.name)
    write_private(folder / SETTINGS_FILE, text.encode(), replace=True)


def _parse(table: dict[str, Any], name: str, path: Path) -> ArchiveSettings:
    rest = dict(table)

    def take(key: str, kind: type, default: Any = None) -> Any:
        value = rest.pop(key, default)
        if type(value) is not kind:
            missing = "is missing" if value is None else f"is {value!r}"
            raise ConfigError(f"{path}: {key} {missing}; expected {_KIND_WORDS[kind]}")
        return value

    version = take("version", int)
    if version > VERSION:
        raise FormatUnsupported(
            f"{path}: settings of version {version}; this coopfs knows {VERSION}, update coopfs"
        )
    archive_id = take("archive_id", str)
    if not _ARCHIVE_ID.match(archive_id):
        raise ConfigError(f"{path}: archive_id: expected 32 hex digits, found {archive_id!r}")
    store, host = take("store", str), take("host", str)
    interval_s = take("partial_interval_s", int, PARTIAL_INTERVAL_S)
    cache_max = take("cache_max", int, CACHE_MAX)
    compression = take("compression", str, AUTO)
    upload_rate, download_rate = take("upload_rate", str, ""), take("download_rate", str, "")
    servers = take("ntp_servers", list, [])
    series = take("series", dict, {})
    others = take("stores", dict, {})
    if rest:
        raise ConfigError(f"{path}: unknown setting {min(rest)!r}; see coopfs-config(5)")
    if interval_s and interval_s < PARTIAL_INTERVAL_MIN_S:
        raise ConfigError(
            f"{path}: partial_interval_s is {interval_s}; expected 0 (never) or "
            f"{PARTIAL_INTERVAL_MIN_S} seconds and more"
        )
    if cache_max < 0:
        raise ConfigError(f"{path}: cache_max is {cache_max}; expected a number of bytes")
    if len(servers) > NTP_SERVERS_MAX:
        raise ConfigError(
            f"{path}: ntp_servers names {len(servers)}; expected {NTP_SERVERS_MAX} at most"
        )
    try:
        check_label(host, "host")
        check_effort(compression)
        for rate in (upload_rate, download_rate):
            Schedule.parse(rate)
        ntp_servers = tuple(_time_server(server) for server in servers)
        rules = tuple(_rule(key, value, path) for key, value in series.items())
    except UsageError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    return ArchiveSettings(
        name=name,
        store=store,
        archive_id=ArchiveId(bytes.fromhex(archive_id)),
        host=host,
        series=rules,
        others=tuple(_other_store(key, value, path) for key, value in others.items()),
        partial_interval_s=interval_s,
        cache_max=cache_max,
        compression=compression,
        upload_rate=upload_rate,
        download_rate=download_rate,
        ntp_servers=ntp_servers,
    )


_KIND_WORDS: Final = {int: "a whole number", str: "text", dict: "a table", list: "a list"}


def _time_server(value: Any) -> Endpoint:
    if type(value) is not str:
        raise UsageError(f"ntp_servers: {value!r} is no HOST or HOST:PORT")
    has_port = value.count(":") == 1 or "]:" in value
    return parse_endpoint(value if has_port else f"{value}:{NTP_PORT}", "ntp_servers")


def _rule(key: str, value: Any, path: Path) -> SeriesRule:
    if not key.startswith("/"):
        raise ConfigError(f"{path}: series: {key!r} is not an absolute path")
    if type(value) is not str:
        raise ConfigError(f"{path}: series: {key!r} is {value!r}; expected a series' name")
    return SeriesRule(key, check_label(value, "series"))


def _other_store(key: str, value: Any, path: Path) -> OtherStore:
    if not _NAME.match(key):
        raise ConfigError(f"{path}: stores: {key!r} is no name for a store")
    if type(value) is not str or not value:
        raise ConfigError(f"{path}: stores: {key!r} is {value!r}; expected a store's address")
    return OtherStore(key, value)
