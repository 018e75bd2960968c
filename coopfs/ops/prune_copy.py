"""Copies of what is still needed of packs that are to go: verified, stored anew, found again.

Owns the rule that a prune takes nobody's word for a chunk's being elsewhere.  A hacked
host can list any chunk in a pack of its own; were that believed, the pack with the true
one would be deleted.  So a copy elsewhere counts only once its block was opened and its
ids computed here; what was verified is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.blocks import Block
from coopfs.archive.index_rows import BlockInfo, PackInfo
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, ObjectNotFound
from coopfs.format.keys import SigningKey
from coopfs.ids import PackId, short_hex
from coopfs.ops.need_table import NeedTable
from coopfs.ops.progress import Progress

FLUSH_LEN: Final = 256 << 20  # bytes stored between index objects; done is then done
FLUSH_CHUNKS: Final = 50_000  # ids kept in memory until then: 8 MB here, 20 where they are packed
RUN_BLOCKS: Final = 8  # read at a time: 8 MiB as a rule


@dataclass(slots=True)
class Copied:
    """What was moved."""

    chunks: int = 0
    plain_len: int = 0  # bytes
    stored_len: int = 0  # bytes put into the store, index objects included


class _CopyWriter(ArchiveWriter):
    """Stores chunks again that are in the index already."""

    def save_copy(self, chunk_id: bytes, content: bytes, *, is_meta: bool) -> None:
        self._append(self._meta if is_meta else self._data, chunk_id, content)

    def is_pending(self, chunk_id: bytes) -> bool:
        return chunk_id in self._pending

    def _adopt_nodes(self) -> int:
        return 0  # of an interrupted snapshot: its next run's


class Copier:
    """See the module; a context manager."""

    def __init__(
        self, archive: Archive, admin: SigningKey, needs: NeedTable, progress: Progress
    ) -> None:
        """Copies are signed with the admin key, as marks are."""
        self._archive = archive
        self._admin = admin
        self._needs = needs
        self._progress = progress
        self._writer: _CopyWriter | None = None
        self.copied = Copied()
        self.warnings: list[str] = []
        self.excluded: frozenset[int] = frozenset()  # pack numbers that are no place elsewhere

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def secure(self, packs: Iterable[PackInfo], on_done: Callable[[list[PackId]], None]) -> None:
        """See to it that all of *packs* can go; *on_done* is told which really can.

        It is called when copies are durable and in the index, for some packs at a time.
        A pack of which something needed cannot be read is never among them.  One that is
        listed in several ways is only when that holds for each of them: a hacked host can
        list another's pack as one with nothing in it.
        """
        listings: dict[PackId, list[PackInfo]] = {}
        for pack in packs:
            listings.setdefault(pack.pack_id, []).append(pack)
        ready: list[PackId] = []
        for done, (pack_id, same) in enumerate(listings.items(), 1):
            if all([self._secure_pack(pack) for pack in same]):
                ready.append(pack_id)
            self._progress.update(files=done, bytes_=self.copied.plain_len)
            writer = self._writer
            if writer is not None and (
                writer.unflushed_len >= FLUSH_LEN or writer.pending_count >= FLUSH_CHUNKS
            ):
                self._flush()
                on_done(ready)
                ready = []
        self._flush()
        if ready:
            on_done(ready)

    def _flush(self) -> None:
        if self._writer is None:
            return
        index = self._archive.index
        before = index.last_pack_no
        self._writer.flush()
        self.copied.stored_len = self._writer.stored_len
        # Made of verified content by this very process.
        own = self._admin.writer_id
        for pack in index.packs_after(before):
            if pack.writer_id == own and pack.pack_id in self._writer.flushed:
                index.note_sound(block.block_no for block in index.blocks_of(pack.pack_no))

    def _secure_pack(self, pack: PackInfo) -> bool:
        """Copy what is needed of one pack and nowhere else; False: something cannot be read."""
        is_whole = True
        blocks = self._archive.index.blocks_of(pack.pack_no)
        wanted: list[tuple[BlockInfo, list[int]]] = []
        for block in blocks:
            places = [
                place
                for place, chunk_id in enumerate(block.chunk_ids)
                if self._needs.is_needed(chunk_id)
                and not self._is_elsewhere(chunk_id, block.block_no)
            ]
            if places:
                wanted.append((block, places))
        for start in range(0, len(wanted), RUN_BLOCKS):
            run = wanted[start : start + RUN_BLOCKS]
            loaded = self._load([block for block, _ in run])
            for (block, places), data in zip(run, loaded, strict=True):
                is_whole = self._copy(pack, block, places, data) and is_whole
        return is_whole

    def _load(self, blocks: list[BlockInfo]) -> list[Block | None]:
        try:
            return list(self._archive.blocks.load_run([block.block_no for block in blocks]))
        except (DataError, ObjectNotFound):
            pass
        found: list[Block | None] = []
        for block in blocks:  # one of them: which?
            try:
                found.append(self._archive.blocks.load(block.block_no))
            except (DataError, ObjectNotFound):
                found.append(None)
        return found

    def _copy(
        self, pack: PackInfo, block: BlockInfo, places: list[int], data: Block | None
    ) -> bool:
        if self._writer is None:
            self._writer = _CopyWriter(self._archive, self._admin)
        is_whole = True
        for place in places:
            chunk_id = block.chunk_ids[place]
            if self._writer.is_pending(chunk_id):
                continue
            start, end = block.chunk_offsets[place], block.chunk_offsets[place + 1]
            try:
                # A copy: a view would keep the whole block in memory for one small chunk.
                content = (
                    data.chunk(start, end - start)
                    if data is not None and start not in data.bad
                    else self._archive.load_chunk(chunk_id)
                )
            except (DataError, ObjectNotFound) as exc:
                self.warnings.append(
                    f"pack {short_hex(pack.pack_id)}: stays, as something that is needed of it "
                    f"cannot be read ({exc})"
                )
                is_whole = False
                continue
            self._writer.save_copy(chunk_id, content, is_meta=pack.is_meta)
            self.copied.chunks += 1
            self.copied.plain_len += len(content)
        return is_whole

    # --- elsewhere ------------------------------------------------------------------

    def _is_elsewhere(self, chunk_id: bytes, block_no: int) -> bool:
        """Tell whether the chunk, found in a block that goes, is verified in a pack that stays."""
        index = self._archive.index
        for location in index.other_locations(chunk_id, block_no):
            block = index.block(location.block_no)
            if block.pack_no in self.excluded or not index.is_usable(block.pack_no):
                continue
            if index.is_sound(block.block_no) or self._verify(block):
                return True
        return False

    def _verify(self, block: BlockInfo) -> bool:
        """Open a block and compare all its ids; one that fails is not relied on any more."""
        index = self._archive.index
        try:
            # Not from the disk cache: what is there may be rotten in the store, or gone.
            bad = self._archive.blocks.load_from_store(block.block_no).bad
            problem = "a chunk in it is not what its id says" if bad else ""
        except (DataError, ObjectNotFound) as exc:
            problem = str(exc)
        if not problem:
            index.note_sound([block.block_no])
            return True
        pack = index.pack(block.pack_no)
        self.warnings.append(
            f"pack {short_hex(pack.pack_id)} of writer {short_hex(pack.writer_id)}: {problem}; "
            'nothing relies on it any more; run "coopfs check --read-data"'
        )
        index.mark_lost(pack.pack_id, problem)
        return False


def exclude(archive: Archive, pack_ids: Collection[PackId]) -> frozenset[int]:
    """Return the numbers of the packs called *pack_ids*, however often they are listed."""
    return frozenset(p.pack_no for p in archive.index.packs() if p.pack_id in pack_ids)
