"""Where one partner's objects lie on the server's disk.

    ROOT/partners/NAME/
        objects/     config data/<first byte>/<name> index/<name> snapshots/ keys/ locks/
        incoming/    uploads on their way; emptied at every start
        trash/       <name>.<when it was deleted>, laid out like objects/
        rotten/      <kind>/<name>.<when it was found>

``objects/`` is laid out like a restic repository, so that stock programs can read it.
All of it is one file system.  *When* is depot time (:mod:`coopfs.server.clock`) in
nanoseconds; it is part of the name so that moving a file and dating it is one step.
What is on the disk is the truth: nothing is kept about it anywhere else.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs import durable
from coopfs.errors import StoreError, UsageError
from coopfs.objects import CONFIG, FANNED_OUT, KINDS, parse_object_name

OBJECTS: Final = "objects"
INCOMING: Final = "incoming"
TRASH: Final = "trash"
ROTTEN: Final = "rotten"

_STAMPED = re.compile(r"([0-9a-f]{64})\.([0-9]{1,19})")
_FAN_OUT = tuple(f"{byte:02x}" for byte in range(256))


@dataclass(frozen=True, slots=True)
class Stored:
    """One file in ``objects/``."""

    kind: str
    name: str  # 64 hex digits
    size: int  # bytes
    mtime_ns: int  # when it was put, by the wall clock


@dataclass(frozen=True, slots=True)
class Aside:
    """One file in ``trash/`` or ``rotten/``."""

    kind: str
    name: str  # 64 hex digits
    since_ns: int  # depot time
    path: str


class Places:
    """The paths of one partner's folder.  Raises OSError and translates nothing."""

    def __init__(self, folder: Path) -> None:
        self.top = os.path.abspath(folder)
        self.objects = os.path.join(self.top, OBJECTS)
        self.incoming = os.path.join(self.top, INCOMING)
        self.config = os.path.join(self.objects, CONFIG)

    def make(self) -> None:
        """Make what is missing of the folders, durably."""
        os.makedirs(self.top, durable.FOLDER_MODE, exist_ok=True)
        durable.sync_folder(os.path.dirname(self.top))
        wanted = [(self.top, (OBJECTS, INCOMING, TRASH, ROTTEN)), (self.objects, KINDS)]
        wanted += [(os.path.join(self.top, area), KINDS) for area in (TRASH, ROTTEN)]
        # Those of the trash too: on a full disk deleting must not need a new folder.
        wanted += [(os.path.join(self.top, top, FANNED_OUT), _FAN_OUT) for top in (OBJECTS, TRASH)]
        for parent, names in wanted:
            missing = set(names).difference(os.listdir(parent))
            for name in sorted(missing):
                _make_folder(os.path.join(parent, name))
            if missing:
                durable.sync_folder(parent)

    def check_one_disk(self) -> None:
        """Refuse folders that files cannot be moved between by their names alone (StoreError)."""
        areas = (OBJECTS, f"{OBJECTS}/{FANNED_OUT}", INCOMING, TRASH, ROTTEN)
        if len({os.stat(os.path.join(self.top, area)).st_dev for area in areas}) > 1:
            raise StoreError(
                f"{self.top}: its folders {', '.join(areas)} are not all on one file system; "
                f"mount the disk on {self.top} or above it"
            )

    def object(self, kind: str, name: str) -> str:
        """Return where the object lies, or would.

        Raises:
            UsageError: there is no such kind, or *name* is not 64 hex digits.
        """
        check(kind, name)
        if kind == FANNED_OUT:
            return f"{self.objects}/{kind}/{name[:2]}/{name}"
        return f"{self.objects}/{kind}/{name}"

    def aside(self, area: str, kind: str, name: str, since_ns: int) -> str:
        """Return where the object lies in *area* (trash or rotten)."""
        return f"{self._aside_folder(area, kind, name)}/{name}.{since_ns}"

    def find_aside(self, area: str, kind: str, name: str) -> list[Aside]:
        """Return the copies of one object in *area*, the newest first."""
        found = self._scan_aside(self._aside_folder(area, kind, name), kind)
        return sorted((f for f in found if f.name == name), key=lambda f: -f.since_ns)

    def list_aside(self, area: str) -> Iterator[Aside]:
        """Yield everything in *area*, a folder at a time."""
        for kind in KINDS:
            top = f"{self.top}/{area}/{kind}"
            folders = [f"{top}/{byte}" for byte in _FAN_OUT] if _is_fanned(area, kind) else [top]
            for folder in folders:
                yield from self._scan_aside(folder, kind)

    def folders_of(self, kind: str) -> list[str]:
        """Return the folders in which objects of *kind* lie, in the order of their names."""
        top = f"{self.objects}/{kind}"
        return [f"{top}/{byte}" for byte in _FAN_OUT] if kind == FANNED_OUT else [top]

    def list_objects(self, kind: str, folder: str) -> Iterator[Stored]:
        """Yield the whole objects in one of :meth:`folders_of`; others are left out."""
        fan_out = os.path.basename(folder) if kind == FANNED_OUT else ""
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if parse_object_name(name) is None or not name.startswith(fan_out):
                    continue
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield Stored(kind, name, status.st_size, status.st_mtime_ns)

    def _aside_folder(self, area: str, kind: str, name: str) -> str:
        check(kind, name)
        top = f"{self.top}/{area}/{kind}"
        return f"{top}/{name[:2]}" if _is_fanned(area, kind) else top

    def _scan_aside(self, folder: str, kind: str) -> Iterator[Aside]:
        for name in _names_in(folder):
            if stamped := _STAMPED.fullmatch(name):
                yield Aside(kind, stamped[1], int(stamped[2]), f"{folder}/{name}")


def check(kind: str, name: str) -> None:
    """Refuse what is no kind and what is no object's name (UsageError)."""
    if kind not in KINDS:
        raise UsageError(f"{kind!r:.80}: no kind of object; expected one of {', '.join(KINDS)}")
    if parse_object_name(name) is None:
        raise UsageError(f"{kind}/: {name!r:.80} is no object's name; expected 64 hex digits")


def label_of(kind: str, name: str) -> str:
    """Return how messages name the object."""
    return f"{kind}/{name}"


def _is_fanned(area: str, kind: str) -> bool:
    return area == TRASH and kind == FANNED_OUT


def _make_folder(path: str) -> None:
    os.mkdir(path, durable.FOLDER_MODE)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        durable.own_like_folder(fd, os.path.dirname(path))
    finally:
        os.close(fd)


def _names_in(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
