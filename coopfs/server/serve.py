"""The server as a whole: sockets, who is let in, duties beside the requests, its end.

One trio event loop; everything that blocks runs in its threads.  Stops on SIGTERM or
SIGINT after what is going on has ended, and reads its settings again on SIGHUP or when a
settings file has changed.
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import trio

from coopfs.errors import CoopfsError
from coopfs.format.keys import SigningKey
from coopfs.identity import Identity
from coopfs.server import duties
from coopfs.server.connection import Floor, converse_metrics, receive_local, receive_stranger
from coopfs.server.house import load_house
from coopfs.server.listen import Listener, Purpose, notify
from coopfs.server.metrics import Metrics
from coopfs.server.visitors import House, Partners, changed_files
from coopfs.server.wire import Wire

log = logging.getLogger("coopfs.serve")

GRACE_S: Final = 30.0  # what is going on may take this long once the server is to stop
LOOK_S: Final = 2.0  # how often settings files are looked at
ACCEPT_AT_ONCE: Final = 32  # then others have their turn on the loop
# Out of descriptors or memory: the connection waits in the backlog for better times.
_TRY_LATER: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True)
class ServeOptions:
    """What one run of the server is told."""

    root: Path
    identity: Identity
    restic_certificate: Path | None = None  # PEM with its key, for Purpose.RESTIC
    grace_s: float = GRACE_S
    scrub: bool = True
    listeners: list[Listener] = field(default_factory=list)


class Server:
    """A running server; :meth:`run` is its life."""

    def __init__(self, options: ServeOptions) -> None:
        """Read all settings and open every partner's depot.  Blocking.

        Raises:
            ConfigError: the settings cannot be read.
        """
        self._options = options
        settings = load_house(options.root)
        self.house = House(settings)
        signer = SigningKey(options.identity.seed)
        self.partners = Partners(options.root, signer, self.house)
        self.partners.reload()
        self.floor = Floor(settings, self.partners, Metrics())
        self._contexts = self._make_contexts()

    async def run(self, started: Callable[[], None]) -> None:
        """Serve until a signal says stop; *started* is called once all is ready."""
        options = self._options
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            try:
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as duty:
                        for listener in options.listeners:
                            duty.start_soon(self._accept, listener, connections)
                        duty.start_soon(self._look_after_settings)
                        duty.start_soon(self._settle)
                        if options.scrub:
                            duty.start_soon(duties.run, self.floor)
                        started()
                        notify("READY=1")
                        await self._heed(signals)
                        duty.cancel_scope.cancel()
                    await self._wind_up(connections)
            finally:
                self.partners.close()

    async def serve_socket(self, sock: socket.socket, source: str) -> None:
        """Serve a partner over a connected socket, wherever it comes from, to its end.

        Also for a connection that was dialled from here: TLS runs with us as the server
        all the same.
        """
        floor = self.floor
        if (
            floor.metrics.connections >= floor.settings.connections
            or floor.strangers[source] >= floor.settings.connections_stranger
        ):
            floor.metrics.connections_refused += 1
            log.info("%s: turned away: too many connections", source)
            sock.close()
            return
        await self._counted(receive_stranger, sock, self._contexts[Purpose.PARTNERS], source)

    # --- connections ----------------------------------------------------------------

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        sock = listener.sock
        try:
            while True:
                await trio.lowlevel.wait_readable(sock)
                for _ in range(ACCEPT_AT_ONCE):
                    try:
                        accepted, where = sock.accept()
                    except (BlockingIOError, InterruptedError):
                        break
                    except OSError as exc:
                        if exc.errno in _TRY_LATER:
                            log.warning("%s: %s", listener.address, exc.strerror)
                            await trio.sleep(0.2)
                            break
                        continue  # it went before it was accepted
                    source = str(where[0]) if isinstance(where, tuple) else listener.address
                    connections.start_soon(self._serve, listener.purpose, accepted, source)
        finally:
            sock.close()

    async def _serve(self, purpose: Purpose, sock: socket.socket, source: str) -> None:
        match purpose:
            case Purpose.PARTNERS:
                await self.serve_socket(sock, source)
            case Purpose.RESTIC:
                await self._counted(receive_stranger, sock, self._contexts[purpose], source)
            case Purpose.LOCAL:
                await self._counted(receive_local, sock, None, source)
            case Purpose.METRICS:
                await converse_metrics(self.floor, Wire(sock, None))

    async def _counted(
        self,
        receive: Callable[[Floor, Wire, str], object],
        sock: socket.socket,
        context: ssl.SSLContext | None,
        source: str,
    ) -> None:
        self.floor.metrics.connections += 1
        try:
            await receive(self.floor, Wire(sock, context), source)  # type: ignore[misc]
        except Exception:
            # One connection's accident is not the other partners'.
            log.exception("%s: internal error, please report it", source)
        finally:
            sock.close()
            self.floor.metrics.connections -= 1
