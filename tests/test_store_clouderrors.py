"""What obstore says, worded as it words it, becomes the error that fits."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError

from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
)
from coopfs.store.base import Kind
from coopfs.store.cloud import CloudStore
from coopfs.store.clouderrors import translated
from coopfs.store.retry import TIMEOUT_VARIABLE


def answered(status: int, code: str = "", message: str = "") -> str:
    return (
        f"Generic S3 error: Error performing PUT http://host/b/k?sig=hunter2 in 2ms - Server "
        f"returned non-2xx status code: {status} Whatever: <?xml version='1.0'?>\n<Error>"
        f"<Code>{code}</Code><Message>{message}</Message></Error>\n\nDebug source:\nGeneric {{"
    )


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (FileNotFoundError(answered(404, "NoSuchKey")), ObjectNotFound),
        (FileNotFoundError(answered(404, "BlobNotFound")), ObjectNotFound),
        (FileNotFoundError(answered(404, "NoSuchBucket")), NotAStore),
        (FileNotFoundError(answered(404, "ContainerNotFound")), NotAStore),
        (FileNotFoundError("404: The specified bucket does not exist."), NotAStore),
        (PermissionDeniedError(answered(403, "AccessDenied")), StoreDenied),
        (PermissionDeniedError(answered(403, "QuotaExceeded")), StoreFull),
        (PermissionDeniedError(answered(403, "RequestTimeTooSkewed")), StoreDenied),
        (GenericError(answered(401)), StoreDenied),
        (GenericError(answered(507)), StoreFull),
        (GenericError(answered(500, "InternalError")), StoreUnavailable),
        (GenericError(answered(502)), StoreUnavailable),
        (GenericError(answered(503, "ServerBusy")), StoreUnavailable),
        (GenericError(answered(400, "RequestTimeout")), StoreUnavailable),
        (GenericError(answered(429)), StoreUnavailable),
        (GenericError(answered(409, "OperationAborted")), StoreUnavailable),
        (GenericError(answered(301, "PermanentRedirect")), StoreError),
        (GenericError(answered(501)), StoreError),
        (GenericError(answered(400, "InvalidArgument")), StoreError),
        (GenericError("Generic S3 error: something new"), StoreError),
        (GenericError('Encountered object with invalid path: Path "data//x"'), StoreError),
        (GenericError("GET http://169.254.169.254/latest/api/token: HTTP error"), StoreDenied),
    ],
)
def test_each_answer_has_its_own_meaning(exc: BaseError, expected: type[CoopfsError]) -> None:
    error = translated(exc, "data/abc", "s3://bucket/p")
    assert type(error) is expected
    assert "hunter2" not in str(error)
    assert "Debug source" not in str(error)
    assert "data/abc" in str(error) or "s3://bucket/p" in str(error)


def test_what_the_service_wrote_is_shown_short_and_harmless() -> None:
    rude = GenericError(answered(400, "Rude", "line\nline \x1b[2J " + "x" * 250))
    text = str(translated(rude, "config", "s3://b"))
    assert "HTTP 400 Rude line line ?[2J xxx" in text
    assert len(text) < 300


# --- what is no HTTP, from real sockets ----------------------------------------------


@pytest.fixture
def listening() -> Iterator[Callable[[Callable[[socket.socket], object]], int]]:
    """Return what starts a server on loopback that does this with each connection."""
    servers: list[socket.socket] = []

    def start(serve: Callable[[socket.socket], object]) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def run() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, suppress(OSError):
                        serve(connection)

        threading.Thread(target=run, daemon=True).start()
        return int(server.getsockname()[1])

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def error_from(endpoint: str, monkeypatch: pytest.MonkeyPatch, options: str = "") -> StoreError:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0")
    address = f"s3://bucket?endpoint={endpoint}{options}"
    with CloudStore(address, is_new=True) as store, pytest.raises(StoreError) as caught:
        store.size(Kind.DATA, b"x" * 32)
    assert "hunter2" not in str(caught.value)
    return caught.value


def test_silence_ends_and_is_called_so(
    listening: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()
    port = listening(lambda connection: is_over.wait(30))
    error = error_from(f"http://127.0.0.1:{port}", monkeypatch, "&timeout=1")
    is_over.set()
    assert type(error) is StoreUnavailable
    assert "did not answer in time" in str(error)


def test_a_line_that_is_cut_is_called_so(
    listening: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listening(lambda connection: connection.recv(100))
    error = error_from(f"http://127.0.0.1:{port}", monkeypatch)
    assert type(error) is StoreUnavailable
    assert "the connection was cut" in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_another_protocol_is_no_reason_to_try_again(
    scheme: str, listening: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        connection.recv(1000)

    error = error_from(f"{scheme}://127.0.0.1:{listening(greet)}", monkeypatch)
    assert type(error) is StoreError
    assert "another protocol" in str(error)


def test_a_certificate_nobody_vouches_for_is_no_machine_to_talk_to(
    listening: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the authority is named: then the same machine is trusted, and answers."""
    make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    requests: list[bytes] = []

    def answer(connection: socket.socket) -> None:
        with suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as secure:
            requests.append(secure.recv(10_000))
            secure.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    endpoint = f"https://127.0.0.1:{listening(answer)}"
    error = error_from(endpoint, monkeypatch)
    assert type(error) is StoreIdentity
    assert "UnknownIssuer" in str(error)
    assert requests == []
    error = error_from(endpoint, monkeypatch, f"&ca={tmp_path}/ca.pem")
    assert type(error) is ObjectNotFound
    assert requests[0].startswith(b"HEAD /bucket/data/78/7878")
    error = error_from(endpoint.replace("127.0.0.1", "localhost"), monkeypatch)
    assert type(error) is StoreIdentity


def make_certificates(folder: Path) -> None:
    """Make an authority of our own (ca.pem) and a server's certificate for 127.0.0.1."""
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    for command in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca "
        "-keyout ca.key -out ca.pem",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=server "
        "-keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile extensions -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


def test_a_key_that_no_listing_can_show_is_named(
    listening: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>data//x</Key>"
        b"<LastModified>2026-11-26T11:23:33.000Z</LastModified><ETag>e</ETag><Size>5</Size>"
        b"</Contents></ListBucketResult>"
    )

    def answer(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    address = f"s3://bucket?endpoint=http://127.0.0.1:{listening(answer)}"
    with (
        CloudStore(address, is_new=True) as store,
        pytest.raises(StoreError, match=r'"data//x".*remove it'),
    ):
        list(store.list(Kind.DATA))


# --- a service that lies ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"206 Partial Content\r\nContent-Range: bytes 0-999/1000", 10),
        (b"206 Partial Content\r\nContent-Range: bytes 0-9/1000", 10),
        (b"206 Partial Content\r\nContent-Range: bytes 500-509/1000", 10),
        (b"206 Partial Content\r\nContent-Range: bytes 0-9/5", 10),
        (b"206 Partial Content\r\nContent-Range: nonsense", 10),
        (b"200 OK", 10),
        (b"200 OK\r\nX: no length at all", None),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_never_taken(
    head: bytes,
    length: int | None,
    listening: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer is followed by bytes without an end."""

    def lie(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(
            b"HTTP/1.1 " + head + b'\r\nETag: "x"\r\nLast-Modified: Thu, 26 Nov 2026 11:23:33 GMT'
            b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        while True:
            connection.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0")
    address = f"s3://bucket?endpoint=http://127.0.0.1:{listening(lie)}&timeout=20"
    with CloudStore(address, is_new=True) as store, pytest.raises((StoreError, ObjectCorrupt)):
        store.get(Kind.DATA, b"x" * 32, 0, length)
