"""Pack layout: sealed blocks back to back, padding, then a sealed directory.

Pure functions on bytes; no I/O.  Byte tables: coopfs-format(5), "Pack".
The directory can be read from the last bytes of the pack alone, and is
repeated in the index, so that one range request reads any block.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.codec import decompress
from coopfs.format.keys import (
    PACK_ROLES,
    SIGN_PACK,
    SIGNATURE_LEN,
    ArchiveKeys,
    Role,
    SigningKey,
    verify_signature,
)
from coopfs.format.sealing import (
    HEADER_LEN,
    TAG_LEN,
    Header,
    Opener,
    Sealer,
    Section,
    decode_header,
    make_salt,
    padded_len,
)
from coopfs.ids import ID_LEN, WRITER_ID_LEN, ChunkId, PackId, WriterId

PACK_TARGET: Final = 16 << 20  # bytes of sealed blocks at which a pack is closed
BLOCK_TARGET: Final = 1 << 20  # bytes of chunks at which a block is closed
MAX_BLOCK_LEN: Final = 32 << 20  # bytes, plain
MAX_CHUNK_LEN: Final = 16 << 20  # bytes; the chunker's most, and more than any node
MAX_CHUNKS: Final = 1 << 22  # in one pack
MAX_BLOCKS: Final = 1 << 20  # in one pack
MAX_PACK_LEN: Final = 1 << 30  # bytes
_POSITION = struct.Struct(">QQ")  # directory's offset and sealed length
TRAILER_LEN: Final = HEADER_LEN + _POSITION.size + TAG_LEN
_KNOWN = frozenset(range(5))


@dataclass(frozen=True, slots=True)
class BlockDraft:
    """A block ready for sealing: what compression made of its chunks."""

    codec: int
    stored: bytes | memoryview  # codec's output
    plain_len: int  # bytes of all chunks
    chunks: tuple[tuple[bytes, int], ...]  # (id, length in bytes) in order


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """Where a block lies in its pack and what it decodes to."""

    offset: int  # bytes from the start of the pack
    sealed_len: int  # bytes, tag included
    plain_len: int  # bytes after decompression
    codec: int
    first_chunk: int  # place of its first chunk in the directory
    chunk_count: int


@dataclass(frozen=True, slots=True)
class Directory:
    """What a pack holds, signed by who made it."""

    blocks: tuple[BlockEntry, ...]
    chunk_ids: tuple[ChunkId, ...]
    chunk_lens: tuple[int, ...]  # bytes
    writer_id: WriterId
    digest: bytes  # BLAKE3 of every byte of the pack before the sealed directory
    body: bytes  # as stored; what the signature covers
    signature: bytes


@dataclass(frozen=True, slots=True)
class BuiltPack:
    """A finished pack: the bytes to store and what the index needs to know."""

    pack_id: PackId
    data: memoryview
    header: Header
    directory: Directory


def encode_directory_body(drafts: Sequence[BlockDraft], writer_id: bytes, digest: bytes) -> bytes:
    """Return the canonical directory; offsets follow from the sealed lengths."""
    return encoding.encode(
        {
            0: [[len(d.stored) + TAG_LEN, d.plain_len, d.codec, len(d.chunks)] for d in drafts],
            1: b"".join(chunk_id for d in drafts for chunk_id, _ in d.chunks),
            2: [length for d in drafts for _, length in d.chunks],
            3: writer_id,
            4: digest,
        }
    )


def decode_directory(body: bytes, signature: bytes, what: str) -> Directory:
    """Parse a directory body; every length is checked against the others.

    Raises:
        ObjectCorrupt: not canonical, or lengths that contradict each other.
    """
    fields = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)
    ids = encoding.bin_(fields, 1, what, limit=MAX_CHUNKS * ID_LEN)
    lens = fields.get(2)
    raw_blocks = fields.get(0)
    if len(ids) % ID_LEN or type(lens) is not list or len(lens) != len(ids) // ID_LEN:
        raise ObjectCorrupt(f"{what}: chunk ids and lengths do not pair up")
    if type(raw_blocks) is not list or len(raw_blocks) > MAX_BLOCKS or len(signature) != 64:
        raise ObjectCorrupt(f"{what}: malformed list of blocks or signature")
    for length in lens:
        if type(length) is not int or not 0 < length <= MAX_CHUNK_LEN:
            raise ObjectCorrupt(f"{what}: a chunk's length is out of bounds")
    blocks = []
    offset = HEADER_LEN
    first = 0
    for raw in raw_blocks:
        if type(raw) is not list or len(raw) != 4 or any(type(n) is not int for n in raw):
            raise ObjectCorrupt(f"{what}: malformed block")
        sealed_len, plain_len, codec, count = raw
        if not (TAG_LEN <= sealed_len <= MAX_BLOCK_LEN + 4096 and 0 <= codec <= 255 and count > 0):
            raise ObjectCorrupt(f"{what}: a block's size is out of bounds")
        if plain_len > MAX_BLOCK_LEN or sum(lens[first : first + count]) != plain_len:
            raise ObjectCorrupt(f"{what}: a block's chunks do not add up to its length")
        blocks.append(BlockEntry(offset, sealed_len, plain_len, codec, first, count))
        offset += sealed_len
        first += count
    if first != len(lens) or offset > MAX_PACK_LEN - TRAILER_LEN:
        raise ObjectCorrupt(f"{what}: blocks and chunks do not match")
    return Directory(
        blocks=tuple(blocks),
        chunk_ids=tuple(ChunkId(ids[i : i + ID_LEN]) for i in range(0, len(ids), ID_LEN)),
        chunk_lens=tuple(lens),
        writer_id=WriterId(encoding.bin_(fields, 3, what, size=WRITER_ID_LEN)),
        digest=encoding.bin_(fields, 4, what, size=32),
        body=body,
        signature=signature,
    )


def build_pack(
    keys: ArchiveKeys,
    signer: SigningKey,
    role: Role,
    drafts: Sequence[BlockDraft],
    random: bytes,
    *,
    allocate: Callable[[int], memoryview] = lambda size: memoryview(bytearray(size)),
) -> BuiltPack:
    """Seal *drafts* into one pack, padded and signed.

    *random* is 32 fresh bytes; *allocate* gives writable room for the pack.  The same
    arguments give the same bytes, so a retried upload never seals anything twice
    under one salt.
    """
    blank = encode_directory_body(drafts, signer.writer_id, bytes(32))
    directory_len = len(blank) + SIGNATURE_LEN + TAG_LEN
    blocks_len = sum(len(d.stored) + TAG_LEN for d in drafts)
    least = HEADER_LEN + blocks_len + TAG_LEN + directory_len + TRAILER_LEN
    size = padded_len(least)
    padding = bytes(size - least)

    sections = [(Section.BLOCK, i, d.stored) for i, d in enumerate(drafts)]
    # The blank directory stands for the real one, whose digest and signature
    # are functions of the ciphertext and so cannot be hedged over.
    sections += [(Section.PADDING, 0, padding), (Section.DIRECTORY, 0, blank)]
    sealer = Sealer(keys, role, make_salt(keys, role, random, sections))

    # Sealed in place: a pack is 16 MiB, and every copy of it costs as much as sealing.
    data = allocate(size)
    data[:HEADER_LEN] = sealer.header_bytes
    end = HEADER_LEN
    for i, draft in enumerate(drafts):
        end = sealer.seal_into(data, end, Section.BLOCK, i, draft.stored)
    end = sealer.seal_into(data, end, Section.PADDING, 0, padding)
    body = encode_directory_body(drafts, signer.writer_id, blake3(data[:end]).digest())
    signature = signer.sign(SIGN_PACK, body)
    position = _POSITION.pack(end, directory_len)
    end = sealer.seal_into(data, end, Section.DIRECTORY, 0, body + signature)
    data[end : end + HEADER_LEN] = sealer.header_bytes
    sealer.seal_into(data, end + HEADER_LEN, Section.TRAILER, 0, position)
    return BuiltPack(
        pack_id=PackId(hashlib.sha256(data).digest()),
        data=data,
        header=sealer.header,
        directory=decode_directory(body, signature, "new pack"),
    )


def decode_trailer(
    keys: ArchiveKeys, tail: bytes | memoryview, size: int, what: str
) -> tuple[Opener, int, int]:
    """Read a pack's last bytes (at least 96): (opener, directory offset, sealed length)."""
    if len(tail) < TRAILER_LEN or size < HEADER_LEN + TRAILER_LEN:
        raise ObjectCorrupt(f"{what}: too short for a pack; it is truncated")
    if size > MAX_PACK_LEN:
        raise ObjectCorrupt(f"{what}: {size} bytes are more than a pack may have")
    trailer = tail[-TRAILER_LEN:]
    opener = Opener(keys, decode_header(trailer, what, PACK_ROLES), what)
    offset, sealed_len = _POSITION.unpack(opener.open(Section.TRAILER, 0, trailer[HEADER_LEN:]))
    if offset < HEADER_LEN or sealed_len < SIGNATURE_LEN + TAG_LEN:
        raise ObjectCorrupt(f"{what}: the directory's position is out of bounds")
    if offset + sealed_len + TRAILER_LEN != size:
        raise ObjectCorrupt(f"{what}: {size} bytes long, its trailer says otherwise; truncated?")
    return opener, offset, sealed_len


