"""The local state of one archive: an SQLite file that can be dropped and rebuilt.

Owns the schema, its version and the connections.  Everything in it is copied or
derived from the store and the local files; what must survive (the heads of the
series) lies in :mod:`coopfs.archive.heads`.  Only bytes whose tags and
signatures were verified get in.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from coopfs.archive.lock import file_lock
from coopfs.dirs import make_private_folder
from coopfs.errors import CoopfsError, StateBusy
from coopfs.oserrors import free_bytes
from coopfs.room import require_room

SCHEMA_VERSION: Final = 4
FILE_NAME: Final = "index.db"
BUSY_TIMEOUT_S: Final = 60  # a mount and a snapshot may write at once; each holds it shortly
MMAP_LEN: Final = 128 << 20  # bytes of the file SQLite may map: saves a copy a page, counts as ours

_SCHEMA: Final = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- Objects under index/: which are known, when their writers say they made them, what they replace.
CREATE TABLE index_objects (
    object_no INTEGER PRIMARY KEY, object_id BLOB NOT NULL UNIQUE,
    writer_id BLOB NOT NULL, time_ns INTEGER NOT NULL, replaces BLOB NOT NULL,
    marked BLOB NOT NULL);
-- listing: a digest of what the index says of the pack. Two that differ are two rows.
CREATE TABLE packs (
    pack_no INTEGER PRIMARY KEY AUTOINCREMENT, pack_id BLOB NOT NULL, listing BLOB NOT NULL,
    size INTEGER NOT NULL, header BLOB NOT NULL, writer_id BLOB NOT NULL,
    audit_answers BLOB NOT NULL, UNIQUE (pack_id, listing));
CREATE TABLE pack_listings (
    pack_no INTEGER NOT NULL, object_no INTEGER NOT NULL,
    PRIMARY KEY (pack_no, object_no)) WITHOUT ROWID;
-- Packs nothing may rely on any more: marked by a prune, or found damaged or gone.
CREATE TABLE lost_packs (pack_id BLOB PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
-- Writers whose packs nothing may rely on, as the records said when the index was last read.
CREATE TABLE distrusted_writers (writer_id BLOB PRIMARY KEY) WITHOUT ROWID;
-- chunks: the ids, 32 bytes each, then the lengths, 4 bytes little-endian each.
-- AUTOINCREMENT: a number is never given out again, as readers remember blocks by it.
CREATE TABLE blocks (
    block_no INTEGER PRIMARY KEY AUTOINCREMENT, pack_no INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    offset INTEGER NOT NULL, sealed_len INTEGER NOT NULL, plain_len INTEGER NOT NULL,
    codec INTEGER NOT NULL, chunks BLOB NOT NULL);
CREATE INDEX blocks_by_pack ON blocks (pack_no, ordinal);
-- prefix: the first 16 bytes of the id. The whole one is checked in the block's row.
CREATE TABLE chunks (
    prefix BLOB NOT NULL, block_no INTEGER NOT NULL,
    PRIMARY KEY (prefix, block_no)) WITHOUT ROWID;
-- Packs that are durable in the store but in no index object yet (an interrupted run).
CREATE TABLE unindexed_packs (
    pack_id BLOB PRIMARY KEY, size INTEGER NOT NULL, header BLOB NOT NULL,
    directory BLOB NOT NULL, signature BLOB NOT NULL) WITHOUT ROWID;
-- Tree and span nodes of an interrupted run that did not reach the store.
CREATE TABLE unsent_nodes (
    node_id BLOB PRIMARY KEY, is_tree INTEGER NOT NULL, node BLOB NOT NULL) WITHOUT ROWID;
-- Blocks whose chunks were verified here, by reading or as they were made: a prune relies on them.
CREATE TABLE sound_blocks (block_no INTEGER PRIMARY KEY);
-- When this host first saw what a prune deletes after the grace: coopfs.archive.sightings.
CREATE TABLE sightings (name BLOB PRIMARY KEY, seen_ns INTEGER NOT NULL) WITHOUT ROWID;
-- Objects under snapshots/ that count: role and verified body.
CREATE TABLE snapshot_objects (
    object_id BLOB PRIMARY KEY, role INTEGER NOT NULL, body BLOB NOT NULL) WITHOUT ROWID;
-- What a source folder looked like when tree was made of it: see coopfs.ops.witness.
CREATE TABLE witnesses (
    series TEXT NOT NULL, path BLOB NOT NULL, names BLOB NOT NULL, tree BLOB NOT NULL,
    totals BLOB NOT NULL, read_ns INTEGER NOT NULL,
    PRIMARY KEY (series, path)) WITHOUT ROWID;
-- generation: of the index when all trees of a series' witnesses were last known whole.
CREATE TABLE witness_generations (
    series TEXT PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
"""


