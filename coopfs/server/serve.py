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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from coopfs.errors import ConfigError, CoopfsError
from coopfs.format.keys import SigningKey
from coopfs.identity import Identity
from coopfs.server import duties
from coopfs.server.connection import (
    Floor,
    receive_local,
    receive_metrics,
    receive_stranger,
)
from coopfs.server.dialling import PROTOCOL, keep_dialling
from coopfs.server.house import load_house
from coopfs.server.listen import Listener, Purpose, notify
from coopfs.server.metrics import Metrics
from coopfs.server.parked import ParkedLines
from coopfs.server.visitors import House, Partners, changed_files
from coopfs.server.wire import Wire

log = logging.getLogger("coopfs.serve")

IDENTITY_FILE: Final = "identity.pem"  # in the root
GRACE_S: Final = 30.0  # what is going on may take this long once the server is to stop
LOOK_S: Final = 1.0  # how often settings files are looked at
ACCEPT_AT_ONCE: Final = 32  # then others have their turn on the loop
# Out of descriptors or memory: the connection waits in the backlog for better times.
_TRY_LATER: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

Receive = Callable[[Floor, Wire, str], Awaitable[None]]


@dataclass(frozen=True)
class ServeOptions:
    """What one run of the server is told."""

    root: Path
    identity: Identity
    listeners: tuple[Listener, ...] = ()
    restic_certificate: Path | None = None  # PEM with its key, for Purpose.RESTIC
    grace_s: float = GRACE_S


class Server:
    """A running server; :meth:`run` is its life."""

    def __init__(self, options: ServeOptions) -> None:
        """Read all settings and open every partner's depot.  Blocking.

        Raises:
            ConfigError: the settings, or the certificate for restic, cannot be used.
            StateBusy: another server serves these partners.
        """
        self._options = options
        # First: what changes while we read is read again.
        self._has_changed = changed_files(options.root)
        settings = load_house(options.root)
        self._house = House(settings)
        self._house.reload_now = lambda: trio.from_thread.run(self._reload)
        self.partners = Partners(options.root, SigningKey(options.identity.seed), self._house)
        self.partners.reload()
        self.floor = Floor(settings, self.partners, Metrics())
        self._contexts = self._make_contexts()
        self._reloading = trio.Lock()

    async def run(self, started: Callable[[], None]) -> None:
        """Serve until a signal says stop; *started* is called once all is ready."""
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as signals:
            try:
                async with trio.open_nursery() as connections:
                    async with trio.open_nursery() as duty:
                        for listener in self._options.listeners:
                            duty.start_soon(self._accept, listener, connections)
                        duty.start_soon(self._look_after_settings)
                        duty.start_soon(duties.run, self.partners)
                        self.floor.parked = ParkedLines(self._options.root, duty)
                        duty.start_soon(self._dial)
                        started()
                        notify("READY=1")
                        await self._heed(signals)
                        duty.cancel_scope.cancel()
                    self._wind_up(connections)
            finally:
                self.partners.close()

    async def serve_socket(self, sock: socket.socket, source: str) -> None:
        """Serve a partner over a connected socket, wherever it comes from, to its end.

        Also over one that was dialled from here: TLS runs with us as the server all the
        same.  *source* is what the log calls it.
        """
        await self._serve(Purpose.PARTNERS, sock, source)

    async def _dial(self) -> None:
        """Serve the partners that cannot reach us, over lines that we dial."""
        await keep_dialling(self._options.root, self._options.identity, self.serve_socket)

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
                        if exc.errno not in _TRY_LATER:
                            continue  # it went before it was accepted
                        log.warning("%s: %s", listener.address, exc.strerror)
                        await trio.sleep(0.2)
                        break
                    source = str(where[0]) if isinstance(where, tuple) else listener.address
                    connections.start_soon(self._serve, listener.purpose, accepted, source)
        finally:
            sock.close()

    async def _serve(self, purpose: Purpose, sock: socket.socket, source: str) -> None:
        metrics, settings = self.floor.metrics, self.floor.settings
        try:
            if (
                metrics.connections >= settings.connections
                or self.floor.strangers[source] >= settings.connections_stranger
            ):
                metrics.connections_refused += 1
                log.info("%s: turned away: too many connections", source)
                return
            metrics.connections += 1
            try:
                wire = Wire(sock, self._contexts.get(purpose))
                await _RECEIVE[purpose](self.floor, wire, source)
            finally:
                metrics.connections -= 1
        except Exception:
            # One connection's accident is not the other partners'.
            log.exception("%s: internal error, please report it", source)
        finally:
            sock.close()

    def _make_contexts(self) -> dict[Purpose, ssl.SSLContext]:
        """Return what TLS is done with from now on; connections that are there keep theirs."""
        contexts = {Purpose.PARTNERS: self._new_context()}
        self._options.identity.load_into(contexts[Purpose.PARTNERS])
        if self._options.restic_certificate is not None:
            context = self._new_context()
            try:
                context.load_cert_chain(self._options.restic_certificate)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError(
                    f"{self._options.restic_certificate}: not a certificate with its key in "
                    f"PEM: {exc.strerror or exc}"
                ) from exc
            contexts[Purpose.RESTIC] = context
        return contexts

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        # No resumption: each connection shows that it still has a key that is still let in.
        context.num_tickets = 0
        context.set_alpn_protocols([PROTOCOL])
        if certificates := self.partners.certificates():
            # Each is its own root, and names of roots are not told to strangers.
            context.load_verify_locations(cadata="\n".join(certificates))
        return context

    # --- beside the connections -----------------------------------------------------

    async def _heed(self, signals: AsyncIterator[int]) -> None:
        """Return when a signal says stop."""
        async for number in signals:
            if number != signal.SIGHUP:
                log.info("%s: stopping", signal.Signals(number).name)
                return
            await self._reload()

    async def _look_after_settings(self) -> None:
        """Notice changed settings, and the end of restores."""
        while True:
            await trio.sleep(LOOK_S)
            self._house.settle()
            if await trio.to_thread.run_sync(self._has_changed):
                await self._reload()

    async def _reload(self) -> None:
        """Have what the settings files say now hold; what is wrong in them holds nothing up."""
        async with self._reloading:
            notify("RELOADING=1")
            await self._read_settings()
            notify("READY=1")

    async def _read_settings(self) -> None:
        try:
            settings = await trio.to_thread.run_sync(load_house, self._options.root)
            self._house.change(settings)
            self.floor.settings = settings
        except CoopfsError as exc:
            log.error("%s; what held before still holds", exc)
        try:
            await trio.to_thread.run_sync(self.partners.reload)
            self._contexts = self._make_contexts()
        except CoopfsError as exc:
            log.error("%s; what held before still holds", exc)

    def _wind_up(self, connections: trio.Nursery) -> None:
        """Let requests that are going on end, for a while."""
        notify("STOPPING=1")
        self.floor.stop()
        connections.cancel_scope.deadline = trio.current_time() + self._options.grace_s


_RECEIVE: Final[dict[Purpose, Receive]] = {
    Purpose.PARTNERS: receive_stranger,
    Purpose.RESTIC: receive_stranger,
    Purpose.LOCAL: receive_local,
    Purpose.METRICS: receive_metrics,
}
