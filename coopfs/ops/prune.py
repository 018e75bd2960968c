"""Prune: free what no snapshot needs, beside any number of writers, without a lock.

Two phases (DESIGN, "Several writers, and deleting"), both in every run.  Packs are first
*marked*, for ever: what is still needed of them lies elsewhere by then, and writers stop
relying on them.  Those that this host has seen marked for the grace are deleted, after
all snapshots were looked at again and what is needed was copied.  Killed anywhere, nothing
a snapshot needs is lost, and the next run goes on.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import compress
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo
from coopfs.archive.sightings import Sightings, boottime_s
from coopfs.errors import ObjectNotFound
from coopfs.format.keys import SigningKey
from coopfs.ids import ID_LEN, ObjectId, PackId
from coopfs.ops.deleting import delete_objects
from coopfs.ops.forget import checked_admin_key
from coopfs.ops.needs import Needs
from coopfs.ops.progress import Progress
from coopfs.ops.prune_copy import Copied, Copier, exclude
from coopfs.ops.prune_index import (
    groups_to_rewrite,
    known_objects,
    put_marks,
    replaced_names,
    rewrite_group,
)
from coopfs.ops.prune_plan import (
    REPACK_BELOW,
    Choice,
    PackUse,
    Tolerance,
    choose_packs,
)
from coopfs.ops.secure import FRESH_S, GRACE_S
from coopfs.store.base import Kind

SECOND_NS: Final = 1_000_000_000
# A pack that nobody needs may be of a run that goes on: it is marked only when it has been
# there for so long, or for the grace if that is less.  A mark would do no harm, but have
# the run store it again.
YOUNG_S: Final = 24 * 3600
COPY_MEMORY_LEN: Final = 12 << 20  # bytes of decoded blocks; eight are read at a time
LOOKS_MAX: Final = 20  # at the snapshots before a deletion, while copying takes too long


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What to free, and when."""

    tolerance: Tolerance = field(default_factory=lambda: Tolerance(share=0.05))
    repack_below: float = REPACK_BELOW
    grace_s: float = GRACE_S
    is_dry_run: bool = False


@dataclass(slots=True)
class PruneTotals:
    """What was found and done; bytes unless it says packs or objects."""

    snapshots: int = 0
    needed_len: int = 0
    unused_len: int = 0  # stays unused, within the tolerance
    marked_packs: int = 0  # now
    marked_len: int = 0
    repacked_packs: int = 0  # of those marked now: something of them was needed
    move_len: int = 0  # what was needed of those, as stored
    waiting_packs: int = 0  # marked, their grace has not passed
    waiting_len: int = 0
    wait_s: float = 0.0  # until the first of those may be deleted
    young_packs: int = 0  # needed by nobody, perhaps of a run that goes on
    young_len: int = 0
    deleted_packs: int = 0
    deleted_len: int = 0
    undeleted_packs: int = 0  # the grace has passed, but not deleted in this run
    index_written: int = 0  # objects
    index_deleted: int = 0  # objects
    copied: Copied = field(default_factory=Copied)
    denial: str = ""  # what the store said when it did not let us delete
    duration_s: float = 0.0


def prune_archive(
    archive: Archive,
    request: PruneRequest,
    admin: SigningKey | None,
    progress: Progress,
    warn: Callable[[str], None],
) -> PruneTotals:
    """Mark what is not needed, delete what was marked for long enough; *admin* signs.

    Without *admin* only a dry run is possible.

    Raises:
        PruneRefused: something cannot be read, so nobody knows what is needed.
        WrongKey: no admin key.
        StoreError: the store failed; the next run goes on.
    """
    if not request.is_dry_run:
        admin = checked_admin_key(archive, admin, "pruning")
    start_s = time.monotonic()
    archive.state.map_nothing()
    run = _Prune(archive, request, progress)
    run.look()
    run.plan()
    if admin is not None and not request.is_dry_run:
        # Nodes that were walked; what is copied is read once.
        archive.blocks.forget_memory(COPY_MEMORY_LEN)
        with Copier(archive, admin, run.needs.table, progress) as copier:
            try:
                run.mark(copier, admin)
                run.delete(copier)
            finally:
                run.totals.copied = copier.copied
                for warning in dict.fromkeys(copier.warnings):
                    warn(warning)
        # Index objects take as much memory as what is let go of before.
        run.needs.release()
        run.tidy_index(admin)
    run.totals.duration_s = time.monotonic() - start_s
    return run.totals


