"""Runs a handler: turns in worker threads, and the waits between them on the event loop.

Owns how slow a client may be.
"""

from __future__ import annotations

import time
from contextlib import suppress
from http import HTTPStatus

import trio

from coopfs.server.errand import Burst, Errand
from coopfs.server.exchange import Exchange, Need, Pause
from coopfs.server.house import HouseSettings
from coopfs.server.protocol import Head, Refused
from coopfs.server.wire import ConnectionLost, Wire


class TooSlow(Exception):
    """The client took longer than it may; the message says for what."""


async def drive(
    settings: HouseSettings, errand: Errand | Burst, limiter: trio.CapacityLimiter
) -> None:
    """Have threads run *errand*; wait in between for what it waits for.

    Raises:
        TooSlow: the client was; it has been told.
        ConnectionLost: it went.
    """
    patience = Patience(settings, errand)
    pause: Pause | None = Pause(Need.TIME)
    try:
        while True:
            pause = await trio.to_thread.run_sync(errand.run_on, limiter=limiter)
            if pause is None:
                return
            if pause.need is Need.TIME:
                await trio.sleep(pause.seconds)
                patience.excuse(pause.seconds)
                continue
            sock = errand.exchange.wire.sock
            with trio.move_on_after(patience.left()):
                if pause.need is Need.READABLE:
                    await trio.lowlevel.wait_readable(sock)
                else:
                    await trio.lowlevel.wait_writable(sock)
            patience.check(pause.need)
    except TooSlow as exc:
        if errand.exchange.status is None:
            refused = Refused(HTTPStatus.REQUEST_TIMEOUT, str(exc))
            await refuse_at_once(settings, errand.exchange.wire, refused)
        raise
    finally:
        if pause is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(errand.close, limiter=limiter)


class Patience:
    """Watches that bytes flow: so many in each stretch of ``stall_s`` that was the client's."""

    def __init__(self, settings: HouseSettings, errand: Errand | Burst) -> None:
        self._settings, self._errand = settings, errand
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
        moved = self._errand.moved
        if moved - self._moved < self._settings.slow_bytes_per_s * seconds:
            what = "sent" if need is Need.READABLE else "took"
            raise TooSlow(f"it {what} {moved - self._moved} bytes in {seconds} s")
        self._since, self._moved = time.monotonic(), moved


async def refuse_at_once(settings: HouseSettings, wire: Wire, refused: Refused) -> None:
    """Answer a request of which no more is read."""
    head = Head("GET", b"/", {"connection": "close"}, True)
    exchange = Exchange(wire, head, 0, b"")
    with suppress(ConnectionLost), trio.move_on_after(settings.head_s):
        for pause in exchange.refuse(refused):
            if pause.need is not Need.TIME:
                await trio.lowlevel.wait_writable(wire.sock)
