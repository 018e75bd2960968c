"""Which of the chunks that packs hold some snapshot needs: thirteen bytes a chunk.

Filled once from the index, then told of every reference in every tree.  Chunks are
numbered as they come, so those of a block lie side by side: how much of one is needed is
seen in one look, and what a folder refers to is mostly found after what was asked for
last.  Ids are told apart by their first eight bytes: they are keyed hashes, and where two
do agree, one chunk too many is kept.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from coopfs.ids import ID_LEN

RECENT_MAX: Final = 100_000  # prefixes, 80 bytes each
_PART_CHUNKS: Final = 256  # about so many, while there are few parts
_PART_BITS_MAX: Final = 12  # 4,096 parts: 2,400 chunks each when there are ten million
_NEEDED: Final = 1
_TWIN: Final = 2  # of a chunk with a lower number, which stands for all of them
_IS_NEEDED: Final = bytes(value == _NEEDED for value in range(256))


class NeedTable:
    """Every chunk the index knows; one thread uses it."""

    def __init__(self, is_known: Callable[[bytes], bool]) -> None:
        """Start empty; all :meth:`add` come before :meth:`seal`.

        *is_known* tells of a chunk that came into the index later.
        """
        self._prefixes = array("Q")  # by number
        self._flags = bytearray()  # by number
        self._parts: list[array[int]] = []  # numbers, sorted by prefix; parts by its first bits
        self._shift = 64  # of a prefix: what remains is its part
        self._places = 0, 0  # numbers of chunks that may be asked for next
        self._recent: set[int] = set()  # prefixes that are needed already
        self._late: set[int] = set()  # prefixes that are needed; few
        self._is_known = is_known

    def clear(self) -> None:
        """Forget everything; nothing may be asked any more."""
        self._prefixes, self._flags, self._parts = array("Q"), bytearray(), []
        self._late.clear()
        self._recent.clear()

    def add(self, chunk_ids: bytes) -> int:
        """Take in chunks, their ids back to back; return the number of the first.

        Of a chunk that comes more than once only the first can be needed.
        """
        first = len(self._prefixes)
        self._prefixes.extend(memoryview(chunk_ids).cast("Q")[:: ID_LEN // 8])
        return first

    def seal(self) -> None:
        """Sort, so that chunks can be found."""
        prefixes = self._prefixes
        prefix_at = prefixes.__getitem__
        bits = min((len(prefixes) // _PART_CHUNKS).bit_length(), _PART_BITS_MAX)
        shift = self._shift = 64 - bits
        parts = [array("I") for _ in range(1 << bits)]
        for number, prefix in enumerate(prefixes):
            parts[prefix >> shift].append(number)
        flags = self._flags = bytearray(len(prefixes))
        for place, part in enumerate(parts):
            # In the order of their numbers where the prefix is the same.
            parts[place] = array("I", sorted(part, key=prefix_at))
            if len(set(map(prefix_at, part))) < len(part):
                seen: set[int] = set()
                for number in part:
                    if prefixes[number] in seen:
                        flags[number] = _TWIN
                    seen.add(prefixes[number])
        self._parts = parts
        # Behind the last, for a look at what follows it; found by nobody.
        prefixes.extend((0, 0))
        flags.extend((_TWIN, _TWIN))

    def _find(self, prefix: int) -> int:
        """Return the lowest number of a chunk; -1: there is none."""
        prefixes = self._prefixes
        part = self._parts[prefix >> self._shift]
        place = bisect_left(part, prefix, key=prefixes.__getitem__)
        if place < len(part) and prefixes[part[place]] == prefix:
            return part[place]
        return -1

    def need(self, chunk_id: bytes) -> bool | None:
        """Note that a snapshot needs the chunk; tell whether that is new, None: it is nowhere."""
        prefix = _prefix_of(chunk_id)
        number = self._find(prefix)
        if number >= 0:
            is_new = not self._flags[number]
            self._flags[number] = _NEEDED
            return is_new
        if prefix in self._late:
            return False
        if not self._is_known(chunk_id):
            return None
        self._late.add(prefix)
        return True

    def need_all(self, chunk_ids: bytes) -> bytes | None:
        """Do as :meth:`need` of many, ids back to back; return one that is nowhere, or None."""
        all_prefixes, flags, recent = self._prefixes, self._flags, self._recent
        prefixes = memoryview(chunk_ids).cast("Q")[:: ID_LEN // 8].tolist()
        # Most were asked for a moment ago: a node differs from its predecessor in one entry.
        new = [prefix for prefix in prefixes if prefix not in recent]
        number, other = self._places
        for prefix in new:
            if all_prefixes[number] != prefix or flags[number] == _TWIN:
                if all_prefixes[other] == prefix and flags[other] != _TWIN:
                    number, other = other, number
                else:
                    # Where this one has changed, the next one may follow what was here.
                    other, number = number + 1, self._find(prefix)
                    if number < 0:
                        return self._need_one_by_one(chunk_ids)
            flags[number] = _NEEDED
            number += 1
        self._places = number, other
        if len(recent) > RECENT_MAX:
            recent.clear()
        recent.update(new)
        return None

    def _need_one_by_one(self, chunk_ids: bytes) -> bytes | None:
        for start in range(0, len(chunk_ids), ID_LEN):  # some came later, or are nowhere
            chunk_id = chunk_ids[start : start + ID_LEN]
            if self.need(chunk_id) is None:
                return chunk_id
        return None

    def is_needed(self, chunk_id: bytes) -> bool:
        """Tell whether a snapshot needs the chunk."""
        prefix = _prefix_of(chunk_id)
        number = self._find(prefix)
        return self._flags[number] == _NEEDED if number >= 0 else prefix in self._late

    def needed_of(self, first: int, count: int) -> bytes:
        """Return a byte for each of *count* chunks from number *first* on: 1 if it is needed."""
        return bytes(self._flags[first : first + count].translate(_IS_NEEDED))


def _prefix_of(chunk_id: bytes) -> int:
    return int.from_bytes(chunk_id[:8], sys.byteorder)
