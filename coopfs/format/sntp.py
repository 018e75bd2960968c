"""A question to a time server and its answer: SNTP, RFC 4330 and RFC 5905, section 14.

Pure functions on bytes.  The question tells nothing of our clock: where it would stand is
a random cookie, which the answer must repeat (draft-ietf-ntp-data-minimization), so that
nobody who does not see the question can answer it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PACKET_LEN: Final = 48  # bytes; authenticators and extensions after it are not asked for
COOKIE_LEN: Final = 8
PORT: Final = 123
STRATUM_UNSYNCHRONISED: Final = 16  # RFC 5905, figure 11
_PACKET: Final = struct.Struct(">BBbbII4s8sQQQ")
_QUESTION: Final = bytes([4 << 3 | 3])  # version 4, mode 3: client
_SERVER: Final = 4  # mode
_ALARM: Final = 3  # leap indicator: not synchronised
_EPOCH_S: Final = 2_208_988_800  # from 1900 to 1970
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class TimeAnswer:
    """What a time server said, compared with our clock."""

    offset_ns: int  # its time minus ours
    delay_ns: int  # there and back, without what it took the server
    stratum: int  # 1: has a clock of its own; at most 15
    reference: str  # whom it follows: four letters for a clock, else an IPv4 address or a hash


def encode_question(cookie: bytes) -> bytes:
    """Return the packet that asks for the time; *cookie* are 8 random bytes."""
    return _QUESTION.ljust(PACKET_LEN - COOKIE_LEN, b"\0") + cookie


def decode_answer(
    data: bytes, cookie: bytes, sent_ns: int, received_ns: int
) -> TimeAnswer | str | None:
    """Return what the packet says, or why its sender knows no time; None: it is no answer.

    *sent_ns* and *received_ns* are our clock's, ns since 1970.
    """
    if len(data) < PACKET_LEN:
        return None
    first, stratum, _, _, _, _, refid, origin, _, received, sent = _PACKET.unpack_from(data)
    if first & 7 != _SERVER or origin != cookie:
        return None
    if stratum == 0:
        # A kiss of death: go away, for the reason in the reference (RFC 5905, section 7.4).
        return f"it refuses ({_printable(refid)})"
    if stratum >= STRATUM_UNSYNCHRONISED or first >> 6 == _ALARM or not sent or not received:
        return "it is not synchronised itself"
    there_ns = _signed(received - _ntp(sent_ns))
    back_ns = _signed(sent - _ntp(received_ns))
    return TimeAnswer(
        offset_ns=(there_ns + back_ns) // 2,
        delay_ns=there_ns - back_ns,
        stratum=stratum,
        reference=_printable(refid) if stratum == 1 else ".".join(map(str, refid)),
    )


def _ntp(time_ns: int) -> int:
    """Return *time_ns* in NTP's format: 32 bits of seconds since 1900, 32 of fraction."""
    seconds, rest_ns = divmod(time_ns, _NS)
    return ((seconds + _EPOCH_S) << 32 | (rest_ns << 32) // _NS) & ((1 << 64) - 1)


def _signed(difference: int) -> int:
    """Return a difference of two NTP times in ns; right over the eras, within 68 years."""
    difference &= (1 << 64) - 1
    if difference >> 63:
        difference -= 1 << 64
    return difference * _NS >> 32


def _printable(refid: bytes) -> str:
    return "".join(chr(b) if 0x20 < b < 0x7F else "" for b in refid) or "?"
