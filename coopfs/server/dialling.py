"""Serve although nobody reaches this machine: dial out to the partner, and keep lines open.

A few lines wait at the partner's server, which hands one to each of its clients that
wants to come.  The TLS in which it waited ends then, and client and our server speak TLS
over the line as if the client had connected to us.
Owns ``ROOT/partners/NAME/dial.toml``.  The other end: :mod:`coopfs.server.parked`.
coopfs-format(5), "Lines that are dialled".
"""

from __future__ import annotations

import logging
import os
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import trio

from coopfs.dirs import make_private_folder, sync_folder, write_private
from coopfs.errors import ConfigError, UsageError
from coopfs.format.invitation import Endpoint, parse_endpoint
from coopfs.identity import Identity, parse_certificate
from coopfs.server.settings import PARTNERS, partner_folder
from coopfs.server.wire import ConnectionLost, Wire

PROTOCOL: Final = "coopfs-dial/2"  # chosen by ALPN (RFC 7301), so that one port serves all
GO: Final = b"\x01"  # what the partner's server sends once a client wants to come
DIAL_FILE: Final = "dial.toml"
LINES: Final = 4  # waiting at once: a client opens several, and each is replaced when it is used
IN_USE_MAX: Final = 32
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 60.0
LOOK_AGAIN_S: Final = 5.0  # for partners that were paired or removed meanwhile
HANDSHAKE_S: Final = 30.0
# Seconds; routers forget silent connections after some minutes, and a line that died
# without a word must not be counted on.
_KEEPALIVE: Final = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)

_NO_LINE: Final = (OSError, ConnectionLost, trio.TooSlowError, ConfigError)

# Serves a connected socket until it ends; the text is what the log calls the other end.
Accept = Callable[[socket.socket, str], Awaitable[object]]
_log = logging.getLogger("coopfs.serve")


@dataclass(frozen=True, slots=True)
class DialPlace:
    """A partner to dial to."""

    name: str
    endpoint: Endpoint
    certificate: str  # PEM, of its server


def save_dial_place(root: Path, place: DialPlace) -> None:
    """Let our server dial to *place* from now on (ConfigError)."""
    import tomli_w

    folder = partner_folder(root, place.name)
    make_private_folder(folder)
    text = "# A partner whom this server dials: coopfs-config(5).\n"
    text += tomli_w.dumps(
        {"version": 1, "address": str(place.endpoint), "certificate": place.certificate},
        multiline_strings=True,
    )
    write_private(folder / DIAL_FILE, text.encode(), replace=True)


def remove_dial_place(root: Path, name: str) -> None:
    """Stop dialling to the partner, if we did (ConfigError)."""
    path = partner_folder(root, name) / DIAL_FILE
    try:
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be deleted: {exc.strerror}") from exc


def load_dial_place(root: Path, name: str) -> DialPlace:
    """Read where the partner is dialled (ConfigError, FileNotFoundError)."""
    import tomllib

    path = partner_folder(root, name) / DIAL_FILE
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        address, certificate = table["address"], table["certificate"]
        if table["version"] != 1 or type(address) is not str or type(certificate) is not str:
            raise ConfigError(f"{path}: expected version 1, an address and a certificate")
        parse_certificate(certificate, "certificate")
        return DialPlace(name, parse_endpoint(address, "address"), certificate)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, KeyError, UsageError) as exc:
        raise ConfigError(f"{path}: not written by coopfs: {exc}") from exc


# --- the loop -----------------------------------------------------------------


async def keep_dialling(root: Path, identity: Identity, accept: Accept) -> NoReturn:
    """Dial to every partner that is to be dialled, until cancelled.

    Each line that a client of the partner uses goes to *accept*.  Partners that are
    added or removed while this runs are noticed within seconds.
    """
    dialled: dict[str, tuple[DialPlace, trio.CancelScope]] = {}
    async with trio.open_nursery() as nursery:
        while True:
            wanted = await trio.to_thread.run_sync(_dial_places, root)
            for name in [n for n, (place, _) in dialled.items() if wanted.get(n) != place]:
                dialled.pop(name)[1].cancel()
            for name, place in wanted.items():
                if name not in dialled:
                    scope = trio.CancelScope()
                    dialled[name] = place, scope
                    nursery.start_soon(_dial_partner, place, identity, accept, scope)
            await trio.sleep(LOOK_AGAIN_S)


