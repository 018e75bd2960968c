"""One connection from beginning to end, on the event loop: TLS, heads, waiting, time limits.

Runs no disk and no body: those are the handlers', in worker threads.  Owns how long a
client may take for what, and what a stranger is told: nothing.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11
import trio

from coopfs.server.exchange import Exchange, Need, Pause, Steps, run_on
from coopfs.server.handlers import carry_out
from coopfs.server.house import HouseSettings
from coopfs.server.metrics import CONTENT_TYPE, Metrics, render_usages
from coopfs.server.parked import ParkedLines
from coopfs.server.protocol import (
    CHUNKED_LEN_MAX,
    HEAD_LEN_MAX,
    Head,
    Refused,
    Target,
    parse_target,
)
from coopfs.server.visitors import Desk, Partners, Role, Visitor
from coopfs.server.wire import RECV_LEN, ConnectionLost, Wire

log = logging.getLogger("coopfs.serve")

# Threads that take in uploads, and as many again for everything else, so that restores
# never wait for uploads.  More gains nothing: the disk and two cores are busy with four.
UPLOAD_THREADS: Final = 8
OTHER_THREADS: Final = 8
# What follows is nobody's business who has not shown the partner's key.
_NOTHING_HERE: Final = Refused(HTTPStatus.NOT_FOUND, "there is nothing here for this key")
_SCRATCH = memoryview(bytearray(RECV_LEN))  # between two awaits only: the loop's


class TooSlow(Exception):
    """The client took longer than it may; the message says for what."""


@dataclass
class Floor:
    """What all connections of a server share."""

    settings: HouseSettings
    partners: Partners
    metrics: Metrics
    parked: ParkedLines | None = None  # while the server runs
    is_stopping: bool = False
    idle: set[trio.CancelScope] = field(default_factory=set)  # between two requests
    strangers: Counter[str] = field(default_factory=Counter)  # address -> not yet known
    uploads: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(UPLOAD_THREADS)
    )
    others: trio.CapacityLimiter = field(
        default_factory=lambda: trio.CapacityLimiter(OTHER_THREADS)
    )

    @contextmanager
    def resting(self) -> Iterator[trio.CancelScope]:
        """Have the block cancelled as soon as the server is to stop."""
        with trio.CancelScope() as scope:
            self.idle.add(scope)
            try:
                yield scope
            finally:
                self.idle.discard(scope)

    def stop(self) -> None:
        """Let what is going on end, and nothing begin."""
        self.is_stopping = True
        for scope in self.idle:
            scope.cancel()


FindVisitor = Callable[[Head], Visitor | None]


async def receive_stranger(floor: Floor, wire: Wire, source: str) -> None:
    """Serve one TLS connection from its first byte on; *source* is what the log calls it."""
    try:
        with trio.fail_after(floor.settings.handshake_s):
            floor.strangers[source] += 1
            try:
                await wire.handshake()
            finally:
                floor.strangers[source] -= 1
                if not floor.strangers[source]:
                    del floor.strangers[source]
    except (ConnectionLost, trio.TooSlowError) as exc:
        floor.metrics.handshakes_failed += 1
        log.info("%s: not let in: %s", source, str(exc) or "the handshake took too long")
        await wire.end(is_still_sending=False)
        return
    certificate = wire.peer_certificate()
    visitor = floor.partners.by_certificate(certificate)
    if visitor is None:  # taken off the list since the handshake's list was made
        floor.metrics.handshakes_failed += 1
        log.info("%s: not let in: its certificate is nobody's", source)
        await wire.end(is_still_sending=False)
        return

    if wire.protocol() is not None:
        if visitor.role is Role.DIALLER and floor.parked is not None:
            with floor.resting():
                await floor.parked.park(visitor.desk.name, wire)
        else:
            log.info("%s: %s may not leave lines here", source, visitor.desk.name)
            await wire.end(is_still_sending=False)
        return

    def find(head: Head) -> Visitor | None:
        # Each time: a key that was taken away today is out at its next request.
        return floor.partners.by_certificate(certificate)

    await converse(floor, wire, find, visitor.desk, source)


async def receive_local(floor: Floor, wire: Wire, source: str) -> None:
    """Serve one connection without TLS, whose requests show a token (basic authentication)."""

    def find(head: Head) -> Visitor | None:
        scheme, _, encoded = head.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, token = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return floor.partners.by_token(name, token)

    await converse(floor, wire, find, None, source)


async def receive_metrics(floor: Floor, wire: Wire, source: str) -> None:
    """Answer one question for figures, and close."""
    try:
        found = await read_head(floor, wire, b"")
        if found is None:
            return
        exchange = Exchange(wire, found[0], 0, b"")
        exchange.closes = True
        if found[0].target != b"/metrics" or found[0].method not in ("GET", "HEAD"):
            steps = exchange.refuse(Refused(HTTPStatus.NOT_FOUND, "here is GET /metrics"))
        else:
            desks = list(floor.partners.desks.values())
            usages = await trio.to_thread.run_sync(render_usages, desks, limiter=floor.others)
            text = floor.metrics.render(usages)
            steps = exchange.answer(HTTPStatus.OK, text, content_type=CONTENT_TYPE)
        await _drive(floor, exchange, steps, floor.others)
    except Refused as exc:
        await _refuse_at_once(floor, wire, exc)
    except (ConnectionLost, TooSlow) as exc:
        log.debug("%s: metrics: %s", source, exc)
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await wire.end(is_still_sending=False)


async def converse(
    floor: Floor, wire: Wire, find: FindVisitor, desk: Desk | None, source: str
) -> None:
    """Answer one request after the other, until either side has had enough."""
    is_crowded = False
    if desk is not None:
        is_crowded = desk.connections >= floor.settings.connections_partner
        desk.connections += 1
    is_still_sending = False
    try:
        leftover = b""
        while not floor.is_stopping:
            found = await read_head(floor, wire, leftover)
            if found is None:
                return
            head, rest = found
            is_still_sending = True
            if is_crowded:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections of this key")
            exchange = await _answer(floor, wire, head, rest, find)
            if not exchange.is_whole or exchange.closes or floor.is_stopping:
                is_still_sending = exchange.body_left > 0
                return
            is_still_sending = False
            leftover = bytes(exchange.prefix)
    except ConnectionLost as exc:
        log.debug("%s: gone: %s", source, exc)
        is_still_sending = False
    except TooSlow as exc:
        floor.metrics.too_slow += 1
        log.info("%s: cut off: %s", source, exc)
        is_still_sending = False
    except Refused as exc:
        # Not HTTP, or too much of it: nothing else on this connection can be understood.
        log.info("%s: refused: %s", source, exc.text)
        is_still_sending = True
        await _refuse_at_once(floor, wire, exc)
    finally:
        if desk is not None:
            desk.connections -= 1
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            await wire.end(is_still_sending=is_still_sending)


async def read_head(floor: Floor, wire: Wire, leftover: bytes) -> tuple[Head, bytes] | None:
    """Return the head of the next request and what came after it; None: there is none.

    Raises:
        Refused: what came is no request.
        TooSlow: its head took too long.
        ConnectionLost: the other side went in the middle of it.
    """
    data = leftover
    if not data:
        with floor.resting() as scope:
            scope.deadline = trio.current_time() + floor.settings.idle_s
            data = await _read_some(wire)
        if not data:
            return None
    # A parser a request: the body goes past it, straight to its handler.
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LEN_MAX)
    with trio.move_on_after(floor.settings.head_s):
        parser.receive_data(data)
        request = await _next_event(wire, parser)
        if not isinstance(request, h11.Request):
            return None
        head = Head.of(request)
        if "transfer-encoding" not in head.headers:
            return head, parser.trailing_data[0]
        # restic makes an archive with an empty body in chunks.  Larger ones are objects,
        # whose length must be known to tell whether there is room.
        body = b""
        while isinstance(event := await _next_event(wire, parser), h11.Data):
            body += event.data
            if len(body) > CHUNKED_LEN_MAX:
                raise Refused(HTTPStatus.LENGTH_REQUIRED, "say the length: Content-Length")
        return head.with_length(len(body)), body + parser.trailing_data[0]
    raise TooSlow("the head of a request took too long")


async def _next_event(wire: Wire, parser: h11.Connection) -> object:
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as exc:
            raise Refused(HTTPStatus(exc.error_status_hint), f"no request: {exc}") from exc
        if event is not h11.NEED_DATA:
            return event
        data = await _read_some(wire)
        if not data:
            raise ConnectionLost("it ended in the middle of a request")
        parser.receive_data(data)


async def _read_some(wire: Wire) -> bytes:
    while True:
        count = wire.read_into(_SCRATCH, _OTHER_SCRATCH)
        if count is not None:
            return bytes(_SCRATCH[:count])
        await trio.lowlevel.wait_readable(wire.sock)


_OTHER_SCRATCH = memoryview(bytearray(RECV_LEN))


async def _answer(floor: Floor, wire: Wire, head: Head, rest: bytes, find: FindVisitor) -> Exchange:
    """Answer one request; the exchange tells how that went."""
    began = time.monotonic()
    body_len = head.body_len()
    exchange = Exchange(wire, head, body_len, rest)
    if floor.is_stopping:
        exchange.closes = True
    target, visitor = parse_target(head.target), find(head)
    if visitor is None:
        name = "-"
        steps = exchange.refuse(_WHO_ARE_YOU)
    else:
        name = visitor.desk.name
        visitor.desk.last_seen_ns = time.time_ns()
        if target is None or target.partner != name or visitor.role is Role.DIALLER:
            steps = exchange.refuse(_NOTHING_HERE)
        else:
            steps = carry_out(exchange, target, visitor)
    is_upload = head.method == "POST" and target is not None and target.name is not None
    try:
        await _drive(floor, exchange, steps, floor.uploads if is_upload else floor.others)
    finally:
        seconds = time.monotonic() - began
        _note(floor, exchange, name, target, seconds)
    return exchange


_WHO_ARE_YOU: Final = Refused(
    HTTPStatus.UNAUTHORIZED,
    "show a token: partner's name and token as user and password",
    (("WWW-Authenticate", 'Basic realm="coopfs"'),),
)


async def _drive(
    floor: Floor, exchange: Exchange, steps: Steps, limiter: trio.CapacityLimiter
) -> None:
    """Have threads run *steps*; wait in between for what they wait for."""
    patience = Patience(floor.settings, exchange)
    pause: Pause | None = Pause(Need.TIME)
    try:
        while True:
            pause = await trio.to_thread.run_sync(run_on, exchange, steps, limiter=limiter)
            if pause is None:
                return
            if pause.need is Need.TIME:
                await trio.sleep(pause.seconds)
                patience.excuse(pause.seconds)
                continue
            with trio.move_on_after(patience.left()):
                if pause.need is Need.READABLE:
                    await trio.lowlevel.wait_readable(exchange.wire.sock)
                else:
                    await trio.lowlevel.wait_writable(exchange.wire.sock)
            patience.check(pause.need)
    except TooSlow as exc:
        if exchange.status is None:
            await _refuse_at_once(
                floor, exchange.wire, Refused(HTTPStatus.REQUEST_TIMEOUT, str(exc))
            )
        raise
    finally:
        if pause is not None:
            with trio.CancelScope(shield=True):
                # What it holds open or has half written is on the disk: not for the loop.
                await trio.to_thread.run_sync(steps.close, limiter=limiter)


class Patience:
    """Watches that bytes flow: so many in each stretch of ``stall_s`` that was the client's."""

    def __init__(self, settings: HouseSettings, exchange: Exchange) -> None:
        self._settings, self._exchange = settings, exchange
        self._since = time.monotonic()
        self._moved = 0

    def excuse(self, seconds: float) -> None:
        """We made it wait ourselves."""
        self._since += seconds

    def left(self) -> float:
        """Return for how many seconds at most nothing need happen."""
        return max(self._since + self._settings.stall_s - time.monotonic(), 0.0)

    def check(self, need: Need) -> None:
        """Begin another stretch if this one is over.

        Raises:
            TooSlow: too little came of it.
        """
        if self.left() > 0:
            return
        seconds = self._settings.stall_s
        moved = self._exchange.bytes_in + self._exchange.bytes_out
        if moved - self._moved < self._settings.slow_bytes_per_s * seconds:
            what = "sent" if need is Need.READABLE else "took"
            raise TooSlow(f"it {what} {moved - self._moved} bytes in {seconds} s")
        self._since, self._moved = time.monotonic(), moved


