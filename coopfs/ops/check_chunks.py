"""Which chunks the store has, and which of them somebody needs.

Owns a table of 12 bytes a chunk, made for `check`: filled once from the packs'
directories, then asked once per reference from a tree.  Ten million chunks take
about 130 MB, where a dictionary of their ids would take more than a gigabyte.

Ids are told apart by their first eight bytes: they are keyed hashes, so a damaged
or withheld chunk passes for another one with a chance of 1 in 10^12 at ten million
chunks.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from typing import Final

RECENT_MAX: Final = 100_000  # pairs, 170 bytes each
_PARTS: Final = 1 << 12  # about 2,400 chunks each when there are ten million
_SHIFT: Final = 64 - 12
_PREFIX: Final = struct.Struct(">Q24x")  # the first eight of 32 bytes
_LEN_MASK: Final = (1 << 26) - 1  # a chunk has at most MAX_BLOCK_LEN, 2^25 bytes
_NEEDED: Final = 1 << 31  # by a tree of some snapshot
_SPOILED: Final = 1 << 30  # this copy cannot be read
_WHOLE_MASK: Final = _LEN_MASK | _SPOILED  # only the length is left of a copy that can


class ChunkTable:
    """Every copy of every chunk the store is known to have; one thread uses it."""

    def __init__(self) -> None:
        """Start empty; all :meth:`add` come before :meth:`seal`, all else after."""
        self._prefixes = [array("Q") for _ in range(_PARTS)]
        self._facts = [array("I") for _ in range(_PARTS)]  # length and flags
        self._recent: set[tuple[int, int]] = set()  # (prefix, length): needed, and whole

    def __len__(self) -> int:
        """Return how many copies there are."""
        return sum(map(len, self._prefixes))

    def add(self, chunk_ids: Sequence[bytes], lengths: Sequence[int]) -> None:
        """Take in the chunks of a pack; *lengths* in bytes."""
        prefixes, facts = self._prefixes, self._facts
        for (prefix,), length in zip(
            _PREFIX.iter_unpack(b"".join(chunk_ids)), lengths, strict=True
        ):
            part = prefix >> _SHIFT
            prefixes[part].append(prefix)
            facts[part].append(length)

    def seal(self) -> None:
        """Sort, so that chunks can be found."""
        for part in range(_PARTS):
            prefixes, facts = self._prefixes[part], self._facts[part]
            order = sorted(range(len(prefixes)), key=prefixes.__getitem__)
            self._prefixes[part] = array("Q", [prefixes[place] for place in order])
            self._facts[part] = array("I", [facts[place] for place in order])

    def need(self, chunk_id: bytes, length: int) -> bool:
        """Note that a tree refers to the chunk; tell whether a copy of *length* can be read."""
        return self.need_all(chunk_id, (length,))

    def need_all(self, chunk_ids: bytes, lengths: Sequence[int]) -> bool:
        """Do as :meth:`need` of many, their ids back to back; tell whether it is true of all."""
        prefixes_here = chain.from_iterable(_PREFIX.iter_unpack(chunk_ids))
        # Most were asked for a moment ago: a node differs from its predecessor in one entry.
        wanted = set(zip(prefixes_here, lengths, strict=True)) - self._recent
        if not wanted:
            return True
        whole = {pair for pair in wanted if self.need_one(*pair)}
        if len(self._recent) > RECENT_MAX:
            self._recent.clear()
        self._recent |= whole
        return len(whole) == len(wanted)

    def need_one(self, prefix: int, length: int) -> bool:
        """Do as :meth:`need`, of a chunk by the number its id begins with."""
        part = prefix >> _SHIFT
        prefixes, facts = self._prefixes[part], self._facts[part]
        place = bisect_left(prefixes, prefix)
        count = len(prefixes)
        is_whole = False
        while place < count and prefixes[place] == prefix:
            fact = facts[place]
            if not fact & _NEEDED:
                facts[place] = fact | _NEEDED
            if fact & _WHOLE_MASK == length:
                is_whole = True
            place += 1
        return is_whole

    def need_node(self, node_id: bytes) -> bool:
        """Note that a tree refers to a node that was just read; tell whether it counts as there."""
        (prefix,) = _PREFIX.unpack(node_id)
        self.need_one(prefix, 0)  # whatever its length
        return True

    def spoil(self, chunk_id: bytes, length: int) -> None:
        """Take one readable copy of the chunk as lost; nothing happens when there is none."""
        self._recent.clear()
        (prefix,) = _PREFIX.unpack(chunk_id)
        part = prefix >> _SHIFT
        prefixes, facts = self._prefixes[part], self._facts[part]
        place = bisect_left(prefixes, prefix)
        while place < len(prefixes) and prefixes[place] == prefix:
            if facts[place] & _LEN_MASK == length and not facts[place] & _SPOILED:
                facts[place] |= _SPOILED
                return
            place += 1

    def needed(self) -> tuple[int, int]:
        """Return (count, bytes) of the copies something refers to."""
        lengths = [fact & _LEN_MASK for facts in self._facts for fact in facts if fact & _NEEDED]
        return len(lengths), sum(lengths)

    def unneeded(self) -> tuple[int, int]:
        """Return (count, bytes) of the readable copies nothing refers to."""
        count = size = 0
        for facts in self._facts:
            for fact in facts:
                if not fact & (_NEEDED | _SPOILED):
                    count += 1
                    size += fact & _LEN_MASK
        return count, size
