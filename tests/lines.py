"""A line between a client and a server that fails on demand, and servers made of words."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

PIECE = 1 << 16
METHOD = re.compile(rb"(GET|HEAD|POST|DELETE) /[!-~]* HTTP/1\.1\r\n")


class Listener:
    """Accepts connections on a free port and has each handled in a thread of its own."""

    def __init__(self, at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._listening = socket.create_server(at)
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def handle(self, sock: socket.socket) -> None:
        """Serve one connection; it is closed afterwards."""
        raise NotImplementedError

    def adopt(self, sock: socket.socket) -> None:
        """Have *sock* closed when everything is."""
        with self._lock:
            self._open.add(sock)

    def drop_all(self) -> None:
        """Close every connection there is, as when a cable is pulled out."""
        with self._lock:
            dropped, self._open = self._open, set()
        for sock in dropped:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self.adopt(sock)
            threading.Thread(target=self._handle, args=(sock,), daemon=True).start()

    def _handle(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            self.handle(sock)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.drop_all()
        self._thread.join(10)


class Line(Listener):
    """A line to *port* of *host*; set its attributes at any time.

    - ``lose_answers``: so many answers to requests with the method ``lose_method`` still
      get lost: the request arrives whole and is done, then the connection is cut.
    - ``cut_after``: the next connection to have carried so many bytes towards the server
      is cut, once.
    - ``on_cut``: called after each cut.
    """

    def __init__(
        self, port: int, host: str = "127.0.0.1", at: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        super().__init__(at)
        self._target = (host, port)
        self.lose_answers = 0
        self.lose_method = "POST"
        self.requests: Counter[str] = Counter()  # by method
        self.cut_after: int | None = None
        self.on_cut: Callable[[], object] = lambda: None
        self.cuts = 0

    def handle(self, sock: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            self.adopt(server)
            methods: list[str] = []
            arguments = (server, sock, methods)
            back = threading.Thread(target=self._carry_back, args=arguments, daemon=True)
            back.start()
            carried = 0
            while piece := sock.recv(PIECE):
                carried += len(piece)
                if method := METHOD.match(piece):  # of a client that does not pipeline
                    methods.append(method[1].decode())
                    self.requests[methods[-1]] += 1
                if self.cut_after is not None and carried > self.cut_after:
                    self.cut_after = None
                    self._cut(sock, server)
                    break
                server.sendall(piece)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(10)

    def _carry_back(self, server: socket.socket, sock: socket.socket, methods: list[str]) -> None:
        with suppress(OSError):
            while piece := server.recv(PIECE):
                if self.lose_answers > 0 and methods[-1] == self.lose_method:
                    self.lose_answers -= 1
                    self._cut(sock, server)
                    return
                sock.sendall(piece)
        # However the server ended it, killed ones with a reset: the client sees it too.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def _cut(self, *socks: socket.socket) -> None:
        self.cuts += 1
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.on_cut()


class Words(Listener):
    """A server that reads a request and says what it is told to say, request by request.

    *say* gets the request's first line ("GET /path HTTP/1.1") and the socket, and returns
    the bytes of the answer, or None to close the connection.
    """

    def __init__(self, say: Callable[[str, socket.socket], bytes | None]) -> None:
        super().__init__()
        self._say = say
        self.requests: list[str] = []

    def handle(self, sock: socket.socket) -> None:
        reader = sock.makefile("rb")
        while first := reader.readline():
            length = 0
            while (line := reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            first_line = first.decode("latin-1").strip()
            self.requests.append(first_line)
            while length > 0 and (piece := reader.read1(min(length, PIECE))):
                length -= len(piece)
            answer = self._say(first_line, sock)
            if answer is None:
                return
            sock.sendall(answer)


def answer(status: int, body: bytes = b"", **headers: object) -> bytes:
    """Return an HTTP answer; *headers* with "_" for "-"; Content-Length is added."""
    head = {"Content_Length": len(body), **headers}
    lines = [
        f"HTTP/1.1 {status} As Told",
        *(f"{k.replace('_', '-')}: {v}" for k, v in head.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body
