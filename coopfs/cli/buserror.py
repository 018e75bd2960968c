"""SIGBUS said in words: the kernel's only way to tell that a mapped file has no room to be written.

SQLite maps a file beside the state (see coopfs/room.py); on a disk that copies on write (btrfs)
and fills while a command runs, a write to it ends the process, without a word.  Nothing is lost
by that: what is committed is on the disk, and the next run goes on from there.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

MESSAGE: Final = (
    b"coopfs: ended by the kernel (SIGBUS): a mapped file could not be read or written. Most "
    b"likely the disk with the state folder is full or its quota reached (else see the kernel's "
    b"log for a failing disk): make room, then run it again; what was committed is kept\n"
)


def _explain(number: int) -> None:
    # No way back: the access that failed would fail again.
    os.write(2, MESSAGE)
    os._exit(1)


_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_int)(_explain)  # must outlive the process


def explain_bus_errors() -> None:
    """Have this process say why, and end with 1, instead of being killed by SIGBUS.

    Below Python, whose own handlers run only once the access has returned, which it never does.
    SQLite runs without the interpreter's lock, so that the handler can take it.
    """
    install = ctypes.CDLL(None).signal
    install.restype = ctypes.c_void_p
    install(ctypes.c_int(signal.SIGBUS), _HANDLER)
