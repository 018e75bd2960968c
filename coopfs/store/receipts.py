"""What a partner's server has signed for this machine: the receipts of its puts.

Owns ``partners/NAME.receipts`` in the state folder, an SQLite file: about 120 bytes for
each object put from here.  Nothing makes them again once they are lost; nothing but a
dispute needs them.  That one cannot be kept is no reason to fail.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from coopfs.dirs import Dirs, make_private_folder
from coopfs.errors import ConfigError, UsageError
from coopfs.format.invitation import check_partner_name
from coopfs.format.receipt import Receipt, receipt_body
from coopfs.ids import ObjectId

BUSY_TIMEOUT_S: Final = 10  # another command holds the file for milliseconds
VERSION: Final = 1
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS signers (
    signer_no INTEGER PRIMARY KEY, public_key BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS receipts (
    name BLOB PRIMARY KEY, kind TEXT NOT NULL, size INTEGER NOT NULL, time_ns INTEGER NOT NULL,
    signature BLOB NOT NULL, signer_no INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {VERSION:d};
COMMIT;
"""
_PREFIX = re.compile(r"[0-9a-f]{1,64}\Z")
_COLUMNS: Final = "kind, name, size, time_ns, signature, public_key"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt with what proves it."""

    receipt: Receipt
    signature: bytes  # 64 bytes, Ed25519
    public_key: bytes  # 32 bytes, of the server that signed

    @property
    def data(self) -> bytes:
        """The receipt as the server sent it."""
        return receipt_body(self.receipt) + self.signature


@dataclass(frozen=True, slots=True)
class ReceiptSums:
    """All receipts of one partner."""

    count: int
    size: int  # bytes of the objects
    newest_ns: int | None  # by the server's clock


class ReceiptBook:
    """The receipts of one partner's server; for any number of threads and processes."""

    def __init__(self, dirs: Dirs, partner: str) -> None:
        """Touch nothing yet."""
        self.path = dirs.state / "partners" / f"{check_partner_name(partner)}.receipts"
        self._lock = threading.Lock()  # guards the rest
        self._connection: sqlite3.Connection | None = None
        self._has_failed = False

    def keep(self, signed: SignedReceipt) -> None:
        """Keep a receipt, in place of an earlier one for the same object."""
        receipt = signed.receipt

        def write(connection: sqlite3.Connection) -> None:
            key = (signed.public_key,)
            connection.execute("INSERT OR IGNORE INTO signers (public_key) VALUES (?)", key)
            connection.execute(
                "INSERT OR REPLACE INTO receipts SELECT ?, ?, ?, ?, ?, signer_no FROM signers "
                "WHERE public_key = ?",
                (receipt.name, receipt.kind, receipt.size, receipt.time_ns, signed.signature, *key),
            )

        self._write(write)

    def drop(self, name: bytes) -> None:
        """Forget the receipt of an object that was deleted at our wish, if there is one."""
        if self._connection is not None or self.path.exists():
            self._write(lambda c: c.execute("DELETE FROM receipts WHERE name = ?", (name,)))

    def sums(self) -> ReceiptSums:
        """Return how many there are (ConfigError: they cannot be read)."""
        rows = self._read("SELECT count(*), total(size), max(time_ns) FROM receipts")
        for count, size, newest_ns in rows:
            return ReceiptSums(count, int(size), newest_ns)
        return ReceiptSums(0, 0, None)

    def receipts(
        self, prefixes: Sequence[str] = (), since_ns: int | None = None
    ) -> list[SignedReceipt]:
        """Return receipts, the oldest first: of objects whose names begin so, all without any.

        Raises:
            UsageError: nothing can begin so.
            ConfigError: they cannot be read.
        """
        wanted = [f"hex(name) GLOB '{_hex(prefix)}*'" for prefix in prefixes]
        where = f"({' OR '.join(wanted) or 'TRUE'}) AND time_ns >= ?"
        query = (
            f"SELECT {_COLUMNS} FROM receipts JOIN signers USING (signer_no) "  # noqa: S608 - hex
            f"WHERE {where} ORDER BY time_ns, name"
        )
        return [
            SignedReceipt(Receipt(kind, ObjectId(name), size, time_ns), signature, key)
            for kind, name, size, time_ns, signature, key in self._read(query, since_ns or 0)
        ]

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _write(self, write: Callable[[sqlite3.Connection], object]) -> None:
        with self._lock:
            try:
                connection = self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    write(connection)
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except (sqlite3.Error, ConfigError) as exc:
                if not self._has_failed:
                    self._has_failed = True
                    log.warning("%s: receipts are not kept: %s", self.path, exc)

    def _read(self, query: str, *values: object) -> list[Any]:
        if not self.path.exists():
            return []
        with self._lock:
            try:
                return self._open().execute(query, values).fetchall()
            except sqlite3.Error as exc:
                raise ConfigError(f"{self.path}: the receipts cannot be read: {exc}") from exc

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            make_private_folder(self.path.parent)
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                # NORMAL: a power cut may lose the last ones, never the file.
                for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
                    connection.execute(f"PRAGMA {pragma}")
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version == 0:
                    connection.executescript(_SCHEMA)
                elif version != VERSION:
                    raise ConfigError(f"{self.path}: of version {version}; expected {VERSION}")
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _hex(prefix: str) -> str:
    digits = prefix.rpartition("/")[2].lower()
    if not _PREFIX.match(digits):
        raise UsageError(
            f"{prefix!r} is no object: expected its name in hex as messages show it, or its "
            "beginning, such as data/3f9a12c4"
        )
    return digits.upper()