class _Prune:
    """One run."""

    def __init__(self, archive: Archive, request: PruneRequest, progress: Progress) -> None:
        self._archive = archive
        self._request = request
        self._progress = progress
        self._sightings = Sightings(archive.state)
        self.needs = Needs(archive, progress)
        self.totals = PruneTotals()
        self._sizes: dict[ObjectId, int] = {}  # of the packs in the store
        self._known: list[PackInfo] = []  # of the index, not marked; see look()
        self._choice = Choice((), (), 0, 0)
        self._unindexed: list[ObjectId] = []  # to be marked
        self._gone: set[PackId] = set()  # deleted by this run
        self._secured: set[PackId] = set()  # marked by this run: what is needed lies elsewhere

    # --- looking ------------------------------------------------------------------

    def look(self) -> None:
        """See what is needed and what is there (PruneRefused)."""
        self.needs.refresh()
        self._list_packs()
        index, sizes = self._archive.index, self._sizes
        marked = index.marked()
        # Of twins the first has the chunk: never one in a pack that is damaged or goes.
        packs = sorted(
            index.packs(),
            key=lambda p: (
                p.pack_id in marked or ObjectId(p.pack_id) not in sizes,
                not index.is_usable(p.pack_no),
                p.pack_no,
            ),
        )
        self.needs.load(packs)
        self._known = [pack for pack in packs if pack.pack_id not in marked]
        self.totals.snapshots = self.needs.snapshots

    def _list_packs(self) -> None:
        # After the index was read: what a known index object names was put before.
        self._sizes = {info.name: info.size for info in self._archive.store.list(Kind.DATA)}

    def plan(self) -> None:
        """Choose what to mark, and count what waits."""
        request = self._request
        marked = self._archive.index.marked()
        uses, young = self._uses(), self._young_packs()
        known_ids = {pack.pack_id for pack in self._known}
        stray = [n for n in self._sizes if PackId(n) not in known_ids and PackId(n) not in marked]
        waiting = [name for name in self._sizes if PackId(name) in marked]
        ages = self._see([*waiting, *stray])
        self._unindexed = [n for n in stray if ages[n] >= self._young_s * SECOND_NS]
        chosen = choose_packs(uses, request.tolerance, request.repack_below)
        spared = [use for use in chosen.unneeded if use.pack_no in young]
        self._choice = Choice(
            tuple(use for use in chosen.unneeded if use.pack_no not in young),
            tuple(use for use in chosen.repack if use.pack_no not in young),
            chosen.needed_len,
            chosen.unused_len,
        )
        totals = self.totals
        totals.needed_len, totals.unused_len = chosen.needed_len, chosen.unused_len
        totals.young_packs = len(spared) + len(stray) - len(self._unindexed)
        totals.young_len = sum(use.size for use in spared)
        totals.young_len += sum(self._sizes[n] for n in set(stray) - set(self._unindexed))
        going = (*self._choice.unneeded, *self._choice.repack)
        totals.marked_packs = len(going) + len(self._unindexed)
        totals.marked_len = sum(use.size for use in going)
        totals.marked_len += sum(self._sizes[name] for name in self._unindexed)
        totals.repacked_packs = len(self._choice.repack)
        totals.move_len = sum(use.needed_len for use in self._choice.repack)
        self._count_waiting(waiting, ages)

    def _count_waiting(self, waiting: list[ObjectId], ages: dict[ObjectId, int]) -> None:
        totals = self.totals
        grace_ns = self._grace_ns
        late = [name for name in waiting if ages[name] < grace_ns]
        totals.waiting_packs = len(late)
        totals.waiting_len = sum(self._sizes[name] for name in late)
        totals.wait_s = max(grace_ns - max((ages[n] for n in late), default=grace_ns), 0) / 1e9
        if self._request.is_dry_run:
            due = [name for name in waiting if ages[name] >= grace_ns]
            totals.deleted_packs = len(due)
            totals.deleted_len = sum(self._sizes[name] for name in due)

    @property
    def _grace_ns(self) -> int:
        return math.ceil(self._request.grace_s * SECOND_NS)

    @property
    def _young_s(self) -> float:
        return min(YOUNG_S, self._request.grace_s)

    def _see(self, names: Iterable[ObjectId]) -> dict[ObjectId, int]:
        return self._sightings.see(list(names))

    def _uses(self) -> list[PackUse]:
        """Return how much of each pack in the store is needed; of twins the first has it."""
        table = self.needs.table
        found = []
        for pack in self._known:
            size = self._sizes.get(ObjectId(pack.pack_id))
            if size is None:
                continue  # gone: what was in it is a matter of `check`, not of space
            number = self.needs.first_numbers[pack.pack_no]
            needed = total = 0
            is_needed = False
            for sealed_len, plain_len, chunks in self._block_rows(pack.pack_no):
                count = len(chunks) // (ID_LEN + 4)
                flags = table.needed_of(number, count)
                number += count
                total += sealed_len
                if any(flags):
                    is_needed = True
                    lens = struct.unpack_from(f"<{count}I", chunks, count * ID_LEN)
                    needed += sealed_len * sum(compress(lens, flags)) // max(plain_len, 1)
            # Padding and directory go and come with the blocks.
            share = size * needed // max(total, 1)
            needed_len = min(max(share, 1), size) if is_needed else 0
            found.append(PackUse(pack.pack_no, pack.pack_id, size, needed_len))
        return found

    def _block_rows(self, pack_no: int) -> Iterable[tuple[int, int, bytes]]:
        return self._archive.state.connection.execute(
            "SELECT sealed_len, plain_len, chunks FROM blocks WHERE pack_no = ? ORDER BY ordinal",
            (pack_no,),
        )

    def _young_packs(self) -> set[int]:
        """Return the packs that came into the index less than a day (or the grace) ago.

        Their writers say so; believing them costs a day at worst.
        """
        now_ns = time.time_ns()
        rows = self._archive.state.connection.execute(
            "SELECT pack_no, MIN(time_ns) FROM pack_listings JOIN index_objects USING (object_no)"
            " GROUP BY pack_no"
        ).fetchall()
        return {no for no, made_ns in rows if abs(now_ns - made_ns) < self._young_s * SECOND_NS}

    # --- marking ------------------------------------------------------------------

    def mark(self, copier: Copier, admin: SigningKey) -> None:
        """Copy what is needed of what was chosen, then mark it."""
        index = self._archive.index
        going = {use.pack_id for use in (*self._choice.unneeded, *self._choice.repack)}
        copier.excluded = exclude(self._archive, going | self._missing())
        marked: set[PackId] = set()

        def on_done(pack_ids: list[PackId]) -> None:
            put_marks(self._archive, admin, pack_ids)
            marked.update(pack_ids)
            self._secured.update(pack_ids)

        packs = [pack for pack in index.packs() if pack.pack_id in going]
        self._progress.start(len(packs), None)
        copier.secure(packs, on_done)
        strays = [PackId(name) for name in self._unindexed]
        put_marks(self._archive, admin, strays)
        marked.update(strays)
        self.totals.marked_packs = len(marked)
        self.totals.marked_len = sum(self._sizes[ObjectId(name)] for name in marked)
        self._see(map(ObjectId, marked))

    def _missing(self) -> set[PackId]:
        packs = self._archive.index.packs()
        return {p.pack_id for p in packs if ObjectId(p.pack_id) not in self._sizes}

    # --- deleting -----------------------------------------------------------------

    def delete(self, copier: Copier) -> None:
        """Delete what this host has seen marked for the grace, if nothing needs it."""
        due: set[PackId] = set()
        for _ in range(LOOKS_MAX):
            looked_s = boottime_s()
            if self.needs.update():
                self._secured.clear()  # another snapshot may need it, another mark hit the copy
            self._list_packs()
            due = self._due()
            if not due:
                return
            ready = due & self._secured
            copier.excluded = exclude(self._archive, due | self._missing())
            packs = [pack for pack in self._archive.index.packs() if pack.pack_id in due]
            copier.secure([pack for pack in packs if pack.pack_id not in ready], ready.update)
            indexed = {pack.pack_id for pack in packs}
            ready |= due - indexed  # in no index: nothing can need it
            # What comes after that look has seen the marks and relies on none of these packs.
            if _is_fresh(looked_s):
                self._delete_packs(ready, looked_s)
                self.totals.undeleted_packs = len(due) - self.totals.deleted_packs
                return
        self.totals.undeleted_packs = len(due)

    def _due(self) -> set[PackId]:
        marked = self._archive.index.marked()
        waiting = [name for name in self._sizes if PackId(name) in marked]
        ages = self._see(waiting)
        self._count_waiting(waiting, ages)
        return {PackId(name) for name in waiting if ages[name] >= self._grace_ns}

    def _delete_packs(self, ready: set[PackId], looked_s: float) -> None:
        # Another prune may have marked what we rely on: it deletes that after its grace at
        # the earliest, so what we saw must not be old.
        names = sorted(ObjectId(name) for name in ready)
        done = delete_objects(
            self._archive.store, Kind.DATA, names, lambda: not _is_fresh(looked_s)
        )
        self.totals.denial = done.denial
        here = {info.name for info in self._archive.store.list(Kind.DATA)}
        gone = [name for name in names if name not in here]
        self._gone = set(map(PackId, gone))
        self.totals.deleted_packs = len(gone)
        self.totals.deleted_len = sum(self._sizes.pop(name) for name in gone)
        self._sightings.drop(gone)

    # --- index objects ------------------------------------------------------------

    def tidy_index(self, admin: SigningKey) -> None:
        """Write index objects anew that name packs which are gone, and too many as fewer."""
        archive = self._archive
        in_store = {info.name for info in archive.store.list(Kind.INDEX)}
        dead = self._dead_packs()
        for group in groups_to_rewrite(known_objects(archive, dead)):
            self.totals.index_written += rewrite_group(archive, admin, group, dead, in_store)
        self._delete_replaced(in_store, dead)
        archive.refresh_index()

    def _dead_packs(self) -> set[PackId]:
        """Return the packs that are marked, in the index, and certainly gone from the store."""
        marked = self._archive.index.marked()
        dead = set()
        for pack in self._archive.index.packs():
            if pack.pack_id not in marked or ObjectId(pack.pack_id) in self._sizes:
                continue
            if pack.pack_id not in self._gone:
                # A listing may miss what is there: the index must not lose it for that.
                try:
                    self._archive.store.size(Kind.DATA, pack.pack_id)
                    continue
                except ObjectNotFound:
                    pass
            dead.add(pack.pack_id)
        return dead

    def _delete_replaced(self, in_store: set[ObjectId], dead: set[PackId]) -> None:
        replaced = replaced_names(known_objects(self._archive, dead)) & in_store
        ages = self._see(_seen_replaced(name) for name in replaced)
        due = [name for name in replaced if ages[_seen_replaced(name)] >= self._grace_ns]
        if self.totals.denial or not due:
            return
        done = delete_objects(self._archive.store, Kind.INDEX, sorted(due))
        self.totals.index_deleted = done.count
        self.totals.denial = done.denial
        if not done.denial:
            self._sightings.drop([_seen_replaced(name) for name in due])
            self._sightings.drop(due)


def _seen_replaced(name: ObjectId) -> ObjectId:
    """Return under which name it is noted when an index object was first seen replaced."""
    return ObjectId(b"replaced" + name[8:])  # its own is noted when it was first seen at all


def _is_fresh(looked_s: float) -> bool:
    return boottime_s() - looked_s < FRESH_S
