"""Blocks opened, decompressed and verified in a process of its own.

A restore makes four system calls a file, each of which lets go of Python's global
lock and has to win it back from the threads that decode: on two cores a source tree
took 6.0 s that way, of which 3 s were the kernel's, putting threads to sleep and waking
them.  The thread that writes the files needs 2.9 s alone.  A mount that reads a large
file in order left a third of both cores idle for the same reason.

A sealed block is read from its pack where that is a file of this machine; else it comes
through the shared memory, where the parts of the plain one are put in any case.  Who uses
which bytes of that is the parent's to know.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

from blake3 import blake3

from coopfs.archive.child import Child, SharedMemory, child_pipes, read_message, write_message
from coopfs.errors import CoopfsError, ObjectCorrupt
from coopfs.format.codec import Codec, decompress_start
from coopfs.format.keys import PACK_ROLES, ArchiveKeys
from coopfs.format.sealing import TAG_LEN, Opener, Section, decode_header
from coopfs.ids import ID_LEN
from coopfs.objects import READ_FLAGS

# Messages out: ready, [job, offsets of chunks whose id does not match], [job, None]: not opened
_READY: Final = -1
OPENERS_KEPT: Final = 256
PLAIN_KEPT: Final = 2 << 20  # bytes of decompressed blocks, for those that are asked for again
# Where less than this part of a block is wanted, the rest is neither decompressed nor verified:
# a chunk that a file shares with an earlier place of it lies in a block of that time.
MOST_OF_IT: Final = 0.5
HEAP_KEPT: Final = 2 << 20  # bytes; of a block a megabyte comes and goes
PACKS_KEPT: Final = 8  # open files; neighbouring blocks mostly lie in the same one
# Of a block with more than this nothing is used.  Answers must fit into the pipe even when
# nobody reads them (64 KiB, pipe(7)): who should may be waiting for the pipe to the child.
BAD_MAX: Final = 100


# Header, ordinal, codec, plain length, ids, lengths: all that a verdict depends on.
_Block = tuple[bytes, int, int, int, bytes, tuple[int, ...]]


class InPack(NamedTuple):
    """A sealed block in a file of this machine."""

    path: bytes
    offset: int  # bytes
    length: int  # bytes


class InMemory(NamedTuple):
    """A sealed block in the shared memory."""

    start: int
    length: int  # bytes


class Part(NamedTuple):
    """Bytes of a plain block, and where they are to be put."""

    offset: int  # bytes into the block
    start: int  # in the shared memory
    length: int  # bytes


class Decoded(NamedTuple):
    """What became of one block."""

    job: int
    bad: frozenset[int] | None  # offsets of chunks that are not what their ids say; None: any


class DecoderProcess:
    """The parent's end.  One thread receives; any may send."""

    def __init__(self, keys: ArchiveKeys, memory: SharedMemory) -> None:
        """Start the process.

        Raises:
            CoopfsError: it cannot be started.
        """
        self._child = Child(__name__, memory)
        self._lock = threading.Lock()
        self._is_ready = False
        self._child.send([keys.archive_key])

    def kill(self) -> None:
        """Have the process end, without waiting for that."""
        self._child.process.kill()

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

    @property
    def answers_fd(self) -> int:
        """What is readable when there is news."""
        return self._child.answers_fd

    def send(
        self,
        job: int,
        source: InPack | InMemory,
        facts: Sequence[Any],
        parts: Sequence[Part],
    ) -> None:
        """Have *parts* of one block put in place; :meth:`receive` says when it is done.

        *facts* are ``index_rows.block_facts`` of it.
        """
        message = [job, list(source), [list(part) for part in parts], *facts]
        with self._lock:
            self._child.send(message)

    def receive(self) -> Decoded | None:
        """Wait for the next block to be done; None when the process has died."""
        message = self._child.receive()
        if message is None:
            return None
        job, bad = message
        return Decoded(job, None if bad is None else frozenset(bad))


