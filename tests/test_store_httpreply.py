"""The heads of HTTP answers, read as lines."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from coopfs.store.httpreply import Headers, Reply


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def reply_to(ends: tuple[socket.socket, socket.socket], said: bytes, method: str = "GET") -> Reply:
    ours, theirs = ends
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    reply = Reply(ours, method=method)
    try:
        reply.begin()
    except BaseException:
        reply.close()
        raise
    return reply


@pytest.mark.parametrize(
    ("said", "status", "body", "will_close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", 200, b"abc", False),
        (b"HTTP/1.1 100 Continue\r\nX: 1\r\n\r\nHTTP/1.1 404\r\n\r\n", 404, b"", True),
        (b"HTTP/1.1 200 OK\ncontent-length:2\n\nabc", 200, b"ab", False),
        (b"HTTP/1.1 204 No\r\n\r\nrest", 204, b"", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", 200, b"ab", True),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", 200, b"to the end", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nab", 200, b"ab", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nab", 200, b"a", True),
        (
            b"HTTP/1.1 206 Part\r\nContent-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n"
            b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            206,
            b"abc",
            False,
        ),
    ],
)
def test_an_answer_is_read_to_where_it_ends(
    ends: tuple[socket.socket, socket.socket],
    said: bytes,
    status: int,
    body: bytes,
    will_close: bool,
) -> None:
    reply = reply_to(ends, said)
    assert reply.status == status
    assert reply.read() == body
    assert reply.will_close == will_close
    assert reply.isclosed()


def test_a_server_that_only_ever_says_continue_is_given_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(http.client.HTTPException, match="nothing but"):
        reply_to(ends, b"HTTP/1.1 100 Continue\r\n\r\n" * 20)


def test_the_answer_to_head_has_no_body(ends: tuple[socket.socket, socket.socket]) -> None:
    reply = reply_to(ends, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD")
    assert reply.headers["content-length"] == "5"
    assert reply.read() == b""
    assert not reply.will_close


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", http.client.RemoteDisconnected),
        (b"HTTP/1.1 200 OK\r\nContent-Le", http.client.IncompleteRead),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", http.client.IncompleteRead),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\n: no name\r\n\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n", http.client.HTTPException),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", http.client.LineTooLong),
        (b"HTTP/2 200 OK\r\n\r\n", http.client.UnknownProtocol),
        (b"220 ftp.example\r\n", http.client.BadStatusLine),
    ],
)
def test_what_is_no_http_is_refused(
    ends: tuple[socket.socket, socket.socket], said: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        reply_to(ends, said)


def test_headers_have_no_case_and_the_first_counts() -> None:
    headers = Headers([("X-Coopfs", "1"), ("x-coopfs", "2"), ("Date", "now")])
    assert headers["X-COOPFS"] == headers.get("x-Coopfs") == "1"
    assert "date" in headers and "Server" not in headers
    assert headers.get("Server") is None
    with pytest.raises(KeyError):
        headers["Server"]
