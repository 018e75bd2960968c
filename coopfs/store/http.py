"""HTTP to one server: a pool of connections, and what its failures mean.

Owns the only use of urllib3 and the translation of its errors: none leaves this
module.  Knows neither objects nor the restic protocol; one request here is one round
trip, made once (retries: ``store/retry.py``).  Times out on silence, never on length.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from coopfs import __version__
from coopfs.errors import ConfigError, StoreError
from coopfs.store.base import Payload, pieces_of
from coopfs.store.httperrors import transport_error
from coopfs.store.line import FREE_LINE, Line, Pace
from coopfs.store.retry import Patience

CONNECTIONS: Final = 8  # requests in flight to one server; more threads wait their turn
CONNECT_TIMEOUT_S: Final = 10.0
# Silence for so long is a dead line.  A server that fsyncs a pack onto a sleeping disk
# needs half of it.
STALL_S: Final = 60.0
# Bytes handed to the socket at once: a socket's timeout covers the whole of one call, and
# this much must pass in STALL_S even when eight uploads share a slow line (140 kbit/s).
SLICE_LEN: Final = 128 << 10
DRAIN_MAX: Final = 64 << 10  # bytes; more of an unwanted answer costs more than a new connection
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
    socket_path: str | None = None  # a unix socket's, in place of host and port


def stall_s(patience: Patience) -> float:
    """Return how long a server may be silent for a client of that *patience*."""
    return min(STALL_S, patience.read_s) if patience.read_s else STALL_S


@dataclass(frozen=True, slots=True)
class Trust:
    """By what a server is recognised, and what we show it; https only."""

    context: ssl.SSLContext
    pin: str | None = None  # SHA-256 of its certificate's DER in hex; None: the context decides


def public_trust(ca_file: str | None = None) -> Trust:
    """Trust what the authorities in *ca_file* (PEM), or the system's, vouch for.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        return Trust(ssl.create_default_context(cafile=ca_file))
    except OSError as exc:  # ssl.SSLError is one
        raise ConfigError(
            f"{ca_file}: cannot be used as certificates to trust: {exc.strerror or exc}"
        ) from exc


def pin_trust(pin: str) -> Trust:
    """Trust exactly the certificate whose DER has this SHA-256 (64 hex digits)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # urllib3 compares the pin before it sends a byte
    return Trust(context, pin)


def certificate_trust(cert_pem: str, pin: str) -> Trust:
    """Trust exactly the self-signed certificate *cert_pem*, whose pin is *pin*; TLS 1.3.

    For partners, who know each other's certificate: an impostor does not even get to
    see ours, which the caller may load into the context.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is known, its name says nothing
    context.load_verify_locations(cadata=cert_pem)
    return Trust(context, pin)


# What urllib3, http.client and the socket raise; TLS errors are OSErrors.
_FOREIGN: Final = (HTTPError, HTTPException, OSError)


class Answer:
    """What the server said; its body may be read once, before it is closed."""

    def __init__(
        self,
        response: urllib3.BaseHTTPResponse,
        label: str,
        where: str,
        pace: Pace = FREE_LINE.down,
    ) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response
        self._label = label
        self._where = where
        self._pace = pace

    @property
    def body_len(self) -> int | None:
        """The length of the body in bytes if the server told it."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read_exactly(self, length: int) -> bytes:
        """Return the whole body, which the caller knows to have *length* bytes.

        Raises:
            StoreUnavailable: it was cut off.
            StoreError: the server announced, or sent, another length.
        """
        if self.body_len is None:  # sent in pieces, by a proxy perhaps
            found = self.read_up_to(length + 1)
        elif self.body_len == length:
            if self._pace.piece_len(length) < length:
                found = self.read_up_to(length)
            else:
                found = self._read_at_once()
        else:
            raise self._another_length(length, self.body_len)
        if len(found) != length:
            raise self._another_length(length, len(found))
        return found

    def _read_at_once(self) -> bytes:
        try:
            found = self._response.read(decode_content=False)  # without a copy
        except _FOREIGN as exc:
            raise transport_error(exc, self._label, self._where) from exc
        self._pace.passed(len(found))
        return found

    def _another_length(self, expected: int, found: int) -> StoreError:
        return StoreError(
            f"{self._label} at {self._where}: expected an answer of {expected} bytes, "
            f"the server sent {found}"
        )

    def read_up_to(self, limit: int) -> bytes:
        """Return the body, or its first *limit* bytes if it is longer (StoreUnavailable)."""
        parts: list[bytes] = []
        left = limit
        try:
            while left > 0 and (part := self._read_part(left)):
                parts.append(part)
                left -= len(part)
                self._pace.passed(len(part))
        except _FOREIGN as exc:
            raise transport_error(exc, self._label, self._where) from exc
        return b"".join(parts)

    def _read_part(self, wanted: int) -> bytes:
        return self._response.read(self._pace.piece_len(wanted), decode_content=False)

    def close(self) -> None:
        """Give the connection back, or close it when too much of the answer is left."""
        response = self._response
        if not response.closed:
            left = response.length_remaining
            with suppress(*_FOREIGN):
                if left is not None and left <= DRAIN_MAX:
                    response.drain_conn()
            response.close()
        response.release_conn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


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
        self._headers = {"User-Agent": f"coopfs/{__version__}", **(headers or {})}
        self._timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, stall_s), read=stall_s)
        self._pool = _make_pool(endpoint, trust)

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
            response = self._pool.urlopen(
                method,
                path,
                body=None if body is None else _slices(pieces, self.line.up),
                headers=sent,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                timeout=self._timeout,
            )
        except _FOREIGN as exc:
            raise transport_error(exc, label, self.where) from exc
        return Answer(response, label, self.where, self.line.down)

    def close(self) -> None:
        """Close what is idle now, and what is busy when it is done.  May be called again."""
        self._pool.close()


def _slices(pieces: Iterable[memoryview], pace: Pace) -> Iterator[Any]:  # urllib3 types bytes only
    for piece in pieces:
        begin = 0
        while begin < len(piece):
            end = begin + pace.piece_len(min(SLICE_LEN, len(piece) - begin))
            yield piece[begin:end]
            pace.passed(end - begin)
            begin = end


# --- connections --------------------------------------------------------------------


def _make_pool(endpoint: Endpoint, trust: Trust | None) -> urllib3.HTTPConnectionPool:
    common: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True}
    if endpoint.socket_path is not None:
        common |= {"socket_options": [], "socket_path": endpoint.socket_path}
        if trust is None:
            return _UnixPool("localhost", 80, **common)
        return _TlsUnixPool(
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


class _Sending(HTTPConnection):
    """How all of them send: without a hurry, and listening to a server that says no early."""

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        if self.sock.gettimeout() != STALL_S:  # urllib3 leaves the connect timeout on it
            self.sock.settimeout(STALL_S)
        try:
            super().send(data)
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as exc:
            # Refused in the middle (no room, say): the reason lies in what we can still
            # read, and a broken pipe is what makes urllib3 read it.
            raise BrokenPipeError(str(exc)) from exc


class _PlainConnection(_Sending):
    pass


class _TlsConnection(_Sending, HTTPSConnection):
    pass


class _UnixConnection(_Sending):
    def __init__(self, *args: Any, socket_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        return _connect_unix(self._socket_path)


class _TlsUnixConnection(_TlsConnection):
    def __init__(self, *args: Any, socket_path: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        return _connect_unix(self._socket_path)


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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


class _TlsUnixPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsUnixConnection
