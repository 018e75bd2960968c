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
# Of the time since the pack before, spent waiting until the store had taken an earlier one:
_RAISE_SHARE: Final = 0.25
_LOWER_SHARE: Final = 0.05


def check_effort(word: str) -> str:
    """Return *word* if it is one of :data:`EFFORTS` (UsageError)."""
    if word not in EFFORTS:
        raise UsageError(f"compression {word!r}: expected one of {', '.join(EFFORTS)}")
    return word


class Effort:
    """The level at which the next block is compressed.

    ``auto`` goes up a level with every pack that had to wait for the store, down with
    every one that had not: in front of a slow line better compression is a faster
    snapshot, in front of a fast disk it is a slower one.  Any thread may use it.
    """

    def __init__(self, word: str, *, is_near: bool) -> None:
        """Follow one of :data:`EFFORTS`; *is_near*: the store is on this machine."""
        self.word = word
        self.is_near = is_near
        self._levels = _AUTO_LEVELS if word == AUTO else (_FIXED[word],)
        self._place = 0 if is_near else len(self._levels) // 2
        self._last = 0.0  # when the pack before was given room

    @property
    def level(self) -> int:
        """The zstd level to use now."""
        return self._levels[self._place]

    def note_pack(self, waited_s: float, now: float) -> None:
        """Take note of a pack that has room *now*, and had to wait for it (both in seconds)."""
        since, self._last = now - self._last, now
        if waited_s > _RAISE_SHARE * since:
            self._place = min(self._place + 1, len(self._levels) - 1)
        elif waited_s < _LOWER_SHARE * since:
            self._place = max(self._place - 1, 0)
