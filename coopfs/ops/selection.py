"""Which entries of a snapshot an operation is about, and the walk over them.

Owns ``--include`` and ``--exclude`` of what is read out of an archive (patterns as in
gitignore, matched against paths in the snapshot), and the order of a walk: by name,
a folder before what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from coopfs.archive.archive import Archive
from coopfs.errors import DataError, ObjectNotFound
from coopfs.format.tree import Entry, Kind
from coopfs.ops.exclude import Excludes

NOTHING = Excludes.from_patterns(())
# Folders in folders; twice what a path of Linux has room for.  A hacked host can store a chain
# of millions, and each level of a walk keeps its whole path.
LEVELS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns; without any, everything."""

    includes: Excludes = field(default=NOTHING)  # what matches, and all below it; empty: all
    excludes: Excludes = field(default=NOTHING)

    @property
    def is_everything(self) -> bool:
        """Whether nothing is ever left out."""
        return self.includes.is_empty and self.excludes.is_empty

    def takes(self, path: bytes, name: bytes, *, is_folder: bool, is_below_taken: bool) -> bool:
        """Tell whether the entry at the absolute *path* is asked for by itself.

        *is_below_taken*: the folder it is in is.
        """
        return (
            is_below_taken
            or self.includes.is_empty
            or self.includes.matches(path, name, is_folder=is_folder)
        )


class Event(Enum):
    """What a step of a walk is about."""

    ENTER = 0  # a folder, before what is in it
    ENTRY = 1  # anything else
    LEAVE = 2  # a folder, after what is in it


class Visit(NamedTuple):
    """One step of a walk."""

    event: Event
    entry: Entry
    is_taken: bool  # False: a folder on the way to something that may be asked for


class _Level:
    """A folder being walked."""

    __slots__ = ("entries", "entry", "is_taken", "path")

    def __init__(
        self, path: bytes, entry: Entry, entries: Iterator[Entry], *, is_taken: bool
    ) -> None:
        self.path = path  # ends with a slash
        self.entry = entry
        self.entries = entries
        self.is_taken = is_taken


def walk(
    archive: Archive,
    top: Entry,
    path: bytes,
    selection: Selection,
    on_unreadable: Callable[[bytes, str], None],
) -> Iterator[Visit]:
    """Visit what *selection* takes of the folder *top* and below; *top* itself is not visited.

    *path* is that of *top* in the snapshot, with slashes at both ends.  A folder whose
    list cannot be read is reported by its path and is then as long as it could be read;
    one that is nested absurdly deeply is reported and passed over.

    Raises:
        StoreUnavailable: the partner cannot be reached.
    """
    everything = selection.is_everything
    excludes = None if selection.excludes.is_empty else selection.excludes
    levels = [_Level(path, top, _entries(archive, top), is_taken=selection.includes.is_empty)]
    while levels:
        level = levels[-1]
        is_taken = level.is_taken
        try:
            for entry in level.entries:
                is_folder = entry.kind is Kind.FOLDER
                if not everything:
                    below = level.path + entry.name
                    if excludes and excludes.matches(below, entry.name, is_folder=is_folder):
                        continue
                    is_taken = selection.takes(
                        below, entry.name, is_folder=is_folder, is_below_taken=level.is_taken
                    )
                if is_folder and not entry.unsupported:
                    if len(levels) >= LEVELS_MAX:
                        path = level.path + entry.name
                        on_unreadable(path, f"more than {LEVELS_MAX} folders within each other")
                        continue
                    yield Visit(Event.ENTER, entry, is_taken)
                    levels.append(
                        _Level(
                            level.path + entry.name + b"/",
                            entry,
                            _entries(archive, entry),
                            is_taken=is_taken,
                        )
                    )
                    break
                if is_taken:
                    yield Visit(Event.ENTRY, entry, True)
            else:
                levels.pop()
                if levels:
                    yield Visit(Event.LEAVE, level.entry, level.is_taken)
        except (DataError, ObjectNotFound) as exc:
            on_unreadable(level.path, f"the folder's list: {exc}")
            level.entries = iter(())


def _entries(archive: Archive, folder: Entry) -> Iterator[Entry]:
    return iter(()) if folder.tree is None else archive.iter_entries(folder.tree)
