"""An archive of millions of chunks that takes little room: for memory and time at that size.

All of it is real, made with coopfs's own code, and can be read.  Blocks and packs are as
many as those of ordinary files, but nearly all zeros, so that ten million chunks (100 GB
of files; 400 GB at the default sizes) take 1.5 GB.  A share of the chunks is tiny.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from archive_fixtures import Lab
from vectors import samples

from coopfs.archive.archive import Archive
from coopfs.archive.writer import INDEX_CHUNKS, ArchiveWriter
from coopfs.format.body import seal_body
from coopfs.format.codec import Compressor
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role, SigningKey
from coopfs.format.nodes import SpanTreeBuilder, TreeBuilder
from coopfs.format.pack import BlockDraft, build_pack
from coopfs.format.snapshot import State, encode_snapshot
from coopfs.format.tree import Entry, Kind, Span, Totals
from coopfs.ids import ID_LEN, ChunkId, SnapshotId, TreeId
from coopfs.store.base import Kind as StoreKind

CHUNK_LEN = 10_000  # bytes: a quarter of what content at the default sizes comes to
BLOCK_CHUNKS = 26  # as in 1 MiB at the default sizes
PACK_BLOCKS = 40  # 16 MiB once compressed, were it not zeros
PACK_CHUNKS = BLOCK_CHUNKS * PACK_BLOCKS
LONG_SPANS = 5000  # chunks of a long file; it has a span tree
FOLDER_FILES = 10
TINY_SHARE = 0.02  # of the chunks
WORN_PACKS = 10  # every so many-th pack loses every third chunk
_ZEROS = bytes(CHUNK_LEN)


class ManyChunks:
    """Makes the archive of *lab* a large one."""

    def __init__(self, lab: Lab, chunk_count: int) -> None:
        """*chunk_count*: about so many, rounded to whole packs."""
        self._lab = lab
        self.pack_count = max(round(chunk_count * (1 - TINY_SHARE) / PACK_CHUNKS), 4)
        self._tiny_count = round(chunk_count * TINY_SHARE)
        self._ids_path = lab.base / "chunk-ids"  # of all packs: 320 MB are too much for a list

    def build(self) -> None:
        """Put packs, index objects, trees and two snapshots of one series.

        The first needs everything; the second neither the last tenth of the packs, nor
        every third chunk of every tenth pack, nor every other tiny chunk.
        """
        with self._lab.open() as (archive, _):
            self._put_packs(archive, archive.ring.writer())
        with self._lab.open() as (archive, _):
            signer = archive.ring.writer()
            with ArchiveWriter(archive, signer) as writer:
                tiny = [writer.save_chunk(_tiny(n)) for n in range(self._tiny_count)]
                whole = self._tree(archive, writer, self.pack_count, tiny, is_worn=False)
                kept = self.pack_count * 9 // 10
                rest = self._tree(archive, writer, kept, tiny[::2], is_worn=True)
                writer.flush()
            first = self._commit(archive, signer, whole, 1, ())
            self._commit(archive, signer, rest, 2, (first,))

    def content_left(self) -> bytes:
        """Return what the file short/0000001/0 of the second snapshot holds."""
        pack = self.pack_count * 9 // 10 // 2
        places = [n for n in range(PACK_CHUNKS) if pack % WORN_PACKS or n % 3]
        return b"".join(content(pack, n) for n in places[2 * FOLDER_FILES : 2 * FOLDER_FILES + 2])

    # --- packs --------------------------------------------------------------------

    def _put_packs(self, archive: Archive, signer: SigningKey) -> None:
        packs: list[IndexedPack] = []
        compressor = Compressor()
        with self._ids_path.open("wb") as ids:
            for number in range(self.pack_count):
                drafts = [_draft(archive, compressor, number, n) for n in range(PACK_BLOCKS)]
                ids.writelines(chunk_id for draft in drafts for chunk_id, _ in draft.chunks)
                pack = build_pack(archive.keys, signer, Role.DATA, drafts, os.urandom(32))
                archive.store.put(StoreKind.DATA, pack.pack_id, pack.data)
                size = len(pack.data)
                packs.append(IndexedPack(pack.pack_id, size, pack.header, pack.directory))
                if len(packs) * PACK_CHUNKS >= INDEX_CHUNKS - PACK_CHUNKS:
                    self._put_index(archive, signer, packs)
                    packs = []
        if packs:
            self._put_index(archive, signer, packs)

    def _chunk_ids(self, packs: range, *, is_worn: bool) -> Iterator[ChunkId]:
        """Yield the ids of the chunks of some packs; with *is_worn* not all of some."""
        with self._ids_path.open("rb") as file:
            for number in packs:
                file.seek(number * PACK_CHUNKS * ID_LEN)
                ids = file.read(PACK_CHUNKS * ID_LEN)
                for place in range(PACK_CHUNKS):
                    if not is_worn or number % WORN_PACKS or place % 3:
                        yield ChunkId(ids[place * ID_LEN : (place + 1) * ID_LEN])

    def _put_index(self, archive: Archive, signer: SigningKey, packs: list[IndexedPack]) -> None:
        # A year old: nothing of it is new, so nothing is left alone for that.
        made_ns = time.time_ns() - 365 * 86400 * 10**9
        body = encode_index(IndexObject(tuple(packs), (), (), signer.writer_id, made_ns))
        archive_id = archive.config.archive_id
        sealed = seal_body(archive.keys, signer, Role.INDEX, archive_id, body, os.urandom(32))
        archive.store.put(StoreKind.INDEX, sealed.object_id, sealed.data)

    # --- trees --------------------------------------------------------------------

    def _tree(
        self,
        archive: Archive,
        writer: ArchiveWriter,
        packs: int,
        tiny: list[ChunkId],
        *,
        is_worn: bool,
    ) -> TreeId:
        """Store a folder of long files, one of folders of short ones and one of tiny files."""
        half = packs // 2
        ids = self._chunk_ids(range(half), is_worn=is_worn)
        long = self._folder(archive, writer, self._long_files(writer, ids))
        ids = self._chunk_ids(range(half, packs), is_worn=is_worn)
        short = self._folder(archive, writer, self._short_folders(archive, writer, ids))
        least = self._folder(
            archive,
            writer,
            (
                _file(b"%06d" % number, [Span(len(_tiny(number)), chunk_id)])
                for number, chunk_id in _numbered(tiny, self._tiny_count)
            ),
        )
        top = [(b"long", long), (b"short", short), (b"tiny", least)]
        entries = (_folder_entry(name, tree, totals) for name, (tree, totals) in top)
        return self._folder(archive, writer, entries)[0]

    def _folder(
        self, archive: Archive, writer: ArchiveWriter, entries: Iterator[Entry]
    ) -> tuple[TreeId, Totals]:
        builder = TreeBuilder(archive.keys.tree_id_key, writer.save_tree_node)
        files = folders = size = 0
        for entry in entries:
            if entry.totals is None:
                files, size = files + 1, size + entry.size
            else:
                files, size = files + entry.totals.files, size + entry.totals.size
                folders += entry.totals.folders + 1
            builder.add(entry)
        if writer.pending_count >= 100_000:
            writer.flush()
        return builder.finish(), Totals(files, folders, size)

    @staticmethod
    def _long_files(writer: ArchiveWriter, ids: Iterator[ChunkId]) -> Iterator[Entry]:
        number = 0
        while chosen := list(islice(ids, LONG_SPANS)):
            builder = SpanTreeBuilder(writer.save_span_node)
            for chunk_id in chosen:
                builder.add(Span(CHUNK_LEN, chunk_id))
            yield Entry(
                b"%06d" % number, Kind.FILE, 0o644, 0, 0, 0,
                size=len(chosen) * CHUNK_LEN, span_root=builder.finish(),
            )  # fmt: skip
            number += 1

    def _short_folders(
        self, archive: Archive, writer: ArchiveWriter, ids: Iterator[ChunkId]
    ) -> Iterator[Entry]:
        number = 0
        while chosen := list(islice(ids, 2 * FOLDER_FILES)):
            files = (
                _file(b"%d" % place, [Span(CHUNK_LEN, chunk_id) for chunk_id in pair])
                for place, pair in enumerate(zip(chosen[::2], chosen[1::2], strict=False))
            )
            yield _folder_entry(b"%07d" % number, *self._folder(archive, writer, files))
            number += 1

    # --- snapshots ----------------------------------------------------------------

    def _commit(
        self,
        archive: Archive,
        signer: SigningKey,
        root: TreeId,
        number: int,
        previous: tuple[SnapshotId, ...],
    ) -> SnapshotId:
        facts = replace(
            samples.SNAPSHOT,
            host=self._lab.host.name,
            series="many",
            number=number,
            previous=previous,
            time_ns=time.time_ns(),
            end_ns=time.time_ns(),
            root=root,
            state=State.COMPLETE,
            origin=None,
            writer_id=signer.writer_id,
        )
        body, keys = encode_snapshot(facts), archive.keys
        archive_id = archive.config.archive_id
        sealed = seal_body(keys, signer, Role.SNAPSHOT, archive_id, body, os.urandom(32))
        archive.store.put(StoreKind.SNAPSHOTS, sealed.object_id, sealed.data)
        return archive.objects.add_own(SnapshotId(sealed.object_id), body).snapshot_id


def content(pack_number: int, place: int) -> bytes:
    """Return the content of one of a pack's chunks; no two are the same."""
    head = b"%d of %d" % (place, pack_number)
    return head + _ZEROS[len(head) :]


def _draft(archive: Archive, compressor: Compressor, pack_number: int, block: int) -> BlockDraft:
    first = block * BLOCK_CHUNKS
    contents = [content(pack_number, first + n) for n in range(BLOCK_CHUNKS)]
    codec, stored = compressor.compress(b"".join(contents), 1)
    chunks = tuple((archive.keys.chunk_id(plain), CHUNK_LEN) for plain in contents)
    return BlockDraft(codec, stored, BLOCK_CHUNKS * CHUNK_LEN, chunks)


def _tiny(number: int) -> bytes:
    return b"tiny %d" % number


def _numbered(tiny: list[ChunkId], count: int) -> Iterator[tuple[int, ChunkId]]:
    step = count // len(tiny) if tiny else 1
    return ((place * step, chunk_id) for place, chunk_id in enumerate(tiny))


def _file(name: bytes, spans: list[Span]) -> Entry:
    size = sum(span.length for span in spans)
    return Entry(name, Kind.FILE, 0o644, 0, 0, 0, size=size, spans=tuple(spans))


def _folder_entry(name: bytes, tree: TreeId, totals: Totals) -> Entry:
    return Entry(name, Kind.FOLDER, 0o755, 0, 0, 0, tree=tree, totals=totals)
