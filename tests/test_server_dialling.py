"""Lines that are dialled: clients reach a server that nobody can connect to."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from coopfs.format.invitation import Endpoint
from coopfs.identity import Identity, make_identity
from coopfs.server import dialling, parked
from coopfs.server.dialling import (
    PROTOCOL,
    DialPlace,
    keep_dialling,
    load_dial_place,
    remove_dial_place,
    save_dial_place,
)
from coopfs.server.parked import SOCKET_FILE, ParkedLines
from coopfs.server.settings import partner_folder
from coopfs.server.wire import ConnectionLost, Wire

DEADLINE_S = 30


@dataclass
class Reachable:
    """The side that can be reached; it takes lines of the partner "berta"."""

    root: Path
    identity: Identity
    dialler: Identity
    port: int = 0
    wires: list[Wire] = field(default_factory=list)
    partner: parked._Partner | None = None

    def place(self) -> DialPlace:
        return DialPlace("anna", Endpoint("127.0.0.1", self.port), self.identity.cert_pem)

    @property
    def socket_path(self) -> Path:
        return partner_folder(self.root, "berta") / SOCKET_FILE

    async def knock(self) -> trio.SocketStream:
        """Come as a client of this side."""
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.socket_path.parent, os.O_PATH)
        try:
            await sock.connect(f"/proc/self/fd/{folder}/{SOCKET_FILE}")
        finally:
            os.close(folder)
        return trio.SocketStream(sock)


@asynccontextmanager
async def reachable(root: Path, dialler: Identity, port: int = 0) -> AsyncIterator[Reachable]:
    """Take lines as the server does, until the end of the block."""
    partner_folder(root, "berta").mkdir(parents=True, exist_ok=True)
    side = Reachable(root, make_identity(b"r" * 32), dialler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=dialler.cert_pem)
    context.set_alpn_protocols([PROTOCOL])
    side.identity.load_into(context)
    (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    side.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        lines = ParkedLines(root, nursery)

        async def take(stream: trio.SocketStream) -> None:
            fd = os.dup(stream.socket.fileno())
            await trio.aclose_forcefully(stream)
            wire = Wire(socket.socket(fileno=fd), context)
            side.wires.append(wire)
            try:
                await wire.handshake()
            except ConnectionLost:
                wire.close()
                return
            await lines.park("berta", wire)

        nursery.start_soon(trio.serve_listeners, take, [listener])
        try:
            yield side
        finally:
            nursery.cancel_scope.cancel()
            for wire in side.wires:
                wire.close()


async def echo(sock: socket.socket, source: str) -> None:
    """Stand for a server that has accepted a connection."""
    assert source == "anna (dialled)"
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        async for piece in stream:
            await stream.send_all(piece)


async def ask(side: Reachable, data: bytes) -> bytes:
    async with await side.knock() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        received = bytearray()
        while len(received) < len(data):
            piece = await stream.receive_some()
            if not piece:
                nursery.cancel_scope.cancel()
                break
            received += piece
    return bytes(received)


async def until(condition: object) -> None:
    assert callable(condition)
    with trio.fail_after(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # files and sockets set no events
            await trio.sleep(0.01)


@pytest.fixture
def berta() -> Identity:
    return make_identity(b"b" * 32)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "PAUSE_FIRST_S", 0.02)
    monkeypatch.setattr(dialling, "PAUSE_MAX_S", 0.1)
    monkeypatch.setattr(dialling, "LOOK_AGAIN_S", 0.05)


async def test_a_client_comes_to_a_server_that_dials(tmp_path: Path, berta: Identity) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            save_dial_place(tmp_path / "there", side.place())
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
            await until(side.socket_path.exists)
            data = os.urandom(3 << 20)
            assert await ask(side, data) == data
            nursery.cancel_scope.cancel()


async def test_more_clients_than_lines_all_get_through(tmp_path: Path, berta: Identity) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            save_dial_place(tmp_path / "there", side.place())
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
            await until(side.socket_path.exists)
            answers = []

            async def come(number: int) -> None:
                data = bytes([number]) * 100_000
                answers.append(await ask(side, data) == data)

            async with trio.open_nursery() as clients:
                for number in range(3 * dialling.LINES):
                    clients.start_soon(come, number)
            assert answers == [True] * 3 * dialling.LINES
            nursery.cancel_scope.cancel()


async def test_lines_come_back_after_the_other_side_was_away(
    tmp_path: Path, berta: Identity
) -> None:
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            async with reachable(tmp_path / "here", berta) as side:
                save_dial_place(tmp_path / "there", side.place())
                nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
                await until(side.socket_path.exists)
                assert await ask(side, b"before") == b"before"
                port = side.port
            side.socket_path.unlink()
            async with reachable(tmp_path / "here", berta, port) as side:
                await until(side.socket_path.exists)
                assert await ask(side, b"after") == b"after"
            nursery.cancel_scope.cancel()


async def test_a_waiting_line_that_is_cut_is_replaced(tmp_path: Path, berta: Identity) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            save_dial_place(tmp_path / "there", side.place())
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
            await until(lambda: len(side.wires) == dialling.LINES)
            await until(side.socket_path.exists)
            for wire in side.wires[:]:
                wire.sock.shutdown(socket.SHUT_RDWR)
            await until(lambda: len(side.wires) >= 2 * dialling.LINES)
            assert await ask(side, b"hello") == b"hello"
            nursery.cancel_scope.cancel()


async def test_a_partner_that_was_removed_and_made_anew_is_reached(
    tmp_path: Path, berta: Identity
) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            save_dial_place(tmp_path / "there", side.place())
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
            await until(side.socket_path.exists)
            shutil.rmtree(side.socket_path.parent)
            side.socket_path.parent.mkdir()
            for wire in side.wires[:]:
                if wire.sock.fileno() >= 0:
                    wire.sock.shutdown(socket.SHUT_RDWR)
            await until(side.socket_path.exists)
            assert await ask(side, b"hello again") == b"hello again"
            nursery.cancel_scope.cancel()


async def test_a_stranger_cannot_park_a_line(tmp_path: Path, berta: Identity) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            save_dial_place(tmp_path / "there", side.place())
            nursery.start_soon(keep_dialling, tmp_path / "there", make_identity(), echo)
            await until(lambda: len(side.wires) > 2 * dialling.LINES)  # it keeps trying
            assert not side.socket_path.exists()
            nursery.cancel_scope.cancel()


async def test_an_impostor_gets_no_line(tmp_path: Path, berta: Identity) -> None:
    served = []

    async def accept(sock: socket.socket, source: str) -> None:
        served.append(sock)

    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            place = DialPlace("anna", side.place().endpoint, make_identity().cert_pem)
            save_dial_place(tmp_path / "there", place)
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, accept)
            await until(lambda: len(side.wires) > 2 * dialling.LINES)
            assert not side.socket_path.exists()
            nursery.cancel_scope.cancel()
    assert served == []


async def test_a_client_without_a_line_is_sent_away(
    tmp_path: Path, berta: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "KNOCK_S", 0.1)
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side:
            async with trio.open_nursery() as nursery:
                save_dial_place(tmp_path / "there", side.place())
                nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
                await until(side.socket_path.exists)
                nursery.cancel_scope.cancel()
            with pytest.raises(ExceptionGroup, match="nursery") as caught:
                # Hung up with our bytes unread: a reset.
                assert await ask(side, b"anybody?") != b""
            assert caught.group_contains(trio.BrokenResourceError)


async def test_a_partner_that_is_removed_is_dialled_no_more(
    tmp_path: Path, berta: Identity
) -> None:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, echo)
            save_dial_place(tmp_path / "there", side.place())
            await until(lambda: len(side.wires) == dialling.LINES)
            remove_dial_place(tmp_path / "there", "anna")
            await until(lambda: all(wire.sock.fileno() == -1 for wire in side.wires))
            nursery.cancel_scope.cancel()


def test_a_place_to_dial_to_is_read_back(tmp_path: Path, berta: Identity) -> None:
    place = DialPlace("anna", Endpoint("2001:db8::1", 8765), berta.cert_pem)
    save_dial_place(tmp_path, place)
    assert load_dial_place(tmp_path, "anna") == place
    remove_dial_place(tmp_path, "anna")
    remove_dial_place(tmp_path, "anna")
    with pytest.raises(FileNotFoundError):
        load_dial_place(tmp_path, "anna")