class State:
    """Opens the state file; one connection a thread."""

    def __init__(self, folder: Path) -> None:
        """Open or make the state in *folder*; one of another version is made anew.

        Raises:
            CoopfsError: it cannot be opened or written.
        """
        self._path = folder / FILE_NAME
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        with translated(self._path):
            make_private_folder(folder)
            require_room(folder)
        # One at a time: or one process removes the file another has just made.
        with file_lock(folder / f"{FILE_NAME}.lock"), translated(self._path):
            if not self._is_current():
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{self._path}{suffix}").unlink(missing_ok=True)
                self._make()

    def _is_current(self) -> bool:
        if not self._path.exists():
            return False
        try:
            (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        except sqlite3.OperationalError:
            raise  # locked, unreadable: not a reason to remove it
        except sqlite3.DatabaseError:
            version = -1  # damaged: it can be rebuilt from the store
        if version != SCHEMA_VERSION:
            self.close()
        return bool(version == SCHEMA_VERSION)

    def _make(self) -> None:
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:  # else another process was quicker
            for statement in _SCHEMA.split(";\n"):  # comments may hold a semicolon
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION:d}")
        connection.execute("COMMIT")

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self._path,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
            with self._lock:
                self._connections.append(connection)
            # NORMAL: a power cut may lose the last transactions, never the file; all
            # of it can be read again from the store.
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"mmap_size = {MMAP_LEN}"):
                connection.execute(f"PRAGMA {pragma}")
            self._local.connection = connection
        return connection

    def map_nothing(self) -> None:
        """Have this thread read the file by copying: who goes through all of it would map it."""
        self.connection.execute("PRAGMA mmap_size = 0")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run a write transaction on this thread's connection; rolled back on any error.

        Raises:
            StateBusy: another process holds the file for longer than a minute.
        """
        with translated(self._path):
            require_room(self._path.parent)
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def fact(self, name: str) -> int:
        """Return the number kept under *name*; 0 when there is none."""
        row = self.connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Close every thread's connection."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._local = threading.local()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors about the state file into ours."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        if "locked" in str(exc) or "busy" in str(exc):
            raise StateBusy(f"{path}: in use by another coopfs for too long; try again") from exc
        raise CoopfsError(f"{path}: {exc}; {_room_text(path)}") from exc
    except sqlite3.DatabaseError as exc:
        raise CoopfsError(
            f"{path}: damaged ({exc}); remove it, it is rebuilt from the store"
        ) from exc
    except OSError as exc:
        is_full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"; {_room_text(path)}" if is_full else ""
        raise CoopfsError(f"{path}: {exc.strerror or exc}{advice}") from exc


def _room_text(path: Path) -> str:
    """Return what to do about an error of SQLite, who calls a quota an "I/O error"."""
    free = "unknown"
    with suppress(OSError):
        free = f"{free_bytes(str(path.parent))} bytes"
    return (
        f"free on that disk: {free}; make room, raise the quota, or see that the folder can be "
        "written to, then run it again"
    )
