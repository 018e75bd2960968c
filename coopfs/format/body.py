"""Sealed bodies: index objects, snapshots and records are one signed body each.

Owns the frame around a structure: signature, compression, zero padding.
Byte table: coopfs-format(5), "Body".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from coopfs.errors import ObjectCorrupt
from coopfs.format.codec import Compressor, decompress
from coopfs.format.keys import (
    SIGN_BODY,
    SIGNATURE_LEN,
    ArchiveKeys,
    Role,
    SigningKey,
    verify_signature,
)
from coopfs.format.sealing import (
    HEADER_LEN,
    TAG_LEN,
    Opener,
    Sealer,
    Section,
    decode_header,
    make_salt,
    padded_len,
)
from coopfs.ids import ArchiveId, ObjectId

# Bytes, decompressed.  What any enrolled writer may sign is read before it is known who signed
# it: 32 KiB in the store must not become gigabytes at whoever reads it.  What only the admin
# may sign is not looked into before its signature was verified.
MAX_BODY_LEN: Final = 256 << 20
_MAX_OF_ROLE: Final = {
    Role.INDEX: 32 << 20,
    Role.SNAPSHOT: 8 << 20,
    Role.AMENDMENT: 8 << 20,
    Role.ENROLMENT: 8 << 20,
    Role.CONFIG: 8 << 20,
}
COMPRESS_MIN: Final = 4 << 10  # bytes; a smaller body would only be padded again
_FRAME = struct.Struct(">BQQ")  # codec, plain length, stored length


@dataclass(frozen=True, slots=True)
class SealedBody:
    """An object ready to be stored."""

    object_id: ObjectId
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenedBody:
    """A body whose tag matched; its signature is still to be verified."""

    role: Role
    body: bytes
    signature: bytes
    what: str


def max_body_len(role: Role) -> int:
    """Return how many bytes the body of an object of *role* may have, decompressed."""
    return _MAX_OF_ROLE.get(role, MAX_BODY_LEN)


def check_body_len(role: Role, length: int, what: str) -> None:
    """Refuse (ObjectCorrupt) a body of *length* bytes that no reader would take."""
    if length > max_body_len(role):
        raise ObjectCorrupt(
            f"{what}: {length} bytes of a body, {max_body_len(role)} are the most of a "
            f"{role.name.lower()} object"
        )


def _signed_message(role: Role, archive_id: ArchiveId, body: bytes) -> bytes:
    return bytes((role,)) + archive_id + body


def seal_body(
    keys: ArchiveKeys,
    signer: SigningKey,
    role: Role,
    archive_id: ArchiveId,
    body: bytes,
    random: bytes,
) -> SealedBody:
    """Sign, compress, pad and seal *body* (see max_body_len); *random* is 32 fresh bytes."""
    if len(body) > max_body_len(role):
        raise ValueError(f"a body of {len(body)} bytes could not be read again; write several")
    signature = signer.sign(SIGN_BODY, _signed_message(role, archive_id, body))
    codec, stored = Compressor().compress(body) if len(body) >= COMPRESS_MIN else (0, body)
    inner = signature + _FRAME.pack(codec, len(body), len(stored)) + stored
    size = padded_len(HEADER_LEN + len(inner) + TAG_LEN)
    inner += bytes(size - HEADER_LEN - TAG_LEN - len(inner))
    sealer = Sealer(keys, role, make_salt(keys, role, random, [(Section.BODY, 0, inner)]))
    data = sealer.header_bytes + sealer.seal(Section.BODY, 0, inner)
    return SealedBody(ObjectId(hashlib.sha256(data).digest()), data)


def open_body(keys: ArchiveKeys, data: bytes, roles: Collection[Role], what: str) -> OpenedBody:
    """Open an object of one of *roles*.

    Raises:
        ObjectCorrupt: damaged, or of another role.
        ObjectKeyMismatch: not sealed with this key.
        FormatUnsupported: written by a newer coopfs.
    """
    header = decode_header(data, what, roles)
    inner = Opener(keys, header, what).open(Section.BODY, 0, data[HEADER_LEN:])
    start = SIGNATURE_LEN + _FRAME.size
    if len(inner) < start:
        raise ObjectCorrupt(f"{what}: too short")
    codec, plain_len, stored_len = _FRAME.unpack_from(inner, SIGNATURE_LEN)
    if plain_len > max_body_len(header.role) or start + stored_len > len(inner):
        raise ObjectCorrupt(f"{what}: says it holds {plain_len} bytes, which is out of bounds")
    if inner.count(0, start + stored_len) != len(inner) - start - stored_len:
        raise ObjectCorrupt(f"{what}: padding is not zero")
    body = decompress(codec, inner[start : start + stored_len], plain_len, what)
    return OpenedBody(header.role, body, inner[:SIGNATURE_LEN], what)


def check_name(data: bytes, object_id: bytes, what: str) -> None:
    """Check that *data* is the object of that name, so that none passes for another.

    The tag alone would let a store show an old snapshot under a new one's name.

    Raises:
        ObjectCorrupt: the name is another object's.
    """
    if hashlib.sha256(data).digest() != object_id:
        raise ObjectCorrupt(
            f"{what}: its bytes are not the ones its name stands for; damaged or exchanged"
        )


def verify_body(opened: OpenedBody, archive_id: ArchiveId, public_key: bytes) -> None:
    """Check the signature of an opened body (SignatureInvalid)."""
    message = _signed_message(opened.role, archive_id, opened.body)
    verify_signature(public_key, SIGN_BODY, message, opened.signature, opened.what)
