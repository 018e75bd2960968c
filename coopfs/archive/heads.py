"""The heads: the newest snapshot of every series ever seen here, kept for ever.

Apart from caches and from the rebuildable state, because nothing else tells an
older copy of the store from the newest one.  Beside them what somebody has accepted as
missing.  Written with fsync, as text, so that a person can read it.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from coopfs.archive.lock import file_lock
from coopfs.errors import ConfigError, CoopfsError
from coopfs.ids import SnapshotId, short_hex

FILE_NAME: Final = "heads.json"


@dataclass(frozen=True, slots=True)
class Head:
    """The newest snapshot known of one series."""

    host: str
    series: str
    number: int
    snapshot_id: SnapshotId


@dataclass(frozen=True, slots=True)
class Accepted:
    """A snapshot that is missing, and somebody said to go on without it."""

    snapshot_id: SnapshotId
    host: str
    series: str
    number: int | None  # None: it was never seen here, others are based on it
    accepted_ns: int  # by this machine's clock

    @property
    def text(self) -> str:
        """A sentence that names it."""
        day = time.strftime("%Y-%m-%d", time.localtime(self.accepted_ns / 1e9))
        what = "one" if self.number is None else f"number {self.number}"
        return (
            f"{what} of {self.host}/{self.series} ({short_hex(self.snapshot_id)}) is missing; "
            f"accepted on {day}"
        )


class Heads:
    """The heads of one archive."""

    def __init__(self, folder: Path) -> None:
        """Read the file in *folder*; none yet means that no snapshot was ever seen.

        Raises:
            ConfigError: the file is there but cannot be understood.
        """
        self._path = folder / FILE_NAME
        self._heads: dict[tuple[str, str], Head] = {}
        self._accepted: dict[SnapshotId, Accepted] = {}
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
            content = json.loads(text)
            self._take_accepted(content.get("accepted", ()))
            for item in content["heads"]:
                head = Head(
                    str(item["host"]),
                    str(item["series"]),
                    int(item["number"]),
                    SnapshotId(bytes.fromhex(item["snapshot"])),
                )
                self._keep_newer(head)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ConfigError(
                f"{self._path}: damaged; it guards against a store put back to an older copy. "
                "Move it away only if you know that the store is the newest"
            ) from exc

    def _take_accepted(self, items: Any) -> None:
        accepted = [
            Accepted(
                SnapshotId(bytes.fromhex(item["snapshot"])),
                str(item["host"]),
                str(item["series"]),
                None if item["number"] is None else int(item["number"]),
                int(item["accepted_ns"]),
            )
            for item in items
        ]
        new = {item.snapshot_id for item in accepted} - self._accepted.keys()
        self._accepted = {item.snapshot_id: item for item in accepted}
        # Another process has set these heads back, however high their numbers.
        self._heads = {k: h for k, h in self._heads.items() if h.snapshot_id not in new}

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

    def accepted(self) -> list[Accepted]:
        """Return what was accepted as missing, by host, series and number."""
        return sorted(
            self._accepted.values(),
            key=lambda item: (item.host, item.series, item.number or 0, item.snapshot_id),
        )

    def accepted_ids(self) -> set[SnapshotId]:
        """Return the ids of what was accepted as missing."""
        return set(self._accepted)

    def accept(self, missing: list[Accepted], heads: list[Head]) -> None:
        """Note *missing*; heads among them go, *heads* come in their place; durable on return.

        Raises:
            CoopfsError: the file cannot be written.
        """
        if not missing:
            return
        with file_lock(self._path.with_name(f"{FILE_NAME}.lock")):
            self.reload()
            for item in missing:
                self._accepted.setdefault(item.snapshot_id, item)
            gone = {item.snapshot_id for item in missing}
            self._heads = {k: h for k, h in self._heads.items() if h.snapshot_id not in gone}
            for head in heads:
                self._keep_newer(head)
            self._write()

    def found_again(self, snapshot_ids: set[SnapshotId]) -> None:
        """Strike out what is there after all (CoopfsError: the file cannot be written)."""
        if snapshot_ids.isdisjoint(self._accepted):
            return
        with file_lock(self._path.with_name(f"{FILE_NAME}.lock")):
            self.reload()
            for snapshot_id in snapshot_ids:
                self._accepted.pop(snapshot_id, None)
            self._write()

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
                ],
                "accepted": [
                    {
                        "host": item.host,
                        "series": item.series,
                        "number": item.number,
                        "snapshot": item.snapshot_id.hex(),
                        "accepted_ns": item.accepted_ns,
                    }
                    for item in self.accepted()
                ],
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
