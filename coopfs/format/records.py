"""Records about writers and snapshots: small signed bodies under ``snapshots/``.

Enrolments, forget and distrust records count only with the admin's signature, amendments
with an enrolled writer's.  Byte tables: coopfs-format(5), "Records".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.body import check_body_len
from coopfs.format.encoding import compact
from coopfs.format.keys import PUBLIC_KEY_LEN, Role, writer_id_of
from coopfs.format.snapshot import is_label
from coopfs.ids import ID_LEN, WRITER_ID_LEN, SnapshotId, WriterId

IDS_MAX: Final = 1 << 22
PREVIOUS_MAX: Final = 1000  # as a snapshot's


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The admin's word that a writer belongs to the archive."""

    writer_id: WriterId
    public_key: bytes  # Ed25519, 32 bytes
    host: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class Amendment:
    """A change of what is said about snapshots; the newest per field counts."""

    snapshot_ids: tuple[SnapshotId, ...]
    add_tags: tuple[str, ...]
    remove_tags: tuple[str, ...]
    is_held: bool | None  # None: unchanged
    description: str | None  # None: unchanged
    replaces: SnapshotId | None  # of a rewritten snapshot
    writer_id: WriterId
    time_ns: int


@dataclass(frozen=True, slots=True)
class ForgetRecord:
    """All snapshots let go so far; cumulative, admin-signed, durable before deleting."""

    snapshot_ids: tuple[SnapshotId, ...]
    time_ns: int
    # What each of them followed, in the same order, so that a chain can be walked across
    # what is gone; may be shorter.
    previous: tuple[tuple[SnapshotId, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Distrust:
    """The admin's word that a writer's key was in the wrong hands, or after all was not.

    The newest by time counts for each writer.
    """

    writer_id: WriterId
    is_distrusted: bool
    # Of the writer's, those that were there then: they are shown, as distrusted.  What it
    # signs later does not count, whatever date it bears.
    snapshot_ids: tuple[SnapshotId, ...]
    time_ns: int


def encode_enrolment(record: Enrolment) -> bytes:
    """Return the canonical body (ObjectCorrupt: no reader would accept it)."""
    body = encoding.encode(
        {0: record.writer_id, 1: record.public_key, 2: record.host, 3: record.time_ns}
    )
    decode_enrolment(body, "new enrolment")
    return body


def decode_enrolment(body: bytes, what: str) -> Enrolment:
    """Parse an enrolment; the writer id must be the key's (ObjectCorrupt)."""
    f = encoding.fields_of(encoding.decode(body, what), what, frozenset(range(4)))
    public_key = encoding.bin_(f, 1, what, size=PUBLIC_KEY_LEN)
    writer_id = WriterId(encoding.bin_(f, 0, what, size=WRITER_ID_LEN))
    if writer_id != writer_id_of(public_key):
        raise ObjectCorrupt(f"{what}: the writer id is not its key's")
    host = encoding.text(f, 2, what, 128)
    if not is_label(host):
        raise ObjectCorrupt(f"{what}: host {host!r} is not allowed")
    return Enrolment(writer_id, public_key, host, encoding.i64(f, 3, what))


def encode_amendment(record: Amendment) -> bytes:
    """Return the canonical body (ObjectCorrupt: no reader would accept it)."""
    body = encoding.encode(
        compact(
            {
                0: list(record.snapshot_ids),
                1: list(record.add_tags),
                2: list(record.remove_tags),
                3: record.is_held,
                4: record.description,
                5: record.replaces,
                6: record.writer_id,
                7: record.time_ns,
            }
        )
    )
    check_body_len(Role.AMENDMENT, len(body), "new amendment")
    decode_amendment(body, "new amendment")
    return body


def decode_amendment(body: bytes, what: str) -> Amendment:
    """Parse an amendment (ObjectCorrupt, FormatUnsupported)."""
    f = encoding.fields_of(encoding.decode(body, what), what, frozenset(range(8)))
    name = encoding.exact_bin(ID_LEN, what)

    def tag(value: object) -> str:
        if type(value) is not str or len(value) > 1024:
            raise ObjectCorrupt(f"{what}: malformed tag")
        return value

    is_held = f.get(3)
    if is_held is not None and type(is_held) is not bool:
        raise ObjectCorrupt(f"{what}: malformed hold")
    return Amendment(
        snapshot_ids=tuple(map(SnapshotId, encoding.list_of(f, 0, what, name, IDS_MAX))),
        add_tags=encoding.list_of(f, 1, what, tag, 1000),
        remove_tags=encoding.list_of(f, 2, what, tag, 1000),
        is_held=is_held,
        description=encoding.text(f, 4, what, 1 << 16) if 4 in f else None,
        replaces=SnapshotId(encoding.bin_(f, 5, what, size=ID_LEN)) if 5 in f else None,
        writer_id=WriterId(encoding.bin_(f, 6, what, size=WRITER_ID_LEN)),
        time_ns=encoding.i64(f, 7, what),
    )


def encode_forget(record: ForgetRecord) -> bytes:
    """Return the canonical body (ObjectCorrupt: no reader would accept it)."""
    body = encoding.encode(
        compact(
            {
                0: list(record.snapshot_ids),
                1: record.time_ns,
                2: [list(ids) for ids in record.previous] or None,
            }
        )
    )
    decode_forget(body, "new forget record")
    return body


def decode_forget(body: bytes, what: str) -> ForgetRecord:
    """Parse a forget record (ObjectCorrupt, FormatUnsupported)."""
    f = encoding.fields_of(encoding.decode(body, what), what, frozenset(range(3)))
    name = encoding.exact_bin(ID_LEN, what)

    def names(value: Any) -> tuple[SnapshotId, ...]:
        if type(value) is not list or len(value) > PREVIOUS_MAX:
            raise ObjectCorrupt(f"{what}: malformed chain")
        return tuple(SnapshotId(name(item)) for item in value)

    ids = encoding.list_of(f, 0, what, name, IDS_MAX)
    previous = encoding.list_of(f, 2, what, names, IDS_MAX)
    if len(previous) > len(ids):
        raise ObjectCorrupt(f"{what}: more chains than snapshots")
    return ForgetRecord(tuple(map(SnapshotId, ids)), encoding.i64(f, 1, what), previous)


def encode_distrust(record: Distrust) -> bytes:
    """Return the canonical body (ObjectCorrupt: no reader would accept it)."""
    body = encoding.encode(
        compact(
            {
                0: record.writer_id,
                1: record.is_distrusted,
                2: list(record.snapshot_ids) or None,
                3: record.time_ns,
            }
        )
    )
    decode_distrust(body, "new distrust record")
    return body


def decode_distrust(body: bytes, what: str) -> Distrust:
    """Parse a distrust record (ObjectCorrupt, FormatUnsupported)."""
    f = encoding.fields_of(encoding.decode(body, what), what, frozenset(range(4)))
    is_distrusted = f.get(1)
    if type(is_distrusted) is not bool:
        raise ObjectCorrupt(f"{what}: does not say whether the writer is distrusted")
    name = encoding.exact_bin(ID_LEN, what)
    return Distrust(
        writer_id=WriterId(encoding.bin_(f, 0, what, size=WRITER_ID_LEN)),
        is_distrusted=is_distrusted,
        snapshot_ids=tuple(map(SnapshotId, encoding.list_of(f, 2, what, name, IDS_MAX))),
        time_ns=encoding.i64(f, 3, what),
    )
