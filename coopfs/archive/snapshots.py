"""The snapshots of an archive and the records about them, verified once.

Owns what a listing of ``snapshots/`` means: who is enrolled, which snapshots
count, and whether the store shows less than it has shown before.  An object
that is not signed by the right key does not count and is reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coopfs.archive.amendments import Words, apply_amendments
from coopfs.archive.heads import Head, Heads
from coopfs.archive.state import State
from coopfs.errors import (
    CoopfsError,
    DataError,
    ObjectNotFound,
    Rollback,
    SignatureInvalid,
    WrongKey,
)
from coopfs.format.body import OpenedBody, check_name, open_body, verify_body
from coopfs.format.config import ArchiveConfig
from coopfs.format.keys import ArchiveKeys, Role, writer_id_of
from coopfs.format.records import (
    Amendment,
    Enrolment,
    ForgetRecord,
    decode_amendment,
    decode_enrolment,
    decode_forget,
)
from coopfs.format.snapshot import SnapshotFacts, decode_snapshot
from coopfs.ids import ObjectId, SnapshotId, WriterId, short_hex
from coopfs.store.base import Kind, Store

ROLES: Final = (Role.SNAPSHOT, Role.CONFIG, Role.ENROLMENT, Role.AMENDMENT, Role.FORGET)
_BY_ADMIN: Final = frozenset((Role.CONFIG, Role.ENROLMENT, Role.FORGET))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot whose signature is an enrolled writer's."""

    snapshot_id: SnapshotId
    facts: SnapshotFacts  # as signed when it was taken
    words: Words | None = None  # where amendments have changed them
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


@dataclass(frozen=True, slots=True)
class UnusableObject:
    """An object under ``snapshots/`` that does not count."""

    object_id: ObjectId
    role: Role | None  # None: it could not even be opened
    problem: str


