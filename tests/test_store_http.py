from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
from lines import Words, answer
from store_suite import some_bytes

from coopfs.errors import StoreDenied, StoreIdentity, StoreUnavailable
from coopfs.identity import Identity, make_identity
from coopfs.store.http import Answer, Endpoint, HttpPool, Trust, certificate_trust


class Partner(Words):
    """A server that shows one identity and lets only *allowed* in, as a partner's does."""

    def __init__(self, shown: Identity, allowed: Identity) -> None:
        super().__init__(lambda *_: answer(200, b"welcome"))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(cadata=allowed.cert_pem)
        shown.load_into(self._context)
        self.handshakes = 0

    def handle(self, sock: socket.socket) -> None:
        with self._context.wrap_socket(sock, server_side=True) as wrapped:
            self.handshakes += 1
            super().handle(wrapped)


@pytest.fixture(scope="module")
def identities() -> list[Identity]:
    return [make_identity(bytes([number]) * 32) for number in range(3)]


@pytest.fixture
def partner(identities: list[Identity]) -> Iterator[Partner]:
    with Partner(identities[0], allowed=identities[1]) as partner:
        yield partner


def ask(partner: Partner, trust: Trust, body: bytes | None = None) -> bytes:
    pool = HttpPool(Endpoint("https", "127.0.0.1", partner.port), "there", trust=trust, stall_s=20)
    try:
        with pool.request("GET" if body is None else "POST", "/", "it", body=body) as got:
            return got.read_up_to(100)
    finally:
        pool.close()


def trust_in(server: Identity, ours: Identity | None) -> Trust:
    trust = certificate_trust(server.cert_pem, server.pin)
    if ours:
        ours.load_into(trust.context)
    return trust


def test_partners_who_know_each_other_talk(partner: Partner, identities: list[Identity]) -> None:
    assert ask(partner, trust_in(identities[0], identities[1])) == b"welcome"
    assert partner.requests == ["GET / HTTP/1.1"]


def test_an_impostor_is_not_even_shown_our_certificate(
    partner: Partner, identities: list[Identity]
) -> None:
    with pytest.raises(StoreIdentity, match=r"^it at there: not the machine that was expected"):
        ask(partner, trust_in(identities[2], identities[1]))
    assert partner.handshakes == 0
    assert partner.requests == []


@pytest.mark.parametrize("body", [None, some_bytes(4 << 20)])
@pytest.mark.parametrize("who", [None, 2])
def test_whom_the_partner_does_not_know_is_denied(
    partner: Partner, identities: list[Identity], who: int | None, body: bytes | None
) -> None:
    """With TLS 1.3 the refusal comes after the handshake, in the middle of the request."""
    trust = trust_in(identities[0], None if who is None else identities[who])
    with pytest.raises((StoreDenied, StoreUnavailable)) as caught:
        ask(partner, trust, body)
    if body is None:
        assert isinstance(caught.value, StoreDenied)
        assert "does not accept our certificate" in str(caught.value)
    assert partner.requests == []


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX: ", answer(200, bytes(9000))[:300]])
def test_a_server_that_trickles_is_given_up_on(first: bytes) -> None:
    """Each byte ends a silence: only a whole stretch of them is too slow, head or body."""

    def trickle(_: str, sock: socket.socket) -> None:
        sock.sendall(first)
        while True:  # until the client has gone
            sock.sendall(b"x")
            time.sleep(0.02)

    with Words(trickle) as server:
        pool = HttpPool(Endpoint("http", "127.0.0.1", server.port), "there", stall_s=0.5)
        with (
            pytest.raises(StoreUnavailable, match="fallen silent or trickles"),
            pool.request("GET", "/", "it") as got,
        ):
            got.read_exactly(9000)
        pool.close()


def test_a_partner_that_trickles_a_record_is_given_up_on(
    partner: Partner, identities: list[Identity]
) -> None:
    class Trickle(Words):
        def handle(self, sock: socket.socket) -> None:
            with socket.create_connection(("127.0.0.1", partner.port)) as back:
                back.settimeout(0.02)
                while True:
                    if select.select([sock], [], [], 0.02)[0]:
                        back.sendall(sock.recv(1 << 16))
                    with suppress(TimeoutError):
                        sock.sendall(back.recv(self.piece_len))

        piece_len = 1 << 16

    with Trickle(lambda *_: None) as line:
        trust = trust_in(identities[0], identities[1])
        endpoint = Endpoint("https", "127.0.0.1", line.port)
        pool = HttpPool(endpoint, "there", trust=trust, stall_s=0.5)
        with pool.request("GET", "/", "it") as got:
            assert got.read_up_to(100) == b"welcome"
        line.piece_len = 1
        with (
            pytest.raises(StoreUnavailable, match="fallen silent or trickles"),
            pool.request("GET", "/", "it") as got,
        ):
            got.read_exactly(7)
        pool.close()


def test_a_slow_answer_that_flows_is_read_whole() -> None:
    body = some_bytes(6000)

    def flow(_: str, sock: socket.socket) -> bytes:
        said = answer(200, body)
        for begin in range(0, len(said) - 100, 500):
            sock.sendall(said[begin : begin + 500])
            time.sleep(0.05)
        return said[begin + 500 :]

    with Words(flow) as server:
        pool = HttpPool(Endpoint("http", "127.0.0.1", server.port), "there", stall_s=0.2)
        with pool.request("GET", "/", "it") as got:
            assert got.read_exactly(6000) == body
        pool.close()


def test_a_pool_that_was_closed_says_so(partner: Partner, identities: list[Identity]) -> None:
    pool = HttpPool(
        Endpoint("https", "127.0.0.1", partner.port),
        "there",
        trust=trust_in(identities[0], identities[1]),
    )
    pool.close()
    pool.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        pool.request("GET", "/", "it")


@pytest.mark.parametrize("text", ["", "-1", "+5", "1e3", "٥", "9" * 30, "5, 5"])
def test_a_length_that_is_none_is_not_believed(text: str) -> None:
    said = SimpleNamespace(status=200, headers={"Content-Length": text}, chunked=False)
    assert Answer(said, "it", "there", bool).body_len is None
