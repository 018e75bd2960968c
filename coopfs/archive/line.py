"""The line between an archive on this host and its store, as the settings want it used.

Owns the way from ``archive.toml``, the options and the environment to the rates, and the
hint file: one for all archives of a user, since they share the line of the house.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.settings import SETTINGS_FILE, ArchiveSettings, load_settings
from coopfs.bandwidth import Schedule
from coopfs.dirs import Dirs
from coopfs.store.line import Line, Rates

HINT_FILE: Final = "reading"  # in the state folder; its time is when a store was last read from


@dataclass(frozen=True, slots=True)
class Limits:
    """Schedules that hold for this run, whatever the settings say; None: they say it."""

    upload: str | None = None
    download: str | None = None


def open_line(
    dirs: Dirs, settings: ArchiveSettings, limits: Limits, *, goes_first: bool = False
) -> Line:
    """Return the line to the store of the archive of *settings*.

    While it is used, a settings file that has changed is read again.  With *goes_first*
    somebody waits for what is read: uploads of other processes make way.

    Raises:
        UsageError: *limits* are no schedules.
    """
    return Line(
        _rates(settings, limits),
        look=_changed_rates(dirs, settings.name, limits),
        hint=dirs.state / HINT_FILE,
        goes_first=goes_first,
    )


def _rates(settings: ArchiveSettings, limits: Limits) -> Rates:
    return Rates(
        Schedule.parse(settings.upload_rate if limits.upload is None else limits.upload),
        Schedule.parse(settings.download_rate if limits.download is None else limits.download),
    )


def _changed_rates(dirs: Dirs, name: str, limits: Limits) -> Callable[[], Rates | None]:
    path = dirs.archive_config(name) / SETTINGS_FILE
    seen = _stamp(path)

    def look() -> Rates | None:
        nonlocal seen
        before, seen = seen, _stamp(path)
        return None if seen in (before, None) else _rates(load_settings(dirs, name), limits)

    return look


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
