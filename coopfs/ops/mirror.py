"""The same archive in a second store: its objects, byte for byte, in the order of a commit.

Owns the order (config, packs, index objects, records, snapshots) and what is sent: whatever
the archive's index lists and the other store does not.  Nothing is opened or sealed anew; each
object is compared with its name, SHA-256, before it is sent, so that damage is not copied.
Stopped anywhere, the next run goes on: what is listed there is not sent again.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from coopfs.archive.archive import Archive
from coopfs.archive.index import Index
from coopfs.archive.state import State
from coopfs.errors import DataError, ObjectCorrupt, ObjectNotFound, StoreError, WrongKey
from coopfs.format.body import check_name
from coopfs.format.config import decode_config
from coopfs.format.keys import Role
from coopfs.ids import ObjectId, PackId, short_hex
from coopfs.ops.init import begun_store
from coopfs.ops.owner import introduce_owner
from coopfs.ops.progress import Progress
from coopfs.store.base import Kind, Store

THREADS: Final = 3  # packs on their way at a time: 16 MiB of memory each
READ_BACK: Final = 8  # newest packs, where a store does not promise durability


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """What the other store lacks."""

    packs: tuple[tuple[PackId, int], ...]  # with their sizes, bytes
    index: tuple[ObjectId, ...]
    records: tuple[ObjectId, ...]  # in the order in which they are put; snapshots last
    snapshots: int  # of *records*
    size: int  # bytes to send
    packs_there: int
    snapshots_there: int
    marked: frozenset[PackId]  # packs that may be gone by now
    unknown: frozenset[ObjectId]  # there, and nothing that the archive shows or has let go
    replaced: frozenset[PackId]  # there, but known to be damaged: deleted before they are sent

    @property
    def objects(self) -> int:
        """How many objects are to be sent."""
        return len(self.packs) + len(self.index) + len(self.records)


@dataclass(slots=True)
class Mirrored:
    """What was done."""

    packs: list[PackId] = field(default_factory=list)
    objects: int = 0  # all of them, packs included
    sent_len: int = 0  # bytes
    duration_s: float = 0.0
    problems: list[str] = field(default_factory=list)  # packs the archive's own store lacks


def open_mirror(archive: Archive, address: str) -> Store:
    """Open the store at *address*, made if need be, and see that it is for this archive.

    Raises:
        WrongKey: another archive is there.
        NotAStore, StoreError: it cannot be made or reached.
    """
    store = begun_store(address)
    try:
        with suppress(ObjectNotFound):
            found = decode_config(archive.keys, store.get_config(), store.address)
            if found.archive_id != archive.config.archive_id:
                raise WrongKey(
                    f"{store.address}: holds archive {short_hex(found.archive_id)}, not "
                    f"{short_hex(archive.config.archive_id)}; a copy of it needs another place"
                )
    except BaseException:
        store.close()
        raise
    return store


def plan_mirror(
    archive: Archive, target: Store | None, lost: frozenset[PackId] = frozenset()
) -> MirrorPlan:
    """Compare a refreshed archive with *target*, which is only listed; None: nothing is there.

    *lost*: packs that were found damaged in the target.

    Raises:
        StoreError: one of the stores cannot be listed.
    """

    def there(kind: Kind) -> dict[ObjectId, int]:
        return {} if target is None else {info.name: info.size for info in target.list(kind)}

    # What the index says now; what others add meanwhile is the next run's.
    sizes = {pack.pack_id: pack.size for pack in archive.index.packs()}
    index = archive.index.known_objects() - archive.index.replaced_objects()
    roles = archive.objects.roles()
    numbers = {ObjectId(s.snapshot_id): s.facts.number for s in archive.snapshots()}
    packs_there, index_there = there(Kind.DATA), there(Kind.INDEX)
    records_there = there(Kind.SNAPSHOTS)
    damaged = frozenset(
        name
        for name, size in sizes.items()
        if ObjectId(name) in packs_there and (name in lost or packs_there[ObjectId(name)] != size)
    )
    packs = [
        (name, size)
        for name, size in sizes.items()
        if name in damaged or ObjectId(name) not in packs_there
    ]
    new_index = sorted(index - index_there.keys())
    # A series' snapshots in the order of their numbers: wherever it stops, none is missing
    # between two that are there.
    records = sorted(
        (name for name in roles if name not in records_there),
        key=lambda name: (roles[name] is Role.SNAPSHOT, numbers.get(name, 0), name),
    )
    own = {
        info.name: info.size
        for kind, wanted in ((Kind.INDEX, new_index), (Kind.SNAPSHOTS, records))
        for info in (archive.store.list(kind) if wanted else ())
    }
    return MirrorPlan(
        packs=tuple(packs),
        index=tuple(new_index),
        records=tuple(records),
        snapshots=sum(roles[name] is Role.SNAPSHOT for name in records),
        size=sum(size for _, size in packs)
        + sum(own.get(name, 0) for name in (*new_index, *records)),
        packs_there=len(sizes) - len(packs),
        snapshots_there=len(numbers.keys() & records_there.keys()),
        marked=frozenset(archive.index.marked()),
        unknown=frozenset(
            records_there.keys() - roles.keys() - set(map(ObjectId, archive.objects.forgotten()))
        ),
        replaced=damaged,
    )


def lost_in_copy(folder: Path) -> frozenset[PackId]:
    """Return the packs that a check or audit of the copy found damaged or gone.

    *folder* is where this host keeps what it knows of the copy.
    """
    if not folder.is_dir():
        return frozenset()
    state = State(folder)
    try:
        index = Index(state)
        return frozenset(index.lost()) - index.marked()
    finally:
        state.close()


def note_mended(folder: Path, pack_ids: Iterable[PackId]) -> None:
    """Note of the copy known in *folder* that *pack_ids* are whole again."""
    if not folder.is_dir():
        return
    state = State(folder)
    try:
        Index(state).mark_found(pack_ids)
    finally:
        state.close()


def apply_mirror(archive: Archive, target: Store, plan: MirrorPlan, progress: Progress) -> Mirrored:
    """Send what *plan* says; durable on return, where *target* promises that at all.

    A pack that the archive's own store lacks or has damaged is reported and left out.

    Raises:
        StoreError: something could not be put; the same command goes on.
        DataError: an index object or a snapshot was altered meanwhile.
    """
    started_s = time.monotonic()
    done = Mirrored()
    config = archive.store.get_config()
    decode_config(archive.keys, config, archive.store.address)
    if archive.ring.admin() is not None:
        introduce_owner(target, archive.ring)
    target.put_config(config)
    progress.start(plan.objects, plan.size)
    _send_packs(archive, target, plan, done, progress)
    _confirm(target, done)
    for kind, names in ((Kind.INDEX, plan.index), (Kind.SNAPSHOTS, plan.records)):
        for name in names:
            try:
                data = archive.store.get(kind, name)
            except ObjectNotFound:
                continue  # replaced or forgotten meanwhile
            check_name(data, name, f"{kind}/{name.hex()[:16]}")
            target.put(kind, name, data)
            done.objects += 1
            done.sent_len += len(data)
            progress.update(files=done.objects, bytes_=done.sent_len)
    done.duration_s = time.monotonic() - started_s
    return done


class _Sent(NamedTuple):
    """What became of one pack."""

    pack_id: PackId
    length: int  # bytes; 0: it was not sent
    problem: str  # why not; "": it need not be


def _send_packs(
    archive: Archive, target: Store, plan: MirrorPlan, done: Mirrored, progress: Progress
) -> None:
    def send(pack_id: PackId) -> _Sent:
        what = f"pack {short_hex(pack_id)}"
        try:
            data = archive.store.get(Kind.DATA, pack_id)
            check_name(data, pack_id, what)
        except ObjectNotFound:
            return _Sent(
                pack_id, 0, "" if pack_id in plan.marked else f"{what}: is not in {source}"
            )
        except DataError as exc:
            return _Sent(pack_id, 0, f"{what}: is damaged in {source}: {exc}")
        if pack_id in plan.replaced:
            # Only now that a good one is at hand; a put would take the old one for done.
            with suppress(ObjectNotFound):
                target.delete(Kind.DATA, pack_id)
        target.put(Kind.DATA, pack_id, data)
        return _Sent(pack_id, len(data), "")

    def note(sent: _Sent) -> None:
        if sent.problem:
            done.problems.append(sent.problem)
        elif sent.length:
            done.packs.append(sent.pack_id)
            done.objects += 1
            done.sent_len += sent.length
            progress.update(files=done.objects, bytes_=done.sent_len)

    source = archive.store.address
    _in_order(send, (pack_id for pack_id, _ in plan.packs), note)


def _in_order(
    send: Callable[[PackId], _Sent],
    packs: Iterable[PackId],
    note: Callable[[_Sent], None],
) -> None:
    """Run *send* of all *packs*, few at a time; the first error ends it."""
    waiting: deque[Future[_Sent]] = deque()
    with ThreadPoolExecutor(THREADS, "coopfs-copy") as pool:
        try:
            for pack_id in packs:
                if len(waiting) >= THREADS:
                    note(waiting.popleft().result())
                waiting.append(pool.submit(send, pack_id))
            while waiting:
                note(waiting.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _confirm(target: Store, done: Mirrored) -> None:
    """Before anything names them: the packs are listed, and the newest can be read back."""
    if not done.packs:
        return
    listed = {info.name: info.size for info in target.list(Kind.DATA)}
    lacking = sum(ObjectId(pack_id) not in listed for pack_id in done.packs)
    if lacking:
        raise StoreError(
            f"{target.address}: does not list {lacking:,} of the packs it has just taken; nothing "
            "that names them was put; run it again"
        )
    if not target.is_durable:
        for pack_id in done.packs[-READ_BACK:]:
            if hashlib.sha256(target.get(Kind.DATA, pack_id)).digest() != pack_id:
                raise ObjectCorrupt(
                    f"pack {short_hex(pack_id)}: {target.address} does not give back what it was "
                    "given; nothing that names it was put"
                )
