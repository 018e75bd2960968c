"""Witnesses: what a source folder looked like when its tree was stored.

Kept locally, one row a folder, never in the archive: trees hold neither inode nor
ctime, so that they dedup across hosts and disks.  A row says: with these names and
stats, read at that time, the folder was stored as that tree.  It is true whatever
became of the run that wrote it, as long as the tree's chunks are in usable packs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from coopfs.archive.state import State
from coopfs.format.tree import Totals
from coopfs.ids import TreeId
from coopfs.ops.source import storable_ns

# inode, device, ctime_ns, mtime_ns, size, mode, uid, gid, hard-link id or zeros
_RECORD: Final = struct.Struct("<QQqqqIII8s")
RECORD_LEN: Final = _RECORD.size
NO_LINK: Final = bytes(8)
_CTIME_AT: Final = 16  # bytes into a record
_MTIME_AT: Final = 24
_TIME: Final = struct.Struct("<q")
_TOTALS: Final = struct.Struct("<QQQ")
_PARTS: Final = struct.Struct("<I")  # after the totals, where the names take several rows
# A file changed within the clock's granularity after it was read keeps its times.
RACY_NS: Final = 2_000_000_000
# Names beyond are in rows of their own: SQLite copies a row several times.
PART_LEN: Final = 4 << 20


class Witness(NamedTuple):
    """One folder's row."""

    path: bytes  # absolute
    names: bytes | bytearray  # per entry in name order: record, name, NUL
    tree: TreeId
    totals: Totals
    read_ns: int  # before the folder was looked at

    @property
    def limit_ns(self) -> int:
        """What was changed from this moment on may have changed without its times showing it."""
        return self.read_ns - RACY_NS


class WitnessRules(NamedTuple):
    """What a user said is not to be trusted (--ignore-inode, --ignore-ctime)."""

    ignore_inode: bool = False
    ignore_ctime: bool = False

    def record(self, status: os.stat_result, link_id: bytes = NO_LINK) -> bytes:
        """Return the record of one entry."""
        try:
            return self._record(status, link_id, status.st_ctime_ns, status.st_mtime_ns)
        except struct.error:  # a time before 1677 or after 2262
            ctime_ns, mtime_ns = storable_ns(status.st_ctime_ns), storable_ns(status.st_mtime_ns)
            return self._record(status, link_id, ctime_ns, mtime_ns)

    def _record(
        self, status: os.stat_result, link_id: bytes, ctime_ns: int, mtime_ns: int
    ) -> bytes:
        return _RECORD.pack(
            0 if self.ignore_inode else status.st_ino,
            0 if self.ignore_inode else status.st_dev,
            0 if self.ignore_ctime else ctime_ns,
            mtime_ns,
            status.st_size,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            link_id,
        )

    def youngest_ns(self, status: os.stat_result) -> int:
        """Return the time that must lie well before a row's for the row to be believed."""
        return status.st_mtime_ns if self.ignore_ctime else status.st_ctime_ns

    def youngest_in(self, record: bytes) -> int:
        """Return the same of a record."""
        at = _MTIME_AT if self.ignore_ctime else _CTIME_AT
        time_ns: int = _TIME.unpack_from(record, at)[0]
        return time_ns


def split_names(names: bytes | bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, record) of a row's entries."""
    start = 0
    while start < len(names):
        middle = start + RECORD_LEN
        end = names.index(b"\0", middle)
        yield bytes(names[middle:end]), bytes(names[start:middle])
        start = end + 1


class Witnesses:
    """The rows of one series."""

    def __init__(self, state: State, series: str) -> None:
        """*series* is ``host/series``; the rows of another are not touched."""
        self._state = state
        self._series = series
        # A first snapshot would ask in vain for every folder.
        row = state.connection.execute(
            "SELECT 1 FROM witnesses WHERE series = ? LIMIT 1", (series,)
        ).fetchone()
        self._is_empty = row is None

    def get(self, path: bytes) -> Witness | None:
        """Return the row of the folder *path*, or None."""
        if self._is_empty:
            return None
        row = self._state.connection.execute(
            "SELECT names, tree, totals, read_ns FROM witnesses WHERE series = ? AND path = ?",
            (self._series, path),
        ).fetchone()
        if row is None:
            return None
        names, tree, totals, read_ns = row
        if len(totals) > _TOTALS.size:
            (parts,) = _PARTS.unpack_from(totals, _TOTALS.size)
            names = self._joined(path, names, parts, read_ns)
            if names is None:
                return None
        return Witness(path, names, TreeId(tree), Totals(*_TOTALS.unpack_from(totals)), read_ns)

    def _joined(self, path: bytes, first: bytes, parts: int, read_ns: int) -> bytearray | None:
        """Return the names of a witness of several rows; None: they are not of one time."""
        names = bytearray(first)
        for number in range(1, parts):
            row = self._state.connection.execute(
                "SELECT names, read_ns FROM witnesses WHERE series = ? AND path = ?",
                (self._series, _part_path(path, number)),
            ).fetchone()
            if row is None or row[1] != read_ns:
                return None
            names += row[0]
        return names

    def put(self, rows: Iterable[Witness], gone: Iterable[bytes] = ()) -> None:
        """Keep *rows*, drop the folders *gone* and all below them.

        All trees must be durable and in the index, or among the unsent nodes.
        """
        self._is_empty = False
        with self._state.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO witnesses VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (self._series, path, names, w.tree, totals, w.read_ns)
                    for w in rows
                    for path, names, totals in _parts(w)
                ),
            )
            for path in gone:
                # "0" follows "/": the range holds exactly what lies below the folder.
                connection.execute(
                    "DELETE FROM witnesses WHERE series = ?"
                    " AND (path = ? OR (path > ? AND path < ?))",
                    (self._series, path, path + b"/", path + b"0"),
                )

    def confirm(self, generation: int, *, since_ns: int | None = None) -> None:
        """Note that all rows are true in an index of that *generation*.

        With *since_ns* only rows of folders read since then were looked at; the others
        are dropped: their trees may have left the index.
        """
        with self._state.transaction() as connection:
            if since_ns is not None:
                connection.execute(
                    "DELETE FROM witnesses WHERE series = ? AND read_ns < ?",
                    (self._series, since_ns),
                )
            connection.execute(
                "INSERT OR REPLACE INTO witness_generations VALUES (?, ?)",
                (self._series, generation),
            )

    def generation(self) -> int:
        """Return the index's generation in which all rows were last true; -1 before any."""
        row = self._state.connection.execute(
            "SELECT generation FROM witness_generations WHERE series = ?", (self._series,)
        ).fetchone()
        return int(row[0]) if row else -1


def _parts(witness: Witness) -> Iterator[tuple[bytes, bytes | bytearray | memoryview, bytes]]:
    """Yield (path, names, totals) of the rows of one witness; the first says how many they are."""
    path, names, totals = witness.path, witness.names, _TOTALS.pack(*witness.totals)
    if len(names) <= PART_LEN:
        yield path, names, totals
        return
    view = memoryview(names)
    yield path, view[:PART_LEN], totals + _PARTS.pack(-(-len(names) // PART_LEN))
    for number, start in enumerate(range(PART_LEN, len(names), PART_LEN), 1):
        yield _part_path(path, number), view[start : start + PART_LEN], totals


def _part_path(path: bytes, number: int) -> bytes:
    # No path has two slashes in a row, and what lies below a folder goes with it.
    return b"%b//%d" % (path, number)
