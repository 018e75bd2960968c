"""The store's ``config``: what an archive is made with; plain, keyed checksum.

Whoever has no key can read the parameters but cannot change them unnoticed.  A
sealed copy lies among the snapshots.  Byte table: coopfs-format(5), "Config".
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from coopfs.errors import FormatUnsupported, NotAStore, ObjectCorrupt, WrongKey
from coopfs.format import encoding
from coopfs.format.chunker import ChunkerParams, check_params
from coopfs.format.keys import PUBLIC_KEY_LEN, ArchiveKeys
from coopfs.format.pack import BLOCK_TARGET, MAX_BLOCK_LEN
from coopfs.ids import ARCHIVE_ID_LEN, ArchiveId

MAGIC: Final = b"COOPFSC\n"
VERSION: Final = 1
_CHECKSUM_LEN: Final = 32
_START: Final = len(MAGIC) + 1 + _CHECKSUM_LEN
MAX_LEN: Final = 64 << 10
_KNOWN = frozenset(range(9))


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """Parameters fixed at init (sizes in bytes)."""

    archive_id: ArchiveId
    chunker: ChunkerParams
    admin_public_key: bytes  # Ed25519, 32 bytes
    created_ns: int
    block_len: int = BLOCK_TARGET


def encode_config_body(config: ArchiveConfig) -> bytes:
    """Return the canonical body (also what the sealed copy holds)."""
    chunker = config.chunker
    return encoding.encode(
        {
            0: VERSION,
            1: config.archive_id,
            2: chunker.name,
            3: chunker.min_len,
            4: chunker.avg_len,
            5: chunker.max_len,
            6: config.block_len,
            7: config.admin_public_key,
            8: config.created_ns,
        }
    )


def encode_config(keys: ArchiveKeys, config: ArchiveConfig) -> bytes:
    """Return the bytes of the object ``config``."""
    body = encode_config_body(config)
    return MAGIC + bytes((VERSION,)) + blake3(body, key=keys.config_key).digest() + body


def peek_config(data: bytes, what: str) -> ArchiveConfig:
    """Parse ``config`` without a key; nothing in it is to be trusted yet.

    Raises:
        NotAStore: it is something else.
        FormatUnsupported: written by a newer coopfs.
        ObjectCorrupt: malformed.
    """
    if MAGIC.startswith(data):
        raise ObjectCorrupt(f"{what}: config is truncated to {len(data)} bytes")
    if not data.startswith(MAGIC):
        raise NotAStore(
            f"{what}: holds no archive of coopfs (its config is something else); "
            "is the address right?"
        )
    if len(data) < _START or len(data) > MAX_LEN:
        raise ObjectCorrupt(f"{what}: config has {len(data)} bytes; it is truncated or damaged")
    if data[len(MAGIC)] != VERSION:
        raise FormatUnsupported(
            f"{what}: archive format {data[len(MAGIC)]}; this coopfs knows {VERSION}, update it"
        )
    return decode_config_body(data[_START:], f"{what}: config")


def decode_config(keys: ArchiveKeys, data: bytes, what: str) -> ArchiveConfig:
    """Parse ``config`` and check its keyed checksum.

    Raises:
        WrongKey: another archive's, or altered by somebody without the key.
        NotAStore, FormatUnsupported, ObjectCorrupt: as :func:`peek_config`.
    """
    config = peek_config(data, what)
    expected = blake3(data[_START:], key=keys.config_key).digest()
    if not hmac.compare_digest(expected, data[len(MAGIC) + 1 : _START]):
        raise WrongKey(
            f"{what}: its config was not made with this key: another archive, or it was altered"
        )
    return config


def decode_config_body(body: bytes, what: str) -> ArchiveConfig:
    """Parse a config body (ObjectCorrupt, FormatUnsupported)."""
    f = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)
    if encoding.u64(f, 0, what) != VERSION:
        raise FormatUnsupported(f"{what}: archive format {f[0]}; update coopfs")
    chunker = ChunkerParams(
        encoding.text(f, 2, what, 64),
        encoding.u64(f, 3, what),
        encoding.u64(f, 4, what),
        encoding.u64(f, 5, what),
    )
    check_params(chunker, what)
    block_len = encoding.u64(f, 6, what, limit=MAX_BLOCK_LEN // 2)
    if block_len < 64 << 10:
        raise ObjectCorrupt(f"{what}: blocks of {block_len} bytes are out of bounds")
    return ArchiveConfig(
        archive_id=ArchiveId(encoding.bin_(f, 1, what, size=ARCHIVE_ID_LEN)),
        chunker=chunker,
        admin_public_key=encoding.bin_(f, 7, what, size=PUBLIC_KEY_LEN),
        created_ns=encoding.i64(f, 8, what),
        block_len=block_len,
    )
