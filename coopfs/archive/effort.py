"""How hard blocks are compressed: as hard as the store leaves time for.

Owns the words of the setting ``compression`` and the zstd levels they stand for.
"""

from __future__ import annotations

from typing import Final

from coopfs.errors import UsageError

AUTO: Final = "auto"
_AUTO_LEVELS: Final = (2, 3, 5, 6, 7)  # zstd's; beyond, much time buys little: coopfs.format.codec
_FIXED: Final = {"fastest": 1, "better": 7, "max": 12}
EFFORTS: Final = (AUTO, *_FIXED)


def check_effort(word: str) -> str:
    """Return *word* if it is one of :data:`EFFORTS` (UsageError)."""
    if word not in EFFORTS:
        raise UsageError(f"compression {word!r}: expected one of {', '.join(EFFORTS)}")
    return word


class Effort:
    """The level at which the next block is compressed.

    ``auto`` goes up a level with every pack that finds the store still busy with one
    before it, down with every one that does not: in front of a slow line better
    compression is a faster snapshot, in front of a fast disk a slower one.
    """

    def __init__(self, word: str, *, is_near: bool) -> None:
        """Follow one of :data:`EFFORTS`; *is_near*: the store is on this machine."""
        self.word = word
        self.is_near = is_near
        self._levels = _AUTO_LEVELS if word == AUTO else (_FIXED[word],)
        self._place = 0 if is_near else min(1, len(self._levels) - 1)

    @property
    def level(self) -> int:
        """The zstd level to use now."""
        return self._levels[self._place]

    def note_pack(self, *, store_is_busy: bool) -> None:
        """Take note of a pack that is ready to be stored."""
        place = self._place + (1 if store_is_busy else -1)
        self._place = min(max(place, 0), len(self._levels) - 1)
