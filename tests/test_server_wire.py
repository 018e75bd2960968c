"""Connections that are carried on: several TLS records at once, then the end, then what broke."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from coopfs.identity import make_identity
from coopfs.server.wire import CARRIED_LEN, Wire, WireStream

RECORD_LEN = 16 << 10  # bytes; RFC 8446, section 5.1
SERVER = make_identity(b"s" * 32)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[WireStream, WireStream]]:
    """Yield both ends of a TLS connection, the client's first."""
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.load_verify_locations(cadata=SERVER.cert_pem)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    SERVER.load_into(server_context)
    ours, theirs = socket.socketpair()
    client = WireStream(Wire(ours, client_context, is_server=False))
    server = WireStream(Wire(theirs, server_context))
    async with client, server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.wire.handshake)
            nursery.start_soon(server.wire.handshake)
        yield client, server


async def test_records_that_are_there_are_handed_on_together() -> None:
    data = bytes(range(256)) * 400  # seven records
    async with connected() as (client, server):
        for one, other in ((client, server), (server, client)):
            await one.send_all(data)
            with trio.fail_after(10):
                assert await other.receive_some() == data


async def test_no_more_is_returned_than_was_asked_for() -> None:
    async with connected() as (client, server):
        await client.send_all(b"\x01and what follows")
        with trio.fail_after(10):
            assert await server.receive_some(1) == b"\x01"
            assert await server.receive_some(4) == b"and "
            assert await server.receive_some() == b"what follows"


async def test_a_large_transfer_arrives_whole_and_then_ends() -> None:
    data = bytes(range(256)) * (3 * CARRIED_LEN // 256) + b"end"
    received = bytearray()
    async with connected() as (client, server):

        async def send() -> None:
            await client.send_all(data)
            await client.aclose()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while piece := await server.receive_some():
                    assert len(piece) <= CARRIED_LEN
                    received += piece
            assert await server.receive_some() == b""
    assert received == data


async def test_what_came_before_garbage_is_handed_on_first() -> None:
    async with connected() as (client, server):
        await client.send_all(b"x" * 2 * RECORD_LEN)
        client.wire.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record of no key
        with trio.fail_after(10):
            assert await server.receive_some() == b"x" * 2 * RECORD_LEN
            with pytest.raises(trio.BrokenResourceError, match="no TLS with it"):
                await server.receive_some()


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
