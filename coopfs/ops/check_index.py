"""The index under check: index objects against the store's listing and local state.

Owns which packs there should be, which are there, and that writers of this archive
signed them.  Index objects are read one at a time; of a pack only what is needed to
read it later is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo, listing_digest
from coopfs.archive.listings import read_listing
from coopfs.errors import DataError, ObjectNotFound, WrongKey
from coopfs.format.index import IndexedPack, IndexObject, live_objects
from coopfs.format.keys import Role
from coopfs.format.pack import verify_directory
from coopfs.ids import ObjectId, PackId, WriterId, short_hex
from coopfs.ops.check_chunks import ChunkTable
from coopfs.ops.check_findings import CheckTotals, Findings, Subject
from coopfs.ops.check_packs import PackFacts, pack_facts
from coopfs.store.base import Kind

INDEX_KEPT: Final = 500_000  # chunks of decoded index objects kept in memory, 100 bytes each


class IndexCheck:
    """Reads the index objects and compares; fills the table of chunks."""

    def __init__(
        self,
        archive: Archive,
        fresh: Archive,
        table: ChunkTable,
        findings: Findings,
        totals: CheckTotals,
    ) -> None:
        """*fresh* is the archive with an empty local state; it gets the metadata packs."""
        self._archive = archive
        self._fresh = fresh
        self._store = archive.store
        self._table = table
        self._findings = findings
        self._totals = totals
        self._sizes: dict[ObjectId, int] = {}  # of the packs in the store
        self._local = _LocalIndex(archive)
        self._local_differs: set[PackId] = set()
        self._contradicted: set[PackId] = set()  # listed in ways that differ
        self._marked: set[PackId] = set()  # by a prune
        self._distrusted: set[WriterId] = set()
        self.packs: dict[PackId, PackFacts] = {}  # that are in the store
        self.missing: dict[PackId, str] = {}  # named by the index -> why they count as missing
        self.suspects: dict[PackId, str] = {}  # there, but not as the index says

    def run(self, on_packs: Callable[[], None]) -> None:
        """Read everything once; *on_packs* is called whenever the fresh index knows more packs."""
        self._distrusted = set(self._fresh.objects.distrusted())
        # Names first, packs after: what a listed index object names was put before it.
        names = self._names()
        self._sizes = {info.name: info.size for info in self._store.list(Kind.DATA)}
        contents: dict[ObjectId, IndexObject] = {}
        replaces: dict[ObjectId, tuple[ObjectId, ...]] = {}
        marked: dict[ObjectId, tuple[PackId, ...]] = {}
        ranks: dict[ObjectId, tuple[bool, int, ObjectId]] = {}
        chunk_count = 0
        for name in names:
            content = self.read_object(name)
            if content is None:
                continue
            replaces[name], marked[name] = content.replaces, content.marked
            # In the order in which trees were made: those of a night are like those before.
            ranks[name] = (content.writer_id in self._distrusted, content.time_ns, name)
            if chunk_count < INDEX_KEPT:
                contents[name] = content
                chunk_count += sum(len(pack.directory.chunk_ids) for pack in content.packs)
        # The first word on a pack counts: never that of a distrusted writer, if there is another.
        live = sorted(live_objects(dict(replaces)), key=ranks.__getitem__)
        self._marked = {pack_id for name in live for pack_id in marked[name]}
        for name in live:
            again = contents.pop(name, None) or self.read_object(name)
            if again is not None:
                self._take_object(name, again)
                on_packs()
        self._totals.index_objects = len(live)
        self._totals.marked_packs = len(self._marked & {PackId(name) for name in self._sizes})
        self._count_unindexed()
        # Of several listings the local index has the one that the pack itself gives.
        differing = self._local_differs - self._contradicted
        if differing:
            self._findings.damage(
                Subject.LOCAL,
                b"",
                f"local index: {len(differing)} packs are not as the store has them; remove "
                f"{self._archive.state_folder / 'index.db'}, it is rebuilt from the store",
            )

    def _names(self) -> list[ObjectId]:
        return sorted(info.name for info in self._store.list(Kind.INDEX))

    def read_object(self, name: ObjectId) -> IndexObject | None:
        """Read and verify an index object; None, and a finding, when that fails."""
        try:
            return self._fresh.read_index_object(name)
        except ObjectNotFound as exc:
            if name in self._names():
                self._findings.damage(Subject.INDEX, name, str(exc))
            return None  # else a prune replaced it meanwhile
        except (DataError, WrongKey) as exc:
            self._findings.damage(Subject.INDEX, name, f"{exc}; what it names cannot be found")
            return None

    def _take_object(self, name: ObjectId, content: IndexObject) -> None:
        readable_meta = []
        for pack in content.packs:
            if self._is_refuted(pack, name, content.writer_id):
                continue
            if self._take_pack(pack, name, content.writer_id):
                self._table.add(pack.directory.chunk_ids, pack.directory.chunk_lens)
                if pack.header.role is Role.META:
                    readable_meta.append(pack)
            if self._local.differs(name, pack):
                self._local_differs.add(pack.pack_id)
        # Trees are then found through what the store's own index objects say.
        self._fresh.index.add_object(
            name, replace(content, packs=tuple(readable_meta), marked=(), replaces=())
        )

    def _is_refuted(self, pack: IndexedPack, name: ObjectId, lister: WriterId) -> bool:
        """Tell whether the pack says something else of itself; asked where the local index does."""
        size = self._sizes.get(ObjectId(pack.pack_id))
        if self._archive.index.has_listing(pack) is not False or size is None:
            return False
        try:
            real = read_listing(self._archive.keys, self._store, pack.pack_id, size)
        except (DataError, WrongKey, ObjectNotFound):
            return False
        if listing_digest(real) == listing_digest(pack):
            return False
        is_known = lister in self._distrusted
        who = "a writer that is distrusted" if is_known else f"writer {short_hex(lister)}"
        (self._findings.note if is_known else self._findings.damage)(
            Subject.INDEX,
            name,
            f"pack {pack.pack_id.hex()}: the index object {short_hex(name)} by {who} says of it "
            "what it does not say of itself",
        )
        return True

    def _take_pack(self, pack: IndexedPack, name: ObjectId, lister: WriterId) -> bool:
        """Take in one pack of an index object; tell whether it is new and there."""
        pack_id = pack.pack_id
        what = f"pack {pack_id.hex()}"
        facts = pack_facts(pack, name)
        seen = self.packs.get(pack_id)
        if seen is not None or pack_id in self.missing:
            if seen is not None and (seen.digest, seen.size) != (facts.digest, facts.size):
                self._contradicted.add(pack_id)
                is_known = lister in self._distrusted
                (self._findings.note if is_known else self._findings.damage)(
                    Subject.INDEX,
                    name,
                    f"{what}: the index objects {short_hex(name)} and "
                    f"{short_hex(seen.object_id)} contradict each other about it"
                    + (", the first by a writer that is distrusted" if is_known else ""),
                )
            return False
        self._totals.packs += 1
        self._totals.pack_len += pack.size
        self._check_signature(pack, what)
        size = self._sizes.get(ObjectId(pack_id))
        if size is None and pack_id in self._marked:
            # A prune deleted it; whether anything needed it is told by the trees.
            self._totals.packs -= 1
            self._totals.pack_len -= pack.size
            return False
        if size is None:
            reason = f"{what}: is not in the store; the index says {pack.size} bytes"
            self.missing[pack_id] = reason
            self._findings.damage(Subject.PACK, pack_id, reason)
            return False
        self.packs[pack_id] = facts
        if size != pack.size:
            self.suspects[pack_id] = f"{size} bytes long, the index says {pack.size}"
        return True

    def _check_signature(self, pack: IndexedPack, what: str) -> None:
        directory = pack.directory
        writer = self._fresh.objects.writers().get(directory.writer_id)
        admin_key = self._fresh.config.admin_public_key
        try:
            verify_directory(directory, writer.public_key if writer else admin_key, what)
        except DataError as exc:
            reason = str(exc)
            if writer is None:
                reason = (
                    f"{what}: its writer {short_hex(directory.writer_id)} is not enrolled in "
                    "this archive; do not trust it"
                )
            self._findings.damage(Subject.PACK, pack.pack_id, reason)

    def _count_unindexed(self) -> None:
        for name, size in self._sizes.items():
            if PackId(name) not in self.packs:
                self._totals.unindexed_packs += 1
                self._totals.unindexed_len += size


class _LocalIndex:
    """The local index, to be compared with the store's index objects."""

    def __init__(self, archive: Archive) -> None:
        self._index = archive.index
        self._known = self._index.known_objects()
        self._packs: dict[PackId, list[PackInfo]] = {}  # a pack may be listed in two ways
        for pack in self._index.packs():
            self._packs.setdefault(pack.pack_id, []).append(pack)

    def differs(self, name: ObjectId, pack: IndexedPack) -> bool:
        """Tell whether the local index has *pack* otherwise, though it knows the object *name*."""
        if name not in self._known:
            return False  # new in the store: taken in at the next refresh
        return not any(self._is_same(info, pack) for info in self._packs.get(pack.pack_id, ()))

    def _is_same(self, info: PackInfo, pack: IndexedPack) -> bool:
        if (info.size, info.header) != (pack.size, pack.header):
            return False
        directory = pack.directory
        blocks = self._index.blocks_of(info.pack_no)
        if len(blocks) != len(directory.blocks):
            return False
        for ours, theirs in zip(blocks, directory.blocks, strict=True):
            first, count = theirs.first_chunk, theirs.chunk_count
            if (
                (ours.offset, ours.sealed_len) != (theirs.offset, theirs.sealed_len)
                or (ours.plain_len, ours.codec) != (theirs.plain_len, theirs.codec)
                or ours.chunk_ids != directory.chunk_ids[first : first + count]
            ):
                return False
        return True