def open_directory(opener: Opener, sealed: bytes | memoryview, what: str) -> Directory:
    """Open a pack's sealed directory (its signature is not verified here)."""
    plain = opener.open(Section.DIRECTORY, 0, sealed)
    return decode_directory(plain[:-SIGNATURE_LEN], plain[-SIGNATURE_LEN:], what)


def verify_directory(directory: Directory, public_key: bytes, what: str) -> None:
    """Check that the directory was signed by the writer it names (SignatureInvalid)."""
    verify_signature(public_key, SIGN_PACK, directory.body, directory.signature, what)


def open_block(
    opener: Opener,
    ordinal: int,
    block: BlockEntry,
    sealed: bytes | memoryview,
    what: str,
    scratch: bytearray | None = None,
) -> bytes | bytearray | memoryview:
    """Return the chunks of one block back to back; ids are the caller's to verify.

    *scratch*, as long as *sealed* at least, is decrypted in; what is returned may lie in it.

    Raises:
        ObjectCorrupt: tag, codec or length does not match.
    """
    if len(sealed) != block.sealed_len:
        raise ObjectCorrupt(
            f"{what}: block {ordinal}: {len(sealed)} bytes of {block.sealed_len}; truncated?"
        )
    stored_len = max(len(sealed) - TAG_LEN, 0)
    stored = memoryview(bytearray(stored_len) if scratch is None else scratch)[:stored_len]
    opener.open_into(stored, Section.BLOCK, ordinal, sealed)
    return decompress(block.codec, stored, block.plain_len, f"{what}: block {ordinal}")


@dataclass(frozen=True, slots=True)
class ParsedPack:
    """A whole pack, read and checked."""

    opener: Opener
    directory: Directory


def parse_pack(keys: ArchiveKeys, data: bytes | memoryview, what: str) -> ParsedPack:
    """Check a whole pack's structure, digest and padding; blocks stay sealed.

    Raises:
        ObjectCorrupt: any byte before the directory differs from what was signed,
            or the layout is not the one described.
    """
    opener, offset, sealed_len = decode_trailer(keys, data, len(data), what)
    if data[:HEADER_LEN] != opener.header.encode():
        raise ObjectCorrupt(f"{what}: header and trailer differ")
    directory = open_directory(opener, data[offset : offset + sealed_len], what)
    if blake3(memoryview(data)[:offset]).digest() != directory.digest:
        raise ObjectCorrupt(f"{what}: its bytes are not the ones its writer signed")
    last = directory.blocks[-1] if directory.blocks else None
    blocks_end = last.offset + last.sealed_len if last else HEADER_LEN
    padding = opener.open(Section.PADDING, 0, data[blocks_end:offset])
    if padding.count(0) != len(padding):
        raise ObjectCorrupt(f"{what}: padding is not zero")
    return ParsedPack(opener, directory)
