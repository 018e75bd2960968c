"""Packs under check: every byte of one read, opened, and every chunk's id made anew.

Owns what is wrong with a single pack; which files that hurts is
:mod:`coopfs.ops.check_trees`'s.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from coopfs.errors import DataError, ObjectNotFound, WrongKey
from coopfs.format.index import IndexedPack
from coopfs.format.keys import ArchiveKeys, Role
from coopfs.format.pack import Directory, open_block, parse_pack
from coopfs.format.sealing import Opener
from coopfs.ids import ObjectId, PackId, short_hex
from coopfs.store.base import Kind, Store

DIGEST_LEN: Final = 32


@dataclass(frozen=True, slots=True)
class PackFacts:
    """What check keeps of a pack that an index object names."""

    pack_id: PackId
    size: int  # bytes, as the index has it
    object_id: ObjectId  # the index object
    digest: bytes  # of header, directory and signature, as the index has them
    block_count: int
    chunk_count: int


def pack_facts(pack: IndexedPack, object_id: ObjectId) -> PackFacts:
    """Return what is kept of *pack* until it is read."""
    directory = pack.directory
    return PackFacts(
        pack.pack_id,
        pack.size,
        object_id,
        _digest(pack.header.encode(), directory),
        len(directory.blocks),
        len(directory.chunk_ids),
    )


def _digest(header: bytes, directory: Directory) -> bytes:
    return hashlib.sha256(header + directory.signature + directory.body).digest()


@dataclass(slots=True)
class PackReport:
    """What reading a pack has shown."""

    facts: PackFacts
    read_len: int = 0  # bytes
    problems: list[str] = field(default_factory=list)  # without the pack's name
    is_suspect: bool = False  # not read yet: only block by block can tell what is lost
    lost: list[tuple[bytes, int]] = field(default_factory=list)  # (chunk id, length in bytes)


def fetch_pack(store: Store, facts: PackFacts) -> bytes | PackReport:
    """Fetch a whole pack; where there is none to be had, return the report on it.

    Raises:
        StoreUnavailable: the partner cannot be reached.
    """
    try:
        return store.get(Kind.DATA, facts.pack_id)
    except (DataError, ObjectNotFound) as exc:
        what = f"pack {facts.pack_id.hex()}"
        return PackReport(facts, 0, [str(exc).removeprefix(f"{what}: ")], is_suspect=True)


def verify_pack(keys: ArchiveKeys, facts: PackFacts, data: bytes | memoryview) -> PackReport:
    """Verify all of a pack: its name, size, signature's digest, blocks and chunk ids.

    When the pack as a whole is not what it should be, the report is *suspect* and
    names no chunk: :func:`salvage_pack` then finds out which can still be read.
    """
    report = PackReport(facts, len(data))
    what = f"pack {facts.pack_id.hex()}"
    try:
        if hashlib.sha256(data).digest() != facts.pack_id:
            report.problems.append("its bytes are not the ones its name stands for")
        if len(data) != facts.size:
            report.problems.append(f"{len(data)} bytes long, the index says {facts.size}")
        parsed = parse_pack(keys, data, what)
    except (DataError, WrongKey) as exc:
        report.problems.append(str(exc).removeprefix(f"{what}: "))
        report.is_suspect = True
        return report
    if _digest(parsed.opener.header.encode(), parsed.directory) != facts.digest:
        report.problems.append("its directory is not the one in the index")
        report.is_suspect = True
        return report
    _read_blocks(keys, parsed.opener, parsed.directory, memoryview(data), report)
    return report


def salvage_pack(
    keys: ArchiveKeys, store: Store, facts: PackFacts, pack: IndexedPack
) -> PackReport:
    """Read a suspect pack block by block, as a reader does; *pack* is the index's word on it.

    Raises:
        StoreUnavailable: the partner cannot be reached.
    """
    report = PackReport(facts)
    what = f"pack {facts.pack_id.hex()}"
    try:
        size = store.size(Kind.DATA, facts.pack_id)
        data = store.get(Kind.DATA, facts.pack_id, 0, min(size, pack.size))
        opener = Opener(keys, pack.header, what)
    except (DataError, WrongKey, ObjectNotFound):
        report.lost.extend(_chunks_of(pack.directory))
        return report
    _read_blocks(keys, opener, pack.directory, memoryview(data), report)
    return report


def _chunks_of(directory: Directory) -> list[tuple[bytes, int]]:
    return list(zip(directory.chunk_ids, directory.chunk_lens, strict=True))


def _read_blocks(
    keys: ArchiveKeys,
    opener: Opener,
    directory: Directory,
    data: memoryview,
    report: PackReport,
) -> None:
    """Open every block; note problems and the chunks that cannot be read."""
    what = opener.what
    is_meta = opener.header.role is Role.META
    scratch = bytearray(max([block.sealed_len for block in directory.blocks], default=0))
    for ordinal, block in enumerate(directory.blocks):
        chosen = slice(block.first_chunk, block.first_chunk + block.chunk_count)
        ids, lens = directory.chunk_ids[chosen], directory.chunk_lens[chosen]
        sealed = data[block.offset : block.offset + block.sealed_len]
        try:
            plain = open_block(opener, ordinal, block, sealed, what, scratch)
        except DataError as exc:
            report.problems.append(str(exc).removeprefix(f"{what}: "))
            report.lost.extend(zip(ids, lens, strict=True))
            continue
        for chunk_id, length in _wrong_chunks(keys, plain, ids, lens, is_meta=is_meta):
            report.lost.append((chunk_id, length))
            report.problems.append(
                f"block {ordinal} holds other content than chunk "
                f"{short_hex(chunk_id)}, though its tag is right: writer "
                f"{short_hex(directory.writer_id)} stored it so; do not trust that writer"
            )


def _wrong_chunks(
    keys: ArchiveKeys,
    plain: bytes | bytearray | memoryview,
    ids: tuple[bytes, ...],
    lens: tuple[int, ...],
    *,
    is_meta: bool,
) -> list[tuple[bytes, int]]:
    """Return the chunks of a block whose content has another id."""
    view = memoryview(plain)
    id_key = keys.chunk_id_key
    wrong = []
    start = 0
    for chunk_id, length in zip(ids, lens, strict=True):
        piece = view[start : start + length]
        start += length
        if is_meta:
            node = bytes(piece)
            if keys.tree_id(node) != chunk_id and keys.span_node_id(node) != chunk_id:
                wrong.append((chunk_id, length))
        elif blake3(piece, key=id_key).digest() != chunk_id:  # as keys.chunk_id(), sooner
            wrong.append((chunk_id, length))
    return wrong
