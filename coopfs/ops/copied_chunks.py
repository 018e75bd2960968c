"""Which chunk of another archive became which here: a hint that may be lost at any time.

Owns an SQLite file in this archive's state folder, one for each archive copied from.  A
chunk's id is a keyed hash of what is in it, so an entry never becomes wrong; whether the
chunk is still here, the index says.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final, Self

from coopfs.archive.state import translated
from coopfs.ids import ArchiveId, ChunkId
from coopfs.room import require_room

BATCH: Final = 20_000  # new entries kept in memory: 4 MB


class CopiedChunks:
    """See the module; one thread uses it, as a context manager."""

    def __init__(self, folder: Path, archive_id: ArchiveId) -> None:
        """Open what is kept in *folder* about chunks of the archive *archive_id*.

        Raises:
            CoopfsError: it cannot be opened.
        """
        self._path = folder / f"copied-{archive_id.hex()}.db"
        self._new: dict[ChunkId, ChunkId] = {}
        with translated(self._path):
            require_room(folder)
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS chunks"
                " (theirs BLOB PRIMARY KEY, ours BLOB NOT NULL) WITHOUT ROWID"
            )

    def get(self, chunk_id: ChunkId) -> ChunkId | None:
        """Return what their chunk is called here, if it was ever copied."""
        found = self._new.get(chunk_id)
        if found is not None:
            return found
        row = self._connection.execute(
            "SELECT ours FROM chunks WHERE theirs = ?", (chunk_id,)
        ).fetchone()
        return ChunkId(row[0]) if row else None

    def put(self, theirs: ChunkId, ours: ChunkId) -> None:
        """Note that their chunk is called *ours* here."""
        self._new[theirs] = ours
        if len(self._new) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Keep what was noted (CoopfsError)."""
        with translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                "INSERT OR REPLACE INTO chunks VALUES (?, ?)", sorted(self._new.items())
            )
            self._connection.execute("COMMIT")
        self._new.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._connection.close()
