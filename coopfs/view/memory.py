"""Memory of a process that allocates and frees megabytes from several threads.

Owns what is asked of glibc's malloc.  Where there is another C library nothing of
this happens, and the mount merely takes more memory.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

TRIM_EVERY: Final = 32  # fetched blocks; trimming costs ~2 ms, reading as many ~40
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
        """Note that *blocks* were fetched; trims every so often.  Call it in a thread."""
        self._fetched += blocks
        if self._fetched >= TRIM_EVERY and self._trim is not None:
            self._fetched = 0
            self._trim(0)
