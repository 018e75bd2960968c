"""Repair: what cannot be used replaced or set aside, and nothing sound touched.

Every pack ends with a signed directory of what it holds, so an index object that was lost
or damaged costs a look at the ends of its packs.  What is in the index and is not in the
store any more leaves the index; should it come back, the next repair finds it.  Whatever
was dropped, the files that are hurt by it are named.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.listings import read_listing
from coopfs.archive.writer import INDEX_CHUNKS
from coopfs.errors import DataError, FormatUnsupported, ObjectNotFound, StoreDenied, WrongKey
from coopfs.format.index import IndexedPack, IndexObject, live_objects
from coopfs.format.keys import SigningKey
from coopfs.format.pack import verify_directory
from coopfs.ids import ObjectId, PackId, WriterId, short_hex
from coopfs.ops.check import fresh_archive
from coopfs.ops.check_findings import HurtFile
from coopfs.ops.forget import checked_admin_key
from coopfs.ops.progress import Progress
from coopfs.ops.prune_index import known_objects, put_index_object, rewrite_group
from coopfs.ops.reliance import hurt_files
from coopfs.ops.set_aside import Strangers, find_strangers, set_aside
from coopfs.store.base import Kind

THREADS: Final = 4


@dataclass(slots=True)
class RepairReport:
    """What was found, and unless it was a dry run done."""

    index_objects: int = 0  # that can be read
    bad_index: dict[ObjectId, str] = field(default_factory=dict)  # dropped; what is wrong
    recovered: list[PackId] = field(default_factory=list)  # in the index again
    unreadable: dict[PackId, str] = field(default_factory=dict)  # in no index, no directory; left
    missing: list[PackId] = field(default_factory=list)  # in the index, not in the store; dropped
    chunks: int = 0  # in the recovered packs
    strangers: Strangers = field(default_factory=lambda: Strangers({}, {}))
    copies: Path | None = None  # of what was set aside
    hurt: int = 0  # files and folders of snapshots that rely on what is gone
    denial: str = ""  # what the store said when it did not let us delete
    duration_s: float = 0.0

    @property
    def is_needless(self) -> bool:
        """Whether there was nothing to repair."""
        return not (self.touches_index or self.strangers.certain)

    @property
    def touches_index(self) -> bool:
        """Whether something is the matter with the index."""
        return bool(self.bad_index or self.recovered or self.missing)


def repair_archive(
    archive: Archive,
    admin: SigningKey | None,
    *,
    is_dry_run: bool,
    progress: Progress,
    named: Sequence[str] = (),
    on_hurt: Callable[[HurtFile], None] = lambda hurt: None,
) -> RepairReport:
    """Mend *archive*; without *admin* only a dry run is possible.

    *named*: see :func:`find_strangers`.  *on_hurt* is told of every file that relies on what
    is in no pack of the index then.

    Raises:
        UsageError: *named* is nothing that can be set aside.
        Rollback: the store shows less than before; that must be accepted first.
        WrongKey: no admin key.
        FormatUnsupported: an index object is a newer version's; nothing was changed.
        StoreError: the store failed; the same command goes on.
    """
    if not is_dry_run:
        admin = checked_admin_key(archive, admin, "repairing")
    start_s = time.monotonic()
    run = _Repair(archive, progress)
    run.look()
    run.report.strangers = find_strangers(archive, named)
    signer = None if is_dry_run else admin
    run.recover(signer)
    if signer is not None:
        run.drop(signer)
        archive.refresh_index()
        if run.report.strangers.certain:
            done, run.report.copies = set_aside(archive, run.report.strangers, signer)
            run.report.denial = run.report.denial or done.denial
    if run.report.touches_index:
        run.report.hurt = run.name_hurt(on_hurt)
    run.report.duration_s = time.monotonic() - start_s
    return run.report


class _Repair:
    """One run."""

    def __init__(self, archive: Archive, progress: Progress) -> None:
        self._archive = archive
        self._store = archive.store
        self._progress = progress
        self._unlisted: dict[PackId, int] = {}  # sizes
        self._replaced_before: list[ObjectId] = []  # bad index objects an earlier run left
        self._live: list[ObjectId] = []  # index objects that count
        self._sizes: dict[PackId, int] = {}  # of the packs in the store
        self._doubted: set[PackId] = set()  # listed by writers that are distrusted
        self._found: list[IndexedPack] = []  # of a dry run: what a real one would list again
        self.report = RepairReport()

    def look(self) -> None:
        """Read every index object, and compare what they list with what is there."""
        archive, report = self._archive, self.report
        archive.refresh()
        replaces: dict[ObjectId, tuple[ObjectId, ...]] = {}
        packs_of: dict[ObjectId, set[PackId]] = {}
        marked_by: dict[ObjectId, set[PackId]] = {}
        distrusted = archive.objects.distrusted()
        names = sorted(info.name for info in self._store.list(Kind.INDEX))
        self._progress.start(len(names), None)
        for number, name in enumerate(names, 1):
            self._progress.update(files=number, bytes_=0)
            try:
                content = archive.read_index_object(name)
            except ObjectNotFound:
                continue  # replaced meanwhile
            except FormatUnsupported:
                raise
            except (DataError, WrongKey) as exc:
                report.bad_index[name] = str(exc)
                continue
            replaces[name] = content.replaces
            # Whoever is distrusted may have listed others' packs wrongly, to hide them.
            is_believed = content.writer_id not in distrusted
            packs_of[name] = {p.pack_id for p in content.packs} if is_believed else set()
            self._doubted |= set() if is_believed else {p.pack_id for p in content.packs}
            marked_by[name] = set(content.marked)
        live = live_objects(dict(replaces))
        self._live = sorted(live)
        # What a readable object replaces is no loss, readable or not.
        for name in {n for object_id in live for n in replaces[object_id]}:
            if report.bad_index.pop(name, None):
                self._replaced_before.append(name)
        report.index_objects = len(live)
        listed = set().union(*(packs_of[name] for name in live))
        marked = archive.index.marked().union(*(marked_by[name] for name in live))
        sizes = {PackId(info.name): info.size for info in self._store.list(Kind.DATA)}
        self._sizes = sizes
        self._unlisted = {
            pack_id: size
            for pack_id, size in sizes.items()
            if pack_id not in listed  # marked or not: one that was undeleted may be needed
        }
        report.missing = sorted(
            pack_id
            for pack_id in (listed | self._doubted) - sizes.keys() - marked
            if self._is_missing(pack_id)
        )

    def _is_missing(self, pack_id: PackId) -> bool:
        # A listing may miss what is there.
        try:
            self._store.size(Kind.DATA, pack_id)
        except ObjectNotFound:
            return True
        return False

    # --- packs in no index ----------------------------------------------------------

    def recover(self, signer: SigningKey | None) -> None:
        """Read the directories of packs in no index; with *signer* list them in new objects."""
        group: list[IndexedPack] = []
        count = 0
        replaces = sorted(self.report.bad_index)
        for pack in self._directories():
            self.report.recovered.append(pack.pack_id)
            self.report.chunks += len(pack.directory.chunk_ids)
            if signer is None:
                self._found.append(pack)
                continue
            if group and count + len(pack.directory.chunk_ids) > INDEX_CHUNKS:
                put_index_object(self._archive, signer, packs=group)
                group, count = [], 0
            group.append(pack)
            count += len(pack.directory.chunk_ids)
        # Last of all the bad ones are replaced: stopped before, the same is done again.
        if signer is not None and (group or replaces):
            put_index_object(self._archive, signer, packs=group, replaces=replaces)

    def _directories(self) -> Iterator[IndexedPack]:
        self._progress.start(len(self._unlisted), None)
        with ThreadPoolExecutor(THREADS, "coopfs-repair") as pool:
            try:
                found = pool.map(self._read_directory, self._unlisted.items())
                for number, (pack_id, pack) in enumerate(
                    zip(self._unlisted, found, strict=True), 1
                ):
                    self._progress.update(files=number, bytes_=0)
                    if isinstance(pack, IndexedPack):
                        if pack_id in self._doubted and self._archive.index.has_listing(pack):
                            continue  # it is as the distrusted writer has said
                        yield pack
                    elif pack:
                        self.report.unreadable[pack_id] = pack
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _read_directory(self, item: tuple[PackId, int]) -> IndexedPack | str:
        """Return what a pack says it holds, verified; or what is wrong with it."""
        pack_id, size = item
        what = f"pack {short_hex(pack_id)}"
        archive = self._archive
        try:
            pack = read_listing(archive.keys, self._store, pack_id, size)
            writer = archive.objects.writers().get(pack.directory.writer_id)
            admin_key = archive.config.admin_public_key
            verify_directory(pack.directory, writer.public_key if writer else admin_key, what)
        except ObjectNotFound:
            return ""  # deleted meanwhile
        except (DataError, WrongKey) as exc:
            return str(exc)
        return pack

    # --- what is not there any more ---------------------------------------------------

    def drop(self, signer: SigningKey) -> None:
        """Take missing packs out of the index, and bad index objects out of the store."""
        archive = self._archive
        dead = set(self.report.missing)
        if dead:
            in_store = {info.name for info in self._store.list(Kind.INDEX)}
            for known in known_objects(archive, dead):
                if known.dead and known.name in in_store:
                    rewrite_group(archive, signer, [known], dead, in_store)
        for name in (*self.report.bad_index, *self._replaced_before):
            try:
                self._store.delete(Kind.INDEX, name)
            except ObjectNotFound:
                continue
            except StoreDenied as exc:
                self.report.denial = str(exc)
                return

    # --- who is hurt ------------------------------------------------------------------

    def name_hurt(self, on_hurt: Callable[[HurtFile], None]) -> int:
        """Tell of the files that cannot be read whole then, whatever the index will be."""
        archive = self._archive
        with ExitStack() as stack:
            if self._found:
                # Nothing is changed: the index that would be is made beside.
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="repair-", dir=archive.state_folder)
                )
                beside = fresh_archive(archive, Path(folder))
                stack.callback(beside.state.close)
                self._fill(beside)
                archive = beside
            snapshots = self._archive.snapshots()
            return hurt_files(archive, snapshots, self._sizes.keys(), on_hurt, self._progress)

    def _fill(self, beside: Archive) -> None:
        for name in self._live:
            content = self._archive.read_index_object(name)
            beside.index.add_object(name, replace(content, marked=(), replaces=()))
        if self._found:
            recovered = IndexObject(tuple(self._found), (), (), WriterId(bytes(16)), 0)
            beside.index.add_object(ObjectId(bytes(32)), recovered)
