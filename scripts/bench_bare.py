"""Plain clients: the libraries that coopfs's stores use, with nothing around them.

Each puts and reads files at the server of a store, the shortest way its library knows, so
that one run tells how much of what this machine can do a store reaches.  They check, retry
and verify nothing; what they put is as durable as what the store puts, where a client has
a say in it (SFTP's fsync).
"""

from __future__ import annotations

import ftplib
import queue
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import urllib3

from coopfs.store import sftpwire

CONNECTIONS = 8
SFTP_CONNECTIONS = 2  # as the store has at most
SFTP_LEN = 255 << 10  # bytes of one request; OpenSSH's limit
SFTP_WINDOW = 8 << 20  # bytes asked for and not yet come
SLICE_LEN = 128 << 10


class Bare(Protocol):
    """One plain client; for any number of threads."""

    def put(self, name: str, data: bytes) -> None:
        """Put the file *name*, which is not there."""

    def get(self, name: str, offset: int, length: int) -> bytes:
        """Read a part of it."""

    def close(self) -> None:
        """Let go of the connections."""


# --- HTTP ----------------------------------------------------------------------------


class BareHttp:
    """urllib3: one request, one answer."""

    def __init__(
        self,
        pool: urllib3.HTTPConnectionPool,
        put_path: Callable[[str], str],
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._pool, self._path, self._method = pool, put_path, method
        self._headers = headers or {}

    def put(self, name: str, data: bytes) -> None:
        """See Bare."""
        view = memoryview(data)
        slices: Any = (view[at : at + SLICE_LEN] for at in range(0, len(view), SLICE_LEN))
        headers = {"Content-Length": str(len(data)), **self._headers}
        self._ask(self._method, name, headers, slices)

    def get(self, name: str, offset: int, length: int) -> bytes:
        """See Bare."""
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", **self._headers}
        return self._ask("GET", name, headers, None)

    def _ask(self, method: str, name: str, headers: dict[str, str], body: Any) -> bytes:
        answer = self._pool.urlopen(
            method,
            self._path(name),
            body=body,
            headers=headers,
            retries=False,
            preload_content=False,
            decode_content=False,
        )
        data = answer.read(decode_content=False)
        answer.release_conn()
        if not 200 <= answer.status < 300:
            raise OSError(f"{method} {name}: {answer.status} {data[:200]!r}")
        return data

    def close(self) -> None:
        """See Bare."""
        self._pool.close()


def plain_pool(port: int) -> urllib3.HTTPConnectionPool:
    """Return connections to a port of this machine."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    return urllib3.HTTPConnectionPool(
        "127.0.0.1", port, maxsize=CONNECTIONS, block=True, socket_options=options
    )


def tls_pool(port: int, context: ssl.SSLContext) -> urllib3.HTTPSConnectionPool:
    """Return connections with TLS to a port of this machine."""
    return urllib3.HTTPSConnectionPool(
        "127.0.0.1",
        port,
        maxsize=CONNECTIONS,
        block=True,
        ssl_context=context,
        assert_hostname=False,
    )


def client_context(trusted_pem: str) -> ssl.SSLContext:
    """Return a context that trusts this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=trusted_pem)
    return context


