"""How two partners are introduced: the code one reads to the other, and what they then send.

Pure functions on text and bytes.  The code holds what must not be swapped (the
fingerprint) and what must not be seen (the token); the messages go over TLS to the
machine with that fingerprint.  coopfs-pair(1); coopfs-format(5), "Invitations".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from blake3 import blake3

from coopfs.bandwidth import Schedule
from coopfs.errors import ObjectCorrupt, UsageError
from coopfs.format import encoding
from coopfs.format.codes import decode_code, encode_code
from coopfs.format.encoding import compact

VERSION: Final = 1
PIN_LEN: Final = 32  # bytes, SHA-256 of a certificate's DER
TOKEN_LEN: Final = 16  # random bytes: nobody guesses one in five tries
LIFETIME_S: Final = 24 * 3600
FAILURES_MAX: Final = 5  # wrong tokens; then the invitation is over
MESSAGE_LEN_MAX: Final = 64 << 10  # bytes; a real one is under 2 KiB
CERTIFICATE_LEN_MAX: Final = 4096  # bytes; one of ours has about 280
OWNERS_MAX: Final = 16
QUOTA_MAX: Final = 1 << 62  # bytes
RETENTION_DAYS_MAX: Final = 3650
NAME_LEN_MAX: Final = 64
RATE_LEN_MAX: Final = 200  # characters of a schedule
_CODE_CONTEXT: Final = "coopfs 1 invitation checksum"
_WORDS_CONTEXT: Final = "coopfs 1 introduction"
_FIXED: Final = struct.Struct(f">B{PIN_LEN}s{TOKEN_LEN}sQH")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
T = TypeVar("T")
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens."""

    host: str  # a name or an address, IPv6 without brackets
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, what: str) -> Endpoint:
    """Read ``HOST:PORT`` or ``[IPV6]:PORT`` (UsageError, which names *what*)."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""  # an IPv6 address without brackets
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16
    if not colon or not is_port or not _HOST.match(host):
        raise UsageError(f"{what} {text!r}: expected HOST:PORT, such as backup.example.org:8765")
    return Endpoint(host, int(port))


def check_partner_name(name: str) -> str:
    """Return *name* if a partner may be called so (UsageError)."""
    if not _NAME.match(name):
        raise UsageError(
            f"partner name {name!r}: expected letters, digits, '.', '_' and '-', "
            f"{NAME_LEN_MAX} at most, beginning with a letter or digit"
        )
    return name


# --- the code -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an invitation's code says; whoever has it first becomes the partner."""

    endpoint: Endpoint  # where the inviting side waits
    pin: bytes  # 32 bytes, of the certificate it shows
    token: bytes = field(repr=False)  # 16 bytes, good for one partner
    expires_s: int  # seconds since 1970, by the inviting side's clock
    name: str  # what the inviting side calls itself


def encode_invitation(invitation: Invitation) -> str:
    """Return the code: one word of lower-case letters and digits, with a checksum."""
    body = _FIXED.pack(
        VERSION,
        invitation.pin,
        invitation.token,
        invitation.expires_s,
        invitation.endpoint.port,
    ) + f"{invitation.name}\0{invitation.endpoint.host}".encode("ascii")
    return encode_code(body, _CODE_CONTEXT)


def decode_invitation(code: str) -> Invitation:
    """Read a code; case, spaces, line ends and dashes do not matter.

    Raises:
        UsageError: not a code, mistyped, or of a newer coopfs.
    """
    body = decode_code(code, _CODE_CONTEXT)
    if not body:
        raise UsageError(
            "that is not a whole invitation; copy all of the line that "
            '"coopfs pair invite" printed on the other side'
        )
    if body[0] != VERSION:
        raise UsageError(f"an invitation of version {body[0]}; update coopfs on this machine")
    if len(body) < _FIXED.size:
        raise UsageError("that is a code, but not an invitation")
    _, pin, token, expires_s, port = _FIXED.unpack_from(body)
    name, _, host = body[_FIXED.size :].decode("ascii", "replace").partition("\0")
    bracketed = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    endpoint = parse_endpoint(bracketed, "the invitation's address")
    return Invitation(endpoint, pin, token, expires_s, check_partner_name(name))


# --- the messages -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Introduction:
    """What one side tells the other about itself and about what it grants."""

    name: str  # what it calls itself
    path: str  # the name under which its server will know the other side
    server_certificate: bytes  # DER, of its server
    writer_certificate: bytes  # DER, with which it comes to the other's server to write
    owner_certificates: tuple[bytes, ...]  # DER, derived from its admin keys; may be none yet
    endpoint: Endpoint | None  # of its server; None: nobody reaches it, it dials
    quota: int  # bytes it keeps for the other side
    retention_days: int  # how long what the other side deletes stays in its trash
    receive_rate: str = ""  # a schedule: how fast the other side may upload, and when
    send_rate: str = ""  # ... and read


