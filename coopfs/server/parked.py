"""Lines that a partner whom nobody reaches has dialled to us, and who gets to use them.

They wait here until a client of ours knocks at ``ROOT/partners/NAME/dial.sock``, which is
given the line itself: its descriptor (``SCM_RIGHTS``, unix(7)).  Our TLS with the partner's
server has ended by then, and client and partner speak TLS with each other; what they say
does not pass through here.  The other end: :mod:`coopfs.server.dialling`.
"""

from __future__ import annotations

import logging
import os
import socket
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import trio

from coopfs.server.dialling import GO, keep_alive
from coopfs.server.settings import partner_folder
from coopfs.server.wire import ConnectionLost, Wire

SOCKET_FILE: Final = "dial.sock"
WAITING_MAX: Final = 16  # lines of one partner; more are hung up
KNOCK_S: Final = 20.0  # a client waits so long for a line; each that is used is replaced soon
# A line whose other end does not answer in so long is dead, though nobody has noticed.
GO_S: Final = 5.0
_log = logging.getLogger("coopfs.serve")


@dataclass(eq=False)
class _Line:
    wire: Wire
    is_taken: bool = False
    taken: trio.Event = field(default_factory=trio.Event)
    free: trio.Event = field(default_factory=trio.Event)  # nobody watches it any more
    done: trio.Event = field(default_factory=trio.Event)


@dataclass(eq=False)
class _Partner:
    lines: deque[_Line] = field(default_factory=deque)  # waiting
    came: trio.Event = field(default_factory=trio.Event)  # set and replaced when one comes
    is_starting: bool = False
    listening: trio.CancelScope | None = None


class ParkedLines:
    """The waiting lines of all partners; of one event loop."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        """*nursery* runs the sockets at which clients knock, and what they then say."""
        self._root = root
        self._nursery = nursery
        self._partners: dict[str, _Partner] = {}

    async def park(self, name: str, wire: Wire) -> None:
        """Keep a line of the partner *name* until it was given away or is lost; closes *wire*."""
        partner = self._partners.setdefault(name, _Partner())
        await self._see_to_socket(name, partner)
        line = _Line(wire)
        try:
            if len(partner.lines) >= WAITING_MAX:
                return
            keep_alive(wire.sock)
            partner.lines.append(line)
            partner.came.set()
            partner.came = trio.Event()
            await self._wait(line)
            line.free.set()
            if line.is_taken:
                await line.done.wait()
        finally:
            with suppress(ValueError):
                partner.lines.remove(line)
            if wire.sock.fileno() >= 0:
                trio.lowlevel.notify_closing(wire.sock)  # whoever gives it away may wait there
            wire.close()

    async def _see_to_socket(self, name: str, partner: _Partner) -> None:
        """Listen for clients unless that is done already."""
        # Missing as well when the partner was removed meanwhile, folder and all, and made anew.
        path = partner_folder(self._root, name) / SOCKET_FILE
        is_there = await trio.to_thread.run_sync(os.path.lexists, path)
        if partner.is_starting or (is_there and partner.listening is not None):
            return
        if partner.listening is not None:
            partner.listening.cancel()
        partner.is_starting = True
        try:
            await self._nursery.start(self._listen, path, partner)
        finally:
            partner.is_starting = False

    async def _wait(self, line: _Line) -> None:
        """Return once the line is taken, or not fit to be."""

        async def watch() -> None:
            # It has nothing to say before it is used: whatever comes is its end.
            try:
                while line.wire.read_into(memoryview(bytearray(1))) is None:
                    await trio.lowlevel.wait_readable(line.wire.sock)
            except ConnectionLost:
                pass
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await line.taken.wait()
            nursery.cancel_scope.cancel()

    async def _listen(
        self, path: Path, partner: _Partner, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            listener = await trio.to_thread.run_sync(_listen_at, path)
        except OSError as exc:
            _log.error("%s: cannot listen there: %s", path, exc.strerror or exc)
            task_status.started()
            return
        with trio.CancelScope() as partner.listening:
            task_status.started()
            await trio.serve_listeners(
                partial(self._knock, partner),
                [trio.SocketListener(trio.socket.from_stdlib_socket(listener))],
            )

    async def _knock(self, partner: _Partner, client: trio.SocketStream) -> None:
        """Give a client a line, or hang up when none comes."""
        async with client:
            with trio.move_on_after(KNOCK_S):
                line = await _take_line(partner)
                try:
                    rights = array("i", [line.wire.sock.fileno()])
                    await client.socket.sendmsg(
                        [GO], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    )
                except OSError as exc:
                    _log.debug("a client has not waited for its line: %s", exc)
                finally:
                    line.done.set()


async def _take_line(partner: _Partner) -> _Line:
    """Return a waiting line that its other end has let go of, as soon as there is one.

    The caller sets ``done`` once it needs the line's socket no more.
    """
    while True:
        while not partner.lines:
            await partner.came.wait()
        line = partner.lines.popleft()
        line.is_taken = True  # before any checkpoint: nobody else gets it
        line.taken.set()
        try:
            await line.free.wait()  # two tasks cannot wait for one socket
            with trio.fail_after(GO_S):
                await line.wire.send_all(GO)
                await line.wire.shed(is_first=True)
        except (ConnectionLost, trio.ClosedResourceError, trio.TooSlowError) as exc:
            _log.info("a dialled line was of no use: %s", str(exc) or "its other end is silent")
            line.done.set()
        except BaseException:
            line.done.set()
            raise
        else:
            return line


def _listen_at(path: Path) -> socket.socket:
    # It gets its name, in place of one of a server that was killed, once it listens: a client
    # that finds it in between would be refused.
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A socket's name has 107 bytes at most; this one is short however deep the folder is.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{part.name}")
        # Connecting takes the right to write; the folder lets in nobody else anyway.
        part.chmod(0o600)
        listener.listen(64)
        part.replace(path)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener
