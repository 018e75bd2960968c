"""What a thread does for a connection in one go: a request, and those that follow at once.

A request that comes while its connection's thread is still there is answered by that
thread: two thread hops and two turns of the event loop cost more (~0.6 ms) than a small
read.  Owns how long a thread waits for a next request, and how long it stays.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import h11

from coopfs.server.exchange import TURN_S, Exchange, Pause, Steps, run_on
from coopfs.server.protocol import HEAD_LEN_MAX, Head, Target
from coopfs.server.wire import Wire

# What a client on the same machine or in the same house needs between two requests, also one
# that decrypts 1 MiB on a busy machine: server and client take a tenth less CPU for such ranges
# than with 5 ms.  Others who want a thread meanwhile wait so long at most.
NEXT_S: Final = 0.02


@dataclass(slots=True)
class Errand:
    """One request that is being answered."""

    exchange: Exchange
    steps: Steps
    partner: str = "-"  # as whose it is counted
    target: Target | None = None
    is_upload: bool = False
    seconds: float = 0.0  # from its head to the end, once it is over
    began: float = field(default_factory=time.monotonic)

    def run_on(self) -> Pause | None:
        """Let it go on until it must pause; None: it has ended.  For worker threads."""
        try:
            return run_on(self.exchange, self.steps)
        finally:
            self.seconds = time.monotonic() - self.began

    @property
    def moved(self) -> int:
        """Bytes of bodies, in and out."""
        return self.exchange.bytes_in + self.exchange.bytes_out

    def close(self) -> None:
        """Give up; what it holds open or has half written is on the disk: not for the loop."""
        self.steps.close()


class Burst:
    """An errand and, as long as the thread has nothing better to do, the next one.

    One of another sort (an upload after reads) is left to the loop, which has other
    threads for it, and so is whatever cannot be understood at once.
    """

    def __init__(
        self,
        first: Errand,
        begin: Callable[[Head, bytes], Errand],
        note: Callable[[Errand], object],
        has_time: Callable[[], bool],
    ) -> None:
        """*begin* makes an errand of a head and what came after it; in the thread.

        *note* is told of each that has ended, in the thread as well.  *has_time* tells
        whether no other connection wants the thread.
        """
        self.errand = first
        self.leftover = b""  # received, of a request that is the loop's
        self._begin, self._note, self._has_time = begin, note, has_time
        self._moved = 0  # by the errands that have ended

    @property
    def exchange(self) -> Exchange:
        """The one that goes on, or was the last."""
        return self.errand.exchange

    @property
    def moved(self) -> int:
        """Bytes of bodies, in and out, of all of them."""
        return self._moved + self.errand.moved

    def run_on(self) -> Pause | None:
        """Let them go on until one must pause; None: the last has ended."""
        until = time.monotonic() + TURN_S
        while True:
            pause = self.errand.run_on()
            if pause is not None:
                return pause
            self._note(self.errand)
            following = self._following(until)
            if following is None:
                return None
            self._moved += self.errand.moved
            self.errand = following

    def close(self) -> None:
        """See :meth:`Errand.close`."""
        self.errand.close()

    def _following(self, until: float) -> Errand | None:
        exchange = self.errand.exchange
        if not exchange.is_whole or exchange.closes:
            return None
        self.leftover = bytes(exchange.prefix)
        if time.monotonic() >= until:
            return None
        data = self.leftover or self._next_bytes(exchange.wire)
        self.leftover = data
        found = whole_head(data) if data else None
        if found is None:
            return None
        following = self._begin(*found)
        if following.is_upload != self.errand.is_upload:
            following.close()
            return None
        self.leftover = b""
        return following

    def _next_bytes(self, wire: Wire) -> bytes:
        buffer = memoryview(bytearray(HEAD_LEN_MAX))
        count = wire.read_into(buffer)
        if count is None and self._has_time():
            poll = select.poll()
            poll.register(wire.sock, select.POLLIN)
            if poll.poll(NEXT_S * 1000):
                count = wire.read_into(buffer)
        return bytes(buffer[: count or 0])


def new_parser() -> h11.Connection:
    """Return a parser for one request: the body goes past it, straight to its handler."""
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LEN_MAX)


def whole_head(data: bytes) -> tuple[Head, bytes] | None:
    """Return the head *data* begins with, and what follows; None where that takes more."""
    parser = new_parser()
    parser.receive_data(data)
    try:
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(request, h11.Request):
        return None
    head = Head.of(request)
    if "transfer-encoding" in head.headers:
        return None
    return head, parser.trailing_data[0]
