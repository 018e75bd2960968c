"""Sockets to listen on: given by address, or handed over by systemd; and telling it so.

The protocols are plain environment variables: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from coopfs.errors import CoopfsError, UsageError

BACKLOG: Final = 128
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_HOST_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.%a-z]+)\]|(?P<host>[^:\[\]/]*)):(?P<port>[0-9]{1,5})"
)


class Purpose(Enum):
    """What is spoken on a listening socket; the value is its name for systemd."""

    PARTNERS = "coopfs"  # TLS, pinned keys at both ends
    RESTIC = "restic"  # TLS with a certificate that names a host
    LOCAL = "http"  # plain HTTP and tokens, on this machine
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket and what it is for."""

    sock: socket.socket
    purpose: Purpose

    @property
    def address(self) -> str:
        """Where it listens, as one writes it."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{os.fsdecode(name)}"
        return (
            f"[{name[0]}]:{name[1]}"
            if self.sock.family == socket.AF_INET6
            else (f"{name[0]}:{name[1]}")
        )


def listen(address: str, purpose: Purpose) -> list[Listener]:
    """Listen on *address*: HOST:PORT, [IPV6]:PORT, :PORT for all, or unix:PATH.

    A name listens on all its addresses.  Without TLS only this machine may connect.

    Raises:
        UsageError: no address, or one that others can reach, for what is not theirs.
        CoopfsError: it cannot be listened on.
    """
    if address.startswith("unix:"):
        return [Listener(_listen_unix(address.removeprefix("unix:"), purpose), purpose)]
    match = _HOST_PORT.fullmatch(address)
    if match is None or int(match["port"]) > 0xFFFF:
        raise UsageError(f"{address!r}: expected HOST:PORT, [IPV6]:PORT or unix:PATH to listen on")
    host, port = match["v6"] or match["host"] or None, int(match["port"])
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as exc:
        raise CoopfsError(f"{address}: no address of this machine: {exc.strerror}") from exc
    listeners: list[Listener] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            _check_is_local(str(where[0]), address, purpose)
            if port == 0 and listeners:
                continue  # any port means one port
            listeners.append(Listener(_listen_tcp(family, where, address), purpose))
    except BaseException:
        for listener in listeners:
            listener.sock.close()
        raise
    return listeners


def inherited(environ: MutableMapping[str, str]) -> list[Listener]:
    """Return the sockets systemd hands over; names that are not a purpose's are for partners.

    Raises:
        CoopfsError: what is handed over does not listen.
    """
    count = int(environ.pop("LISTEN_FDS", "0"))
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if int(environ.pop("LISTEN_PID", "0")) != os.getpid():
        return []
    purposes = {purpose.value: purpose for purpose in Purpose}
    listeners = []
    for number in range(count):
        fd = _FIRST_FD + number
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise CoopfsError(f"socket {fd}, handed over by systemd, does not listen")
        sock.setblocking(False)
        name = names[number] if number < len(names) else ""
        purpose = purposes.get(name, Purpose.PARTNERS)
        if sock.family != socket.AF_UNIX:
            where = str(sock.getsockname()[0])
            _check_is_local(where, where, purpose)
        listeners.append(Listener(sock, purpose))
    return listeners


def notify(message: str) -> None:
    """Tell systemd, if it wants to know."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect("\0" + path[1:] if path.startswith("@") else path)
        sock.send(message.encode())


def _check_is_local(where: str, address: str, purpose: Purpose) -> None:
    if purpose in (Purpose.PARTNERS, Purpose.RESTIC):
        return
    if not ipaddress.ip_address(where.partition("%")[0]).is_loopback:
        raise UsageError(
            f"{address}: other machines could connect here without TLS; "
            "expected an address of this machine alone, such as 127.0.0.1 or unix:PATH"
        )


def _listen_tcp(
    family: int,
    where: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
    address: str,
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise CoopfsError(f"{address}: cannot be listened on: {exc.strerror}") from exc
    return sock


def _listen_unix(path: str, purpose: Purpose) -> socket.socket:
    if not path or purpose in (Purpose.PARTNERS, Purpose.RESTIC):
        raise UsageError(f"unix:{path}: partners come from elsewhere; expected HOST:PORT")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead_socket(path)
        before = os.umask(0o177)  # between bind() and chmod() anybody could connect
        try:
            sock.bind(path)
        finally:
            os.umask(before)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise CoopfsError(f"unix:{path}: cannot be listened on: {exc.strerror}") from exc
    return sock


def _remove_dead_socket(path: str) -> None:
    """Remove a socket that nobody listens on any more; anything else stays."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