async def _refuse_at_once(floor: Floor, wire: Wire, refused: Refused) -> None:
    """Answer a request of which no more is read."""
    head = Head("GET", b"/", {"connection": "close"}, True)
    exchange = Exchange(wire, head, 0, b"")
    with suppress(ConnectionLost), trio.move_on_after(floor.settings.head_s):
        for pause in exchange.refuse(refused):
            if pause.need is not Need.TIME:
                await trio.lowlevel.wait_writable(wire.sock)
    floor.metrics.count_request("-", "-", int(refused.status))


def _note(
    floor: Floor, exchange: Exchange, name: str, target: Target | None, seconds: float
) -> None:
    """Count the request, and say what it was in the log: never a header, never a body."""
    method = exchange.head.method if exchange.head.method in _METHODS else "-"
    status = int(exchange.status) if exchange.status is not None else 0
    floor.metrics.count_request(name, method, status)
    floor.metrics.count_bytes(name, exchange.bytes_in, exchange.bytes_out)
    level = logging.DEBUG
    if status in _REFUSED_LOUDLY:
        level = logging.WARNING
    elif status >= 400 and status != HTTPStatus.NOT_FOUND:
        level = logging.INFO
    where = str(target) if target is not None and target.partner == name else "elsewhere"
    ending = "" if exchange.is_whole else ", not ended"
    log.log(
        level,
        "%s: %s %s: %d%s (%d bytes in, %d out, %.3f s)",
        *(name, method, where, status, ending),
        *(exchange.bytes_in, exchange.bytes_out, seconds),
    )


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})
_REFUSED_LOUDLY: Final = frozenset({500, 503, 507})
