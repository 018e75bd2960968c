"""Which packs a prune marks: a pure function of how much of each is needed.

A pack of which nothing is needed is marked.  One that is partly needed costs moving what
is needed, so it is marked only while more than a tolerated share of the archive is
unused, the emptiest first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.errors import UsageError
from coopfs.ids import PackId

MAX_UNUSED: Final = "5%"  # restic's default too
REPACK_BELOW: Final = 0.8  # share needed: moving four bytes to free one is not worth it
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?\Z", re.IGNORECASE)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%\Z")
_UNITS: Final = "KMGTP"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much may stay unused."""

    share: float | None = None  # of what is needed
    size: int | None = None  # bytes; both None: any amount

    def limit(self, needed_len: int) -> int | None:
        """Return the bytes that may be unused beside *needed_len* that are needed; None: any."""
        if self.share is not None:
            return int(needed_len * self.share)
        return self.size


def parse_share(text: str) -> float:
    """Read ``10%`` (UsageError)."""
    match = _SHARE.match(text.strip())
    if match is None or float(match[1]) > 100:
        raise UsageError(f"{text!r}: expected a share such as 10%, at most 100%")
    return float(match[1]) / 100


def parse_tolerance(text: str) -> Tolerance:
    """Read ``5%``, ``500M`` or ``unlimited`` (UsageError)."""
    if text.strip() == "unlimited":
        return Tolerance()
    if "%" in text:
        return Tolerance(share=parse_share(text))
    match = _SIZE.match(text.strip())
    if match is None:
        raise UsageError(f'{text!r}: expected a share (5%), a size (500M) or "unlimited"')
    base = 1024 if match[3] else 1000
    exponent = _UNITS.index(match[2].upper()) + 1 if match[2] else 0
    return Tolerance(size=int(float(match[1]) * base**exponent))


@dataclass(frozen=True, slots=True)
class PackUse:
    """One pack that is in the store and not marked."""

    pack_no: int
    pack_id: PackId
    size: int  # bytes
    needed_len: int  # of those: needed by a snapshot, and by no pack before this one

    @property
    def unused_len(self) -> int:
        """Bytes nobody needs."""
        return self.size - self.needed_len


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be marked."""

    unneeded: tuple[PackUse, ...]
    repack: tuple[PackUse, ...]
    needed_len: int  # bytes, in all packs
    unused_len: int  # bytes that stay unused


def choose_packs(uses: Sequence[PackUse], tolerance: Tolerance, repack_below: float) -> Choice:
    """Choose among *uses*; *repack_below*: share of a pack that is needed, 0 to 1."""
    unneeded = tuple(use for use in uses if use.needed_len == 0)
    partly = [use for use in uses if 0 < use.needed_len < use.size]
    needed_len = sum(use.needed_len for use in uses)
    unused_len = sum(use.unused_len for use in partly)
    limit = tolerance.limit(needed_len)
    repack = []
    # The emptiest first: it frees most for what has to be moved.
    for use in sorted(partly, key=lambda use: (use.needed_len / use.size, use.pack_no)):
        if limit is None or unused_len <= limit or use.needed_len >= repack_below * use.size:
            break
        repack.append(use)
        unused_len -= use.unused_len
    return Choice(unneeded, tuple(repack), needed_len, unused_len)