def _dial_places(root: Path) -> dict[str, DialPlace]:
    found = {}
    try:
        names = sorted(os.listdir(root / PARTNERS))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        _log.warning("%s: %s", root / PARTNERS, exc.strerror)
        return {}
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                found[name] = load_dial_place(root, name)
            except ConfigError as exc:
                _log.warning("%s", exc)
    return found


async def _dial_partner(
    place: DialPlace, identity: Identity, accept: Accept, scope: trio.CancelScope
) -> None:
    context = _client_context(place, identity)
    in_use = trio.CapacityLimiter(IN_USE_MAX)
    with scope:
        async with trio.open_nursery() as nursery:
            for _ in range(LINES):
                nursery.start_soon(_keep_line, place, context, in_use, accept, nursery)


async def _keep_line(
    place: DialPlace,
    context: ssl.SSLContext,
    in_use: trio.CapacityLimiter,
    accept: Accept,
    nursery: trio.Nursery,
) -> None:
    """Keep one line waiting at the partner's; one that is used is replaced."""
    pause_s = PAUSE_FIRST_S
    while True:
        if in_use.available_tokens < 1:
            await trio.sleep(PAUSE_FIRST_S)
            continue
        try:
            wire = await _dial(place, context)
            pause_s = PAUSE_FIRST_S
            went = await _await_go(wire)
        except _NO_LINE as exc:
            reason = str(exc.__cause__ or exc) or type(exc).__name__
            _log.info("partner %s at %s: no line: %s", place.name, place.endpoint, reason)
            went = False
        if went:
            source = f"{place.name} (dialled)"
            nursery.start_soon(_serve_line, wire.sock, in_use, accept, source)
            continue
        # Half of it is luck: those cut off together do not come back together.
        await trio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - a pause, no secret
        pause_s = min(pause_s * 2, PAUSE_MAX_S)


def _client_context(place: DialPlace, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate is known, its name says nothing
    context.load_verify_locations(cadata=place.certificate)
    context.set_alpn_protocols([PROTOCOL])
    identity.load_into(context)
    return context


async def _dial(place: DialPlace, context: ssl.SSLContext) -> Wire:
    with trio.fail_after(HANDSHAKE_S):
        plain = await trio.open_tcp_stream(place.endpoint.host, place.endpoint.port)
        wire = Wire(socket.socket(fileno=plain.socket.detach()), context, is_server=False)
        try:
            keep_alive(wire.sock)
            await wire.handshake()
            if wire.protocol() != PROTOCOL:
                raise ConfigError(
                    "the server there takes no dialled lines, or of another version; is it "
                    "coopfs serve, and as new as ours?"
                )
        except BaseException:
            wire.close()
            raise
    return wire


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel ask now and then whether the other end is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def _await_go(wire: Wire) -> bool:
    """Wait at the partner's; return whether a client wants to come, to whom the line is now."""
    try:
        said = memoryview(bytearray(1))
        while (count := wire.read_into(said)) is None:
            await trio.lowlevel.wait_readable(wire.sock)
        if count and bytes(said) == GO:
            with trio.fail_after(HANDSHAKE_S):
                await wire.shed(is_first=False)
            return True
    except BaseException:
        wire.close()
        raise
    wire.close()
    return False


async def _serve_line(
    sock: socket.socket, in_use: trio.CapacityLimiter, accept: Accept, source: str
) -> None:
    """Let our server have the line as if it had accepted it."""
    with sock:
        async with in_use:
            await accept(sock, source)
