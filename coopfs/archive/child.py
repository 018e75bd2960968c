"""A process of our own beside this one: started, spoken to through pipes, shared memory.

Work that must not compete for Python's global lock runs in such a child.  It gets
what it needs through its standard input, writes to neither store nor disk, and ends when
that pipe does; bulk data lies in one shared mapping.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

from coopfs.errors import CoopfsError
from coopfs.format import encoding

_LENGTH: Final = struct.Struct(">I")
CLOSE_S: Final = 5.0
_READ_LEN: Final = 1 << 16  # bytes; what a pipe holds


class SharedMemory:
    """A mapping that children have too; a context in which these are started.

    Touched pages only cost memory; the rest of it is address space.
    """

    def __init__(self, length: int) -> None:
        """Make *length* bytes, all zero.

        Raises:
            CoopfsError: there is no room for them.
        """
        self.fd = -1
        try:
            self.fd = os.memfd_create("coopfs")
            os.ftruncate(self.fd, length)
            self.view = memoryview(mmap.mmap(self.fd, length))
        except OSError as exc:
            if self.fd >= 0:
                os.close(self.fd)
            raise CoopfsError(f"no memory to be shared: {exc.strerror}") from exc

    def __enter__(self) -> SharedMemory:
        """Return it."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close the descriptor, which only a child that starts needs; the mapping stays."""
        os.close(self.fd)


class Child:
    """The parent's end: the process, its two pipes, and the mapping."""

    def __init__(self, module: str, memory: SharedMemory, *args: int) -> None:
        """Start ``python -m MODULE FD LENGTH ARGS`` with *memory* to be shared.

        Raises:
            CoopfsError: it cannot be started.
        """
        numbers = (memory.fd, len(memory.view), *args)
        try:
            process = subprocess.Popen(
                # -P: whatever lies in the current folder is not to be imported.
                [sys.executable, "-P", "-m", module, *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(memory.fd,),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path)),
                },
                # Ctrl-C is the parent's to handle.  Not another session: the scheduler
                # would weigh that one by itself (sched(7), autogroup), and nice() be void.
                process_group=0,
            )
        except OSError as exc:
            raise CoopfsError(f"a helping process cannot be started: {exc.strerror}") from exc
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        self.process = process
        self.shared = memory.view
        self.is_dead = False  # or to be taken for it: nothing more is read from it
        self.to_child: BinaryIO = process.stdin  # type: ignore[assignment]  # IO[bytes]
        self.answers_fd = process.stdout.fileno()  # readable: has_news
        self._received = bytearray()  # of what has come, not taken yet
        self._poll = select.poll()
        self._poll.register(self.answers_fd, select.POLLIN)

    @property
    def has_news(self) -> bool:
        """Whether :meth:`receive` would return at once."""
        return bool(self.is_dead or self._whole_len() or self._poll.poll(0))

    def _whole_len(self) -> int:
        """Return the bytes of the first message that has come whole; 0: none has."""
        head = self._received[: _LENGTH.size]
        if len(head) < _LENGTH.size:
            return 0
        length: int = _LENGTH.size + _LENGTH.unpack(head)[0]
        return length if len(self._received) >= length else 0

    def send(self, message: list[Any]) -> None:
        """Send a message; where that fails, :meth:`receive` says so.  One thread at a time."""
        data = _encoded(message)
        with suppress(OSError, ValueError):  # ValueError: closed
            self.to_child.write(data)
            self.to_child.flush()

    def receive(self) -> Any:
        """Wait for the next message; None when the process has died."""
        while not self.is_dead:
            if length := self._whole_len():
                payload = bytes(self._received[_LENGTH.size : length])
                del self._received[:length]
                with suppress(CoopfsError):
                    return encoding.decode(payload, "message")
                self.is_dead = True
                break
            some = b""
            with suppress(OSError):
                some = os.read(self.answers_fd, _READ_LEN)
            self._received += some
            self.is_dead = not some
        return None

    def close(self) -> None:
        """End the process at once; what it has not finished is dropped."""
        self.is_dead = True
        with suppress(OSError):  # it may be gone already
            self.to_child.close()
        self.process.kill()
        with suppress(subprocess.TimeoutExpired):  # the disk it reads from may hang
            self.process.wait(CLOSE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


class PlacedChild(Child):
    """A child that finds its work in places of the shared mapping, and leaves answers there.

    What is sent begins with the place; what comes back is the place and how many bytes the
    answer has.  One thread uses it.
    """

    def __init__(self, module: str, places: int, place_len: int) -> None:
        """Start ``python -m MODULE`` with *places* of *place_len* bytes.

        Raises:
            CoopfsError: it cannot be started.
        """
        with SharedMemory(places * place_len) as memory:
            super().__init__(module, memory)
        self._place_len = place_len
        self._free = list(range(places))

    @property
    def has_room(self) -> bool:
        """Whether :meth:`take_place` may be called."""
        return bool(self._free) and not self.is_dead

    def take_place(self) -> tuple[int, memoryview]:
        """Return a free place, to be filled before it is sent."""
        place = self._free.pop()
        return place, self._room(place)

    def take_answer(self) -> tuple[int, Any] | None:
        """Wait for an answer and free its place; None when the process has died."""
        message = self.receive()
        if message is None:
            return None
        place, length = message
        answer = encoding.decode(bytes(self._room(place)[:length]), "answer")
        self._free.append(place)
        return place, answer

    def _room(self, place: int) -> memoryview:
        start = place * self._place_len
        return self.shared[start : start + self._place_len]


@contextmanager
def child_pipes() -> Iterator[tuple[memoryview, BinaryIO, BinaryIO, list[int]]]:
    """The child's own end, to be used by its ``main``: (shared, input, output, arguments).

    Leaves the process when the block ends, without waiting for threads: nothing in a
    child is worth keeping.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    fd, shared_len, *args = map(int, sys.argv[1:])
    shared = memoryview(mmap.mmap(fd, shared_len))
    with os.fdopen(0, "rb", buffering=1 << 16) as stream, os.fdopen(1, "wb") as out:
        with suppress(BrokenPipeError):  # the parent is gone
            yield shared, stream, out, args
        os._exit(0)


def write_message(stream: BinaryIO, message: list[Any]) -> None:
    """Send one message, a list of what msgpack can hold."""
    stream.write(_encoded(message))
    stream.flush()


def _encoded(message: list[Any]) -> bytes:
    payload = encoding.encode(message)
    return _LENGTH.pack(len(payload)) + payload


def read_message(stream: BinaryIO) -> Any:
    """Return the next message, or None at the end."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    return encoding.decode(stream.read(_LENGTH.unpack(head)[0]), "message")
