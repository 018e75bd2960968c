"""A source folder being walked: what is in it now, and what was when last stored."""

from __future__ import annotations

import os
import stat
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from coopfs.format.nodes import TreeBuilder
from coopfs.format.tree import Entry, Kind
from coopfs.ids import TreeId
from coopfs.ops.exclude import Excludes
from coopfs.ops.files import OPEN_FLAGS, FileStorer
from coopfs.ops.tally import Tally
from coopfs.ops.witness import NO_LINK, RECORD_LEN, Witness, WitnessRules, split_names

CACHEDIR_TAG: Final = b"CACHEDIR.TAG"
CACHEDIR_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"  # bford.info/cachedir
STATS_KEPT: Final = 20_000  # entries of a folder whose stats are kept from look to use


@dataclass(frozen=True, slots=True)
class WalkRules:
    """What is walked and what is believed."""

    excludes: Excludes
    one_file_system: bool = False
    exclude_caches: bool = False  # folders marked with a CACHEDIR.TAG: only the tag is taken
    witness: WitnessRules = field(default_factory=WitnessRules)


class Listing:
    """What is in a folder, in name order: about 100 bytes an entry, however many there are."""

    __slots__ = ("_left_out", "_starts", "_stats", "rows")

    def __init__(self, *, keep_stats: bool) -> None:
        """*keep_stats*: remember the stats too, 700 bytes each."""
        self.rows = bytearray()  # per entry: record, name, NUL, as a witness keeps them
        self._starts = array("Q", (0,))  # of the rows, and where the last one ends
        self._stats: list[os.stat_result] | None = [] if keep_stats else None
        self._left_out: list[int] = []  # places, ascending

    def __len__(self) -> int:
        """Return how many places there are, those left out included."""
        return len(self._starts) - 1

    def add(self, name: bytes, record: bytes, status: os.stat_result) -> None:
        """Append an entry."""
        self.rows += record + name + b"\0"
        self._starts.append(len(self.rows))
        if self._stats is not None:
            self._stats.append(status)

    def name(self, place: int) -> bytes:
        """Return the name at *place*."""
        return bytes(self.rows[self._starts[place] + RECORD_LEN : self._starts[place + 1] - 1])

    def record(self, place: int) -> bytes:
        """Return the record at *place*."""
        start = self._starts[place]
        return bytes(self.rows[start : start + RECORD_LEN])

    def status(self, place: int) -> os.stat_result | None:
        """Return the stat at *place*, where it was kept."""
        return None if self._stats is None else self._stats[place]

    def leave_out(self, place: int) -> None:
        """Have no row for *place*, which comes after all that were left out before."""
        self._left_out.append(place)

    def is_older(self, limit_ns: int, rules: WitnessRules) -> bool:
        """Tell whether nothing was changed from *limit_ns* on."""
        if self._stats is not None:
            return all(rules.youngest_ns(status) < limit_ns for status in self._stats)
        return all(rules.youngest_in(self.record(n)) < limit_ns for n in range(len(self)))

    def first_rows(self, count: int) -> bytes | bytearray:
        """Return the rows of the first *count* places; all of them without a copy."""
        if count == len(self) and not self._left_out:
            return self.rows
        ends = [place for place in self._left_out if place < count]
        starts = [0, *(place + 1 for place in ends)]
        rows, at = memoryview(self.rows), self._starts
        runs = zip(starts, [*ends, count], strict=True)
        return b"".join([rows[at[start] : at[end]] for start, end in runs])


class Former:
    """What a folder was stored as, gone through in step with what is in it now."""

    def __init__(self, iter_entries: Callable[[TreeId], Iterator[Entry]], old: Witness) -> None:
        """Begin with the first of what *old* witnesses (DataError)."""
        self._entries = iter_entries(old.tree)
        self._rows = split_names(old.names)
        self._entry = next(self._entries, None)
        self._row = next(self._rows, None)

    def at(self, name: bytes) -> tuple[Entry | None, bytes | None]:
        """Return entry and record of *name*, where there are; ask in name order (DataError)."""
        entry, row = self._entry, self._row
        while entry is not None and entry.name < name:
            entry = self._entry = next(self._entries, None)
        while row is not None and row[0] < name:
            row = self._row = next(self._rows, None)
        return (
            entry if entry is not None and entry.name == name else None,
            row[1] if row is not None and row[0] == name else None,
        )


def gone_folders(entries: Iterator[Entry], listing: Listing) -> Iterator[bytes]:
    """Yield the names of folders among *entries*, in name order, that are not in *listing*."""
    here = map(listing.name, range(len(listing)))
    name = next(here, None)
    for entry in entries:
        if entry.kind is not Kind.FOLDER:
            continue
        while name is not None and name < entry.name:
            name = next(here, None)
        if name != entry.name:
            yield entry.name


class OpenFolder:
    """A folder being walked."""

    __slots__ = (
        "builder", "device", "entry", "former", "is_same",
        "listing", "old", "path", "place", "read_ns", "totals",
    )  # fmt: skip

    def __init__(self, path: bytes, entry: Entry | None, device: int, builder: TreeBuilder) -> None:
        self.path = path
        self.entry = entry  # of the folder itself, without its tree
        self.device = device
        self.builder = builder
        self.read_ns = time.time_ns()
        self.listing = Listing(keep_stats=False)
        self.place = 0  # of the next entry
        self.old: Witness | None = None
        self.former: Former | None = None  # made when first needed
        self.is_same = False
        self.totals = [0, 0, 0]

    @property
    def prefix(self) -> bytes:
        """What the paths of its entries begin with."""
        return self.path.rstrip(b"/") + b"/"

    def look(self, files: FileStorer, tally: Tally, rules: WalkRules) -> None:
        """Fill in the listing, excludes left out (OSError)."""
        excludes, prefix = rules.excludes, self.prefix
        # Names alone: what scandir() gives would hold a stat each, a gigabyte for a million.
        names = os.listdir(self.path)
        if rules.exclude_caches and CACHEDIR_TAG in names and _is_cache(prefix):
            names = [CACHEDIR_TAG]
        names.sort(reverse=True)
        self.listing = listing = Listing(keep_stats=len(names) <= STATS_KEPT)
        record = rules.witness.record
        while names:
            name = names.pop()
            path = prefix + name
            try:
                status = os.lstat(path)
                if not excludes.is_empty and excludes.matches(
                    path, name, stat.S_ISDIR(status.st_mode)
                ):
                    continue
            except FileNotFoundError:
                tally.report(path, "vanished while its folder was read")
                continue
            except OSError as exc:
                tally.report(path, exc)
                continue
            link_id = NO_LINK
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                link_id = files.link_id(path, status)[:8]
            listing.add(name, record(status, link_id), status)


def _is_cache(prefix: bytes) -> bool:
    try:
        fd = os.open(prefix + CACHEDIR_TAG, OPEN_FLAGS)  # a FIFO must not hold the run up
        try:
            return os.read(fd, len(CACHEDIR_SIGNATURE)) == CACHEDIR_SIGNATURE
        finally:
            os.close(fd)
    except OSError:
        return False
