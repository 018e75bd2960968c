from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
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
    said = SimpleNamespace(status=200, headers={"Content-Length": text})
    assert Answer(said, "it", "there").body_len is None
