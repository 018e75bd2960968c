"""Room for SQLite's shared memory, made sure of where its absence would kill the process.

In WAL mode SQLite maps a file (``-shm``) and writes to it as to memory.  On a file system that
copies on write each such write needs new room, and where there is none, or a quota is reached,
the kernel has no way to say so but SIGBUS: no message, no clean-up (seen with btrfs at its
quota).  So there a little is asked for first, in the ordinary way, which fails with an errno.
It is a look, no promise: somebody else may take the room a moment later.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path
from typing import Final

ROOM_LEN: Final = 1 << 20  # bytes; 32 KiB are mapped at a time, and the log takes its part
# statfs(2); bcachefs: fs/bcachefs/bcachefs_format.h
_COPIES_ON_WRITE: Final = frozenset({0x9123683E, 0xCA451A4E})


def require_room(folder: Path) -> None:
    """Raise OSError when SQLite could be killed for want of room in *folder*."""
    if not copies_on_write(folder):
        return
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, ROOM_LEN)
    finally:
        os.close(fd)


@cache
def copies_on_write(folder: Path) -> bool:
    """Tell whether *folder* is on a file system where overwriting takes new room."""
    facts = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes; f_type comes first
    if ctypes.CDLL(None).statfs(os.fsencode(folder), facts) != 0:
        return False
    return ctypes.c_long.from_buffer(facts).value & 0xFFFF_FFFF in _COPIES_ON_WRITE
