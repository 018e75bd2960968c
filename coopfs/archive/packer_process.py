"""The packer in a process of its own, fed through shared memory.

Reading sources makes ten system calls a file, each of which lets go of Python's
global lock and has to win it back from the threads that compress: on two cores a
first snapshot of a source tree took 6.2 s that way, and the reading thread half as
long again as alone.  In two processes nobody waits for anybody's lock.

The process gets its keys through a pipe, touches neither store nor disk, and ends
when the pipe does.  Blocks go in and packs come out through one shared mapping;
the pipes carry only what is where.
"""

from __future__ import annotations

import mmap
import os
import queue
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Final

from coopfs.archive.child import Child, SharedMemory, child_pipes, read_message, write_message
from coopfs.archive.effort import Effort
from coopfs.archive.packer import COMPRESS_THREADS, Chunks, FinishedPack, Packer, Piece
from coopfs.errors import CoopfsError
from coopfs.format.keys import ArchiveKeys, Role, SigningKey
from coopfs.format.pack import PACK_TARGET, BuiltPack
from coopfs.format.sealing import padded_len
from coopfs.ids import PackId

BLOCK_SLOTS: Final = 9  # blocks on their way in
PACK_SLOTS: Final = 2  # packs on their way out, each 16 MiB and the block that filled it
DEATH_WAIT_S: Final = 2.0
NICENESS: Final = 5
# Messages in, [number, …]:
_KEYS, _BLOCK, _FINISH, _PACK_TAKEN = range(4)
# Messages out:
_SLOT_FREE, _PACK, _FINISHED, _FAILED = range(4)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the slots lie in the shared mapping (bytes)."""

    block_len: int
    pack_len: int

    @classmethod
    def for_blocks(cls, block_max: int) -> _Layout:
        # A pack is closed by the block that fills it; then directory and padding.
        block_len = -(-block_max // mmap.PAGESIZE) * mmap.PAGESIZE
        # Both in whole pages: the store may write a pack around the page cache.
        return cls(block_len, padded_len(PACK_TARGET + block_max + (16 << 20)))

    @property
    def size(self) -> int:
        return BLOCK_SLOTS * self.block_len + PACK_SLOTS * self.pack_len

    def block(self, slot: int) -> int:
        return slot * self.block_len

    def pack(self, slot: int) -> int:
        return BLOCK_SLOTS * self.block_len + slot * self.pack_len


class PackerProcess:
    """The parent's end.  One thread uses it; :attr:`FinishedPack.free` may be any's."""

    def __init__(
        self,
        keys: ArchiveKeys,
        signer: SigningKey,
        block_max: int,
        effort: Effort,
        on_pack: Callable[[FinishedPack], None],
    ) -> None:
        """Start the process; blocks have at most *block_max* bytes.

        *on_pack* gets every finished pack, in the thread that uses this object, and
        must not wait for another one.

        Raises:
            CoopfsError: it cannot be started.
        """
        self._layout = layout = _Layout.for_blocks(block_max)
        self._free = deque(range(BLOCK_SLOTS))
        self._on_pack = on_pack
        self._send_lock = threading.Lock()
        with SharedMemory(layout.size) as memory:
            self._child = Child(__name__, memory, block_max)
        self._shared = self._child.shared
        self._send([_KEYS, keys.archive_key, signer.seed, effort.word, effort.is_near])

    def submit(self, role: Role, pieces: Iterable[Piece], chunks: Chunks) -> None:
        """Hand over one block: *pieces* back to back, cut into *chunks*."""
        while not self._free:
            self._receive()
        while self._child.has_news:
            self._receive()
        slot = self._free.popleft()
        end = self._layout.block(slot)
        for piece in pieces:
            start, end = end, end + len(piece)
            self._shared[start:end] = piece
        ids, lengths = b"".join([c[0] for c in chunks]), [c[1] for c in chunks]
        self._send([_BLOCK, int(role), slot, ids, lengths])

    def finish(self) -> None:
        """Have everything handed over so far packed; on return :attr:`on_pack` had it all."""
        self._send([_FINISH])
        while self._receive() != _FINISHED:
            pass

    def close(self) -> None:
        """End the process; what was not finished is dropped."""
        with self._send_lock:
            self._child.close()

    def _send(self, message: list[Any]) -> None:
        with self._send_lock:
            try:
                write_message(self._child.to_child, message)
            except (OSError, ValueError) as exc:
                raise self._death() from exc

    def _receive(self) -> int:
        message = self._child.receive()
        if message is None:
            raise self._death()
        kind = message[0]
        if kind == _SLOT_FREE:
            self._free.append(message[1])
        elif kind == _PACK:
            _, slot, size, pack_id, header, body, signature = message
            start = self._layout.pack(slot)
            self._on_pack(
                FinishedPack(
                    PackId(pack_id),
                    self._shared[start : start + size],
                    header,
                    body,
                    signature,
                    partial(self._send, [_PACK_TAKEN, slot]),
                )
            )
        elif kind == _FAILED:
            raise CoopfsError(f"packing failed: {message[1]}")
        return int(kind)

    def _death(self) -> CoopfsError:
        with suppress(subprocess.TimeoutExpired):  # its pipe may close before it is gone
            self._child.process.wait(DEATH_WAIT_S)
        code = self._child.process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return CoopfsError(
            f"the packing process ended unexpectedly ({how}); was memory short? Run again: "
            "what was stored is not sent again"
        )


class _Child:
    """The process's own end."""

    def __init__(self, shared: memoryview, layout: _Layout, out: BinaryIO) -> None:
        self._shared = shared
        self._layout = layout
        self._out = out
        self._out_lock = threading.Lock()
        self._pack_slots: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(PACK_SLOTS):
            self._pack_slots.put(slot)
        self._sealing = threading.local()  # .slot: of the pack a thread is sealing
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._packer: Packer | None = None
        self._effort: Effort | None = None
        self._storing: set[int] = set()  # slots whose packs are on their way into the store

    def serve(self, stream: BinaryIO) -> None:
        """Read messages until the parent closes the pipe; the work is done by a thread."""
        worker = threading.Thread(target=self._work_on, daemon=True)
        worker.start()
        while (message := read_message(stream)) is not None:
            # Slots are given back while the worker may be waiting for one.
            if message[0] == _PACK_TAKEN:
                self._storing.discard(message[1])
                self._pack_slots.put(message[1])
            else:
                self._work.put(message)

    def _work_on(self) -> None:
        try:
            while True:
                self._handle(self._work.get())
        except BaseException as exc:
            self._send([_FAILED, f"{type(exc).__name__}: {exc}"])
            raise

    def _handle(self, message: Any) -> None:
        kind = message[0]
        if kind == _KEYS:
            keys, signer = ArchiveKeys.derive(message[1]), SigningKey(message[2])
            self._effort = Effort(message[3], is_near=message[4])
            self._packer = Packer(
                keys, signer, COMPRESS_THREADS, self._effort, self._allocate, self._send_pack
            )
            return
        if self._packer is None:
            raise AssertionError("the keys come first")
        if kind == _BLOCK:
            _, role, slot, ids, lengths = message
            chunks = [(ids[i * 32 : i * 32 + 32], n) for i, n in enumerate(lengths)]
            start = self._layout.block(slot)
            plain = self._shared[start : start + sum(lengths)]
            done = partial(self._send, [_SLOT_FREE, slot])
            self._packer.add_block(Role(role), plain, chunks, done)
        else:
            self._packer.finish()
            self._send([_FINISHED])

    def _allocate(self, size: int) -> memoryview:
        slot = self._sealing.slot = self._pack_slots.get()
        start = self._layout.pack(slot)
        return self._shared[start : start + size]

    def _send_pack(self, pack: BuiltPack) -> None:
        if self._effort is not None:
            self._effort.note_pack(store_is_busy=bool(self._storing))
        self._storing.add(self._sealing.slot)
        self._send(
            [
                _PACK,
                self._sealing.slot,
                len(pack.data),
                pack.pack_id,
                pack.header.encode(),
                pack.directory.body,
                pack.directory.signature,
            ]
        )

    def _send(self, message: list[Any]) -> None:
        with self._out_lock:
            write_message(self._out, message)


def main() -> None:
    """Run as the child; the argument is the largest block."""
    from coopfs.archive.allocator import prepare_bulk_work

    prepare_bulk_work()
    # Reading is what the rest waits for: when cores are scarce it goes first.
    os.nice(NICENESS)
    with child_pipes() as (shared, stream, out, (block_max,)):
        _Child(shared, _Layout.for_blocks(block_max), out).serve(stream)


if __name__ == "__main__":
    main()
