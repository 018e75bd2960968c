"""A client's socket that gives up on a server which trickles.

A timeout of a socket is one of silence: a byte now and then would hold a request for ever.
Here an answer must also flow, so that every request ends, after a time that depends on how
much it brings.  The server holds slow clients to the same (server/house.py).
"""

from __future__ import annotations

import socket
import time
from typing import Any, Final

SLOW_BYTES_PER_S: Final = 256  # less, over a stretch as long as the timeout, counts as nothing


class PacedSocket(socket.socket):
    """See above; for one request at a time, which begins with whatever is sent."""

    _received = 0  # bytes in this stretch, which begins with the first
    _waited_s = 0.0  # for them; what the client does in between is its own affair

    @classmethod
    def taking_over(cls, sock: socket.socket) -> PacedSocket:
        """Return what *sock* was."""
        timeout = sock.gettimeout()
        paced = cls(fileno=sock.detach())
        paced.settimeout(timeout)
        return paced

    def sendall(self, data: Any, flags: int = 0) -> None:
        """See socket: the timeout is for all of *data*."""
        self._received = 0
        super().sendall(data, flags)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """See socket; besides, TimeoutError: too little has come for as long as the timeout."""
        begun = time.monotonic()
        received = super().recv_into(buffer, nbytes, flags)
        if self._received:
            self._waited_s += time.monotonic() - begun
        else:
            self._waited_s = 0.0
        self._received += received
        stretch_s = self.gettimeout()
        if stretch_s and self._waited_s >= stretch_s:
            if self._received < SLOW_BYTES_PER_S * stretch_s:
                raise TimeoutError(f"{self._received} bytes in {stretch_s:.0f} s")
            self._received = 0
        return received