def unix_pool(path: str) -> urllib3.HTTPConnectionPool:
    """Return connections to a unix socket."""

    class Connection(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

    class Pool(urllib3.HTTPConnectionPool):
        ConnectionCls = Connection

    return Pool("localhost", 80, maxsize=CONNECTIONS, block=True, socket_options=[])


# --- SFTP ----------------------------------------------------------------------------


class _SftpLine:
    """One ssh and what is said over it; for one thread at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
            )
        self._reader = self._socket.makefile("rb", 1 << 18)
        self._handles: dict[str, bytes] = {}
        self._socket.sendall(sftpwire.init_packet())
        self._reply()

    def _reply(self) -> tuple[int, memoryview]:
        length, op = struct.unpack(">IB", self._reader.read(5))
        return op, memoryview(self._reader.read(length - 1))[4:]

    def _send(self, request: sftpwire.Request) -> None:
        self._socket.sendmsg([request.head(1), *request.payload])

    def _ask(self, request: sftpwire.Request, expected: sftpwire.Op) -> memoryview:
        self._send(request)
        op, body = self._reply()
        if op != expected:
            raise OSError(f"sftp: {bytes(body[:100])!r}")
        return body

    def _opened(self, name: str, flags: sftpwire.OpenFlag) -> bytes:
        body = self._ask(sftpwire.open_file(name, flags, 0o600), sftpwire.Op.HANDLE)
        return sftpwire.parse_handle(bytes(body))

    def put(self, name: str, data: bytes) -> None:
        flags = sftpwire.OpenFlag.WRITE | sftpwire.OpenFlag.CREATE
        handle = self._opened(name, flags)
        view, requests = memoryview(data), []
        for at in range(0, len(data), SFTP_LEN):
            requests.append(sftpwire.write(handle, at, [view[at : at + SFTP_LEN]]))
        requests += [sftpwire.fsync(handle), sftpwire.close(handle)]

        def send() -> None:
            for request in requests:
                pieces = [memoryview(request.head(1)), *request.payload]
                for piece in pieces:
                    self._socket.sendall(piece)

        sender = threading.Thread(target=send)
        sender.start()
        for _ in requests:
            op, body = self._reply()
            if op != sftpwire.Op.STATUS or sftpwire.parse_status(bytes(body))[0]:
                raise OSError(f"sftp: {bytes(body[:100])!r}")
        sender.join()

    def get(self, name: str, offset: int, length: int) -> bytes:
        handle = self._handles.get(name)
        if handle is None:
            handle = self._handles[name] = self._opened(name, sftpwire.OpenFlag.READ)
        starts = range(offset, offset + length, SFTP_LEN)
        for start in starts:
            self._send(sftpwire.read(handle, start, min(SFTP_LEN, offset + length - start)))
        return b"".join([self._reply()[1][4:] for _ in starts])

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


class BareSftp:
    """The system's ssh, requests sent one after the other without waiting for answers."""

    def __init__(self, command: Sequence[str], folder: str) -> None:
        self._lines: queue.SimpleQueue[_SftpLine] = queue.SimpleQueue()
        self._folder = folder
        for _ in range(SFTP_CONNECTIONS):
            self._lines.put(_SftpLine(command))

    def _with_line(self, call: Callable[[_SftpLine], Any]) -> Any:
        line = self._lines.get()
        try:
            return call(line)
        finally:
            self._lines.put(line)

    def put(self, name: str, data: bytes) -> None:
        """See Bare."""
        self._with_line(lambda line: line.put(f"{self._folder}/{name}", data))

    def get(self, name: str, offset: int, length: int) -> bytes:
        """See Bare."""
        got: bytes = self._with_line(
            lambda line: line.get(f"{self._folder}/{name}", offset, length)
        )
        return got

    def close(self) -> None:
        """See Bare."""
        while not self._lines.empty():
            self._lines.get().close()


# --- FTP -----------------------------------------------------------------------------


class _Ftps(ftplib.FTP_TLS):
    def ntransfercmd(self, cmd: str, rest: Any = None) -> Any:
        conn, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321 - TLS follows
        session = self.sock.session  # type: ignore[union-attr]  # vsftpd insists on it
        return self.context.wrap_socket(conn, server_hostname=self.host, session=session), size


class BareFtps:
    """ftplib, a connection for each thread."""

    def __init__(
        self, port: int, user: str, password: str, context: ssl.SSLContext, folder: str
    ) -> None:
        self._login = (user, password)
        self._port, self._context, self._folder = port, context, folder
        self._thread = threading.local()
        self._all: list[_Ftps] = []

    def _line(self) -> _Ftps:
        line: _Ftps | None = getattr(self._thread, "line", None)
        if line is None:
            line = self._thread.line = _Ftps(context=self._context)
            line.connect("127.0.0.1", self._port)
            line.login(*self._login)
            line.prot_p()
            line.cwd(self._folder)
            line.voidcmd("TYPE I")
            self._all.append(line)
        return line

    def put(self, name: str, data: bytes) -> None:
        """See Bare."""
        line = self._line()
        with line.transfercmd(f"STOR {name}") as conn:
            conn.sendall(data)
            conn.unwrap()  # type: ignore[attr-defined]  # it is an SSLSocket
        line.voidresp()

    def get(self, name: str, offset: int, length: int) -> bytes:
        """See Bare."""
        line = self._line()
        buffer = bytearray(length)
        view, filled = memoryview(buffer), 0
        with line.transfercmd(f"RETR {name}", offset) as conn:
            while filled < length:
                got = conn.recv_into(view[filled:])
                if not got:
                    raise EOFError(name)
                filled += got
        # 426: we have closed it in the middle, as there is no other way to stop.
        with suppress(ftplib.Error):
            line.voidresp()
        return bytes(buffer)

    def close(self) -> None:
        """See Bare."""
        for line in self._all:
            line.close()


# --- buckets --------------------------------------------------------------------------


class BareBucket:
    """obstore's functions."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import obstore
        from obstore.store import S3Store

        self._obstore = obstore
        # The rest is in the environment.
        self._store = S3Store(bucket, prefix=prefix, client_options={"allow_http": True})

    def put(self, name: str, data: bytes) -> None:
        """See Bare."""
        self._obstore.put(self._store, name, data, use_multipart=False)

    def get(self, name: str, offset: int, length: int) -> bytes:
        """See Bare."""
        return bytes(self._obstore.get_range(self._store, name, start=offset, length=length))

    def close(self) -> None:
        """See Bare."""
