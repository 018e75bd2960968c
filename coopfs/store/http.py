"""HTTP to one server: a pool of connections, and what its failures mean.

Owns the only use of urllib3 and the translation of its errors: none leaves this
module.  Knows neither objects nor the restic protocol; one request here is one round
trip, made once (retries: ``store/retry.py``).  Times out on silence and on trickles
(``store/paced.py``), never on length.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from coopfs import __version__
from coopfs.errors import ConfigError
from coopfs.store.base import Payload, pieces_of
from coopfs.store.httperrors import transport_error
from coopfs.store.httpreply import FOREIGN, Reply
from coopfs.store.httpreply import Answer as Answer
from coopfs.store.line import FREE_LINE, Line, Pace
from coopfs.store.paced import PacedSocket
from coopfs.store.retry import Patience
from coopfs.store.tlsline import LineContext, TlsLine

CONNECTIONS: Final = 8  # requests in flight to one server; more threads wait their turn
CONNECT_TIMEOUT_S: Final = 10.0
# Silence for so long is a dead line.  A server that fsyncs a pack onto a sleeping disk
# needs half of it.
STALL_S: Final = 60.0
# Bytes handed to the socket at once: a socket's timeout covers the whole of one call, and
# this much must pass in STALL_S even when eight uploads share a slow line (140 kbit/s).
SLICE_LEN: Final = 128 << 10
_OPTIONS: Final[list[tuple[int, int, int | bytes]]] = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),  # an idle mount outlives a router's memory
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    # A unix socket's, in place of host and port; with https one that hands connections out.
    socket_path: str | None = None


def stall_s(patience: Patience) -> float:
    """Return how long a server may be silent for a client of that *patience*."""
    return min(STALL_S, patience.read_s) if patience.read_s else STALL_S


@dataclass(frozen=True, slots=True)
class Trust:
    """By what a server is recognised, and what we show it; https only."""

    context: ssl.SSLContext
    pin: str | None = None  # SHA-256 of its certificate's DER in hex; None: the context decides


def public_trust(
    ca_file: str | None = None, new_context: Callable[[int], ssl.SSLContext] = LineContext
) -> Trust:
    """Trust what the authorities in *ca_file* (PEM), or the system's, vouch for.

    *new_context* is another class of contexts for who needs an ssl.SSLSocket (ftplib).

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        context = new_context(ssl.PROTOCOL_TLS_CLIENT)  # as ssl.create_default_context() does
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_file)
        return Trust(context)
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"{ca_file}: cannot be used as certificates to trust: {exc.strerror or exc}"
        ) from exc


def pin_trust(pin: str, new_context: Callable[[int], ssl.SSLContext] = LineContext) -> Trust:
    """Trust exactly the certificate whose DER has this SHA-256 (64 hex digits)."""
    context = new_context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # urllib3 compares the pin before it sends a byte
    return Trust(context, pin)


def certificate_trust(cert_pem: str, pin: str) -> Trust:
    """Trust exactly the self-signed certificate *cert_pem*, whose pin is *pin*; TLS 1.3.

    For partners, who know each other's certificate: an impostor does not even get to
    see ours, which the caller may load into the context.
    """
    context = LineContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is known, its name says nothing
    context.load_verify_locations(cadata=cert_pem)
    return Trust(context, pin)


class Requests(Protocol):
    """Who makes the requests: an :class:`HttpPool`, or what starts a server first."""

    line: Line  # at whose pace bodies move

    def request(
        self,
        method: str,
        path: str,
        label: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Payload | None = None,
    ) -> Answer:
        """See :meth:`HttpPool.request`."""

    def close(self) -> None:
        """See :meth:`HttpPool.close`."""


