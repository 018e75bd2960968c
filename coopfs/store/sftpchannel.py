"""One conversation with an SFTP server: many requests in flight, from any thread.

Owns the two ends of the pipe to ssh.  There is no thread of its own: of those who wait
for a reply one reads for all (a hop between threads costs as much as a short read), and
whoever cannot send reads too, so the two sides never wait for each other's full pipes.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from coopfs.errors import CoopfsError, StoreError, StoreUnavailable
from coopfs.store import sftpwire as wire
from coopfs.store.sftpwire import Op, Request, WireError
from coopfs.store.sshchild import SshChild, SshTarget

# Seconds without a byte from the other side while an answer is due.  A dead line is
# noticed by ssh much earlier; this is for a server that hangs, or syncs for very long.
ANSWER_TIMEOUT_S: Final = 100
START_TIMEOUT_S: Final = 30  # until the server's first words
START_ASKING_TIMEOUT_S: Final = 300  # somebody may be looking for the passphrase
_READ_LEN: Final = 32 << 10  # bytes read at once; what follows of a longer reply goes straight
_BUFFER_LEN: Final = wire.PACKET_LEN_MAX + _READ_LEN
_PIECES_MAX: Final = 512  # of one sendmsg(); IOV_MAX is 1024
_TURN_S: Final = 0.05  # seconds after which a sender looks whether somebody still reads

_REPLY: Final = struct.Struct(">IBI")
_DATA_HEAD: Final = 13  # bytes of a DATA reply before the data


class Pending:
    """A request that was sent; belongs to the channel until it is finished."""

    __slots__ = ("body", "data_len", "error", "into", "is_done", "op")

    def __init__(self, into: memoryview | None) -> None:
        self.into = into  # where DATA goes; None: none is expected
        self.is_done = False
        self.op: int = Op.STATUS
        self.body = b""  # of the reply, after the id; of DATA nothing
        self.data_len = 0
        self.error: CoopfsError | None = None


class SftpChannel:
    """See above.  Once anything goes wrong with the line every call raises, for good."""

    def __init__(self, target: SshTarget, *, may_ask: bool) -> None:
        """Connect and greet; may ask for a passphrase on the terminal with *may_ask*.

        Raises:
            StoreIdentity, StoreDenied, StoreUnavailable: see ``sshchild.explain``.
            StoreError: ssh cannot be started, or no SFTP server answers.
        """
        self.where = target.where
        self._child = SshChild(target, may_ask=may_ask)
        self._socket = self._child.socket
        self._lock = threading.Lock()  # guards the next six and every Pending
        self._pending: dict[int, Pending] = {}
        self._waiting: dict[Pending, threading.Condition] = {}
        self._is_reading = False  # somebody has the reader's role
        self._users = 0  # threads that may be using the socket
        self._error: CoopfsError | None = None
        self._next_id = 0
        self._send_lock = threading.Lock()
        # The reader's own: bytes from _start to _end have come but are not understood yet.
        self._buffer = memoryview(bytearray(_BUFFER_LEN))
        self._start = self._end = 0
        try:
            self.extensions = self._greet(START_ASKING_TIMEOUT_S if may_ask else START_TIMEOUT_S)
            self._set_timeout(ANSWER_TIMEOUT_S)
        except BaseException:
            self._child.close()
            self._socket.close()
            raise

    @property
    def pid(self) -> int:
        """The ssh process."""
        return self._child.pid

    @property
    def is_usable(self) -> bool:
        """Whether nothing has gone wrong so far."""
        return self._error is None and self._child.is_running

    def close(self) -> None:
        """End the conversation; whoever waits for a reply gets StoreUnavailable."""
        self._fail(StoreUnavailable(f"{self.where}: the connection was closed"))

    # --- asking -------------------------------------------------------------------

    def send(
        self, requests: Sequence[Request], into: Sequence[memoryview | None] | None = None
    ) -> list[Pending]:
        """Send *requests* in this order, DATA to be put into the views of *into*.

        Each must be finished with :meth:`finish`, or its reply is dropped when it comes.

        Raises:
            StoreError: the line is gone, or what came over it is no SFTP.
        """
        sent: list[Pending] = []
        pieces: list[memoryview] = []
        with self._lock:
            self._raise_if_broken()
            for number, request in enumerate(requests):
                pending = Pending(None if into is None else into[number])
                self._next_id = (self._next_id + 1) & 0xFFFFFFFF
                self._pending[self._next_id] = pending
                sent.append(pending)
                pieces.append(memoryview(request.head(self._next_id)))
                pieces.extend(piece for piece in request.payload if piece)
        with self._using(), self._send_lock:
            self._send_pieces(pieces)
        return sent

    def finish(self, pending: Pending) -> Pending:
        """Wait for the reply and return *pending*, which has it now.

        Raises:
            StoreError: as :meth:`send`.
        """
        while not pending.is_done:
            with self._lock:
                if not self._may_read_now(pending):
                    continue
            try:
                with self._using():
                    while not pending.is_done:
                        self._read_reply()
            finally:
                self._give_up_reading()
        if pending.error is not None:
            raise _again(pending.error)
        return pending

    def ask(self, request: Request) -> Pending:
        """Send one request and wait for its reply."""
        return self.finish(self.send([request])[0])

    def _may_read_now(self, pending: Pending) -> bool:
        """Take the reader's role or wait until woken; lock held."""
        if pending.is_done:
            return False
        if not self._is_reading:
            self._is_reading = True
            return True
        turn = self._waiting[pending] = threading.Condition(self._lock)
        try:
            turn.wait()
        finally:
            del self._waiting[pending]
        return False

    def _give_up_reading(self) -> None:
        with self._lock:
            self._is_reading = False
            # One is enough, it reads for the others; whose reply is there will not read.
            for pending, turn in self._waiting.items():
                if not pending.is_done:
                    turn.notify()
                    break

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Turn whatever goes wrong at the socket within into the end of the conversation."""
        with self._lock:
            self._raise_if_broken()
            self._users += 1
        try:
            yield
        except OSError as exc:
            raise self._line_broke(exc) from exc
        except WireError as exc:
            raise self._nonsense(str(exc)) from exc
        except CoopfsError:
            raise
        except BaseException:
            # Half a packet may have gone out or come in: nothing after it would make sense.
            self.close()
            raise
        finally:
            with self._lock:
                self._users -= 1
                self._let_go()

    def _let_go(self) -> None:
        """Close the socket once it is of no use and nobody's; lock held."""
        if self._error is not None and not self._users:
            self._socket.close()

    # --- sending ------------------------------------------------------------------

    def _send_pieces(self, pieces: Sequence[memoryview]) -> None:
        first = 0
        rest = list(pieces[:_PIECES_MAX])
        while rest:
            try:
                sent = self._socket.sendmsg(rest, (), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._wait_to_send()
                continue
            done = 0
            while done < len(rest) and sent >= len(rest[done]):
                sent -= len(rest[done])
                done += 1
            first += done
            rest = list(pieces[first : first + _PIECES_MAX]) if done else rest
            if sent:
                rest[0] = rest[0][sent:]

    def _wait_to_send(self) -> None:
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        poll = select.poll()
        while True:
            with self._lock:
                self._raise_if_broken()
                has_role = not self._is_reading
                if has_role:
                    self._is_reading = True
            try:
                wanted = select.POLLOUT | (select.POLLIN if has_role else 0)
                poll.register(self._socket, wanted)
                events = poll.poll(_TURN_S * 1000)
                if has_role and any(event & select.POLLIN for _, event in events):
                    self._read_reply()
            finally:
                if has_role:
                    self._give_up_reading()
            if any(event & ~select.POLLIN for _, event in events):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"it took nothing for {ANSWER_TIMEOUT_S} s")

    # --- reading: only with the reader's role ----------------------------------------

    def _read_reply(self) -> None:
        """Read one reply and hand it to whom it belongs."""
        self._need(_REPLY.size)
        length, op, request_id = _REPLY.unpack_from(self._buffer, self._start)
        if not 5 <= length <= wire.PACKET_LEN_MAX:
            raise WireError("a packet of impossible length")
        with self._lock:
            self._raise_if_broken()  # by another thread: then nothing is asked any more
            pending = self._pending.get(request_id)
        if pending is None:
            raise WireError(f"an answer to nothing that was asked ({request_id})")
        if op == Op.DATA and pending.into is not None:
            self._read_data(pending, length)
        else:
            self._need(4 + length)
            body = self._buffer[self._start + _REPLY.size : self._start + 4 + length]
            pending.body = bytes(body)
            self._start += 4 + length
        with self._lock:
            if self._pending.pop(request_id, None) is None:
                return  # the conversation was ended meanwhile, and so was this request
            pending.op = op
            pending.is_done = True
            if turn := self._waiting.get(pending):
                turn.notify()

    def _read_data(self, pending: Pending, length: int) -> None:
        self._need(_DATA_HEAD)
        (data_len,) = struct.unpack_from(">I", self._buffer, self._start + _REPLY.size)
        into = pending.into
        if into is None or length != data_len + _DATA_HEAD - 4 or data_len > len(into):
            raise WireError("more data than was asked for")
        self._start += _DATA_HEAD
        here = min(self._end - self._start, data_len)
        into[:here] = self._buffer[self._start : self._start + here]
        self._start += here
        while here < data_len:
            # Straight to where it belongs, in one call for all of it.
            got = self._socket.recv_into(into[here:data_len], 0, socket.MSG_WAITALL)
            if not got:
                raise ConnectionResetError("it ended in the middle of an answer")
            here += got
        pending.data_len = data_len

    def _need(self, length: int) -> None:
        """Have *length* bytes in the buffer."""
        if self._start + length > len(self._buffer) or self._start == self._end:
            left = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(left)] = left
            self._start, self._end = 0, len(left)
        while self._end - self._start < length:
            wanted = max(length - (self._end - self._start), _READ_LEN)
            got = self._socket.recv_into(self._buffer[self._end : self._end + wanted])
            if not got:
                raise ConnectionResetError("it was ended")
            self._end += got

    # --- beginning and end -----------------------------------------------------------

    def _set_timeout(self, seconds: int) -> None:
        value = struct.pack("@ll", seconds, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)

    def _greet(self, timeout_s: int) -> dict[str, bytes]:
        self._set_timeout(timeout_s)
        try:
            self._socket.sendall(wire.init_packet())
            self._need(5)
            length, op = struct.unpack_from(">IB", self._buffer, self._start)
            if not 5 <= length <= wire.PACKET_LEN_MAX or op != Op.VERSION:
                raise WireError("no greeting")
            self._need(4 + length)
            body = bytes(self._buffer[self._start + 5 : self._start + 4 + length])
            self._start += 4 + length
            return wire.parse_version(body)
        except BlockingIOError as exc:
            self._child.close()  # so that nothing more is waited for
            what = f"did not answer within {timeout_s} s"
            raise self._child.complaint(what, is_passing=True) from exc
        except OSError as exc:
            raise self._child.complaint("no connection") from exc
        except WireError as exc:
            raise self._nonsense(str(exc)) from exc

    def _line_broke(self, exc: OSError) -> CoopfsError:
        with self._lock:
            if self._error is not None:
                return _again(self._error)
        what = "the connection broke"
        if isinstance(exc, BlockingIOError | TimeoutError):
            self._child.close()
            what = f"no answer for {ANSWER_TIMEOUT_S} s"
        return self._fail(self._child.complaint(what, is_passing=True))

    def _nonsense(self, what: str) -> CoopfsError:
        start = ascii(bytes(self._buffer[self._start : self._end][:60]))
        return self._fail(
            StoreError(
                f"{self.where}: what answers is no SFTP server: {what}; it sent {start}; does the "
                f"login there print something (.bashrc)?"
            )
        )

    def _raise_if_broken(self) -> None:
        if self._error is not None:
            raise _again(self._error)

    def _fail(self, error: CoopfsError) -> CoopfsError:
        with self._lock:
            if self._error is None:
                self._error = error
            for pending in self._pending.values():
                pending.error = self._error
                pending.is_done = True
                if turn := self._waiting.get(pending):
                    turn.notify()
            self._pending.clear()
        self._child.close()
        with self._lock:
            self._let_go()
        return error


def _again(error: CoopfsError) -> CoopfsError:
    """Return *error* for another thread to raise: each needs a traceback of its own."""
    return type(error)(*error.args)
