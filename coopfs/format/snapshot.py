"""Snapshot objects: a dated, immutable root tree with its facts.

Pure functions; the frame around the body is :mod:`coopfs.format.body`'s.
Byte table: coopfs-format(5), "Snapshot".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from coopfs.errors import ObjectCorrupt, UsageError
from coopfs.format import encoding
from coopfs.format.body import check_body_len
from coopfs.format.encoding import I64_MAX, compact
from coopfs.format.keys import Role
from coopfs.ids import (
    ARCHIVE_ID_LEN,
    ID_LEN,
    WRITER_ID_LEN,
    ArchiveId,
    SnapshotId,
    TreeId,
    WriterId,
)

PROBLEMS_MAX: Final = 1000  # kept in the snapshot; all are counted
PROBLEMS_LEN_MAX: Final = 1 << 20  # bytes of their paths and reasons, as written here
LIST_MAX: Final = 10_000
PATH_MAX: Final = 1 << 16
_LABEL = re.compile(r"[A-Za-z0-9.-]{1,128}\Z")
_KNOWN = frozenset(range(21))


class State(IntEnum):
    """Whether a snapshot holds everything it set out to take."""

    COMPLETE = 0
    PARTIAL = 1  # taken while a long run was still going on


class OriginKind(IntEnum):
    """How a snapshot came here, when not by `coopfs snapshot`."""

    COPIED = 0  # from another archive of coopfs
    IMPORTED = 1  # from another tool; its time is the original's


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """What the host's clock was worth when the snapshot was taken."""

    source: str  # server or local daemon asked; empty: nobody answered
    offset_ns: int  # the reference's time minus the host's
    stratum: int  # 16: not synchronised (RFC 5905)
    is_synchronised: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """What a snapshot run saw and did; bytes unless it says entries."""

    files: int = 0  # regular files
    folders: int = 0
    others: int = 0  # symlinks, FIFOs, sockets, devices
    size: int = 0  # of all regular files, holes included
    files_new: int = 0
    files_changed: int = 0
    files_unchanged: int = 0
    read: int = 0  # bytes read from sources
    new: int = 0  # bytes of chunks the archive did not have
    stored: int = 0  # bytes put into the store


@dataclass(frozen=True, slots=True)
class Problem:
    """A source that could not be read, or changed while it was read."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a copied or imported snapshot was first taken."""

    kind: OriginKind
    archive_id: ArchiveId | None
    snapshot_id: SnapshotId | None
    number: int


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """The content of a snapshot object."""

    host: str
    series: str
    number: int  # counts up by one within a series
    previous: tuple[SnapshotId, ...]  # several join a fork
    time_ns: int  # since 1970 UTC, when the run started
    zone_offset_s: int  # local time minus UTC
    zone_name: str
    clock: ClockFacts | None
    root: TreeId
    sources: tuple[bytes, ...]
    excludes: tuple[str, ...]
    tags: tuple[str, ...]
    description: str
    counts: Counts
    problems: tuple[Problem, ...]
    problem_count: int  # all, also those beyond PROBLEMS_MAX
    state: State
    origin: Origin | None
    version: str  # of coopfs
    writer_id: WriterId
    end_ns: int  # when it was committed


def is_label(label: str) -> bool:
    """Tell whether *label* may name a host or series; it becomes a folder's name."""
    return _LABEL.match(label) is not None and label not in (".", "..")


def check_label(label: str, what: str) -> str:
    """Return *label* if it may name a host or series (UsageError)."""
    if not is_label(label):
        raise UsageError(
            f"{what} {label!r}: only letters, digits, '.' and '-' are allowed, 128 at most"
        )
    return label


def encode_snapshot(facts: SnapshotFacts) -> bytes:
    """Return the canonical body; texts that are no UTF-8 come out with backslashes.

    Raises:
        ObjectCorrupt: *facts* are out of the bounds a reader accepts.
    """
    body = _encode(facts)
    check_body_len(Role.SNAPSHOT, len(body), "new snapshot")
    decode_snapshot(body, "new snapshot")  # what could not be read is never written
    return body


def _encode(facts: SnapshotFacts) -> bytes:
    clock = facts.clock
    origin = facts.origin
    counts = facts.counts
    return encoding.encode(
        compact(
            {
                0: facts.host,
                1: facts.series,
                2: facts.number,
                3: list(facts.previous),
                4: facts.time_ns,
                5: facts.zone_offset_s,
                6: _utf8(facts.zone_name),
                7: clock
                and {
                    0: clock.source,
                    1: clock.offset_ns,
                    2: clock.stratum,
                    3: clock.is_synchronised,
                },
                8: facts.root,
                9: list(facts.sources),
                10: [_utf8(pattern) for pattern in facts.excludes],
                11: [_utf8(tag) for tag in facts.tags],
                12: _utf8(facts.description),
                13: [getattr(counts, name) for name in Counts.__slots__],
                14: [[problem.path, _utf8(problem.reason)] for problem in facts.problems],
                15: facts.problem_count,
                16: int(facts.state),
                17: origin
                and compact(
                    {
                        0: int(origin.kind),
                        1: origin.archive_id,
                        2: origin.snapshot_id,
                        3: origin.number,
                    }
                ),
                18: facts.version,
                19: facts.writer_id,
                20: facts.end_ns,
            }
        )
    )