class SnapshotObjects:
    """What lies under ``snapshots/``, as last refreshed."""

    def __init__(
        self, state: State, heads: Heads, keys: ArchiveKeys, config: ArchiveConfig, store: Store
    ) -> None:
        """Nothing is read before :meth:`refresh` or a look-up."""
        self._state = state
        self._heads = heads
        self._keys = keys
        self._config = config
        self._store = store
        self._admin_id = writer_id_of(config.admin_public_key)
        self._snapshots: list[Snapshot] | None = None
        self._refused: tuple[str, ...] = ()  # amendments that do not count
        self._writers: dict[WriterId, Enrolment] | None = None
        self.warnings: list[str] = []
        self.unusable: list[UnusableObject] = []  # as of the last refresh

    # --- looking up -----------------------------------------------------------

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots that count, by time, host, series and number."""
        if self._snapshots is None:
            facts_of = {
                SnapshotId(object_id): decode_snapshot(body, _label(object_id))
                for object_id, body in self._bodies(Role.SNAPSHOT)
            }
            hosts = {writer_id: record.host for writer_id, record in self.writers().items()}
            amended = apply_amendments(facts_of, self.amendments(), hosts, self._admin_id)
            found = [
                Snapshot(
                    snapshot_id,
                    facts,
                    amended.words.get(snapshot_id),
                    is_vouched=facts.writer_id == self._admin_id,
                )
                for snapshot_id, facts in facts_of.items()
            ]
            found.sort(key=_order)
            self._snapshots = found
            self._refused = amended.refused
        return self._snapshots

    def writers(self) -> dict[WriterId, Enrolment]:
        """Return the enrolled writers by id."""
        if self._writers is None:
            records = [
                decode_enrolment(body, _label(object_id))
                for object_id, body in self._bodies(Role.ENROLMENT)
            ]
            self._writers = {record.writer_id: record for record in records}
        return self._writers

    def amendments(self) -> list[Amendment]:
        """Return the amendment records, oldest first."""
        return [record for _, record in self.named_amendments()]

    def named_amendments(self) -> list[tuple[ObjectId, Amendment]]:
        """Return the amendment records with their objects' names, oldest first."""
        found = [
            (ObjectId(name), decode_amendment(body, _label(name)))
            for name, body in self._bodies(Role.AMENDMENT)
        ]
        return sorted(found, key=lambda item: (item[1].time_ns, item[0]))

    def forget_records(self) -> dict[ObjectId, ForgetRecord]:
        """Return the valid forget records by their objects' names."""
        return {
            ObjectId(name): decode_forget(body, _label(name))
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
        rows = self._state.connection.execute(
            "SELECT object_id, role FROM snapshot_objects WHERE body IS NOT NULL"
        )
        return {ObjectId(object_id): Role(role) for object_id, role in rows.fetchall()}

    def _bodies(self, role: Role) -> list[tuple[bytes, bytes]]:
        return self._state.connection.execute(
            "SELECT object_id, body FROM snapshot_objects WHERE role = ? AND body IS NOT NULL",
            (int(role),),
        ).fetchall()

    # --- refreshing -----------------------------------------------------------

    def refresh(self) -> None:
        """Read what is new under ``snapshots/`` and compare with the heads.

        Raises:
            Rollback: the store shows less than before.
            WrongKey: nothing there can be opened with this key.
            StoreUnavailable: the partner cannot be reached.
        """
        try:
            self._refresh()
        except Rollback:
            # A snapshot let go between the listing and the reading has its record by now.
            self._refresh()

    def _refresh(self) -> None:
        # Before the listing: what another process adds meanwhile is not gone.
        known = {
            ObjectId(row[0])
            for row in self._state.connection.execute("SELECT object_id FROM snapshot_objects")
        }
        listed = self._listed()
        if any(ObjectId(head.snapshot_id) not in listed for head in self._heads.all()):
            listed = self._listed()  # before anything is dropped for it
        new = [object_id for object_id in listed if object_id not in known]
        opened = self._open_new(new)
        self._take_in(opened)
        withheld = self._withheld_amendments(known - listed, listed)
        self._drop(known - listed - withheld)
        self._snapshots = None
        self._writers = None
        self.unusable = self._problems()
        self.warnings = [item.problem for item in self.unusable]
        self.warnings += [
            f"{_label(name)}: the store no longer shows this amendment of snapshots that are still "
            "there; it counts all the same; ask the partner"
            for name in sorted(withheld)
        ]
        self._check_heads(listed)
        self.warnings += self._refused

    def add_own(self, snapshot_id: SnapshotId, body: bytes) -> Snapshot:
        """Take in a snapshot this host has just put; its series' head moves to it."""
        self._insert([(snapshot_id, int(Role.SNAPSHOT), body, None)])
        self._snapshots = None
        facts = decode_snapshot(body, _label(snapshot_id))
        is_vouched = facts.writer_id == self._admin_id
        snapshot = Snapshot(snapshot_id, facts, is_vouched=is_vouched)
        self._heads.update([Head(facts.host, facts.series, facts.number, snapshot_id)])
        return snapshot

    def _listed(self) -> set[ObjectId]:
        return {info.name for info in self._store.list(Kind.SNAPSHOTS)}

    def _open_new(self, names: list[ObjectId]) -> dict[ObjectId, OpenedBody | CoopfsError]:
        opened: dict[ObjectId, OpenedBody | CoopfsError] = {}
        for object_id in names:
            try:
                data = self._store.get(Kind.SNAPSHOTS, object_id)
                check_name(data, object_id, _label(object_id))
                opened[object_id] = open_body(self._keys, data, ROLES, _label(object_id))
            except ObjectNotFound:
                continue
            except (DataError, WrongKey) as exc:
                opened[object_id] = exc
        return opened

    def _take_in(self, opened: dict[ObjectId, OpenedBody | CoopfsError]) -> None:
        # Enrolments first: the rest is verified with what they say.
        rows: list[tuple[bytes, int, bytes | None, str | None]] = []
        for object_id, item in opened.items():
            if isinstance(item, OpenedBody) and item.role in _BY_ADMIN:
                rows.append(self._verified(object_id, item, self._config.admin_public_key))
        self._insert(rows)
        self._writers = None
        rows = []
        for object_id, item in opened.items():
            if isinstance(item, CoopfsError):
                # Not kept: damage may be mended, a newer format read by a newer coopfs.
                rows.append((object_id, 0, None, str(item)))
            elif item.role not in _BY_ADMIN:
                rows.append(self._verified(object_id, item, None))
        self._insert(rows)

    def _insert(self, rows: list[tuple[bytes, int, bytes | None, str | None]]) -> None:
        if rows:
            with self._state.transaction() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO snapshot_objects VALUES (?, ?, ?, ?)", rows
                )

    def _verified(
        self, object_id: ObjectId, opened: OpenedBody, public_key: bytes | None
    ) -> tuple[bytes, int, bytes | None, str | None]:
        try:
            if public_key is None:
                public_key = self._public_key_for(opened)
            verify_body(opened, self._config.archive_id, public_key)
            if opened.role is Role.ENROLMENT:
                decode_enrolment(opened.body, opened.what)
        except DataError as exc:
            return object_id, int(opened.role), None, str(exc)
        return object_id, int(opened.role), opened.body, None

    def _public_key_for(self, opened: OpenedBody) -> bytes:
        if opened.role is Role.SNAPSHOT:
            facts = decode_snapshot(opened.body, opened.what)
            writer_id, host = facts.writer_id, facts.host
            if writer_id == self._admin_id and facts.origin is not None:
                return self._config.admin_public_key  # copied or imported, of whatever host
        else:
            writer_id, host = decode_amendment(opened.body, opened.what).writer_id, ""
            if writer_id == self._admin_id:
                return self._config.admin_public_key
        writer = self.writers().get(writer_id)
        if writer is None:
            raise SignatureInvalid(
                f"{opened.what}: its writer {short_hex(writer_id)} is not enrolled in this archive"
            )
        if host and host != writer.host:
            raise SignatureInvalid(
                f"{opened.what}: says it is of host {host}, but its writer "
                f"{short_hex(writer_id)} is enrolled for host {writer.host}; it does not count"
            )
        return writer.public_key

    def _withheld_amendments(self, gone: set[ObjectId], listed: set[ObjectId]) -> set[ObjectId]:
        """Return which of *gone* say something of snapshots that are still there.

        Nobody deletes those: a store that hides one may want a hold not to count.
        """
        if not gone:
            return set()
        return {
            name
            for name, record in self.named_amendments()
            if name in gone and not listed.isdisjoint(map(ObjectId, record.snapshot_ids))
        }

    def _drop(self, gone: set[ObjectId]) -> None:
        if gone:
            with self._state.transaction() as connection:
                connection.executemany(
                    "DELETE FROM snapshot_objects WHERE object_id = ?", [(name,) for name in gone]
                )

    def _problems(self) -> list[UnusableObject]:
        """What could not be used; read again at the next refresh."""
        rows = self._state.connection.execute(
            "SELECT object_id, role, problem FROM snapshot_objects WHERE body IS NULL"
            " ORDER BY object_id"
        ).fetchall()
        self._drop({ObjectId(object_id) for object_id, _, _ in rows})
        return [
            UnusableObject(ObjectId(object_id), Role(role) if role else None, problem)
            for object_id, role, problem in rows
        ]

    # --- rollback and omission ------------------------------------------------

    def _check_heads(self, listed: set[ObjectId]) -> None:
        heads = self._heads.all()
        forgotten: set[SnapshotId] | None = None
        for head in heads:
            if ObjectId(head.snapshot_id) in listed:
                continue
            if forgotten is None:
                forgotten = self.forgotten()
            if head.snapshot_id not in forgotten:
                raise Rollback(
                    f"the store no longer shows snapshot {short_hex(head.snapshot_id)}, number "
                    f"{head.number} of {head.host}/{head.series}, which this machine has seen: "
                    "it was put back to an older copy, or something is withheld; "
                    "ask the partner before anything else"
                )
        self._heads.update(self._newest_heads())

    def _newest_heads(self) -> list[Head]:
        """Return the heads to adopt: of each series the newest that continues the known one.

        What claims a higher number and does not is warned about, and hides no other.
        """
        previous_of = self.forgotten_chains()
        previous_of |= {s.snapshot_id: s.facts.previous for s in self.snapshots()}
        by_series: dict[tuple[str, str], list[Snapshot]] = {}
        for snapshot in self.snapshots():
            by_series.setdefault((snapshot.facts.host, snapshot.facts.series), []).append(snapshot)
        adopted = []
        for (host, series), snapshots in by_series.items():
            known = self._heads.get(host, series)
            for snapshot in sorted(snapshots, key=lambda s: s.facts.number, reverse=True):
                number = snapshot.facts.number
                if known is not None and number <= known.number:
                    break
                if known is None or _reaches(snapshot, known.snapshot_id, previous_of):
                    adopted.append(Head(host, series, number, snapshot.snapshot_id))
                    break
                self.warnings.append(
                    f"snapshot {short_hex(snapshot.snapshot_id)} of {host}/{series} does not "
                    f"continue number {known.number}, the newest known here; was that "
                    "host's state lost, or are there two hosts of this name?"
                )
        return adopted


def _reaches(
    snapshot: Snapshot, known: SnapshotId, previous_of: dict[SnapshotId, tuple[SnapshotId, ...]]
) -> bool:
    """Tell whether the chain of *snapshot* leads back to *known*."""
    pending = [snapshot.snapshot_id]
    seen: set[SnapshotId] = set()
    while pending:
        for snapshot_id in previous_of.get(pending.pop(), ()):
            if snapshot_id == known:
                return True
            if snapshot_id not in seen:
                seen.add(snapshot_id)
                pending.append(snapshot_id)
    return False


def _order(snapshot: Snapshot) -> tuple[int, str, str, int]:
    facts = snapshot.facts
    return facts.time_ns, facts.host, facts.series, facts.number


def _label(object_id: bytes) -> str:
    return f"snapshots/{object_id.hex()[:16]}"
