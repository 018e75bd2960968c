"""Sealing: header, object key, and AES-256-GCM sections bound to their place.

Every stored object but ``config`` starts with the same 64-byte header and is a
sequence of sealed sections.  Refuses anything whose header, key commitment or
tag does not match.  Byte tables: coopfs-format(5), "Sealing".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from blake3 import blake3

from coopfs.errors import FormatUnsupported, ObjectCorrupt, ObjectKeyMismatch
from coopfs.format.ciphers import AES, GcmMode
from coopfs.format.keys import COMMITMENT_LEN, EPOCH, SALT_LEN, ArchiveKeys, Role

MAGIC: Final = b"COOPFS\r\n"  # the line end shows a transfer in text mode at once
VERSION: Final = 1
WRAP_DERIVED: Final = 0  # object key derived from the archive key
WRAP_PUBLIC: Final = 1  # kept for keys sealed to a public key; not read by this version
TAG_LEN: Final = 16
HEADER_LEN: Final = 64
_PREFIX = struct.Struct(">8sBBHB3x")  # magic, version, role, epoch, wrapping
_AD = struct.Struct(">BQQ")  # section, ordinal, plaintext length
_HEDGE = struct.Struct(">BQQ")
MAX_SECTION: Final = 1 << 31  # bytes; GCM itself allows 64 GiB


class Section(IntEnum):
    """The first byte of a nonce: which part of an object a tag protects."""

    BLOCK = 0
    PADDING = 1
    DIRECTORY = 2
    TRAILER = 3
    BODY = 4


@dataclass(frozen=True, slots=True)
class Header:
    """The first 64 bytes of a sealed object."""

    role: Role
    salt: bytes  # 32 bytes
    commitment: bytes  # 16 bytes, proves the key without opening anything
    epoch: int = EPOCH
    wrapping: int = WRAP_DERIVED

    def encode(self) -> bytes:
        """Return the 64 bytes."""
        prefix = _PREFIX.pack(MAGIC, VERSION, self.role, self.epoch, self.wrapping)
        return prefix + self.salt + self.commitment


def decode_header(data: bytes | memoryview, what: str, roles: Collection[Role]) -> Header:
    """Parse the first 64 bytes of *data*; the role must be one of *roles*.

    Raises:
        ObjectCorrupt: too short, not ours, or of another role.
        FormatUnsupported: a version, role, epoch or wrapping of a newer coopfs.
    """
    if len(data) < HEADER_LEN:
        raise ObjectCorrupt(f"{what}: {len(data)} bytes are too few for a header; it is truncated")
    magic, version, role, epoch, wrapping = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ObjectCorrupt(f"{what}: does not start like an object of coopfs")
    if version != VERSION:
        raise FormatUnsupported(
            f"{what}: format version {version}; this coopfs reads version {VERSION}, update it"
        )
    if bytes(data[13:16]) != b"\0\0\0":
        raise FormatUnsupported(f"{what}: reserved header bytes are in use; update coopfs")
    if epoch != EPOCH or wrapping != WRAP_DERIVED:
        raise FormatUnsupported(
            f"{what}: key epoch {epoch} with wrapping {wrapping} is not known; update coopfs"
        )
    try:
        known_role = Role(role)
    except ValueError:
        raise FormatUnsupported(f"{what}: unknown role {role}; update coopfs") from None
    if known_role not in roles:
        raise ObjectCorrupt(
            f"{what}: is a {known_role.name.lower()} object, which does not belong here"
        )
    salt = bytes(data[16 : 16 + SALT_LEN])
    return Header(known_role, salt, bytes(data[48 : 48 + COMMITMENT_LEN]), epoch, wrapping)


def make_salt(
    keys: ArchiveKeys,
    role: Role,
    random: bytes,
    sections: Iterable[tuple[Section, int, bytes | memoryview]],
) -> bytes:
    """Return the salt of a new object: keyed hash of *random* and all it will seal.

    *random* is 32 fresh bytes.  Hedged: were the random source broken, a key is
    repeated only for identical objects.  What is a function of the ciphertext
    (digest and signature in a pack's directory) need not be in *sections*.
    """
    hasher = blake3(key=keys.hedge_key)
    hasher.update(random)
    hasher.update(_PREFIX.pack(MAGIC, VERSION, role, EPOCH, WRAP_DERIVED))
    for section, ordinal, plaintext in sections:
        hasher.update(_HEDGE.pack(section, ordinal, len(plaintext)))
        hasher.update(plaintext)
    return hasher.digest()


class Sealer:
    """Seals the sections of one new object, each (section, ordinal) once."""

    __slots__ = ("_key", "header", "header_bytes")

    def __init__(self, keys: ArchiveKeys, role: Role, salt: bytes) -> None:
        """Derive the object key; *salt* comes from :func:`make_salt`."""
        self._key, commitment = keys.object_key(role, salt)
        self.header = Header(role, salt, commitment)
        self.header_bytes = self.header.encode()

    def seal(self, section: Section, ordinal: int, plaintext: bytes) -> bytes:
        """Return ciphertext and tag, ``len(plaintext) + 16`` bytes."""
        cipher = _cipher(self._key, self.header_bytes, section, ordinal, len(plaintext))
        ciphertext, tag = cipher.encrypt_and_digest(plaintext)
        sealed: bytes = ciphertext + tag
        return sealed

    def seal_into(
        self,
        target: memoryview,
        offset: int,
        section: Section,
        ordinal: int,
        plaintext: bytes | memoryview,
    ) -> int:
        """Write ciphertext and tag to *target* from *offset* on; return where they end."""
        end = offset + len(plaintext)
        cipher = _cipher(self._key, self.header_bytes, section, ordinal, len(plaintext))
        cipher.encrypt(plaintext, output=target[offset:end])
        target[end : end + TAG_LEN] = cipher.digest()
        return end + TAG_LEN


class Opener:
    """Opens sections of one stored object after its key commitment matched."""

    __slots__ = ("_header_bytes", "_key", "header", "what")

    def __init__(self, keys: ArchiveKeys, header: Header, what: str) -> None:
        """Derive the object key and compare the commitment.

        Raises:
            ObjectKeyMismatch: the object was sealed under another archive key, or its
                salt or commitment is damaged.
        """
        self._key, commitment = keys.object_key(header.role, header.salt)
        if commitment != header.commitment:
            raise ObjectKeyMismatch(
                f"{what}: was sealed with another key (or its header is damaged); "
                "is this the archive the key belongs to?"
            )
        self.header = header
        self._header_bytes = header.encode()
        self.what = what

    def open(self, section: Section, ordinal: int, sealed: bytes | memoryview) -> bytes:
        """Return the plaintext of one section.

        Raises:
            ObjectCorrupt: the tag does not match: altered, moved or truncated.
        """
        plain = bytearray(max(len(sealed) - TAG_LEN, 0))
        self.open_into(plain, section, ordinal, sealed)
        return bytes(plain)

    def open_into(
        self,
        target: bytearray | memoryview,
        section: Section,
        ordinal: int,
        sealed: bytes | memoryview,
    ) -> None:
        """Write the plaintext of one section to *target*, which has its length exactly.

        *target* may be where *sealed* lies.  After an error what it holds is not to be used.

        Raises:
            ObjectCorrupt: the tag does not match: altered, moved or truncated.
        """
        plain_len = len(sealed) - TAG_LEN
        if not 0 <= plain_len <= MAX_SECTION:
            raise ObjectCorrupt(f"{self.what}: a sealed section of {len(sealed)} bytes")
        cipher = _cipher(self._key, self._header_bytes, section, ordinal, plain_len)
        view = memoryview(sealed)  # a slice of a megabyte is then no copy of it
        tag = bytes(view[plain_len:])
        try:
            cipher.decrypt_and_verify(view[:plain_len], tag, output=target)
        except ValueError:
            raise ObjectCorrupt(
                f"{self.what}: {section.name.lower()} {ordinal} is damaged or was altered"
            ) from None


def _cipher(
    key: bytes, header_bytes: bytes, section: Section, ordinal: int, plain_len: int
) -> GcmMode:
    nonce = bytes((section,)) + ordinal.to_bytes(11, "big")
    cipher = AES.new(key, AES.MODE_GCM, nonce=nonce, mac_len=TAG_LEN)
    cipher.update(header_bytes + _AD.pack(section, ordinal, plain_len))
    return cipher


def padded_len(length: int) -> int:
    """Return the size an object of *length* bytes is padded to.

    Powers of two from 64 KiB to 1 MiB, above that Padmé (Nikitin et al.,
    "Reducing Metadata Leakage from Encrypted Files", PETS 2019, section 4).
    """
    if length <= 1 << 16:
        return 1 << 16
    if length <= 1 << 20:
        return 1 << (length - 1).bit_length()
    exponent = length.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (length + mask) & ~mask
