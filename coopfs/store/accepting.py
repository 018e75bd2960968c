"""Accept an invitation: knock at the machine its code names, and be introduced.

The certificate must be the code's, or not a byte is sent.  Blocking, like a store.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import Final

from coopfs.errors import StoreDenied, StoreIdentity, StoreUnavailable
from coopfs.format.invitation import (
    MESSAGE_LEN_MAX,
    Endpoint,
    Introduction,
    Invitation,
    Request,
    decode_answer,
    encode_request,
)
from coopfs.identity import pin_of

TIMEOUT_S: Final = 30
DONE: Final = b"done"
_LEN_BYTES: Final = 4


class Acceptance:
    """A line to the inviting side; the partner is kept between introduce() and confirm()."""

    def __init__(self, invitation: Invitation) -> None:
        """Connect, and see that it is the right machine.

        Raises:
            StoreUnavailable: nobody listens there, or no line.
            StoreIdentity: another machine answers; nothing was sent.
        """
        self._invitation = invitation
        self._line = pinned_line(invitation.endpoint, invitation.pin.hex())

    def introduce(self, introduction: Introduction) -> Introduction:
        """Say who we are; return who they are.

        Raises:
            StoreDenied: they refuse (wrong token, used up, ...).
            StoreUnavailable: the line broke; the same may be tried again.
            ObjectCorrupt, FormatUnsupported: an answer that cannot be understood.
        """
        request = encode_request(Request(self._invitation.token, introduction))
        try:
            self._send(request)
            answer = decode_answer(self._receive())
        except OSError as exc:
            raise self._broken() from exc
        if answer.introduction is None:
            raise StoreDenied(f"{self._invitation.endpoint}: the partner refuses: {answer.refusal}")
        return answer.introduction

    def confirm(self) -> None:
        """Say that all is kept: the invitation is over (StoreUnavailable: it did not hear)."""
        try:
            self._send(DONE)
            self._receive()
        except OSError as exc:
            raise self._broken() from exc

    def close(self) -> None:
        """Hang up."""
        with suppress(OSError):
            self._line.close()

    def _send(self, data: bytes) -> None:
        self._line.sendall(len(data).to_bytes(_LEN_BYTES, "big") + data)

    def _receive(self) -> bytes:
        length = int.from_bytes(self._receive_exactly(_LEN_BYTES), "big")
        if length > MESSAGE_LEN_MAX:
            raise StoreDenied(f"{self._invitation.endpoint}: that is no coopfs waiting there")
        return self._receive_exactly(length)

    def _receive_exactly(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            piece = self._line.recv(length - len(received))
            if not piece:
                raise ConnectionError("the other side hung up")
            received += piece
        return bytes(received)

    def _broken(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._invitation.endpoint}: the line broke while the partners were introduced; "
            "run the same command again"
        )


def pinned_line(endpoint: Endpoint, pin: str) -> ssl.SSLSocket:
    """Return a TLS line to the one machine whose certificate has *pin*, showing none of ours.

    Raises:
        StoreUnavailable: nobody listens there, or no line.
        StoreIdentity: another certificate; nothing was sent.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # No authority is asked: the pin below says more than any would.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        plain = socket.create_connection((endpoint.host, endpoint.port), timeout=TIMEOUT_S)
    except OSError as exc:
        raise StoreUnavailable(
            f"{endpoint}: cannot be reached: {exc.strerror or exc}; is coopfs running there, and "
            "is the port open?"
        ) from exc
    try:
        line = context.wrap_socket(plain, server_hostname=endpoint.host)
    except OSError as exc:
        plain.close()
        raise StoreUnavailable(
            f"{endpoint}: no TLS there ({exc.strerror or exc}); is it coopfs that listens?"
        ) from exc
    found = pin_of(line.getpeercert(binary_form=True) or b"")
    if found != pin:
        line.close()
        raise StoreIdentity(
            f"{endpoint}: another machine answers: its certificate is {found}, expected {pin}; "
            "nothing was sent"
        )
    return line
