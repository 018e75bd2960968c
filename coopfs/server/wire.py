"""One connection to the outside, encrypted or not, that never blocks.

Owned by the event loop or by one worker thread at a time, never by both: no locks.
TLS runs over memory (``MemoryBIO``) so that either side can read, write and wait in its
own way.  Measured on loopback, one thread, with 64 KiB a recv(): 1.2 GB/s in, and out
with 256 KiB a piece 1.3 GB/s; an SSLSocket has 1.4 and 1.0.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

RECV_LEN: Final = 64 << 10  # bytes of one recv(); measured above
# The longest TLS record, head and all (RFC 8446, section 5.2): no less is received at once.
RECORD_LEN: Final = 5 + (16 << 10) + 256
SEND_LEN: Final = 272 << 10  # bytes sent at once: a piece (exchange.py) and a head
# Bytes encrypted at once.  TLS keeps the memory as long as the connection lasts; with more
# nothing is gained.
ENCRYPT_LEN: Final = 64 << 10
# Undecrypted bytes thrown away while a refused client still sends, so that it reads our
# answer rather than a reset; and for how long.  The largest pack is about 16 MiB.
LINGER_LEN: Final = 64 << 20
LINGER_S: Final = 5.0


class ConnectionLost(Exception):
    """The other side is gone, or speaks no TLS; the message says which."""


class Wire:
    """A connected socket with or without TLS."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext | None, *, is_server: bool = True
    ) -> None:
        """Take *sock* over: it is closed by :meth:`close`."""
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._tls: ssl.SSLObject | None = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        if context is not None:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._unsent: list[memoryview] = []

    # --- for the loop or a worker: nothing here waits -------------------------------

    def read_into(self, view: memoryview) -> int | None:
        """Read what is there into *view*; None: nothing yet, 0: the other side ended.

        Raises:
            ConnectionLost: reset, or not TLS.
        """
        if self._tls is None:
            try:
                return self.sock.recv_into(view)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as exc:
                raise lost(exc) from exc
        return self._read_records(self._tls, view)

    def _read_records(self, tls: ssl.SSLObject, view: memoryview) -> int | None:
        """Fill *view* from as many records as have come; how it ends is said once it is empty."""
        filled, wanted, more = 0, len(view), True
        # typeshed knows only the form that returns bytes.
        read: Callable[[int, memoryview], int] = tls.read  # type: ignore[assignment]
        incoming = self._incoming
        try:
            while filled < wanted and (more or incoming.pending or not filled):
                try:
                    got = read(wanted - filled, view[filled:] if filled else view)
                except ssl.SSLWantReadError:
                    scratch = _scratch()[: wanted - filled + RECORD_LEN]
                    received = self.sock.recv_into(scratch)
                    if not received:
                        break  # no close_notify: lengths tell whether anything is missing
                    incoming.write(scratch[:received])
                    more = received == len(scratch)
                else:
                    if not got:
                        break
                    filled += got
            return filled
        except (BlockingIOError, InterruptedError):
            return filled or None
        except ssl.SSLZeroReturnError:
            return filled
        except (OSError, ValueError) as exc:
            if filled:
                return filled
            raise lost(exc) from exc

    def write(self, data: memoryview) -> int | None:
        """Take bytes of *data* (at least one) to be sent; None: not now, wait and repeat.

        Raises:
            ConnectionLost: the other side is gone.
        """
        if not self.flush():
            return None
        try:
            if self._tls is None:
                return self.sock.send(data)
            written = 0
            while written < min(len(data), SEND_LEN):
                written += self._tls.write(data[written : written + ENCRYPT_LEN])
                self._unsent.append(memoryview(self._outgoing.read()))
        except (BlockingIOError, InterruptedError):
            return None
        except (OSError, ValueError) as exc:
            raise lost(exc) from exc
        self.flush()
        return written

    def flush(self) -> bool:
        """Send what TLS has ready; return whether nothing is left of it.

        Raises:
            ConnectionLost: the other side is gone.
        """
        if self._tls is None:
            return True
        try:
            while True:
                if self._outgoing.pending:
                    self._unsent.append(memoryview(self._outgoing.read()))
                if not self._unsent:
                    return True
                sent = self.sock.sendmsg(self._unsent)
                while self._unsent and sent >= len(self._unsent[0]):
                    sent -= len(self._unsent.pop(0))
                if sent:
                    self._unsent[0] = self._unsent[0][sent:]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            raise lost(exc) from exc

    def peer_certificate(self) -> bytes | None:
        """Return the DER of the certificate the other side proved to have the key of."""
        return None if self._tls is None else self._tls.getpeercert(binary_form=True)

    def protocol(self) -> str | None:
        """Return what was agreed to be spoken (ALPN), None: nothing, so HTTP."""
        return None if self._tls is None else self._tls.selected_alpn_protocol()

    def close(self) -> None:
        """Let go of the socket at once."""
        self.sock.close()

    # --- for the event loop -----------------------------------------------------------

    async def handshake(self) -> None:
        """Finish the TLS handshake; nothing to do without TLS.

        Raises:
            ConnectionLost: it failed; the message has OpenSSL's reason.
        """
        if self._tls is None:
            return
        while True:
            try:
                self._tls.do_handshake()
                await self.drain()
                return
            except ssl.SSLWantReadError:
                await self.drain()
            except (OSError, ValueError) as exc:
                with suppress(ConnectionLost):
                    self.flush()  # the alert that tells the other side why
                raise lost(exc) from exc
            await self._hear("in the middle of the handshake")

    async def _hear(self, when: str) -> None:
        """Have TLS take what comes next (ConnectionLost: the end, *when*)."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                received = self.sock.recv(RECV_LEN)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as exc:
                raise lost(exc) from exc
            if not received:
                raise ConnectionLost(f"it ended {when}")
            self._incoming.write(received)
            return

    async def shed(self, *, is_first: bool) -> None:
        """End TLS both ways; the connection goes on without it.

        One side *is_first* to say so, and sends nothing bare before the other has agreed;
        the other agrees only once it has heard it.  Both goodbyes are TLS's own, so that
        nobody on the line can say them; what comes behind the other side's before we have
        sent anything bare is nobody's but theirs, and refused.

        Raises:
            ConnectionLost: the other side ended otherwise, or something came behind its end.
        """
        if self._tls is None:
            raise ConnectionLost("it has no TLS to end")
        when = "before its TLS did"
        try:
            while not is_first:
                try:
                    if self._tls.read(1):
                        raise ConnectionLost("it went on talking within its TLS")
                    break
                except ssl.SSLWantReadError:
                    await self._hear(when)
            while True:
                try:
                    self._tls.unwrap()
                    break
                except ssl.SSLWantReadError:
                    await self.drain()
                    await self._hear(when)
            await self.drain()
        except (OSError, ValueError) as exc:
            raise lost(exc) from exc
        if self._incoming.pending:
            raise ConnectionLost("something came behind the end of its TLS")
        self._tls = None

    async def drain(self) -> None:
        """Wait until all that was written is with the kernel (ConnectionLost)."""
        while not self.flush():
            await trio.lowlevel.wait_writable(self.sock)

    async def send_all(self, data: bytes) -> None:
        """Send *data* whole (ConnectionLost)."""
        view = memoryview(data)
        while view:
            written = self.write(view)
            if written is None:
                await trio.lowlevel.wait_writable(self.sock)
            else:
                view = view[written:]
        await self.drain()

    async def end(self, *, is_still_sending: bool) -> None:
        """Say goodbye and close; where the other side *is_still_sending*, hear it out a little.

        Closing with unread bytes would reset the connection, and our answer with it.
        """
        try:
            with suppress(ConnectionLost, OSError), trio.move_on_after(LINGER_S):
                self._say_goodbye()
                await self.drain()
                self.sock.shutdown(socket.SHUT_WR)
                left = LINGER_LEN if is_still_sending else 0
                while left > 0:
                    await trio.lowlevel.wait_readable(self.sock)
                    heard = len(self.sock.recv(RECV_LEN))
                    left = left - heard if heard else 0
        finally:
            self.close()

    def _say_goodbye(self) -> None:
        if self._tls is not None:
            # It asks for the other side's goodbye, which nobody waits for.
            with suppress(ssl.SSLError):
                self._tls.unwrap()


_thread = threading.local()


def _scratch() -> memoryview:
    """Return where this thread puts what comes from a socket, until TLS has taken it."""
    found: memoryview | None = getattr(_thread, "scratch", None)
    if found is None:
        found = _thread.scratch = memoryview(bytearray(RECV_LEN))
    return found


def lost(exc: Exception) -> ConnectionLost:
    """Return the exception in our terms; OpenSSL's have a reason, the others a number."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return ConnectionLost(f"its certificate was refused: {exc.verify_message}")
    if isinstance(exc, ssl.SSLError):
        reason = (exc.reason or str(exc)).lower().replace("_", " ")
        return ConnectionLost(f"no TLS with it: {reason}")
    strerror = exc.strerror if isinstance(exc, OSError) else None
    return ConnectionLost(strerror or str(exc))
