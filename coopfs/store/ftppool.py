"""The FTP connections of one store: how many, who has which, and what is still going on.

A transfer that was not read to its end is left open for the range that most likely
follows, and ended when its connection is wanted for something else.
"""

from __future__ import annotations

import posixpath
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from coopfs.errors import (
    CoopfsError,
    ObjectCorrupt,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from coopfs.store.ftpaddress import FtpAddress
from coopfs.store.ftpconnection import FtpConnection, Refused
from coopfs.store.http import Trust

CONNECTIONS_MAX: Final = 4
IDLE_MAX_S: Final = 20.0  # a connection idle for longer is asked whether it is still there
# A transfer left open for the range that follows is trusted for so long: an object
# deleted by another client goes on being read no longer than this.
PARKED_MAX_S: Final = 5.0


class FtpLine:
    """A connection of the pool, and the transfer that may be going on over it."""

    def __init__(self, connection: FtpConnection) -> None:
        self.connection = connection
        self.data: socket.socket | None = None  # the transfer's
        self.path = ""  # what is being received
        self.position = 0  # of the next byte

    def absolute(self, path: str) -> str:
        """Return *path* from the root: a relative one begins at the login's folder."""
        return posixpath.normpath(posixpath.join(self.connection.home, path))

    def receive(self, verb: str, path: str, offset: int = 0) -> socket.socket:
        """Begin a transfer to us (Refused) and return its connection, kept until halted."""
        self.data = self.connection.receive(verb, self.absolute(path), offset)
        self.path, self.position = path, offset
        return self.data

    def finish(self) -> None:
        """End a transfer that has come to its end (Refused: it was cut off)."""
        self._hang_up()
        self.connection.end_transfer()

    def halt(self) -> None:
        """End the transfer, if there is one, wherever it is."""
        if self.data is not None:
            self._hang_up()
            with suppress(Refused):
                self.connection.end_transfer()

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        self.connection.close()

    def _hang_up(self) -> None:
        if self.data is not None:
            self.data.close()
        self.data = None


class FtpPool:
    """At most ``CONNECTIONS_MAX`` of them, for any number of threads."""

    def __init__(self, address: FtpAddress, trust: Trust | None) -> None:
        """Connect when first needed."""
        self._address = address
        self._trust = trust
        self._lock = threading.Condition()  # guards the rest
        self._idle: list[FtpLine] = []  # the most recently used last
        self._lent: set[FtpLine] = set()
        self._count = 0
        self._count_max = CONNECTIONS_MAX
        self._is_closed = False

    def close(self) -> None:
        """Hang up, now or when the request that is going on ends, which it is made to."""
        with self._lock:
            self._is_closed = True
            lines, self._idle = self._idle, []
            lent = [*self._lent]
            self._lock.notify_all()
        for line in lines:
            line.close()
        for line in lent:
            line.connection.cut()  # its thread closes it

    @contextmanager
    def lend(self, label: str, path: str = "", position: int = 0) -> Iterator[FtpLine]:
        """Lend a connection: best the one that receives *path* and is at *position*.

        Without *path* no transfer goes on over it.
        """
        line = self._borrow(path, position)
        is_good = False
        try:
            if not path:
                line.halt()
            yield line
            is_good = True
        except Refused as exc:
            line.halt()
            is_good = True
            raise line.connection.refusal(exc, label) from exc
        except (FileNotFoundError, ObjectCorrupt, StoreDenied, StoreFull):
            line.halt()
            is_good = True
            raise
        finally:
            self._give_back(line, is_good=is_good)

    def _borrow(self, path: str, position: int) -> FtpLine:
        while True:
            line = self._take(path, position)
            if line is not None:
                is_fresh = time.monotonic() - line.connection.used_at_s <= IDLE_MAX_S
                return line if is_fresh else self._still_there(line)
            try:
                return self._connect()
            except (StoreUnavailable, StoreDenied):
                with self._lock:
                    if not self._count:
                        raise
                    self._count_max = self._count  # the server may allow no more: wait for one

    def _take(self, path: str, position: int) -> FtpLine | None:
        """Return an idle line, waiting for it; None: a new one is to be made, and counted."""
        with self._lock:
            while True:
                if self._is_closed:
                    raise StoreUnavailable(f"{self._address.where}: the store has been closed")
                line = self._choose(path, position)
                if line is not None:
                    self._idle.remove(line)
                    self._lent.add(line)
                    return line
                if self._count < self._count_max:
                    self._count += 1
                    return None
                self._lock.wait()

    def _choose(self, path: str, position: int) -> FtpLine | None:
        """Return the idle line that suits best; None: a new one, or wait.  Lock held."""
        now = time.monotonic()
        free, going_on = None, None
        for line in self._idle:
            if line.data is None:
                free = line
            elif now - line.connection.used_at_s > PARKED_MAX_S:
                line.path = ""  # nobody goes on with it
                free = free or line
            elif (line.path, line.position) == (path, position):
                return line
            else:
                going_on = going_on or line
        if free is not None or self._count < self._count_max:
            return free
        return going_on

    def _still_there(self, line: FtpLine) -> FtpLine:
        try:
            line.halt()
            line.connection.command("NOOP")
            return line
        except (CoopfsError, Refused):
            line.close()
            with self._lock:
                self._lent.discard(line)
        return self._connect()

    def _connect(self) -> FtpLine:
        """Return a new line, which has been counted already."""
        line = FtpLine(FtpConnection(self._address, self._trust))
        with self._lock:
            self._lent.add(line)
        try:
            line.connection.open()
        except BaseException:
            with self._lock:
                self._lent.discard(line)
                self._count -= 1
                self._lock.notify()
            raise
        return line

    def _give_back(self, line: FtpLine, *, is_good: bool) -> None:
        surplus = []
        with self._lock:
            self._lent.discard(line)
            if is_good and not self._is_closed:
                self._idle.append(line)
            else:
                # Most likely the others broke with it.
                surplus, self._idle = [line, *self._idle], []
                self._count -= len(surplus)
                self._count_max = CONNECTIONS_MAX
            self._lock.notify_all()
        for each in surplus:
            each.close()

    def forget_transfers(self, path: str) -> None:
        """Go on with no transfer of *path*: it has been deleted."""
        with self._lock:
            for line in self._idle:
                if line.path == path:
                    line.path = ""  # whoever takes it next ends the transfer