@dataclass(frozen=True, slots=True)
class Request:
    """From the side that accepts: the token, and who comes."""

    token: bytes = field(repr=False)
    introduction: Introduction


@dataclass(frozen=True, slots=True)
class Answer:
    """From the side that invited: who it is, or why it refuses."""

    introduction: Introduction | None
    refusal: str = ""  # for people


def encode_request(request: Request) -> bytes:
    """Return the canonical bytes (ObjectCorrupt: no reader would accept them)."""
    data = encoding.encode({0: VERSION, 1: request.token, 2: _fields(request.introduction)})
    decode_request(data)
    return data


def decode_request(data: bytes) -> Request:
    """Parse a request (ObjectCorrupt, FormatUnsupported)."""
    what = "the partner's request"
    f = _message(data, what)
    token = encoding.bin_(f, 1, what, size=TOKEN_LEN)
    return Request(token, _introduction(f.get(2), what))


def encode_answer(answer: Answer) -> bytes:
    """Return the canonical bytes (ObjectCorrupt: no reader would accept them)."""
    told = answer.introduction
    data = encoding.encode(
        compact(
            {
                0: VERSION,
                1: None if told is None else _fields(told),
                2: answer.refusal or None,
            }
        )
    )
    decode_answer(data)
    return data


def decode_answer(data: bytes) -> Answer:
    """Parse an answer (ObjectCorrupt, FormatUnsupported)."""
    what = "the partner's answer"
    f = _message(data, what)
    if 2 in f:
        return Answer(None, encoding.text(f, 2, what, 1000))
    return Answer(_introduction(f.get(1), what))


def introduction_digest(inviting: Introduction, accepting: Introduction) -> bytes:
    """Return 32 bytes over all that both sides told: the same at both, or somebody lied."""
    told = encoding.encode([_fields(inviting), _fields(accepting)])
    return blake3(told, derive_key_context=_WORDS_CONTEXT).digest()


def _message(data: bytes, what: str) -> encoding.Fields:
    if len(data) > MESSAGE_LEN_MAX:
        raise ObjectCorrupt(f"{what}: {len(data)} bytes are over the limit {MESSAGE_LEN_MAX}")
    f = encoding.fields_of(encoding.decode(data, what), what, frozenset(range(3)))
    version = encoding.u64(f, 0, what)
    if version != VERSION:
        raise ObjectCorrupt(f"{what}: of version {version}; both sides need the same coopfs")
    return f


def _fields(told: Introduction) -> encoding.Fields:
    return compact(
        {
            0: told.name,
            1: told.path,
            2: told.server_certificate,
            3: told.writer_certificate,
            4: list(told.owner_certificates) or None,
            5: str(told.endpoint) if told.endpoint else None,
            6: told.quota,
            7: told.retention_days,
            8: told.receive_rate or None,
            9: told.send_rate or None,
        }
    )


def _introduction(value: object, what: str) -> Introduction:
    f = encoding.fields_of(value, what, frozenset(range(10)))
    return Introduction(
        name=_checked(check_partner_name, encoding.text(f, 0, what, NAME_LEN_MAX), what),
        path=_checked(check_partner_name, encoding.text(f, 1, what, NAME_LEN_MAX), what),
        server_certificate=encoding.bin_(f, 2, what, limit=CERTIFICATE_LEN_MAX),
        writer_certificate=encoding.bin_(f, 3, what, limit=CERTIFICATE_LEN_MAX),
        owner_certificates=encoding.list_of(f, 4, what, _certificate(what), OWNERS_MAX),
        endpoint=_endpoint(encoding.text(f, 5, what, 300), what) if 5 in f else None,
        quota=encoding.u64(f, 6, what, QUOTA_MAX),
        retention_days=encoding.u64(f, 7, what, RETENTION_DAYS_MAX),
        receive_rate=_rate(f, 8, what),
        send_rate=_rate(f, 9, what),
    )


def _rate(f: encoding.Fields, key: int, what: str) -> str:
    if key not in f:
        return ""
    return _checked(Schedule.parse, encoding.text(f, key, what, RATE_LEN_MAX), what).text


def _certificate(what: str) -> Callable[[object], bytes]:
    def check(value: object) -> bytes:
        if type(value) is not bytes or len(value) > CERTIFICATE_LEN_MAX:
            raise ObjectCorrupt(f"{what}: expected a certificate")
        return value

    return check


def _endpoint(text: str, what: str) -> Endpoint:
    return _checked(lambda told: parse_endpoint(told, "address"), text, what)


def _checked(check: Callable[[str], T], text: str, what: str) -> T:
    try:
        return check(text)
    except UsageError as exc:
        raise ObjectCorrupt(f"{what}: {exc}") from exc
