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
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import h11
import trio

from coopfs.server.driving import TooSlow, drive, refuse_at_once
from coopfs.server.errand import Burst, Errand, new_parser
from coopfs.server.exchange import Exchange
from coopfs.server.handlers import carry_out
from coopfs.server.house import HouseSettings
from coopfs.server.metrics import CONTENT_TYPE, Metrics, render_usages
from coopfs.server.parked import ParkedLines
from coopfs.server.protocol import (
    CHUNKED_LEN_MAX,
    Head,
    Refused,
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
_BUFFER = memoryview(bytearray(RECV_LEN))  # between two awaits only: the loop's


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
        await drive(floor.settings, Errand(exchange, steps), floor.others)
    except Refused as exc:
        await refuse_at_once(floor.settings, wire, exc)
        floor.metrics.count_request("-", "-", int(exc.status))
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
        if is_crowded:
            # Before it asks: while it rests it would keep others from the server's last places.
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections of this key")
        leftover = b""
        while not floor.is_stopping:
            found = await read_head(floor, wire, leftover)
            if found is None:
                return
            head, rest = found
            is_still_sending = True
            exchange, leftover = await _answer(floor, wire, head, rest, find)
            if not exchange.is_whole or exchange.closes or floor.is_stopping:
                is_still_sending = exchange.body_left > 0
                return
            is_still_sending = False
    except ConnectionLost as exc:
        log.debug("%s: gone: %s", source, exc)
        is_still_sending = False
    except trio.Cancelled:
        is_still_sending = False  # the server's time is up: nobody is heard out
        raise
    except TooSlow as exc:
        floor.metrics.too_slow += 1
        log.info("%s: cut off: %s", source, exc)
        is_still_sending = False
    except Refused as exc:
        # Not HTTP, or too much of it: nothing else on this connection can be understood.
        log.info("%s: refused: %s", source, exc.text)
        is_still_sending = True
        await refuse_at_once(floor.settings, wire, exc)
        floor.metrics.count_request("-", "-", int(exc.status))
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
    parser = new_parser()
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
        count = wire.read_into(_BUFFER)
        if count is not None:
            return bytes(_BUFFER[:count])
        await trio.lowlevel.wait_readable(wire.sock)


async def _answer(
    floor: Floor, wire: Wire, head: Head, rest: bytes, find: FindVisitor
) -> tuple[Exchange, bytes]:
    """Answer one request, and what follows at once.

    Returns the last exchange, which tells how that went, and what came after it.
    """

    def begin(head: Head, rest: bytes) -> Errand:
        return _begin(floor, wire, head, rest, find)

    def note(errand: Errand) -> None:
        _note(floor, errand)

    first = begin(head, rest)
    limiter = floor.uploads if first.is_upload else floor.others
    burst = Burst(first, begin, note, has_time=lambda: limiter.available_tokens > 0)
    try:
        await drive(floor.settings, burst, limiter)
    except BaseException:
        if not burst.exchange.is_whole:  # or it was noted, and the next never came
            note(burst.errand)
        raise
    return burst.exchange, burst.leftover


def _begin(floor: Floor, wire: Wire, head: Head, rest: bytes, find: FindVisitor) -> Errand:
    """Return what answers the request; on the loop or in a thread."""
    exchange = Exchange(wire, head, head.body_len(), rest)
    if floor.is_stopping:
        exchange.closes = True
    target, visitor = parse_target(head.target), find(head)
    if visitor is None:
        return Errand(exchange, exchange.refuse(_WHO_ARE_YOU), target=target)
    name = visitor.desk.name
    visitor.desk.last_seen_ns = time.time_ns()
    if target is None or target.partner != name or visitor.role is Role.DIALLER:
        steps = exchange.refuse(_NOTHING_HERE)
    else:
        steps = carry_out(exchange, target, visitor)
    is_upload = head.method == "POST" and target is not None and target.name is not None
    return Errand(exchange, steps, name, target, is_upload)


_WHO_ARE_YOU: Final = Refused(
    HTTPStatus.UNAUTHORIZED,
    "show a token: partner's name and token as user and password",
    (("WWW-Authenticate", 'Basic realm="coopfs"'),),
)


def _note(floor: Floor, errand: Errand) -> None:
    """Count the request, and say what it was in the log: never a header, never a body."""
    exchange, name, target = errand.exchange, errand.partner, errand.target
    method = exchange.head.method if exchange.head.method in _METHODS else "-"
    status = int(exchange.status) if exchange.status is not None else 0
    floor.metrics.count_request(name, method, status)
    floor.metrics.count_bytes(name, exchange.bytes_in, exchange.bytes_out)
    level = logging.DEBUG
    if status in _REFUSED_LOUDLY:
        level = logging.WARNING
    elif status >= 400 and status != HTTPStatus.NOT_FOUND:
        level = logging.INFO
    if not log.isEnabledFor(level):
        return
    where = str(target) if target is not None and target.partner == name else "elsewhere"
    ending = "" if exchange.is_whole else ", not ended"
    log.log(
        level,
        "%s: %s %s: %d%s (%d bytes in, %d out, %.3f s)",
        *(name, method, where, status, ending),
        *(exchange.bytes_in, exchange.bytes_out, errand.seconds),
    )


_METHODS: Final = frozenset({"GET", "HEAD", "POST", "DELETE"})
_REFUSED_LOUDLY: Final = frozenset({500, 503, 507})
