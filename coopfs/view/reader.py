"""File content: exact bytes from chunks, read ahead when somebody reads in order.

What is in memory is answered without a checkpoint.  Every byte handed out comes
from a chunk whose id was verified and whose length is the span's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.errors import ChunkMissing, DataError, ObjectCorrupt, ObjectNotFound
from coopfs.format.tree import Entry, Kind
from coopfs.ids import ChunkId, short_hex
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.filemap import FileMap, NodeAbsent, Piece
from coopfs.view.layout import HOLE, Layout, Stretch
from coopfs.view.window import Window

# Two threads open ~1 GB/s; eight blocks keep them busy while the kernel is asked for the
# next half of the window.  A partner needs more: at 100 Mbit/s and 100 ms two
# bandwidth-delay products are 2.5 MB, at 1 Gbit/s 25 MB.
LOCAL_WINDOW: Final = 8 << 20  # bytes read ahead of a sequential reader
REMOTE_WINDOW: Final = 32 << 20
FIRST_WINDOW: Final = 1 << 20  # after the first read; doubles from there
SLACK: Final = 4 << 20  # the kernel's own read-ahead comes in out of order by this much
# Read in order so far, and still to come, that is worth starting processes for.
PROCESSES_AFTER: Final = 2 << 20
PROCESSES_FOR: Final = 32 << 20
RING_AHEAD: Final = 6 << 20  # bytes decoded ahead there
RING_STEP: Final = 4 << 20
SPANS_AHEAD: Final = 16 << 20
SIBLINGS_AHEAD: Final = 64  # entries of a folder looked at for what follows
SIBLING_BYTES: Final = 4 << 20  # content of following files fetched ahead
SIBLING_STEP: Final = 8  # opening the next or one of the few after it is "in order"
CURSORS_KEPT: Final = 256  # folders whose order of opening is remembered
ZEROS: Final = bytes(1 << 20)


class OpenFile:
    """One open(2): its content and how far it was read in order."""

    __slots__ = ("ahead", "begun", "entry", "ino", "is_for_threads", "map", "position", "ring",
                 "window")  # fmt: skip

    def __init__(self, ino: int, entry: Entry) -> None:
        """Open *entry*, a file, for reading."""
        self.ino = ino
        self.entry = entry
        self.map = None if entry.inline is not None else FileMap(entry)
        self.begun = 0  # where reading in order began
        self.position = 0  # end of what was read in order
        self.ahead = 0  # end of what was asked for ahead
        self.window = FIRST_WINDOW
        self.ring: Window | None = None  # what is decoded ahead by processes
        self.is_for_threads = False  # its blocks are none for them


class _Cursor:
    """How far the files of one folder were opened in order."""

    __slots__ = ("place", "planned")

    def __init__(self) -> None:
        self.place = -SIBLING_STEP  # opened last
        self.planned = 0  # entries before this one are fetched or on their way


class Reader:
    """Reads open files; used from the event loop only."""

    def __init__(self, archive: Archive, fetcher: Fetcher, decoders: Decoders) -> None:
        """Read *archive* through *fetcher*, and large files in order through *decoders*."""
        self._index = archive.index
        self._layout = Layout(archive.index)
        self._decoders = decoders
        self._fetcher = fetcher
        self._window_max = LOCAL_WINDOW if archive.store.is_local else REMOTE_WINDOW
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()

    async def read(self, file: OpenFile, offset: int, size: int) -> bytes | memoryview:
        """Return the bytes [*offset*, *offset* + *size*) of *file*, fewer at its end.

        Raises:
            ChunkMissing, ChunkCorrupt, ObjectCorrupt: damage; no wrong byte is returned.
            StoreUnavailable: not in memory or on disk, and the partner is away.
        """
        if file.entry.inline is not None:
            return file.entry.inline[offset : offset + size]
        end = min(offset + size, file.entry.size)
        is_in_order = self._note_progress(file, offset, offset + size)
        if file.ring is not None:
            ready = await self._from_ring(file, file.ring, offset, end)
            if ready is not None:
                return ready
        stretches = await self._stretches(file, offset, end)
        content = None
        if stretches is not None:
            content = self._from_memory(stretches)
            if content is None:
                content = await self._fetched(stretches)
        if content is None:
            content = await self._mended(file, offset, size)
        if is_in_order:
            self._read_ahead(file)
        return content

    async def _stretches(self, file: OpenFile, offset: int, end: int) -> list[Stretch] | None:
        """Return where the bytes lie; None: to be looked up chunk by chunk."""
        if file.map is None:
            return []
        while True:
            try:
                leaves = file.map.leaves(offset, end - offset, self._fetcher.peek_spans)
                return self._layout.stretches(leaves, offset, end)
            except NodeAbsent as absent:
                node_id = absent.node_id
            await self._fetcher.spans(node_id)

    def _from_memory(self, stretches: Sequence[Stretch]) -> bytes | memoryview | None:
        """Return the content if all its blocks are in memory and whole."""
        content = _Content()
        for block_no, start, length in stretches:
            if block_no == HOLE:
                content.add_zeros(length)
                continue
            block = self._fetcher.peek_block(block_no)
            if block is None or block.bad:
                return None
            content.add(block.data, start, length)
        return content.whole()

    async def _fetched(self, stretches: Sequence[Stretch]) -> bytes | memoryview | None:
        """Return the content, fetching what is missing; None where a block is damaged."""
        try:
            blocks = await self._fetcher.blocks(
                dict.fromkeys(one.block_no for one in stretches if one.block_no != HOLE)
            )
        except (DataError, ObjectNotFound):
            return None
        content = _Content()
        for block_no, start, length in stretches:
            if block_no == HOLE:
                content.add_zeros(length)
                continue
            block = blocks[block_no]
            if block.bad:
                return None
            content.add(block.data, start, length)
        return content.whole()

    async def _mended(self, file: OpenFile, offset: int, size: int) -> bytes | memoryview:
        """Return the content chunk by chunk, each from any pack that has it whole."""
        content = _Content()
        for piece in await self._pieces(file, offset, size):
            if piece.chunk_id is None:
                content.add_zeros(piece.length)
                continue
            location = self._index.first_location(piece.chunk_id)
            block = self._fetcher.peek_block(location.block_no)
            if block is None or location.offset in block.bad:
                chunk = await self._fetcher.chunk(piece.chunk_id)
                _check_length(piece, len(chunk))
                content.add(chunk, piece.start, piece.length)
            else:
                _check_length(piece, location.length)
                content.add(block.data, location.offset + piece.start, piece.length)
        return content.whole()

    async def _pieces(self, file: OpenFile, offset: int, size: int) -> list[Piece]:
        if file.map is None:
            return []
        while True:
            try:
                return file.map.pieces(offset, size, self._fetcher.peek_spans)
            except NodeAbsent as absent:
                node_id = absent.node_id
            await self._fetcher.spans(node_id)

    # --- reading ahead --------------------------------------------------------

    def _read_ahead(self, file: OpenFile) -> None:
        """Fetch what a reader in order needs next."""
        size = file.entry.size
        if file.position >= size or file.map is None:
            return
        if file.ring is None and file.position - file.begun >= PROCESSES_AFTER:
            self._open_ring(file)
        if file.ring is not None and self._fill_ring(file, file.ring, file.map):
            return
        if file.ahead >= size:
            return
        start = max(file.ahead, file.position)
        goal = min(file.position + file.window, size)
        if start - file.position > file.window // 2 or goal <= start:
            return  # enough on its way
        file.window = min(file.window * 2, self._window_max)
        try:
            leaves = file.map.leaves(start, goal - start, self._fetcher.peek_spans)
            stretches = self._layout.stretches(leaves, start, goal)
        except (NodeAbsent, DataError):
            return  # the read itself will fetch it, or say what is wrong
        file.ahead = goal
        if stretches is not None:
            self._fetcher.prefetch(
                dict.fromkeys(one.block_no for one in stretches if one.block_no != HOLE)
            )

    def _note_progress(self, file: OpenFile, offset: int, end: int) -> bool:
        """Note a read of [*offset*, *end*); tell whether it goes on where others have come to.

        Called as it comes: when it is answered, others may be far ahead.
        """
        if offset > max(file.ahead, file.position) + SLACK or end + SLACK < file.position:
            file.position = file.ahead = end  # a jump: no guess until it goes on from there
            file.begun = offset
            file.window = FIRST_WINDOW
            self.closed(file)
            return False
        file.position = max(file.position, end)
        return True

    def _open_ring(self, file: OpenFile) -> None:
        """Have what comes after what is on its way decoded by processes, if there are any."""
        if file.is_for_threads or file.entry.size - file.position < PROCESSES_FOR:
            return
        ring = Window(self._decoders, max(file.ahead, file.position))
        if not ring.is_closed:
            file.ring = ring

    def _fill_ring(self, file: OpenFile, ring: Window, content: FileMap) -> bool:
        """Keep the processes busy with what comes next; False: the ring is given back."""
        size = file.entry.size
        # It was left alone for a while, or could not be filled in time.
        if ring.is_closed or ring.goal < file.position:
            self.closed(file)
            return False
        self._look_at_spans(content, min(ring.goal + SPANS_AHEAD, size - 1))
        while ring.goal < min(file.position + RING_AHEAD, size):
            end = min(ring.goal + RING_STEP, size)
            if end > ring.limit(file.position) or self._decoders.is_busy:
                break  # there will be room when what is asked for has come
            try:
                leaves = content.leaves(ring.goal, end - ring.goal, self._fetcher.peek_spans)
                stretches = self._layout.stretches(leaves, ring.goal, end)
            except (NodeAbsent, DataError):
                break  # the read itself will fetch it, or say what is wrong
            if stretches and len(stretches) > 1 and end < size:
                # The last is cut short: its block would have to be decoded once more.
                end -= stretches.pop().length
            if not stretches or not ring.ask(stretches, end):
                file.is_for_threads = True
                file.ahead = file.position
                self.closed(file)
                return False
        file.ahead = max(file.ahead, ring.goal)
        return True

    def _look_at_spans(self, content: FileMap, offset: int) -> None:
        """Fetch the nodes that say where the byte at *offset* is, if they are not here."""
        try:
            for _ in content.leaves(offset, 1, self._fetcher.peek_spans):
                pass
        except NodeAbsent as absent:
            self._fetcher.prefetch_spans(absent.node_id)
        except DataError:
            pass  # whoever reads it is told

    async def _from_ring(
        self, file: OpenFile, ring: Window, offset: int, end: int
    ) -> bytes | memoryview | None:
        """Return the bytes if they were decoded ahead; None: find them otherwise."""
        if ring.holds(offset, end):
            with ring.reading(offset):
                self._read_ahead(file)
                return await ring.read(offset, end)
        return None

    def closed(self, file: OpenFile) -> None:
        """Note that nobody reads *file* on from where it was read, or at all any more."""
        if file.ring is not None:
            file.ring.close()
            file.ring = None

    def opened(self, folder_ino: int, place: int, entries: Sequence[Entry], first: int) -> None:
        """Note that entry *place* of a folder was opened; fetch the files that follow.

        *entries* are those of the entry's leaf, the first of which has place *first*.
        """
        cursor = self._cursors.get(folder_ino)
        if cursor is None:
            cursor = self._cursors[folder_ino] = _Cursor()
            if len(self._cursors) > CURSORS_KEPT:
                self._cursors.popitem(last=False)
        step = place - cursor.place
        cursor.place = place
        if not 0 < step <= SIBLING_STEP:
            cursor.planned = 0
            return
        if cursor.planned - place > SIBLING_STEP:
            return
        start = max(cursor.planned, place + 1)
        chunk_ids = []
        planned_len = 0
        index = start - first
        for entry in entries[index : index + SIBLINGS_AHEAD]:
            index += 1
            if entry.kind is Kind.FILE and entry.spans:
                chunk_ids.extend([span.chunk_id for span in entry.spans[:2] if span.chunk_id])
                planned_len += entry.size
                if planned_len >= SIBLING_BYTES:
                    break
        cursor.planned = first + index
        self._prefetch(chunk_ids)

    def _prefetch(self, chunk_ids: Sequence[ChunkId]) -> None:
        try:
            numbers = [self._index.first_location(chunk_id).block_no for chunk_id in chunk_ids]
        except ChunkMissing:
            return  # whoever reads it is told
        self._fetcher.prefetch(dict.fromkeys(numbers))


class _Content:
    """Puts together what a read returns; runs that lie side by side in a block stay one."""

    __slots__ = ("_data", "_end", "_parts", "_start")

    def __init__(self) -> None:
        self._parts: list[bytes | memoryview] = []
        self._data: bytes | bytearray | memoryview = b""
        self._start = self._end = 0

    def add(self, data: bytes | bytearray | memoryview, start: int, length: int) -> None:
        """Append *length* bytes of *data*, a block, from *start*."""
        if data is self._data and start == self._end:
            self._end += length
            return
        self._close()
        self._data, self._start, self._end = data, start, start + length

    def add_zeros(self, length: int) -> None:
        """Append a hole."""
        self._close()
        self._data, self._start, self._end = b"", 0, 0
        is_short = length <= len(ZEROS)
        self._parts.append(memoryview(ZEROS)[:length] if is_short else bytes(length))

    def _close(self) -> None:
        if self._end > self._start:
            self._parts.append(memoryview(self._data)[self._start : self._end])

    def whole(self) -> bytes | memoryview:
        """Return it all: a view of the block where one run is all there is."""
        self._close()
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def _check_length(piece: Piece, found: int) -> None:
    """A chunk of another length than its span says would shift what follows."""
    if found != piece.chunk_len:
        chunk_id = short_hex(piece.chunk_id or b"")
        raise ObjectCorrupt(
            f"chunk {chunk_id}: {found} bytes, but the file's span says {piece.chunk_len}; "
            'run "coopfs check" to see which files are hurt'
        )