class HttpPool:
    """Connections to one server, made when needed and kept; for any number of threads."""

    def __init__(
        self,
        endpoint: Endpoint,
        where: str,
        *,
        trust: Trust | None = None,
        headers: Mapping[str, str] | None = None,
        stall_s: float = STALL_S,
    ) -> None:
        """*where* names the server in messages; *headers* go with every request."""
        self.where = where
        self.line = FREE_LINE
        self._headers = {
            "Host": _host_of(endpoint),
            "Accept-Encoding": "identity",
            "User-Agent": f"coopfs/{__version__}",
            **(headers or {}),
        }
        self._stall_s = stall_s
        self._pool = _make_pool(endpoint, trust, min(CONNECT_TIMEOUT_S, stall_s))

    def request(
        self,
        method: str,
        path: str,
        label: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Payload | None = None,
    ) -> Answer:
        """Make one request and return the answer, whatever its status, to be closed.

        *path* is quoted already; *label* says in messages what it was about.

        Raises:
            StoreUnavailable: no route, refused, timed out, cut off, or the pool is closed.
            StoreIdentity: another certificate than the trusted one; nothing was sent.
            StoreDenied: the server does not accept our certificate.
            NotAStore: what answers speaks no HTTP.
        """
        sent = {**self._headers, **(headers or {})}
        pieces: Sequence[memoryview] = ()
        if body is not None:
            pieces = pieces_of(body)
            sent["Content-Length"] = str(sum(map(len, pieces)))
        try:
            connection = self._pool._get_conn()
            try:
                reply = self._ask(connection, _head(method, path, sent), method, pieces)
            except BaseException:
                self._give_back(connection, False)
                raise
        except FOREIGN as exc:
            raise transport_error(exc, label, self.where) from exc
        give_back = partial(self._give_back, connection)
        return Answer(reply, label, self.where, give_back, self.line.down)

    def _ask(
        self, connection: Any, head: bytes, method: str, pieces: Iterable[memoryview]
    ) -> Reply:
        # urllib3 makes and keeps the connections.  Its way of making requests, and
        # http.client's, costs a small read twice what all of the rest does.
        sock: Any = connection.sock
        if sock is None:
            connection.connect()
            sock = connection.sock
            sock.settimeout(self._stall_s)
        is_sent = False
        # Refused in the middle (no room, say): the reason lies in what we can still read.
        with suppress(ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            sock.sendall(head)
            for piece in _slices(pieces, self.line.up):
                sock.sendall(piece)
            is_sent = True
        reply = Reply(sock, method=method)
        try:
            reply.begin()
        except BaseException:
            reply.close()
            raise
        if not is_sent:
            reply.will_close = True
        return reply

    def _give_back(self, connection: Any, is_good: bool) -> None:
        if not is_good:
            connection.close()
        self._pool._put_conn(connection if is_good else None)

    def close(self) -> None:
        """Close what is idle now, and what is busy when it is done.  May be called again."""
        self._pool.close()


def _host_of(endpoint: Endpoint) -> str:
    if endpoint.socket_path is not None:
        return "localhost"
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    default = 443 if endpoint.scheme == "https" else 80
    return host if endpoint.port == default else f"{host}:{endpoint.port}"


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if not all(line.isprintable() for line in lines) or path.count(" "):
        raise ValueError(f"not to be sent as a request: {lines!r}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _slices(pieces: Iterable[memoryview], pace: Pace) -> Iterator[memoryview]:
    for piece in pieces:
        begin = 0
        while begin < len(piece):
            end = begin + pace.piece_len(min(SLICE_LEN, len(piece) - begin))
            yield piece[begin:end]
            pace.passed(end - begin)
            begin = end


# --- connections --------------------------------------------------------------------


def _make_pool(
    endpoint: Endpoint, trust: Trust | None, connect_s: float
) -> urllib3.HTTPConnectionPool:
    timeout = urllib3.Timeout(connect=connect_s)
    common: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True, "timeout": timeout}
    if endpoint.socket_path is not None:
        common |= {"socket_options": [], "socket_path": endpoint.socket_path}
        if trust is None:
            return _UnixPool("localhost", 80, **common)
        return _HandedPool(
            "localhost", 443, ssl_context=trust.context, assert_fingerprint=trust.pin, **common
        )
    common["socket_options"] = _OPTIONS
    if endpoint.scheme == "http":
        return _PlainPool(endpoint.host, endpoint.port, **common)
    trust = public_trust() if trust is None else trust
    return _TlsPool(
        endpoint.host,
        endpoint.port,
        ssl_context=trust.context,
        assert_fingerprint=trust.pin,
        **common,
    )


class _PlainConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return PacedSocket.taking_over(super()._new_conn())


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return PacedSocket.taking_over(super()._new_conn())

    @property
    def is_connected(self) -> bool:
        """See urllib3: whether it can be used again; a goodbye may have come already."""
        has_unread = isinstance(self.sock, TlsLine) and self.sock.has_unread
        return not has_unread and super().is_connected


class _UnixConnection(HTTPConnection):
    def __init__(self, *args: Any, socket_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        return _connect_unix(self._socket_path)


class _HandedConnection(_TlsConnection):
    """TLS over a connection that a server here hands us: server/parked.py."""

    def __init__(self, *args: Any, socket_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        fds: list[int] = []
        with _connect_unix(self._socket_path) as knocking, suppress(TimeoutError):
            _, fds, _, _ = socket.recv_fds(knocking, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            raise ConnectionAbortedError(errno.ECONNABORTED, "no line of the partner's is there")
        sock = PacedSocket(fileno=fds[0])
        sock.settimeout(CONNECT_TIMEOUT_S)
        return sock


def _connect_unix(path: str) -> socket.socket:
    sock = PacedSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    # A socket's name has 107 bytes at most; this way it is short however deep the folder is.
    folder = -1
    try:
        sock.settimeout(CONNECT_TIMEOUT_S)
        folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    except BaseException:
        sock.close()
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    return sock


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _UnixPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _UnixConnection


class _HandedPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _HandedConnection
