"""The line between a test and its server: a proxy on loopback that delays or cuts it."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_PIECE = 64 << 10  # bytes
_BUFFER_S = 0.05  # of the rate, before the line


class SlowLine:
    """Forwards its ``port`` to *target*; every byte arrives *delay_s* later, either way.

    With *bytes_per_s* each way carries no more than that, all connections together.
    """

    def __init__(self, target: int, delay_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        self._target = target
        self.delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._free_at = {"up": 0.0, "down": 0.0}  # when that way can take the next piece
        self.connections = 0
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}  # bytes until the cut, by direction
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def cut_after(self, *, up: int | None = None, down: int | None = None) -> None:
        """Break every connection once so many bytes more have crossed; once."""
        self._left = {k: n for k, n in (("up", up), ("down", down)) if n is not None}

    @property
    def was_cut(self) -> bool:
        """Whether what cut_after() asked for has happened."""
        return not self._left

    def cut(self) -> None:
        """Break every connection now; new ones are served."""
        with self._lock:
            self._left = {}
            sockets, self._sockets = self._sockets, []
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                server = socket.create_connection(("127.0.0.1", self._target))
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._sockets += [client, server]
                for source, sink, way in ((client, server, "up"), (server, client, "down")):
                    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                    self._start(self._read, source, pieces, way)
                    self._start(self._write, sink, pieces)

    def _read(
        self, source: socket.socket, pieces: queue.SimpleQueue[tuple[float, bytes]], way: str
    ) -> None:
        piece = b"-"
        with source:
            while piece:
                piece = b""
                with suppress(OSError):
                    piece = source.recv(_PIECE)
                self._count(way, len(piece))
                pieces.put((self._due(way, len(piece)), piece))

    def _due(self, way: str, length: int) -> float:
        """Return when *length* bytes will have crossed, for which the reader waits a little.

        So that no more is under way than a line and its buffers hold.
        """
        now = time.monotonic()
        if self._bytes_per_s is None:
            return now + self.delay_s
        with self._lock:
            free_at = max(now, self._free_at[way]) + length / self._bytes_per_s
            self._free_at[way] = free_at
        self._is_over.wait(max(free_at - now - _BUFFER_S, 0))
        return free_at + self.delay_s

    def _count(self, way: str, length: int) -> None:
        with self._lock:
            if way not in self._left:
                return
            self._left[way] -= length
            if self._left[way] > 0:
                return
        self.cut()

    def _write(self, sink: socket.socket, pieces: queue.SimpleQueue[tuple[float, bytes]]) -> None:
        while True:
            due, piece = pieces.get()
            if self._is_over.wait(max(due - time.monotonic(), 0)):
                return
            try:
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(piece)
            except OSError:
                return

    def _start(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)
