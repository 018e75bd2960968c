"""Requests that follow each other at once are answered in one go of a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from coopfs.server import errand
from coopfs.server.errand import Burst, Errand, whole_head
from coopfs.server.exchange import Exchange
from coopfs.server.protocol import Head
from coopfs.server.wire import Wire


def request(number: int, method: str = "GET", headers: str = "") -> bytes:
    return f"{method} /{number} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


class Talk:
    """A client's socket and the burst that serves it, without TLS."""

    def __init__(self) -> None:
        self.client, server = socket.socketpair()
        self.wire = Wire(server, None)
        self.noted: list[bytes] = []
        self.has_time = True

    def begin(self, head: Head, rest: bytes) -> Errand:
        exchange = Exchange(self.wire, head, head.body_len(), rest)
        steps = exchange.answer(HTTPStatus.OK, head.target)
        return Errand(exchange, steps, is_upload=head.method == "POST")

    def burst(self, first: bytes) -> Burst:
        found = whole_head(first)
        assert found is not None
        return Burst(
            self.begin(*found),
            self.begin,
            lambda ended: self.noted.append(ended.exchange.head.target),
            lambda: self.has_time,
        )

    def answered(self) -> list[bytes]:
        self.wire.close()
        received = b""
        while piece := self.client.recv(1 << 16):
            received += piece
        return [answer.rpartition(b"\r\n\r\n")[2] for answer in received.split(b"HTTP/1.1 200")[1:]]


@pytest.fixture
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    talk.client.close()
    talk.wire.close()


def test_what_came_with_a_request_is_answered_after_it(talk: Talk) -> None:
    burst = talk.burst(request(1) + request(2) + request(3))
    assert burst.run_on() is None
    assert talk.noted == [b"/1", b"/2", b"/3"]
    assert burst.leftover == b""
    assert talk.answered() == [b"/1", b"/2", b"/3"]


def test_a_request_that_comes_soon_is_answered_in_the_same_go(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "NEXT_S", 20.0)  # however busy the machine is

    def client() -> None:
        for number in range(2, 6):
            talk.client.recv(1 << 16)
            talk.client.sendall(request(number, headers="Connection: close\r\n" * (number == 5)))

    thread = threading.Thread(target=client)
    thread.start()
    burst = talk.burst(request(1))
    assert burst.run_on() is None
    thread.join()
    assert talk.noted == [b"/1", b"/2", b"/3", b"/4", b"/5"]
    assert burst.exchange.closes


def test_nobody_is_waited_for_while_others_want_the_thread(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errand, "NEXT_S", 20.0)
    talk.has_time = False
    begun = time.monotonic()
    assert talk.burst(request(1)).run_on() is None
    assert time.monotonic() - begun < 10
    assert talk.answered() == [b"/1"]


@pytest.mark.parametrize(
    "rest",
    [
        request(2)[:-1],
        request(2, "POST", "Content-Length: 3\r\n") + b"abc",
        request(2, "POST", "Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    ],
    ids=["half a head", "an upload after a read", "in chunks", "garbage"],
)
def test_what_is_for_the_loop_is_left_to_it_whole(talk: Talk, rest: bytes) -> None:
    talk.client.sendall(rest)
    burst = talk.burst(request(1))
    assert burst.run_on() is None
    assert talk.noted == [b"/1"]
    assert burst.leftover == rest


def test_nothing_is_read_after_a_request_that_is_the_last(talk: Talk) -> None:
    talk.client.sendall(request(2))
    burst = talk.burst(request(1, headers="Connection: close\r\n"))
    assert burst.run_on() is None
    assert talk.noted == [b"/1"] and burst.leftover == b""
    assert talk.wire.sock.recv(1 << 16) == request(2)


def test_a_client_that_goes_is_the_loops_to_notice(talk: Talk) -> None:
    talk.client.shutdown(socket.SHUT_WR)
    burst = talk.burst(request(1))
    assert burst.run_on() is None
    assert burst.exchange.is_whole and burst.leftover == b""


def test_errands_add_up(talk: Talk) -> None:
    burst = talk.burst(request(1) + request(2))
    burst.errand.exchange.bytes_in = 5
    assert burst.run_on() is None
    burst.errand.exchange.bytes_out = 7
    assert burst.moved == 12
