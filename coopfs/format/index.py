"""Index objects: what packs hold, which are marked, which objects are replaced.

Pure functions; the frame around the body is :mod:`coopfs.format.body`'s.
Byte tables: coopfs-format(5), "Index object".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.keys import PACK_ROLES
from coopfs.format.pack import MAX_PACK_LEN, Directory, decode_directory
from coopfs.format.sealing import Header, decode_header
from coopfs.ids import ID_LEN, WRITER_ID_LEN, ObjectId, PackId, WriterId

MAX_PACKS: Final = 1 << 20
MAX_NAMES: Final = 1 << 22
MAX_AUDIT_ANSWERS: Final = 1024
REPEATS_MIN: Final = 10_000  # chunks; fewer harm nobody
REPEATS_MAX: Final = 16  # how often one is listed on average
_KNOWN = frozenset(range(5))
_KNOWN_PACK = frozenset(range(6))


@dataclass(frozen=True, slots=True)
class IndexedPack:
    """One pack as the index knows it: enough to read any block with one request."""

    pack_id: PackId
    size: int  # bytes
    header: Header
    directory: Directory
    audit_answers: tuple[bytes, ...] = ()  # 32 bytes each; number i answers audit key i


@dataclass(frozen=True, slots=True)
class IndexObject:
    """The content of one index object."""

    packs: tuple[IndexedPack, ...]
    marked: tuple[PackId, ...]  # not to be relied on any more; deleted after the grace
    replaces: tuple[ObjectId, ...]  # ignored while this object exists
    writer_id: WriterId
    time_ns: int  # when it was made, by its writer's clock


def encode_index(index: IndexObject) -> bytes:
    """Return the canonical body of *index*."""
    return encoding.encode(
        {
            0: [_encode_pack(pack) for pack in index.packs],
            1: list(index.marked),
            2: list(index.replaces),
            3: index.writer_id,
            4: index.time_ns,
        }
    )


def _encode_pack(pack: IndexedPack) -> encoding.Fields:
    return {
        0: pack.pack_id,
        1: pack.size,
        2: pack.header.encode(),
        3: pack.directory.body,
        4: pack.directory.signature,
        5: list(pack.audit_answers),
    }


def decode_index(body: bytes, what: str) -> IndexObject:
    """Parse an index object's body (ObjectCorrupt, FormatUnsupported)."""
    fields = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)
    name = encoding.exact_bin(ID_LEN, what)

    def pack(value: Any) -> IndexedPack:
        return _decode_pack(value, what)

    return IndexObject(
        packs=encoding.list_of(fields, 0, what, pack, MAX_PACKS),
        marked=tuple(map(PackId, encoding.list_of(fields, 1, what, name, MAX_NAMES))),
        replaces=tuple(map(ObjectId, encoding.list_of(fields, 2, what, name, MAX_NAMES))),
        writer_id=WriterId(encoding.bin_(fields, 3, what, size=WRITER_ID_LEN)),
        time_ns=encoding.i64(fields, 4, what),
    )


def _decode_pack(value: Any, what: str) -> IndexedPack:
    fields = encoding.fields_of(value, what, _KNOWN_PACK)
    pack_id = PackId(encoding.bin_(fields, 0, what, size=ID_LEN))
    what = f"{what}: pack {pack_id.hex()[:8]}"
    header = decode_header(encoding.bin_(fields, 2, what, size=64), what, PACK_ROLES)
    signature = encoding.bin_(fields, 4, what, size=64)
    directory = decode_directory(encoding.bin_(fields, 3, what), signature, what)
    size = encoding.u64(fields, 1, what, limit=MAX_PACK_LEN)
    if directory.blocks and directory.blocks[-1].offset + directory.blocks[-1].sealed_len > size:
        raise ObjectCorrupt(f"{what}: its blocks reach beyond its {size} bytes")
    answers = encoding.list_of(
        fields, 5, what, encoding.exact_bin(32, what), limit=MAX_AUDIT_ANSWERS
    )
    return IndexedPack(pack_id, size, header, directory, answers)


def repeats_itself(index: IndexObject) -> bool:
    """Tell whether chunks come again and again in what one writer lists, as never in earnest.

    A writer stores a chunk once, or a few times where several runs beside each other were
    killed.  Listed a million times it takes 8 KB in the store, and a hundred megabytes in the
    local index of every host.
    """
    ids = [chunk_id for pack in index.packs for chunk_id in pack.directory.chunk_ids]
    return len(ids) > REPEATS_MIN and len(set(ids)) < len(ids) // REPEATS_MAX


def live_objects(objects: dict[ObjectId, Sequence[ObjectId]]) -> set[ObjectId]:
    """Return which of *objects* (name -> names it replaces) count: those not replaced."""
    replaced = {name for replaces in objects.values() for name in replaces}
    return set(objects) - replaced
