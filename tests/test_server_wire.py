"""What comes over TLS: several records at once, then the end, then what broke; going on bare."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from coopfs.identity import make_identity
from coopfs.server.wire import ConnectionLost, Wire

RECORD_LEN = 16 << 10  # bytes; RFC 8446, section 5.1
SERVER = make_identity(b"s" * 32)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Wire, Wire]]:
    """Yield both ends of a TLS connection, the client's first."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.load_verify_locations(cadata=SERVER.cert_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.load_into(server_context)
    ours, theirs = socket.socketpair()
    server_context.num_tickets = 0  # as the server's
    client, server = Wire(ours, client_context, is_server=False), Wire(theirs, server_context)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        yield client, server
    finally:
        client.close()
        server.close()


async def heard(wire: Wire, wanted: int = 1 << 20) -> bytes:
    """Return what comes next, in one piece."""
    view = memoryview(bytearray(wanted))
    with trio.fail_after(10):
        while (count := wire.read_into(view)) is None:
            await trio.lowlevel.wait_readable(wire.sock)
    return bytes(view[:count])


async def test_records_that_are_there_are_read_together() -> None:
    data = bytes(range(256)) * 400  # seven records
    async with connected() as (client, server):
        for one, other in ((client, server), (server, client)):
            await one.send_all(data)
            assert await heard(other) == data


async def test_no_more_is_returned_than_was_asked_for() -> None:
    async with connected() as (client, server):
        await client.send_all(b"\x01and what follows")
        assert await heard(server, 1) == b"\x01"
        assert await heard(server, 4) == b"and "
        assert await heard(server) == b"what follows"


async def test_a_large_transfer_arrives_whole_and_then_ends() -> None:
    data = bytes(range(256)) * 5000 + b"end"
    received = bytearray()
    async with connected() as (client, server):

        async def send() -> None:
            await client.send_all(data)
            client.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await heard(server, 70_000):
                received += piece
        assert await heard(server) == b""
    assert received == data


async def test_what_came_before_garbage_is_handed_on_first() -> None:
    async with connected() as (client, server):
        await client.send_all(b"x" * 2 * RECORD_LEN)
        client.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record of no key
        assert await heard(server) == b"x" * 2 * RECORD_LEN
        with pytest.raises(ConnectionLost, match="no TLS with it"):
            await heard(server)


# --- going on without TLS ----------------------------------------------------------------


async def shed(wire: Wire, is_first: bool, said: list[str]) -> None:
    try:
        with trio.fail_after(10):
            await wire.shed(is_first=is_first)
    except ConnectionLost as exc:
        said.append(str(exc))


async def test_both_ends_go_on_bare_and_lose_nothing() -> None:
    said: list[str] = []
    async with connected() as (client, server):
        await server.send_all(b"go")
        assert await heard(client, 2) == b"go"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shed, client, False, said)
            nursery.start_soon(shed, server, True, said)
        assert said == []
        for one, other in ((client, server), (server, client)):
            await one.send_all(b"bare")
            assert other.sock.recv(100) == b"bare"
        await client.send_all(b"as before")
        assert await heard(server) == b"as before"


@pytest.mark.parametrize("is_first", [True, False])
async def test_an_end_that_anybody_could_have_sent_is_none(is_first: bool) -> None:
    """A goodbye without encryption, and the end of the connection."""
    plain_goodbye = b"\x15\x03\x03\x00\x02\x01\x00"  # RFC 8446, section 6
    expected = {
        plain_goodbye: "no TLS with it: bad record type",
        None: "it ended before its TLS did",
    }
    for fake, reason in expected.items():
        said: list[str] = []
        async with connected() as (client, server):
            if fake is None:
                server.sock.shutdown(socket.SHUT_WR)
            else:
                server.sock.send(fake)
            await shed(client, is_first, said)
        assert said == [reason]


async def test_bytes_behind_the_end_are_refused() -> None:
    said: list[str] = []
    async with connected() as (client, server):
        ended: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shed, server, True, ended)
            await trio.testing.wait_all_tasks_blocked()
            server.sock.send(b"somebody else's")  # behind its goodbye, in one read
            nursery.start_soon(shed, client, False, said)
        assert said == ["something came behind the end of its TLS"]


async def test_who_goes_on_talking_has_not_ended() -> None:
    said: list[str] = []
    async with connected() as (client, server):
        await server.send_all(b"more")
        await shed(client, False, said)
    assert said == ["it went on talking within its TLS"]


async def test_a_client_that_trusts_another_certificate_says_why() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=make_identity(b"o" * 32).cert_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.load_into(server_context)
    ours, theirs = socket.socketpair()
    client, server = Wire(ours, context, is_server=False), Wire(theirs, server_context)
    reasons: list[str] = []

    async def shake(wire: Wire) -> None:
        try:
            await wire.handshake()
        except Exception as exc:
            reasons.append(str(exc))
        finally:
            wire.close()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake, client)
            nursery.start_soon(shake, server)
    assert any("its certificate was refused: self-signed" in reason for reason in reasons)
