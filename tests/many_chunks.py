"""An archive of millions of chunks that takes little room: for memory and time at that size.

Index objects, trees and snapshots are real and made with coopfs's own code.  The packs
of file content are not: each is a sparse file of the right size, with a signed directory
in the index.  Nothing may read them, but everything may look them up, mark and delete
them.  A share of the chunks is real and tiny, so that a prune has something to move.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from archive_fixtures import Lab
from blake3 import blake3
from vectors import samples

from coopfs.archive.archive import Archive
from coopfs.archive.writer import INDEX_CHUNKS, ArchiveWriter
from coopfs.format.body import seal_body
from coopfs.format.codec import Codec
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import SIGN_PACK, Role, SigningKey
from coopfs.format.nodes import SpanTreeBuilder, TreeBuilder
from coopfs.format.pack import TAG_LEN, BlockDraft, decode_directory, encode_directory_body
from coopfs.format.sealing import Header
from coopfs.format.snapshot import State, encode_snapshot
from coopfs.format.tree import Entry, Kind, Span, Totals
from coopfs.ids import ChunkId, PackId, SnapshotId, TreeId
from coopfs.store.base import Kind as StoreKind

CHUNK_LEN = 40_000  # bytes: what content at the default sizes comes to
BLOCK_CHUNKS = 26  # 1 MiB
PACK_BLOCKS = 40  # 16 MiB once compressed
PACK_CHUNKS = BLOCK_CHUNKS * PACK_BLOCKS
PACK_LEN = 17 << 20
LONG_SPANS = 5000  # chunks of a long file; it has a span tree
FOLDER_FILES = 10
REAL_SHARE = 0.02  # of the chunks: real, tiny, needed by every other snapshot only in part
_ZEROS = memoryview(bytes(1 << 20))


class ManyChunks:
    """Makes the archive of *lab* a large one."""

    def __init__(self, lab: Lab, chunk_count: int) -> None:
        """*chunk_count*: about so many, rounded to whole packs."""
        self._lab = lab
        self.pack_count = max(round(chunk_count * (1 - REAL_SHARE) / PACK_CHUNKS), 4)
        self._real_count = round(chunk_count * REAL_SHARE)

    def build(self) -> None:
        """Put packs, index objects, trees and two snapshots of one series.

        The first needs everything; the second neither the last tenth of the packs nor
        every other real chunk.
        """
        with self._lab.open() as (archive, _):
            signer = archive.ring.writer()
            self._put_packs(archive, signer)
        with self._lab.open(refresh=False) as (archive, _):
            signer = archive.ring.writer()
            with ArchiveWriter(archive, signer) as writer:
                real = [writer.save_chunk(b"real %d" % n) for n in range(self._real_count)]
                whole = self._tree(archive, writer, self.pack_count, real)
                rest = self._tree(archive, writer, self.pack_count * 9 // 10, real[::2])
                writer.flush()
            first = self._commit(archive, signer, whole, 1, ())
            self._commit(archive, signer, rest, 2, (first,))

    # --- packs --------------------------------------------------------------------

    def _put_packs(self, archive: Archive, signer: SigningKey) -> None:
        packs: list[IndexedPack] = []
        for number in range(self.pack_count):
            packs.append(self._put_pack(archive, signer, number))
            if len(packs) * PACK_CHUNKS >= INDEX_CHUNKS - PACK_CHUNKS:
                self._put_index(archive, signer, packs)
                packs = []
        if packs:
            self._put_index(archive, signer, packs)

    def _put_pack(self, archive: Archive, signer: SigningKey, number: int) -> IndexedPack:
        ids = chunk_ids(number)
        sealed_len = PACK_LEN // PACK_BLOCKS - 4096
        stored = _ZEROS[: sealed_len - TAG_LEN]
        drafts = [
            BlockDraft(
                Codec.ZSTD,
                stored,
                BLOCK_CHUNKS * CHUNK_LEN,
                tuple((chunk_id, CHUNK_LEN) for chunk_id in islice(ids, BLOCK_CHUNKS)),
            )
            for _ in range(PACK_BLOCKS)
        ]
        pack_id = PackId(hashlib.sha256(b"pack %d" % number).digest())
        body = encode_directory_body(drafts, signer.writer_id, bytes(32))
        signature = signer.sign(SIGN_PACK, body)
        salt = blake3(pack_id).digest()
        _, commitment = archive.keys.object_key(Role.DATA, salt)
        folder = self._lab.store_path / "data" / pack_id.hex()[:2]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / pack_id.hex()).open("wb") as file:
            file.truncate(PACK_LEN)
        directory = decode_directory(body, signature, "pack")
        return IndexedPack(pack_id, PACK_LEN, Header(Role.DATA, salt, commitment), directory)

    def _put_index(self, archive: Archive, signer: SigningKey, packs: list[IndexedPack]) -> None:
        # A year old: nothing of it is new, so nothing is left alone for that.
        made_ns = time.time_ns() - 365 * 86400 * 10**9
        body = encode_index(IndexObject(tuple(packs), (), (), signer.writer_id, made_ns))
        archive_id = archive.config.archive_id
        sealed = seal_body(archive.keys, signer, Role.INDEX, archive_id, body, os.urandom(32))
        archive.store.put(StoreKind.INDEX, sealed.object_id, sealed.data)

    # --- trees --------------------------------------------------------------------

    def _tree(
        self, archive: Archive, writer: ArchiveWriter, packs: int, real: list[ChunkId]
    ) -> TreeId:
        """Store a folder of long files and one of folders of short ones."""
        half = packs // 2
        long = self._folder(archive, writer, self._long_files(writer, range(half)))
        short = self._folder(
            archive, writer, self._short_folders(archive, writer, range(half, packs))
        )
        tiny = self._folder(
            archive,
            writer,
            (
                _file(b"%06d" % number, [Span(len(b"real %d" % number), chunk_id)])
                for number, chunk_id in _numbered(real, self._real_count)
            ),
        )
        top = [(b"long", long), (b"short", short), (b"tiny", tiny)]
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
    def _long_files(writer: ArchiveWriter, packs: range) -> Iterator[Entry]:
        ids = (chunk_id for number in packs for chunk_id in chunk_ids(number))
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
        self, archive: Archive, writer: ArchiveWriter, packs: range
    ) -> Iterator[Entry]:
        ids = (chunk_id for number in packs for chunk_id in chunk_ids(number))
        number = 0
        while chosen := list(islice(ids, 2 * FOLDER_FILES)):
            files = (
                _file(b"%d" % place, [Span(CHUNK_LEN, chunk_id) for chunk_id in pair])
                for place, pair in enumerate(zip(chosen[::2], chosen[1::2], strict=True))
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


def chunk_ids(pack_number: int) -> Iterator[ChunkId]:
    """Yield the ids of the chunks of one of the packs."""
    ids = blake3(b"chunks %d" % pack_number).digest(32 * PACK_CHUNKS)
    return (ChunkId(ids[at : at + 32]) for at in range(0, len(ids), 32))


def _numbered(real: list[ChunkId], count: int) -> Iterator[tuple[int, ChunkId]]:
    step = count // len(real) if real else 1
    return ((place * step, chunk_id) for place, chunk_id in enumerate(real))


def _file(name: bytes, spans: list[Span]) -> Entry:
    size = sum(span.length for span in spans)
    return Entry(name, Kind.FILE, 0o644, 0, 0, 0, size=size, spans=tuple(spans))


def _folder_entry(name: bytes, tree: TreeId, totals: Totals) -> Entry:
    return Entry(name, Kind.FOLDER, 0o755, 0, 0, 0, tree=tree, totals=totals)


def store_len(store: Path) -> int:
    """Return the bytes that the store really takes on the disk."""
    return sum(path.stat().st_blocks * 512 for path in store.rglob("*") if path.is_file())
