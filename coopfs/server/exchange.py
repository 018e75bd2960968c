"""One request and its answer, as worker threads see it: bytes in, bytes out, pauses between.

A handler is a *generator run in worker threads*: plain blocking code for disk and
hashing, which yields a :class:`Pause` when only the network or the clock can help.  The
event loop then waits and lets a thread run it on, so that a slow client costs no
thread, and a fast one costs one thread hop (~140 us) a request, not one a piece.
Closing the generator runs its ``finally`` blocks: an upload is taken back.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Final

from coopfs.bandwidth import Bucket
from coopfs.errors import StoreError
from coopfs.server.protocol import OCTETS, TEXT, Head, Refused, answer_head
from coopfs.server.wire import ConnectionLost, Wire

PIECE_LEN: Final = 256 << 10  # bytes between network and disk at once; wire.py has figures
# A thread waits this long for the network itself before it gives itself back: two hops
# cost 0.3 ms, and a client on the same continent answers within it.
DRY_S: Final = 0.02
TURN_S: Final = 1.0  # then the thread is another request's turn
# Slower clients wait without a thread: there are few threads, and two hops a packet of
# theirs cost less than a thread that they hold.
FAST_BYTES_PER_S: Final = 4 << 20
GETTING_GOING_S: Final = 0.05


class Need(Enum):
    """What a handler waits for."""

    READABLE = "readable"
    WRITABLE = "writable"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Pause:
    """The handler cannot go on before this."""

    need: Need
    seconds: float = 0.0  # of Need.TIME


Steps = Generator[Pause, None, None]


class Exchange:
    """What a handler reads its request from and writes its answer to."""

    def __init__(self, wire: Wire, head: Head, body_len: int, prefix: bytes) -> None:
        """*prefix* is what was received beyond the head."""
        self.wire, self.head = wire, head
        self.body_len = body_len
        self.body_left = body_len  # bytes not yet read
        self.prefix = memoryview(prefix)
        self.status: HTTPStatus | None = None  # of the answer, once it was begun
        self.closes = not head.keeps_alive
        self.is_whole = False  # the answer was sent whole
        self.bytes_in = 0  # of the body; the event loop reads these two while we run
        self.bytes_out = 0
        self._turn_began = 0.0
        self._turn_moved = 0  # bytes moved before this turn

    def begin_turn(self) -> None:
        """A thread is ours now."""
        self._turn_began = time.monotonic()
        self._turn_moved = self.bytes_in + self.bytes_out

    # --- the request's body -----------------------------------------------------------

    def receive(self, buffer: memoryview, buckets: Iterable[Bucket]) -> Generator[Pause, None, int]:
        """Fill *buffer* with the body, as far as it goes and the rates let it; return the length.

        Raises:
            ConnectionLost: the body ended early.
        """
        buckets = tuple(buckets)
        wanted = _piece_len(min(len(buffer), self.body_left), buckets)
        filled = 0
        while filled < wanted:
            count: int | None
            if self.prefix:
                count = self._take_prefix(buffer[filled:wanted])
            else:
                count = self.wire.read_into(buffer[filled:wanted])
            if count is None:
                yield from self._wait(Need.READABLE)
                continue
            if not count:
                raise ConnectionLost(f"{self.body_left - filled} bytes of the body are missing")
            filled += count
            self.bytes_in += count
        self.body_left -= filled
        yield from self._pace(filled, buckets)
        return filled

    def _take_prefix(self, view: memoryview) -> int:
        count = min(len(self.prefix), len(view))
        view[:count] = self.prefix[:count]
        self.prefix = self.prefix[count:]
        return count

    def receive_whole(self) -> Generator[Pause, None, bytes]:
        """Return a body whose length was found bearable before."""
        body = bytearray(self.body_len)
        yield from self.receive(memoryview(body), ())
        return bytes(body)

    def let_client_go_on(self) -> Steps:
        """Tell a client that asks first (Expect: 100-continue) to send its body."""
        if self.head.awaits_continue and self.body_left and not self.prefix:
            yield from self._send(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
            yield from self._flush()

    # --- the answer -------------------------------------------------------------------

    def answer(
        self,
        status: HTTPStatus,
        body: bytes = b"",
        *,
        content_type: str = TEXT,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Steps:
        """Send a whole answer; to HEAD its head alone."""
        head = self._begin(status, [*headers, *_length(len(body), content_type)])
        yield from self._send(memoryview(head if self.head.method == "HEAD" else head + body))
        yield from self._flush()
        self.is_whole = True

    def answer_length(self, size: int) -> Steps:
        """Answer a HEAD: what a GET would bring has *size* bytes."""
        head = self._begin(HTTPStatus.OK, _length(size, OCTETS))
        yield from self._send(memoryview(head))
        yield from self._flush()
        self.is_whole = True

    def refuse(self, refused: Refused) -> Steps:
        """Send the answer to a request that is not carried out."""
        text = (refused.text + "\n").encode()
        yield from self.answer(refused.status, text, headers=refused.headers)

    def answer_file(
        self, fd: int, size: int, part: tuple[int, int] | None, buckets: Iterable[Bucket]
    ) -> Steps:
        """Send a file, or (offset, length) of it, from *fd*, which stays open.

        Raises:
            StoreError: it cannot be read, or ended early; the client gets less than was
                promised, and notices.
        """
        offset, left = part or (0, size)
        headers = _length(left, OCTETS)
        status = HTTPStatus.OK
        if part:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append(("Content-Range", f"bytes {offset}-{offset + left - 1}/{size}"))
        head = self._begin(status, headers)
        buckets = tuple(buckets)
        # The head goes with the first piece: one record, one system call.
        begin = len(head)
        with _borrowed(begin + PIECE_LEN) as buffer:
            buffer[:begin] = head
            if not left:
                yield from self._send(buffer[:begin])
            while left:
                wanted = _piece_len(min(PIECE_LEN, left), buckets)
                try:
                    count = os.preadv(fd, [buffer[begin : begin + wanted]], offset)
                except OSError as exc:
                    raise StoreError(f"an object cannot be read: {exc.strerror}") from exc
                if not count:
                    raise StoreError(f"an object is {left} bytes shorter than it was")
                yield from self._send(buffer[: begin + count])
                begin = 0
                self.bytes_out += count
                offset, left = offset + count, left - count
                yield from self._pace(count, buckets)
        yield from self._flush()
        self.is_whole = True

    def answer_pieces(self, pieces: Iterable[bytes], content_type: str) -> Steps:
        """Send an answer whose length is not known beforehand."""
        is_chunked = self.head.is_http_11
        if not is_chunked:
            self.closes = True  # HTTP/1.0: the end of the connection is the end of the body
        headers = [("Content-Type", content_type)]
        if is_chunked:
            headers.append(("Transfer-Encoding", "chunked"))
        head = self._begin(HTTPStatus.OK, headers)
        yield from self._send(memoryview(head))
        for piece in pieces:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece
            yield from self._send(memoryview(framed))
            self.bytes_out += len(piece)
        if is_chunked:
            yield from self._send(memoryview(b"0\r\n\r\n"))
        yield from self._flush()
        self.is_whole = True

    # --- within -----------------------------------------------------------------------

    def _begin(self, status: HTTPStatus, headers: list[tuple[str, str]]) -> bytes:
        if self.body_left:
            # What it still sends of its body is not the next request.
            self.closes = True
        self.status = status
        return answer_head(status, headers, closes=self.closes)

    def _send(self, data: memoryview) -> Steps:
        while data:
            written = self.wire.write(data)
            if written is None:
                yield from self._wait(Need.WRITABLE)
            else:
                data = data[written:]

    def _flush(self) -> Steps:
        while not self.wire.flush():
            yield from self._wait(Need.WRITABLE)

    def _wait(self, need: Need) -> Steps:
        """Wait for the network: a moment in this thread, then without one."""
        if self._is_worth_a_thread():
            poll = select.poll()
            poll.register(
                self.wire.sock, select.POLLIN if need is Need.READABLE else select.POLLOUT
            )
            if poll.poll(DRY_S * 1000):
                return
        yield Pause(need)

    def _is_worth_a_thread(self) -> bool:
        elapsed = time.monotonic() - self._turn_began
        moved = self.bytes_in + self.bytes_out - self._turn_moved
        return elapsed < GETTING_GOING_S or (
            elapsed < TURN_S and moved >= elapsed * FAST_BYTES_PER_S
        )

    def _pace(self, count: int, buckets: Iterable[Bucket]) -> Steps:
        seconds = max((bucket.take(count) for bucket in buckets), default=0.0)
        if seconds > 0:
            yield Pause(Need.TIME, seconds)
        elif time.monotonic() - self._turn_began >= TURN_S:
            yield Pause(Need.TIME)


_free: Final[list[bytearray]] = []  # new memory costs a tenth of a millisecond to touch
_FREE_MAX: Final = 16
_BUFFER_LEN: Final = PIECE_LEN + (4 << 10)  # heads of answers are short


@contextmanager
def _borrowed(length: int) -> Iterator[memoryview]:
    """Lend a buffer of at least *length* bytes, with anything in it."""
    buffer = _free.pop() if _free and length <= _BUFFER_LEN else bytearray(max(length, _BUFFER_LEN))
    try:
        yield memoryview(buffer)
    finally:
        if len(_free) < _FREE_MAX and len(buffer) == _BUFFER_LEN:
            _free.append(buffer)


def _length(size: int, content_type: str) -> list[tuple[str, str]]:
    return [("Content-Length", str(size)), ("Content-Type", content_type)]


def _piece_len(wanted: int, buckets: Iterable[Bucket]) -> int:
    for bucket in buckets:
        wanted = bucket.piece_len(wanted)
    return wanted


def run_on(exchange: Exchange, steps: Steps) -> Pause | None:
    """Let a handler run until it needs to pause; None: it has ended.  For worker threads."""
    exchange.begin_turn()
    try:
        return next(steps)
    except StopIteration:
        return None


Handler = Callable[[Exchange], Steps]
