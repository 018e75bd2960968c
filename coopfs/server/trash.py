"""What was deleted: kept for the agreed time, restored on request, emptied by the clock."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from coopfs import durable
from coopfs.server.clock import ClockJump, ClockWatch
from coopfs.server.moving import Moving
from coopfs.server.places import TRASH, Aside, Places
from coopfs.server.quota import DAY_NS, Ledger


@dataclass(frozen=True, slots=True)
class Trashed:
    """One deleted object that can still be had back."""

    kind: str
    name: str  # 64 hex digits
    size: int  # bytes
    deleted_ns: int  # by the wall clock, as it counts today
    kept_until_ns: int  # likewise; it goes at the next emptying after that


@dataclass(frozen=True, slots=True)
class Undeleted:
    """What an undelete did."""

    objects: int  # restored
    restored: int  # bytes of them
    there_already: int  # had been put again since, and stay as they are


@dataclass(frozen=True, slots=True)
class Emptied:
    """What one look into the trash did."""

    objects: int  # deleted for good
    freed: int  # bytes of them
    is_more: bool  # the limit was reached: look again
    jump: ClockJump | None  # the clock is not believed, so nothing was deleted


class Trash:
    """The trash of one partner.  Raises OSError and translates nothing."""

    def __init__(self, places: Places, ledger: Ledger, clock: ClockWatch, moving: Moving) -> None:
        """Share the depot's *moving*: it is held while a file has two names."""
        self._places, self._ledger, self._clock = places, ledger, clock
        self._moving = moving

    def take_in(self, kind: str, name: str, path: str, size: int) -> None:
        """Move the file *path* here, durably."""
        with self._moving:
            since_ns = self._clock.now_ns()
            # A copy may have come here at this very moment of a coarse clock.
            while not durable.move_new(path, self._places.aside(TRASH, kind, name, since_ns)):
                since_ns += 1
            self._ledger.trashed(size)

    def drop(self, kind: str, name: str) -> None:
        """Let go of every copy of an object that has durably been put again."""
        with self._moving:
            # Deleted since, by the owner: then the newest copy is all there is.
            if not os.path.lexists(self._places.object(kind, name)):
                return
            for aside in self._places.find_aside(TRASH, kind, name):
                self._unlink(aside)

    def contents(self) -> Iterator[Trashed]:
        """Yield what can be had back, in no particular order."""
        for aside in self._places.list_aside(TRASH):
            with suppress(FileNotFoundError):  # emptied or restored meanwhile
                size = os.lstat(aside.path).st_size
                deleted_ns = self._clock.wall_of(aside.since_ns)
                until_ns = deleted_ns + self._retention_ns()
                yield Trashed(aside.kind, aside.name, size, deleted_ns, until_ns)

    def empty(self, limit: int) -> Emptied:
        """Delete for good what has lain here for the agreed time, *limit* objects at most."""
        if (jump := self._clock.jump()) is not None:
            return Emptied(0, 0, False, jump)
        oldest_ns = self._clock.now_ns() - self._retention_ns()
        objects = freed = 0
        for aside in self._places.list_aside(TRASH):
            if aside.since_ns > oldest_ns:
                continue
            if objects == limit:
                return Emptied(objects, freed, True, None)
            with self._moving:
                size = self._unlink(aside)
            if size is not None:
                objects += 1
                freed += size
        return Emptied(objects, freed, False, None)

    def undelete(self, names: Collection[str] | None, since_ns: int | None) -> Undeleted:
        """Restore what is in *names* (None: any) and was deleted since *since_ns* (wall clock)."""
        since_ns = None if since_ns is None else self._clock.depot_of(since_ns)
        newest: dict[tuple[str, str], Aside] = {}
        for aside in self._places.list_aside(TRASH):
            if names is not None and aside.name not in names:
                continue
            if since_ns is not None and aside.since_ns < since_ns:
                continue
            known = newest.get((aside.kind, aside.name))
            if known is None or known.since_ns < aside.since_ns:
                newest[aside.kind, aside.name] = aside
        folders: dict[str, list[Aside]] = defaultdict(list)
        for aside in newest.values():
            target = self._places.object(aside.kind, aside.name)
            folders[os.path.dirname(target)].append(aside)
        parts = [self._restore(folder, asides) for folder, asides in folders.items()]
        return Undeleted(
            sum(part.objects for part in parts),
            sum(part.restored for part in parts),
            sum(part.there_already for part in parts),
        )

    def _restore(self, folder: str, asides: list[Aside]) -> Undeleted:
        """Give the files their names in *folder* again: one fsync for all of them."""
        linked: list[Aside] = []
        restored = there_already = 0
        with self._moving:
            for aside in asides:
                with suppress(FileNotFoundError):  # emptied meanwhile
                    status = os.lstat(aside.path)
                    if durable.link_new(aside.path, f"{folder}/{aside.name}"):
                        linked.append(aside)
                        restored += status.st_size
                        self._ledger.back(status.st_size)
                        self._ledger.trashed(-status.st_size, objects=-1)
                    elif os.path.samestat(status, os.lstat(f"{folder}/{aside.name}")):
                        # An undelete at the prompt was killed just here; it is counted
                        # where its object's name is.
                        linked.append(aside)
                    else:
                        there_already += 1
            durable.sync_folder(folder)
            for aside in linked:
                with suppress(FileNotFoundError):  # no hard links here: it was renamed
                    os.unlink(aside.path)
        return Undeleted(len(linked), restored, there_already)

    def _unlink(self, aside: Aside) -> int | None:
        """Take the file's name here away; return its size, or None if it was gone."""
        try:
            size = os.lstat(aside.path).st_size
            os.unlink(aside.path)
        except (FileNotFoundError, IsADirectoryError):  # a stranger with such a name
            return None
        self._ledger.trashed(-size, objects=-1)
        return size

    def _retention_ns(self) -> int:
        return self._ledger.terms.retention_days * DAY_NS