class _Decoder:
    """The process's own work."""

    def __init__(self, keys: ArchiveKeys, shared: memoryview) -> None:
        self._keys = keys
        self._shared = shared
        self._openers: dict[bytes, Opener] = {}
        self._packs: OrderedDict[bytes, int] = OrderedDict()  # descriptors by path
        self._plain: OrderedDict[_Block, tuple[memoryview, list[int]]] = OrderedDict()
        self._plain_len = 0
        self._sealed = bytearray()
        self._stored = bytearray()

    def decode(
        self,
        source: list[bytes | int],
        parts: list[list[int]],
        header: bytes,
        ordinal: int,
        codec: int,
        plain_len: int,
        ids: bytes,
        lengths: list[int],
    ) -> list[int] | None:
        """Decode what is wanted of a block; return offsets of bad chunks, None: it is of no use."""
        # Whoever lies in an index object must not profit from what was verified for another.
        block: _Block = (header, ordinal, codec, plain_len, ids, tuple(lengths))
        kept = self._plain.pop(block, None)
        if kept is not None:
            self._plain_len -= len(kept[0])
            plain, bad = kept
            is_whole = True
        else:
            first, end = _wanted(parts, lengths, plain_len)
            is_whole = end - first == plain_len
            try:
                sealed = self._fetch(*source)
                stored = self._room(codec, parts, plain_len, len(sealed) - TAG_LEN)
                self._opener(header).open_into(stored, Section.BLOCK, ordinal, sealed)
                plain = memoryview(decompress_start(codec, stored, plain_len, end, "block"))
            except (CoopfsError, OSError):
                return None  # whoever asked tries again, and then says what is wrong
            bad = self._bad_chunks(plain, ids, lengths, first)
        if not _is_in_place(codec, parts, plain_len):
            shared = self._shared
            for start, target, length in parts:
                shared[target : target + length] = plain[start : start + length]
        if codec != Codec.RAW and is_whole:  # what is not compressed lies where the next will
            self._keep(block, plain, bad)
        return bad if len(bad) <= BAD_MAX else None

    def _bad_chunks(
        self, plain: memoryview, ids: bytes, lengths: list[int], first: int
    ) -> list[int]:
        """Return the offsets of chunks from *first* on that are not what their ids say."""
        key, until = self._keys.chunk_id_key, len(plain)
        bad = []
        offset = 0
        for place, length in enumerate(lengths):
            start, offset = offset, offset + length
            if start < first:
                continue
            if start >= until:
                break
            expected = ids[place * ID_LEN : place * ID_LEN + ID_LEN]
            # As keys.chunk_id(), without the call: a block has 40 of them.
            if blake3(plain[start:offset], key=key).digest() != expected:
                bad.append(start)
        return bad

    def _keep(self, block: _Block, plain: memoryview, bad: list[int]) -> None:
        self._plain[block] = plain, bad
        self._plain_len += len(plain)
        while self._plain_len > PLAIN_KEPT:
            self._plain_len -= len(self._plain.popitem(last=False)[1][0])

    def _fetch(self, *source: bytes | int) -> memoryview:
        """Return the sealed block; raises OSError, ObjectCorrupt."""
        place = source[-2:]
        start, length = int(place[0]), int(place[1])
        if len(source) < len(InPack._fields):
            return self._shared[start : start + length]
        if len(self._sealed) < length:
            self._sealed = bytearray(length)
        sealed = memoryview(self._sealed)[:length]
        if os.preadv(self._pack(bytes(source[0])), [sealed], start) != length:
            raise ObjectCorrupt("a pack is truncated")
        return sealed

    def _pack(self, path: bytes) -> int:
        fd = self._packs.pop(path, None)
        if fd is None:
            fd = os.open(path, READ_FLAGS)
            if len(self._packs) >= PACKS_KEPT:
                os.close(self._packs.popitem(last=False)[1])
        self._packs[path] = fd
        return fd

    def _room(self, codec: int, parts: list[list[int]], plain_len: int, length: int) -> memoryview:
        """Return where to decrypt *length* bytes to: the block's own place if it has one."""
        if _is_in_place(codec, parts, plain_len) and length == plain_len:
            start = parts[0][1]
            return self._shared[start : start + length]
        if len(self._stored) < length:
            self._stored = bytearray(length)
        return memoryview(self._stored)[: max(length, 0)]

    def _opener(self, header: bytes) -> Opener:
        opener = self._openers.get(header)
        if opener is None:
            if len(self._openers) >= OPENERS_KEPT:
                self._openers.clear()
            opener = Opener(self._keys, decode_header(header, "pack", PACK_ROLES), "pack")
            self._openers[header] = opener
        return opener


def _wanted(parts: list[list[int]], lengths: list[int], plain_len: int) -> tuple[int, int]:
    """Return where the chunks begin and end that *parts* lie in; all of the block if it is most."""
    first = min([offset for offset, _, _ in parts], default=0)
    end = max([offset + length for offset, _, length in parts], default=plain_len)
    if end - first >= plain_len * MOST_OF_IT:
        return 0, plain_len
    bounds = list(accumulate(lengths, initial=0))
    return bounds[bisect_right(bounds, first) - 1], bounds[bisect_left(bounds, end)]


def _is_in_place(codec: int, parts: list[list[int]], plain_len: int) -> bool:
    """Tell whether what is decrypted is the plain block, wanted whole and in one piece."""
    return codec == Codec.RAW and len(parts) == 1 and parts[0][2] == plain_len


def main() -> None:
    """Run as the child."""
    from coopfs.archive.allocator import prepare_bulk_work

    prepare_bulk_work(keep_len=HEAP_KEPT)
    with child_pipes() as (shared, stream, out, _):
        (archive_key,) = read_message(stream)
        decoder = _Decoder(ArchiveKeys.derive(archive_key), shared)
        write_message(out, [_READY])
        while (message := read_message(stream)) is not None:
            job, *block = message
            write_message(out, [job, decoder.decode(*block)])


if __name__ == "__main__":
    main()
