"""The snapshots of an archive and the records about them, verified once.

Owns what a listing of ``snapshots/`` means: who is enrolled, which snapshots
count, and whether the store shows less than it has shown before.  An object
that is not signed by the right key does not count and is reported.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from coopfs.archive.amendments import Words, apply_amendments
from coopfs.archive.heads import Accepted, Head, Heads
from coopfs.archive.omissions import Gap, Missing, continuing, find_gaps, rollback_message
from coopfs.archive.records import Records
from coopfs.archive.state import State
from coopfs.archive.verifying import BY_ADMIN, UnusableObject, Verifier, label, open_objects
from coopfs.errors import Rollback
from coopfs.format.body import OpenedBody
from coopfs.format.config import ArchiveConfig
from coopfs.format.keys import ArchiveKeys, Role, writer_id_of
from coopfs.format.snapshot import SnapshotFacts, decode_snapshot
from coopfs.ids import ObjectId, SnapshotId, WriterId, short_hex
from coopfs.store.base import Kind, Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose signature is an enrolled writer's."""

    snapshot_id: SnapshotId
    facts: SnapshotFacts  # as signed when it was taken
    words: Words | None = None  # where amendments have changed them
    is_distrusted: bool = False  # by a writer whose key was in the wrong hands
    is_vouched: bool = False  # signed with the admin key: a copy, of whatever host

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags it has now."""
        return self.facts.tags if self.words is None else self.words.tags

    @property
    def description(self) -> str:
        """The description it has now."""
        return self.facts.description if self.words is None else self.words.description

    @property
    def is_held(self) -> bool:
        """Whether it is never let go."""
        return self.words is not None and self.words.is_held


class SnapshotObjects(Records):
    """What lies under ``snapshots/``, as last refreshed."""

    def __init__(
        self, state: State, heads: Heads, keys: ArchiveKeys, config: ArchiveConfig, store: Store
    ) -> None:
        """Nothing is read before :meth:`refresh` or a look-up."""
        super().__init__(state)
        self._heads = heads
        self._keys = keys
        self._config = config
        self._store = store
        self._admin_id = writer_id_of(config.admin_public_key)
        self._snapshots: list[Snapshot] | None = None
        self._disregarded: dict[SnapshotId, SnapshotFacts] = {}
        self._refused: tuple[str, ...] = ()  # amendments that do not count
        self.warnings: list[str] = []
        self.unusable: list[UnusableObject] = []  # as of the last refresh

    # --- looking up -----------------------------------------------------------

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots that count, by time, host, series and number.

        Those of a distrusted writer that were there when it was distrusted say so.
        """
        if self._snapshots is None:
            distrusted = self.distrusted()
            shown = {name for word in distrusted.values() for name in word.snapshot_ids}
            facts_of: dict[SnapshotId, SnapshotFacts] = {}
            self._disregarded = {}
            for name, body in self._bodies(Role.SNAPSHOT):
                snapshot_id, facts = SnapshotId(name), decode_snapshot(body, label(name))
                if facts.writer_id not in distrusted or snapshot_id in shown:
                    facts_of[snapshot_id] = facts
                else:
                    self._disregarded[snapshot_id] = facts
            hosts = {writer_id: record.host for writer_id, record in self.writers().items()}
            amendments = [a for a in self.amendments() if a.writer_id not in distrusted]
            amended = apply_amendments(facts_of, amendments, hosts, self._admin_id)
            found = [
                Snapshot(
                    snapshot_id,
                    facts,
                    amended.words.get(snapshot_id),
                    is_distrusted=facts.writer_id in distrusted,
                    is_vouched=facts.writer_id == self._admin_id,
                )
                for snapshot_id, facts in facts_of.items()
            ]
            found.sort(key=_order)
            self._snapshots = found
            self._refused = amended.refused
        return self._snapshots

    def disregarded(self) -> dict[SnapshotId, SnapshotFacts]:
        """Return the snapshots that came after their writer was distrusted: they do not count."""
        self.snapshots()
        return self._disregarded

    def on_disregarded(self) -> list[str]:
        """Say of which writers there are such snapshots, a sentence each."""
        forgotten = self.forgotten()
        count: dict[tuple[str, WriterId], int] = {}
        for snapshot_id, facts in self.disregarded().items():
            if snapshot_id not in forgotten:
                key = facts.host, facts.writer_id
                count[key] = count.get(key, 0) + 1
        return [
            f"{number} snapshot{'' if number == 1 else 's'} by writer {short_hex(writer_id)} of "
            f"host {host} came after that writer was distrusted; they do not count (coopfs repair "
            "takes them away)"
            for (host, writer_id), number in sorted(count.items())
        ]

    def _reset(self) -> None:
        super()._reset()
        self._snapshots = None

    def gaps(self, accepted: Iterable[SnapshotId] = ()) -> list[Gap]:
        """Return what snapshots are based on and is not there, let go, or *accepted* as missing.

        What a distrusted writer says its snapshots are based on is no matter.
        """
        items = [(s.snapshot_id, s.facts) for s in self.snapshots() if not s.is_distrusted]
        explained = {s.snapshot_id for s in self.snapshots()}
        explained |= self.forgotten() | self.disregarded().keys()
        return find_gaps(items, explained | set(accepted))

    # --- refreshing -----------------------------------------------------------

    def refresh(self) -> None:
        """Read what is new under ``snapshots/`` and compare with what was seen before.

        Raises:
            Rollback: the store shows less than before; what is known stays as it was.
            StoreUnavailable: the partner cannot be reached.
        """
        try:
            self._refresh()
        except Rollback:
            # A snapshot let go between the listing and the reading has its record by now.
            self._refresh()

    def accept_rollback(self) -> list[Accepted]:
        """Go on with what the store shows; return what is missing, noted durably as accepted.

        The heads are set back to what is left of each series.

        Raises:
            StoreUnavailable: the partner cannot be reached.
        """
        now_ns = time.time_ns()
        try:
            self._refresh()
        except Rollback:
            self._refresh(is_accepting=True)
        missing = [
            Accepted(gap.snapshot_id, gap.follower.host, gap.follower.series, None, now_ns)
            for gap in self.gaps(self._heads.accepted_ids())
        ]
        self._heads.accept(missing, [])
        self._refresh()
        return [item for item in self._heads.accepted() if item.accepted_ns >= now_ns]

    def _refresh(self, *, is_accepting: bool = False) -> None:
        # Before the listing: what another process adds meanwhile is not gone.
        known = {
            ObjectId(name): Role(role)
            for name, role in self._state.connection.execute(
                "SELECT object_id, role FROM snapshot_objects"
            )
        }
        seen = {name for name, role in known.items() if role is Role.SNAPSHOT}
        seen |= {ObjectId(head.snapshot_id) for head in self._heads.all()}
        listed = self._listed()
        if not seen <= listed:
            listed = self._listed()  # before anything is said or dropped for it
        opened = open_objects(self._keys, self._store, sorted(listed - known.keys()))
        unusable = self._take_in(opened)
        gone = known.keys() - listed
        missing = self._missing(gone, listed)
        if missing:
            self._heads.reload()  # somebody may have accepted it, in another process
            missing = self._missing(gone, listed)
        if missing and not is_accepting:
            raise Rollback(rollback_message(missing, self._left(listed)))
        withheld = self._withheld(gone, listed, is_accepting=is_accepting)
        self._drop(gone - withheld)
        if missing:
            self._accept(missing, listed)
        forgotten = self.forgotten()
        self.unusable = [item for item in unusable if SnapshotId(item.object_id) not in forgotten]
        self.warnings = [item.problem for item in self.unusable]
        self.warnings += [
            f"{label(name)}: the store no longer shows this {known[name].name.lower()} record; "
            "it counts all the same; ask the partner"
            for name in sorted(withheld)
        ]
        self._heads.update(self._newest_heads())
        self._heads.found_again({SnapshotId(name) for name in listed})
        self.warnings += [gap.text for gap in self.gaps(self._heads.accepted_ids())]
        self.warnings += self._refused
        self.warnings += self.on_disregarded()

    def add_own(self, snapshot_id: SnapshotId, body: bytes) -> Snapshot:
        """Take in a snapshot this host has just put; its series' head moves to it."""
        self._insert([(snapshot_id, int(Role.SNAPSHOT), body)])
        facts = decode_snapshot(body, label(snapshot_id))
        is_vouched = facts.writer_id == self._admin_id
        snapshot = Snapshot(snapshot_id, facts, is_vouched=is_vouched)
        self._heads.update([Head(facts.host, facts.series, facts.number, snapshot_id)])
        return snapshot

    def _listed(self) -> set[ObjectId]:
        return {info.name for info in self._store.list(Kind.SNAPSHOTS)}

    def _take_in(self, opened: dict[ObjectId, OpenedBody | UnusableObject]) -> list[UnusableObject]:
        """Keep what counts; return what does not: damage may be mended, an update read it."""
        unusable = [item for item in opened.values() if isinstance(item, UnusableObject)]
        bodies = {name: o for name, o in opened.items() if isinstance(o, OpenedBody)}
        # Enrolments first: the rest is verified with what they say.
        for of_admin in (True, False):
            verifier = Verifier(self._config, self.writers())
            rows = []
            for name, body in bodies.items():
                if (body.role in BY_ADMIN) is of_admin:
                    problem = verifier.problem_of(name, body)
                    if problem is None:
                        rows.append((bytes(name), int(body.role), body.body))
                    else:
                        unusable.append(problem)
            self._insert(rows)
        return sorted(unusable, key=lambda item: item.object_id)

    def _insert(self, rows: list[tuple[bytes, int, bytes]]) -> None:
        if rows:
            with self._state.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO snapshot_objects VALUES (?, ?, ?)", rows
                )
        # Another process may have added some.
        self._reset()

    def _drop(self, gone: set[ObjectId]) -> None:
        if gone:
            with self._state.transaction() as connection:
                connection.executemany(
                    "DELETE FROM snapshot_objects WHERE object_id = ?", [(name,) for name in gone]
                )
        self._reset()

    # --- rollback and omission ------------------------------------------------

    def _missing(self, gone: set[ObjectId], listed: set[ObjectId]) -> list[Missing]:
        """Return the snapshots seen here that the store does not show and nobody let go."""
        seen = {
            SnapshotId(name): facts
            for name, facts in (
                (name, decode_snapshot(body, label(name)))
                for name, body in self._bodies(Role.SNAPSHOT)
                if name in gone
            )
        }
        found = {
            snapshot_id: Missing(snapshot_id, facts.host, facts.series, facts.number, facts)
            for snapshot_id, facts in seen.items()
        }
        for head in self._heads.all():
            if ObjectId(head.snapshot_id) not in listed and head.snapshot_id not in found:
                found[head.snapshot_id] = Missing(
                    head.snapshot_id, head.host, head.series, head.number, None
                )
        if not found:
            return []
        explained = self.forgotten() | self._heads.accepted_ids() | self.disregarded().keys()
        return [item for snapshot_id, item in found.items() if snapshot_id not in explained]

    def _left(self, listed: set[ObjectId]) -> dict[tuple[str, str], SnapshotFacts]:
        """Return the newest snapshot of each series that the store still shows."""
        newest: dict[tuple[str, str], SnapshotFacts] = {}
        for snapshot in sorted(self.snapshots(), key=lambda s: s.facts.number):
            if ObjectId(snapshot.snapshot_id) in listed:
                newest[snapshot.facts.host, snapshot.facts.series] = snapshot.facts
        return newest

    def _accept(self, missing: list[Missing], listed: set[ObjectId]) -> None:
        now_ns = time.time_ns()
        items = [Accepted(m.snapshot_id, m.host, m.series, m.number, now_ns) for m in missing]
        gone = {item.snapshot_id for item in missing}
        heads = []
        for head in self._heads.all():
            if head.snapshot_id in gone:
                left = [
                    s
                    for s in self.snapshots()
                    if (s.facts.host, s.facts.series) == (head.host, head.series)
                    and s.facts.number <= head.number
                ]
                if left:
                    newest = max(left, key=lambda s: s.facts.number)
                    number, name = newest.facts.number, newest.snapshot_id
                    heads.append(Head(head.host, head.series, number, name))
        self._heads.accept(items, heads)

    def _newest_heads(self) -> list[Head]:
        """Return the heads to adopt: of each series the newest that continues the known one.

        What claims a higher number and does not is warned about, and hides no other.
        """
        previous_of = self.forgotten_chains()
        previous_of |= {name: facts.previous for name, facts in self.disregarded().items()}
        previous_of |= {s.snapshot_id: s.facts.previous for s in self.snapshots()}
        items = [(s.snapshot_id, s.facts) for s in self.snapshots()]
        adopted, strays = continuing(items, self._heads.all(), previous_of)
        self.warnings += strays
        return adopted


def _order(snapshot: Snapshot) -> tuple[int, str, str, int]:
    facts = snapshot.facts
    return facts.time_ns, facts.host, facts.series, facts.number
