"""Wait for the one partner an invitation is for, over TLS that shows the pinned certificate.

Owns the waiting side of an introduction: three short messages, a counter of wrong
tokens, and no more than a few guests at once.  What is done with the partner is the
caller's.  coopfs-format(5), "Invitations".
"""

from __future__ import annotations

import hmac
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from coopfs.errors import CoopfsError, DataError, StoreDenied, StoreError
from coopfs.format.invitation import (
    FAILURES_MAX,
    MESSAGE_LEN_MAX,
    Answer,
    Endpoint,
    Introduction,
    Request,
    decode_request,
    encode_answer,
)
from coopfs.identity import Identity

GUEST_S: Final = 30  # seconds one guest may take for all of it
GUESTS_MAX: Final = 8  # at once; a real partner is one
DONE: Final = b"done"
_LEN_BYTES: Final = 4

Welcome = Callable[[Introduction], Introduction]  # keeps the partner, says who we are; blocks


@dataclass(eq=False)
class _Door:
    """What is known while an invitation is open."""

    token: bytes = field(repr=False)
    welcome: Welcome
    on_refusal: Callable[[str], None]
    failures: int = 0
    guest: bytes = b""  # the request that was welcomed; only the very same one may repeat
    answer: Introduction | None = None
    error: CoopfsError | None = None
    over: trio.Event = field(default_factory=trio.Event)


async def wait_for_partner(
    listener: trio.SocketListener,
    identity: Identity,
    token: bytes,
    expires_s: int,
    welcome: Welcome,
    on_refusal: Callable[[str], None] = lambda _: None,
) -> bool:
    """Wait until a partner with *token* was welcomed; return whether it confirmed.

    *welcome* is called once, in a thread, with who comes; the partner is told what it
    returns, or the message of the CoopfsError it raises, which then ends the waiting.
    *on_refusal* is told about each guest who was sent away.  A partner who loses the
    line may come again with the same request.  *listener* is closed.

    Raises:
        StoreDenied: too many wrong tokens, or the time is over; nobody was welcomed.
        CoopfsError: what *welcome* raised.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    identity.load_into(context)
    door = _Door(token, welcome, on_refusal)
    limit = trio.CapacityLimiter(GUESTS_MAX)

    async def meet(stream: trio.SocketStream) -> None:
        if limit.available_tokens < 1:
            await trio.aclose_forcefully(stream)
            return
        async with limit:
            await _meet(door, trio.SSLStream(stream, context, server_side=True), str(_peer(stream)))

    with trio.move_on_after(max(expires_s - time.time(), 0)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, meet, [listener]))
            await door.over.wait()
            nursery.cancel_scope.cancel()
    if door.error is not None:
        raise door.error
    if door.failures >= FAILURES_MAX:
        raise StoreDenied(
            f"the invitation is over after {FAILURES_MAX} wrong tokens: somebody else knows of "
            'it, or the code was mistyped; make a new one with "coopfs pair invite"'
        )
    if door.answer is None:
        raise StoreDenied(
            'nobody came before the invitation expired; make a new one with "coopfs pair invite"'
        )
    return door.over.is_set()


async def _meet(door: _Door, stream: trio.SSLStream[trio.SocketStream], peer: str) -> None:
    try:
        with trio.fail_after(GUEST_S):
            await _introduce(door, stream)
            await stream.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        door.on_refusal(f"{peer}: the line broke or was too slow")
    except DataError as exc:
        door.on_refusal(f"{peer}: {exc}")
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _introduce(door: _Door, stream: trio.SSLStream[trio.SocketStream]) -> None:
    data = await receive_message(stream)
    request = decode_request(data)
    refusal = _refusal(door, request, data)
    if not refusal and door.answer is None:
        door.guest = data  # no checkpoint since _refusal(): nobody else gets past it now
        try:
            door.answer = await trio.to_thread.run_sync(door.welcome, request.introduction)
        except CoopfsError as exc:
            door.error = exc
            refusal = str(exc)
    answer = Answer(None, refusal[:900]) if refusal else Answer(door.answer)
    await send_message(stream, encode_answer(answer))
    if refusal:
        door.on_refusal(refusal)
        if door.error is not None or door.failures >= FAILURES_MAX:
            door.over.set()
        return
    if await receive_message(stream) == DONE:
        await send_message(stream, DONE)
        door.over.set()


def _refusal(door: _Door, request: Request, data: bytes) -> str:
    """Return why this guest is sent away, or nothing."""
    if not hmac.compare_digest(request.token, door.token):
        door.failures += 1
        return f"wrong token; {max(FAILURES_MAX - door.failures, 0)} tries are left"
    if door.failures >= FAILURES_MAX:
        return "the invitation is over"
    if door.guest and door.guest != data:
        return "the invitation was used already, by another machine or with other options"
    if door.guest and door.answer is None:
        return "the invitation is being used just now; try again"
    return ""


async def receive_message(stream: trio.abc.Stream) -> bytes:
    """Return one message: four bytes of length, then so many (StoreError: the other end left)."""
    length = int.from_bytes(await _receive_exactly(stream, _LEN_BYTES), "big")
    if length > MESSAGE_LEN_MAX:
        raise DataError(f"a message of {length} bytes is over the limit {MESSAGE_LEN_MAX}")
    return await _receive_exactly(stream, length)


async def _receive_exactly(stream: trio.abc.Stream, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = await stream.receive_some(length - len(received))
        if not piece:
            raise trio.BrokenResourceError
        received += piece
    return bytes(received)


async def send_message(stream: trio.abc.Stream, data: bytes) -> None:
    """Send one message as :func:`receive_message` reads it."""
    await stream.send_all(len(data).to_bytes(_LEN_BYTES, "big") + data)


async def listen_at(endpoint: Endpoint) -> trio.SocketListener:
    """Listen at *endpoint* (StoreError: the address is taken or is not this machine's)."""
    try:
        listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    except OSError as exc:
        raise StoreError(
            f"{endpoint}: cannot listen there: {exc.strerror or exc}; if coopfs serve runs at "
            "this address, stop it for the pairing, or choose another port"
        ) from exc
    for extra in listeners[1:]:
        await extra.aclose()
    return listeners[0]


def _peer(stream: trio.SocketStream) -> str:
    try:
        return str(stream.socket.getpeername()[0])
    except OSError:
        return "somebody"
