"""What the records under ``snapshots/`` say: who writes, who is distrusted, what was let go.

Owns the records' part of the local state, whose signatures were verified, and which of
them count although the store does not show them any more.
"""

from __future__ import annotations

from coopfs.archive.state import State
from coopfs.archive.verifying import label
from coopfs.format.keys import Role
from coopfs.format.records import (
    Amendment,
    Distrust,
    Enrolment,
    ForgetRecord,
    decode_amendment,
    decode_distrust,
    decode_enrolment,
    decode_forget,
)
from coopfs.ids import ObjectId, SnapshotId, WriterId


class Records:
    """The records as last taken in; what is looked up often is kept until :meth:`_reset`."""

    def __init__(self, state: State) -> None:
        """Nothing is read before a look-up."""
        self._state = state
        self._writers: dict[WriterId, Enrolment] | None = None
        self._distrusted: dict[WriterId, Distrust] | None = None

    def _reset(self) -> None:
        """Forget what is kept in memory: the local state has changed, here or elsewhere."""
        self._writers = self._distrusted = None

    def writers(self) -> dict[WriterId, Enrolment]:
        """Return the enrolled writers by id, distrusted ones too."""
        if self._writers is None:
            records = [
                decode_enrolment(body, label(object_id))
                for object_id, body in self._bodies(Role.ENROLMENT)
            ]
            self._writers = {record.writer_id: record for record in records}
        return self._writers

    def distrusted(self) -> dict[WriterId, Distrust]:
        """Return what was said of each writer that is distrusted now."""
        if self._distrusted is None:
            newest: dict[WriterId, Distrust] = {}
            for _, record in self.named_distrusts():
                newest[record.writer_id] = record
            self._distrusted = {w: word for w, word in newest.items() if word.is_distrusted}
        return self._distrusted

    def named_distrusts(self) -> list[tuple[ObjectId, Distrust]]:
        """Return the distrust records with their objects' names, oldest first."""
        found = [
            (ObjectId(name), decode_distrust(body, label(name)))
            for name, body in self._bodies(Role.DISTRUST)
        ]
        return sorted(found, key=lambda item: (item[1].time_ns, item[0]))

    def amendments(self) -> list[Amendment]:
        """Return the amendment records, oldest first."""
        return [record for _, record in self.named_amendments()]

    def named_amendments(self) -> list[tuple[ObjectId, Amendment]]:
        """Return the amendment records with their objects' names, oldest first."""
        found = [
            (ObjectId(name), decode_amendment(body, label(name)))
            for name, body in self._bodies(Role.AMENDMENT)
        ]
        return sorted(found, key=lambda item: (item[1].time_ns, item[0]))

    def forget_records(self) -> dict[ObjectId, ForgetRecord]:
        """Return the valid forget records by their objects' names."""
        return {
            ObjectId(name): decode_forget(body, label(name))
            for name, body in self._bodies(Role.FORGET)
        }

    def forgotten(self) -> set[SnapshotId]:
        """Return the snapshots that valid forget records let go."""
        return set(self.forgotten_chains())

    def forgotten_chains(self) -> dict[SnapshotId, tuple[SnapshotId, ...]]:
        """Return the snapshots that were let go, each with what it followed."""
        found: dict[SnapshotId, tuple[SnapshotId, ...]] = {}
        for record in self.forget_records().values():
            chains = record.previous + ((),) * (len(record.snapshot_ids) - len(record.previous))
            for snapshot_id, previous in zip(record.snapshot_ids, chains, strict=True):
                found[snapshot_id] = found.get(snapshot_id) or previous
        return found

    def roles(self) -> dict[ObjectId, Role]:
        """Return every object under ``snapshots/`` that counts, and what it is."""
        rows = self._state.connection.execute("SELECT object_id, role FROM snapshot_objects")
        return {ObjectId(object_id): Role(role) for object_id, role in rows.fetchall()}

    def _bodies(self, role: Role) -> list[tuple[bytes, bytes]]:
        return self._state.connection.execute(
            "SELECT object_id, body FROM snapshot_objects WHERE role = ?", (int(role),)
        ).fetchall()

    def _withheld(
        self, gone: set[ObjectId], listed: set[ObjectId], *, is_accepting: bool
    ) -> set[ObjectId]:
        """Return which records of *gone* nobody deletes: they count although they are not shown.

        A store that hides one may want a hold, or a writer's being distrusted, not to count.
        """
        if not gone:
            return set()
        here: dict[WriterId, int] = {}
        for name, word in self.named_distrusts():
            if name in listed:
                here[word.writer_id] = word.time_ns
        withheld = {
            name
            for name, word in self.named_distrusts()
            if name in gone and here.get(word.writer_id, word.time_ns - 1) < word.time_ns
        }
        if is_accepting:  # an older copy it is; but nobody is trusted again for that
            return withheld
        withheld |= {
            name
            for name, record in self.named_amendments()
            if name in gone and not listed.isdisjoint(map(ObjectId, record.snapshot_ids))
        }
        withheld |= gone & {ObjectId(name) for name, _ in self._bodies(Role.ENROLMENT)}
        records = self.forget_records()
        repeated = {i for name, r in records.items() if name in listed for i in r.snapshot_ids}
        return withheld | {
            name
            for name, record in records.items()
            if name in gone and not repeated.issuperset(record.snapshot_ids)
        }