def _utf8(text: str) -> str:
    # Arguments and file names that are no UTF-8 come as lone surrogates (PEP 383).
    return text.encode("utf-8", "backslashreplace").decode()


def decode_snapshot(body: bytes, what: str) -> SnapshotFacts:
    """Parse a snapshot's body (ObjectCorrupt, FormatUnsupported)."""
    f = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)

    def label(key: int) -> str:
        value = encoding.text(f, key, what, 128)
        if not is_label(value):
            raise ObjectCorrupt(f"{what}: host or series {value!r} is not allowed")
        return value

    def texts(key: int) -> tuple[str, ...]:
        return encoding.list_of(f, key, what, lambda item: _text(item, what), LIST_MAX)

    state = encoding.u64(f, 16, what, limit=len(State) - 1)
    return SnapshotFacts(
        host=label(0),
        series=label(1),
        number=encoding.u64(f, 2, what, limit=I64_MAX),
        previous=tuple(
            map(SnapshotId, encoding.list_of(f, 3, what, encoding.exact_bin(ID_LEN, what), 1000))
        ),
        time_ns=encoding.i64(f, 4, what),
        zone_offset_s=_zone_offset(f, what),
        zone_name=encoding.text(f, 6, what, 128),
        clock=_decode_clock(f.get(7), what),
        root=TreeId(encoding.bin_(f, 8, what, size=ID_LEN)),
        sources=encoding.list_of(f, 9, what, lambda item: _path(item, what), LIST_MAX),
        excludes=texts(10),
        tags=texts(11),
        description=encoding.text(f, 12, what, 1 << 16),
        counts=_decode_counts(f.get(13), what),
        problems=encoding.list_of(f, 14, what, lambda item: _problem(item, what), PROBLEMS_MAX),
        problem_count=encoding.u64(f, 15, what, limit=I64_MAX),
        state=State(state),
        origin=_decode_origin(f.get(17), what),
        version=encoding.text(f, 18, what, 128),
        writer_id=WriterId(encoding.bin_(f, 19, what, size=WRITER_ID_LEN)),
        end_ns=encoding.i64(f, 20, what),
    )


def _zone_offset(f: encoding.Fields, what: str) -> int:
    offset = encoding.i64(f, 5, what)
    if abs(offset) >= 24 * 3600:
        raise ObjectCorrupt(f"{what}: a time zone {offset} s from UTC")
    return offset


def _text(value: Any, what: str) -> str:
    if type(value) is not str or len(value) > PATH_MAX:
        raise ObjectCorrupt(f"{what}: expected text")
    return value


def _path(value: Any, what: str) -> bytes:
    if type(value) is not bytes or len(value) > PATH_MAX:
        raise ObjectCorrupt(f"{what}: expected a path")
    return value


def _problem(value: Any, what: str) -> Problem:
    if type(value) is not list or len(value) != 2:
        raise ObjectCorrupt(f"{what}: malformed problem")
    return Problem(_path(value[0], what), _text(value[1], what))


def _decode_clock(value: Any, what: str) -> ClockFacts | None:
    if value is None:
        return None
    f = encoding.fields_of(value, what, frozenset(range(4)))
    if type(f.get(3)) is not bool:
        raise ObjectCorrupt(f"{what}: malformed clock")
    return ClockFacts(
        encoding.text(f, 0, what, 256),
        encoding.i64(f, 1, what),
        encoding.u64(f, 2, what, limit=255),
        f[3],
    )


def _decode_counts(value: Any, what: str) -> Counts:
    if type(value) is not list or not 10 <= len(value) <= 64:
        raise ObjectCorrupt(f"{what}: malformed counts")
    if any(type(number) is not int or not 0 <= number <= I64_MAX for number in value):
        raise ObjectCorrupt(f"{what}: malformed counts")
    return Counts(*value[:10])


def _decode_origin(value: Any, what: str) -> Origin | None:
    if value is None:
        return None
    f = encoding.fields_of(value, what, frozenset(range(4)))
    archive_id = encoding.bin_(f, 1, what, size=ARCHIVE_ID_LEN) if 1 in f else None
    snapshot_id = encoding.bin_(f, 2, what, size=ID_LEN) if 2 in f else None
    return Origin(
        OriginKind(encoding.u64(f, 0, what, limit=len(OriginKind) - 1)),
        None if archive_id is None else ArchiveId(archive_id),
        None if snapshot_id is None else SnapshotId(snapshot_id),
        encoding.u64(f, 3, what, limit=I64_MAX),
    )
