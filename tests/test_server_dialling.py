"""Lines that are dialled: clients reach a server that nobody can connect to."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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
    lines: ParkedLines | None = None

    def place(self) -> DialPlace:
        return DialPlace("anna", Endpoint("127.0.0.1", self.port), self.identity.cert_pem)

    @property
    def socket_path(self) -> Path:
        return partner_folder(self.root, "berta") / SOCKET_FILE

    def has_line(self) -> bool:
        """Tell whether a line waits."""
        partner = self.lines._partners.get("berta") if self.lines else None
        return partner is not None and bool(partner.lines)

    async def knock(self) -> trio.SocketStream | None:
        """Come as a client of this side; return the line it is given, None: it was sent away."""
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        folder = os.open(self.socket_path.parent, os.O_PATH)
        try:
            await sock.connect(f"/proc/self/fd/{folder}/{SOCKET_FILE}")
            with sock:
                _, told, _, _ = await sock.recvmsg(1, socket.CMSG_SPACE(4))
        finally:
            os.close(folder)
        if not told:
            return None
        (fd,) = array("i", told[0][2])
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))


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
        lines = side.lines = ParkedLines(root, nursery)

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
    line = await side.knock()
    assert line is not None
    async with line as stream, trio.open_nursery() as nursery:
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
            assert await side.knock() is None


# --- somebody on the line ----------------------------------------------------------------


@dataclass
class TappedLine:
    """A line through somebody's hands."""

    near: trio.SocketStream  # to whoever dialled
    far: trio.SocketStream
    to_near: bytearray = field(default_factory=bytearray)
    carrying: trio.CancelScope = field(default_factory=trio.CancelScope)
    let_go: trio.Event = field(default_factory=trio.Event)

    async def take_over(self) -> None:
        """Carry nothing any more: both ends are the caller's."""
        self.carrying.cancel()
        await self.let_go.wait()


class Tap:
    """Somebody through whom all lines run; knows no key."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = 0
        self.lines: list[TappedLine] = []

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._take, [listener])

    async def _take(self, near: trio.SocketStream) -> None:
        line = TappedLine(near, await trio.open_tcp_stream("127.0.0.1", self._target))
        self.lines.append(line)

        async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while piece := await source.receive_some():
                    if target is near:
                        line.to_near += piece
                    await target.send_all(piece)
                await target.send_eof()

        async with near, line.far:
            with line.carrying:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(carry, near, line.far)
                    nursery.start_soon(carry, line.far, near)
            line.let_go.set()
            if line.carrying.cancelled_caught:
                await trio.sleep_forever()


@dataclass
class Tapped:
    """A client, a server that dials, and who is between them."""

    side: Reachable
    tap: Tap
    berta: Identity
    client: Identity
    ended: list[str] = field(default_factory=list)  # why connections to the server ended

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.client.cert_pem)
        context.num_tickets = 0
        self.berta.load_into(context)
        return context

    def stream(
        self, line: trio.SocketStream, identity: Identity
    ) -> trio.SSLStream[trio.SocketStream]:
        """Speak TLS over *line* with the server, and nobody else, as *identity*."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=self.berta.cert_pem)
        identity.load_into(context)
        return trio.SSLStream(line, context)

    async def accept(self, sock: socket.socket, source: str) -> None:
        """Stand for the server: an echo for the client alone."""
        wire = Wire(sock, self.server_context())
        view = memoryview(bytearray(1 << 16))
        try:
            await wire.handshake()
            while True:
                while (count := wire.read_into(view)) is None:
                    await trio.lowlevel.wait_readable(sock)
                if not count:
                    raise ConnectionLost("it ended")
                await wire.send_all(bytes(view[:count]))
        except ConnectionLost as exc:
            self.ended.append(str(exc))
        finally:
            wire.close()

    async def come(self) -> tuple[trio.SSLStream[trio.SocketStream], TappedLine]:
        """Come as the client, and be heard; the second is the line that is used."""
        line = await self.side.knock()
        assert line is not None
        stream = self.stream(line, self.client)
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        return stream, self.tap.lines[0]


