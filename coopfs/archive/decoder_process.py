"""Blocks opened, decompressed and verified in a process of its own.

A restore makes four system calls a file, each of which lets go of Python's global
lock and has to win it back from the threads that decode: on two cores a source tree
took 6.0 s that way, of which 3 s were the kernel's, putting threads to sleep and waking
them.  The thread that writes the files needs 2.9 s alone.

Sealed blocks go in through inlets and plain ones come out in slots, both of shared
memory; who uses which is the parent's to know.
"""

from __future__ import annotations

import threading
from typing import Final, NamedTuple

from coopfs.archive.child import Child, child_pipes, read_message, write_message
from coopfs.archive.index_rows import BlockInfo, PackInfo, block_facts
from coopfs.errors import CoopfsError
from coopfs.format.codec import decompress
from coopfs.format.keys import ArchiveKeys
from coopfs.format.pack import PACK_ROLES
from coopfs.format.sealing import TAG_LEN, Opener, Section, decode_header
from coopfs.ids import ID_LEN

_PAGE: Final = 4096
# Messages out: ready, [slot, offsets of chunks whose id does not match], [slot, None]: not opened
_READY: Final = -1
OPENERS_KEPT: Final = 256
# Of a block with more than this nothing is used.  Answers must fit into the pipe even when
# nobody reads them (64 KiB, pipe(7)): who should may be waiting for the pipe to the child.
BAD_MAX: Final = 100


class Decoded(NamedTuple):
    """What became of one block."""

    slot: int
    bad: frozenset[int] | None  # offsets of chunks that are not what their ids say; None: any


class DecoderProcess:
    """The parent's end.  One thread receives; any may send."""

    def __init__(self, keys: ArchiveKeys, block_max: int, inlets: int, slots: int) -> None:
        """Start the process with room for so many blocks of at most *block_max* bytes.

        Raises:
            CoopfsError: it cannot be started.
        """
        self.block_max = block_max
        self._room = -(-(block_max + TAG_LEN) // _PAGE) * _PAGE
        self._slots_start = inlets * self._room
        self._child = Child(__name__, (inlets + slots) * self._room)
        self._lock = threading.Lock()
        self._is_ready = False
        self._child.send([keys.archive_key])

    def close(self) -> None:
        """End the process."""
        self._child.close()

    @property
    def is_dead(self) -> bool:
        """Whether nothing more comes of it."""
        return self._child.is_dead

    @property
    def is_ready(self) -> bool:
        """Whether it has started; before that, waiting for it would take longer."""
        if not self._is_ready and not self.is_dead and self._child.has_news:
            self._is_ready = self._child.receive() == [_READY]
        return self._is_ready and not self.is_dead

    @property
    def has_news(self) -> bool:
        """Whether :meth:`receive` would return at once."""
        return self._child.has_news

    def plain(self, slot: int) -> memoryview:
        """Return the slot; the block is at its start."""
        start = self._slots_start + slot * self._room
        return self._child.shared[start : start + self._room]

    def send(
        self, inlet: int, slot: int, info: BlockInfo, pack: PackInfo, sealed: bytes | memoryview
    ) -> None:
        """Have one block decoded into *slot*; :meth:`receive` says when it is done."""
        start = inlet * self._room
        self._child.shared[start : start + len(sealed)] = sealed
        plain_start = self._slots_start + slot * self._room
        message = [slot, start, len(sealed), plain_start, *block_facts(info, pack)]
        with self._lock:
            self._child.send(message)

    def receive(self) -> Decoded | None:
        """Wait for the next block to be done; None when the process has died."""
        message = self._child.receive()
        if message is None:
            return None
        slot, bad = message
        return Decoded(slot, None if bad is None else frozenset(bad))


class _Decoder:
    """The process's own work."""

    def __init__(self, keys: ArchiveKeys, shared: memoryview) -> None:
        self._keys = keys
        self._shared = shared
        self._openers: dict[bytes, Opener] = {}

    def decode(
        self,
        sealed_start: int,
        sealed_len: int,
        plain_start: int,
        header: bytes,
        ordinal: int,
        codec: int,
        plain_len: int,
        ids: bytes,
        lengths: list[int],
    ) -> list[int] | None:
        """Decode one block; return offsets of bad chunks, or None when it is of no use."""
        sealed = self._shared[sealed_start : sealed_start + sealed_len]
        try:
            stored = self._opener(header).open(Section.BLOCK, ordinal, sealed)
            plain = decompress(codec, stored, plain_len, "block")
        except CoopfsError:
            return None  # whoever asked tries again, and then says what is wrong
        self._shared[plain_start : plain_start + plain_len] = plain
        view = memoryview(plain)
        chunk_id = self._keys.chunk_id
        bad = []
        offset = 0
        for place, length in enumerate(lengths):
            expected = ids[place * ID_LEN : place * ID_LEN + ID_LEN]
            if chunk_id(view[offset : offset + length]) != expected:
                bad.append(offset)
            offset += length
        return bad if len(bad) <= BAD_MAX else None

    def _opener(self, header: bytes) -> Opener:
        opener = self._openers.get(header)
        if opener is None:
            if len(self._openers) >= OPENERS_KEPT:
                self._openers.clear()
            opener = Opener(self._keys, decode_header(header, "pack", PACK_ROLES), "pack")
            self._openers[header] = opener
        return opener


def main() -> None:
    """Run as the child."""
    from coopfs.archive.allocator import prepare_bulk_work

    prepare_bulk_work()
    with child_pipes() as (shared, stream, out, _):
        (archive_key,) = read_message(stream)
        decoder = _Decoder(ArchiveKeys.derive(archive_key), shared)
        write_message(out, [_READY])
        while (message := read_message(stream)) is not None:
            slot, *block = message
            write_message(out, [slot, decoder.decode(*block)])


if __name__ == "__main__":
    main()
