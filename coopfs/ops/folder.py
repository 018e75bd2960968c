"""A source folder being walked: what is in it now, and what was when last stored."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from typing import Final

from coopfs.format.nodes import TreeBuilder
from coopfs.format.tree import Entry
from coopfs.ops.exclude import Excludes
from coopfs.ops.files import OPEN_FLAGS, FileStorer
from coopfs.ops.tally import Tally
from coopfs.ops.witness import NO_LINK, Witness, WitnessRules

CACHEDIR_TAG: Final = b"CACHEDIR.TAG"
CACHEDIR_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"  # bford.info/cachedir
STATS_KEPT: Final = 20_000  # entries of a folder whose stats are kept from look to use

Item = tuple[bytes, os.stat_result | None]  # name and, in a folder of usual size, its stat


@dataclass(frozen=True, slots=True)
class WalkRules:
    """What is walked and what is believed."""

    excludes: Excludes
    one_file_system: bool = False
    exclude_caches: bool = False  # folders marked with a CACHEDIR.TAG: only the tag is taken
    witness: WitnessRules = field(default_factory=WitnessRules)


class OpenFolder:
    """A folder being walked."""

    __slots__ = (
        "builder", "device", "entry", "is_same", "items", "old",
        "old_entries", "old_records", "path", "place", "read_ns", "records", "totals",
    )  # fmt: skip

    def __init__(self, path: bytes, entry: Entry | None, device: int, builder: TreeBuilder) -> None:
        self.path = path
        self.entry = entry  # of the folder itself, without its tree
        self.device = device
        self.builder = builder
        self.read_ns = time.time_ns()
        self.items: list[Item] = []
        self.records: list[bytes] = []  # per item
        self.place = 0  # the next item's
        self.old: Witness | None = None
        self.old_records: dict[bytes, bytes] | None = None  # read when first needed
        self.old_entries: dict[bytes, Entry] = {}
        self.is_same = False
        self.totals = [0, 0, 0]

    @property
    def prefix(self) -> bytes:
        """What the paths of its items begin with."""
        return self.path.rstrip(b"/") + b"/"

    def names(self, count: int) -> bytes:
        """Return the first *count* items as a witness keeps them."""
        pairs = zip(self.records[:count], self.items[:count], strict=True)
        return b"".join([record + item[0] + b"\0" for record, item in pairs])

    def look(self, files: FileStorer, tally: Tally, rules: WalkRules) -> None:
        """Fill in names and records, in name order, excludes left out (OSError)."""
        excludes, prefix = rules.excludes, self.prefix
        found: list[tuple[bytes, os.DirEntry[bytes]]]
        with os.scandir(self.path) as listing:
            found = [(item.name, item) for item in listing]
        found.sort()
        if rules.exclude_caches and _is_cache(prefix, found):
            found = [item for item in found if item[0] == CACHEDIR_TAG]
        keep_stats = len(found) <= STATS_KEPT
        record = rules.witness.record
        for name, item in found:
            try:
                status = item.stat(follow_symlinks=False)
                if not excludes.is_empty and excludes.matches(
                    prefix + name, name, stat.S_ISDIR(status.st_mode)
                ):
                    continue
            except FileNotFoundError:
                tally.report(prefix + name, "vanished while its folder was read")
                continue
            except OSError as exc:
                tally.report(prefix + name, exc)
                continue
            link_id = NO_LINK
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                link_id = files.link_id(prefix + name, status)[:8]
            self.items.append((name, status if keep_stats else None))
            self.records.append(record(status, link_id))


def _is_cache(prefix: bytes, found: list[tuple[bytes, os.DirEntry[bytes]]]) -> bool:
    if not any(name == CACHEDIR_TAG for name, _ in found):
        return False
    try:
        fd = os.open(prefix + CACHEDIR_TAG, OPEN_FLAGS)  # a FIFO must not hold the run up
        try:
            return os.read(fd, len(CACHEDIR_SIGNATURE)) == CACHEDIR_SIGNATURE
        finally:
            os.close(fd)
    except OSError:
        return False
