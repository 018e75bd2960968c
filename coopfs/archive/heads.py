"""The heads: the newest snapshot of every series ever seen here, kept for ever.

Apart from caches and from the rebuildable state, because nothing else tells an
older copy of the store from the newest one.  Written with fsync, as text, so
that a person can read it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.lock import file_lock
from coopfs.errors import ConfigError, CoopfsError
from coopfs.ids import SnapshotId

FILE_NAME: Final = "heads.json"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest snapshot known of one series."""

    host: str
    series: str
    number: int
    snapshot_id: SnapshotId


class Heads:
    """The heads of one archive."""

    def __init__(self, folder: Path) -> None:
        """Read the file in *folder*; none yet means that no snapshot was ever seen.

        Raises:
            ConfigError: the file is there but cannot be understood.
        """
        self._path = folder / FILE_NAME
        self._heads: dict[tuple[str, str], Head] = {}
        self.reload()

    def reload(self) -> None:
        """Take in what other processes have written since; the newer head of each series stays.

        Raises:
            ConfigError: the file is there but cannot be understood.
        """
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except OSError as exc:
            raise ConfigError(f"{self._path}: {exc.strerror}") from exc
        try:
            for item in json.loads(text)["heads"]:
                head = Head(
                    str(item["host"]),
                    str(item["series"]),
                    int(item["number"]),
                    SnapshotId(bytes.fromhex(item["snapshot"])),
                )
                self._keep_newer(head)
        except (ValueError, KeyError, TypeError) as exc:
            raise ConfigError(
                f"{self._path}: damaged; it guards against a store put back to an older copy. "
                "Move it away only if you know that the store is the newest"
            ) from exc

    def _keep_newer(self, head: Head) -> None:
        known = self._heads.get((head.host, head.series))
        if known is None or head.number >= known.number:
            self._heads[head.host, head.series] = head

    def all(self) -> list[Head]:
        """Return every head, ordered by host and series."""
        return [self._heads[key] for key in sorted(self._heads)]

    def get(self, host: str, series: str) -> Head | None:
        """Return the head of a series, or None."""
        return self._heads.get((host, series))

    def update(self, heads: list[Head]) -> None:
        """Keep *heads* beside or in place of older ones; durable on return.

        Raises:
            CoopfsError: the file cannot be written.
        """
        if all(self._heads.get((h.host, h.series)) == h for h in heads):
            return
        with file_lock(self._path.with_name(f"{FILE_NAME}.lock")):
            # A mount and a snapshot may write at once: neither may undo the other's.
            self.reload()
            for head in heads:
                self._heads[head.host, head.series] = head
            self._write()

    def _write(self) -> None:
        text = json.dumps(
            {
                "heads": [
                    {
                        "host": head.host,
                        "series": head.series,
                        "number": head.number,
                        "snapshot": head.snapshot_id.hex(),
                    }
                    for head in self.all()
                ]
            },
            indent=1,
        )
        part = self._path.with_name(f"{FILE_NAME}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
            folder_fd = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder_fd)
            finally:
                os.close(folder_fd)
        except OSError as exc:
            raise CoopfsError(f"{self._path}: {exc.strerror}; is the disk full?") from exc