@asynccontextmanager
async def tapped(tmp_path: Path, berta: Identity) -> AsyncIterator[Tapped]:
    with trio.fail_after(DEADLINE_S):
        async with reachable(tmp_path / "here", berta) as side, trio.open_nursery() as nursery:
            tap = Tap(side.port)
            await nursery.start(tap.run)
            all_of_them = Tapped(side, tap, berta, make_identity(b"c" * 32))
            place = DialPlace("anna", Endpoint("127.0.0.1", tap.port), side.identity.cert_pem)
            save_dial_place(tmp_path / "there", place)
            nursery.start_soon(keep_dialling, tmp_path / "there", berta, all_of_them.accept)
            await until(side.socket_path.exists)
            yield all_of_them
            nursery.cancel_scope.cancel()


@pytest.fixture
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "LINES", 1)


RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)  # as TLS has them, of no key


async def test_bytes_put_into_a_bare_line_break_it(
    tmp_path: Path, berta: Identity, one_line: None
) -> None:
    async with tapped(tmp_path, berta) as found:
        stream, line = await found.come()
        await line.near.socket.send(RECORD)  # to the server; while others send there, too
        await until(lambda: found.ended)
        assert found.ended == ["no TLS with it: decryption failed or bad record mac"]
        await trio.aclose_forcefully(stream)
    found.ended.clear()
    async with tapped(tmp_path / "again", berta) as found:
        stream, line = await found.come()
        await line.far.socket.send(RECORD)  # to the client
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        await trio.aclose_forcefully(stream)


async def test_who_takes_over_a_bare_line_is_nobody_to_either_end(
    tmp_path: Path, berta: Identity, one_line: None
) -> None:
    async with tapped(tmp_path, berta) as found:
        client_line = await found.side.knock()
        assert client_line is not None
        line = found.tap.lines[0]
        await line.take_over()
        # To the server: a stranger.
        mine = found.stream(line.near, make_identity())
        with pytest.raises(trio.BrokenResourceError):
            await mine.send_all(b"hello")
            await mine.receive_some()
        await until(lambda: found.ended)
        assert found.ended == ["its certificate was refused: self-signed certificate"]
        # To the client: somebody with another certificate than the partner's.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        make_identity().load_into(context)
        theirs = found.stream(client_line, found.client)

        async def pose() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await trio.SSLStream(line.far, context, server_side=True).do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pose)
            with pytest.raises(trio.BrokenResourceError) as caught:
                await theirs.do_handshake()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
            await trio.aclose_forcefully(client_line)


async def test_a_connection_that_is_played_back_is_not_let_in(
    tmp_path: Path, berta: Identity, one_line: None
) -> None:
    async with tapped(tmp_path, berta) as found:
        waiting = len(found.tap.lines[0].to_near)  # all that was TLS with the other server
        stream, line = await found.come()
        await trio.aclose_forcefully(stream)
        await until(lambda: found.ended == ["it ended"])
        recorded = bytes(line.to_near)
        bare = recorded[recorded.index(b"\x16\x03\x01", waiting) :]  # from the ClientHello on
        await until(lambda: len(found.tap.lines) == 2)
        await until(found.side.has_line)
        unused = await found.side.knock()
        assert unused is not None
        again = found.tap.lines[1]
        await again.take_over()
        await again.near.send_all(bare)
        await until(lambda: len(found.ended) == 2)
        assert found.ended[1].startswith("no TLS with it")
        await trio.aclose_forcefully(unused)


async def test_a_waiting_line_cannot_be_made_bare_by_others(
    tmp_path: Path, berta: Identity, one_line: None
) -> None:
    """Whatever is put in is no end of its TLS: the line is lost, and dialled again."""
    async with tapped(tmp_path, berta) as found:
        hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
        goodbye = b"\x15\x03\x03\x00\x02\x01\x00"
        for number, fake in enumerate((hello, goodbye, goodbye + hello, RECORD, b"\x01")):
            await until(lambda number=number: len(found.tap.lines) > number)
            await until(found.side.has_line)
            line = found.tap.lines[number]
            await line.near.socket.send(fake)
            if fake == b"\x01":
                line.near.socket.shutdown(socket.SHUT_WR)
        await until(lambda: len(found.tap.lines) == 6)
        assert found.ended == []  # the server has not heard of any
        stream, _ = await found.come()
        await trio.aclose_forcefully(stream)


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
