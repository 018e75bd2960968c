"""Which of the chunks that packs hold some snapshot needs: nine bytes a chunk.

Filled once from the index, then told of every reference in every tree.  Ten million
chunks take 90 MB.  Ids are told apart by their first eight bytes: they are keyed hashes,
and where two do agree, one chunk too many is kept.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from coopfs.ids import ID_LEN

RECENT_MAX: Final = 100_000  # prefixes, 80 bytes each
_PARTS: Final = 1 << 12  # about 2,400 chunks each when there are ten million
_SHIFT: Final = 64 - 12
_PREFIXES: Final = struct.Struct(">Q24x")  # the first eight of 32 bytes
_NEEDED: Final = 1
_CLAIMED: Final = 2  # by a pack that is kept for it

_from_bytes = int.from_bytes  # big-endian is its default from 3.11 on


class NeedTable:
    """Every chunk the index knows; one thread uses it."""

    def __init__(self, is_known: Callable[[bytes], bool]) -> None:
        """Start empty; all :meth:`add` come before :meth:`seal`.

        *is_known* tells of a chunk that came into the index later.
        """
        self._prefixes = [array("Q") for _ in range(_PARTS)]
        self._flags: list[bytearray] = []
        self._late: dict[int, int] = {}  # prefix -> flags; few
        self._is_known = is_known
        self._recent: set[int] = set()  # prefixes that are needed already

    def clear(self) -> None:
        """Forget everything; nothing may be asked any more."""
        self._prefixes, self._flags = [], []
        self._late.clear()
        self._recent.clear()

    def add(self, chunk_ids: bytes) -> None:
        """Take in chunks, their ids back to back."""
        prefixes = self._prefixes
        for (prefix,) in _PREFIXES.iter_unpack(chunk_ids):
            prefixes[prefix >> _SHIFT].append(prefix)

    def seal(self) -> None:
        """Sort, so that chunks can be found."""
        for part in range(_PARTS):
            self._prefixes[part] = array("Q", sorted(set(self._prefixes[part])))
        self._flags = [bytearray(len(prefixes)) for prefixes in self._prefixes]

    def need(self, chunk_id: bytes) -> bool | None:
        """Note that a snapshot needs the chunk; tell whether that is new, None: it is nowhere."""
        prefix = _from_bytes(chunk_id[:8])
        part = prefix >> _SHIFT
        prefixes = self._prefixes[part]
        place = bisect_left(prefixes, prefix)
        if place < len(prefixes) and prefixes[place] == prefix:
            flags = self._flags[part]
            if flags[place]:
                return False
            flags[place] = _NEEDED
            return True
        if prefix in self._late:
            return False
        if not self._is_known(chunk_id):
            return None
        self._late[prefix] = _NEEDED
        return True

    def need_all(self, chunk_ids: bytes) -> bytes | None:
        """Do as :meth:`need` of many, ids back to back; return one that is nowhere, or None."""
        all_prefixes, all_flags = self._prefixes, self._flags
        # Most were asked for a moment ago: a node differs from its predecessor in one entry.
        wanted = set(chain.from_iterable(_PREFIXES.iter_unpack(chunk_ids))) - self._recent
        are_all_here = True
        for prefix in wanted:
            part = prefix >> _SHIFT
            prefixes = all_prefixes[part]
            place = bisect_left(prefixes, prefix)
            if place < len(prefixes) and prefixes[place] == prefix:
                flags = all_flags[part]
                if not flags[place]:
                    flags[place] = _NEEDED
            else:
                are_all_here = False
        if len(self._recent) > RECENT_MAX:
            self._recent.clear()
        if are_all_here:
            self._recent |= wanted
            return None
        for start in range(0, len(chunk_ids), ID_LEN):  # some came later, or are nowhere
            chunk_id = chunk_ids[start : start + ID_LEN]
            if self.need(chunk_id) is None:
                return chunk_id
        return None

    def is_needed(self, chunk_id: bytes) -> bool:
        """Tell whether a snapshot needs the chunk."""
        prefix = _from_bytes(chunk_id[:8])
        part = prefix >> _SHIFT
        prefixes = self._prefixes[part]
        place = bisect_left(prefixes, prefix)
        if place < len(prefixes) and prefixes[place] == prefix:
            return self._flags[part][place] != 0
        return prefix in self._late

    def claim(self, chunk_ids: bytes) -> Iterator[bool]:
        """Tell of each chunk whether it is needed and no pack asked for it before this."""
        all_prefixes, all_flags = self._prefixes, self._flags
        for (prefix,) in _PREFIXES.iter_unpack(chunk_ids):
            part = prefix >> _SHIFT
            prefixes = all_prefixes[part]
            place = bisect_left(prefixes, prefix)
            if place < len(prefixes) and prefixes[place] == prefix:
                flags = all_flags[part]
                is_first = flags[place] == _NEEDED
                if is_first:
                    flags[place] = _NEEDED | _CLAIMED
                yield is_first
            else:
                is_first = self._late.get(prefix) == _NEEDED
                if is_first:
                    self._late[prefix] = _NEEDED | _CLAIMED
                yield is_first

    def unclaim(self) -> None:
        """Forget all claims."""
        for flags in self._flags:
            flags[:] = flags.translate(_UNCLAIM)
        for prefix in self._late:
            self._late[prefix] = _NEEDED


_UNCLAIM: Final = bytes(value & _NEEDED for value in range(256))
assert _PREFIXES.size == ID_LEN  # noqa: S101  # a constant of the format
