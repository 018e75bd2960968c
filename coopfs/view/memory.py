"""Memory of a process that allocates and frees megabytes from several threads.

Owns what is asked of glibc's malloc.  Where there is another C library nothing of
this happens, and the mount merely takes more memory.
"""

from __future__ import annotations

import ctypes
import gc
import resource
from typing import Final

CHECK_EVERY: Final = 16  # fetched blocks
TRIM_ABOVE: Final = 150 << 20  # bytes resident; what is trimmed has to be paged in again later
# Decoding a folder makes thousands of tuples that live for a while: with Python's own
# thresholds `find` spends half of its time in the collector.
GC_THRESHOLDS: Final = (100_000, 20, 50)
_M_ARENA_MAX: Final = -8  # mallopt(3)


class Trimmer:
    """Gives memory that lies free between blocks in use back to the system."""

    def __init__(self) -> None:
        """Let all threads share one malloc arena, and settle the collector.

        Blocks of 1 MiB are freed by another thread than made them: with an arena
        each a mount grew to 350 MB, and with one, untrimmed, to 220.
        """
        libc = ctypes.CDLL(None)
        self._trim = getattr(libc, "malloc_trim", None)
        if self._trim is not None:
            libc.mallopt(_M_ARENA_MAX, 1)
        self._fetched = 0
        gc.collect()
        gc.freeze()  # what start-up made stays; never look at it again
        gc.set_threshold(*GC_THRESHOLDS)

    def note_fetched(self, blocks: int) -> None:
        """Note that *blocks* were fetched; trims when too much is resident.  For threads."""
        self._fetched += blocks
        if self._fetched >= CHECK_EVERY and self._trim is not None:
            self._fetched = 0
            if _resident_len() > TRIM_ABOVE:
                self._trim(0)


def _resident_len() -> int:
    """Return the bytes of this process that are in memory (proc(5), statm)."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
