"""What the kernel knows of the wall clock: adjtimex(2), which anybody may read."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Final

_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronised
_STA_NANO: Final = 0x2000  # the offset is in nanoseconds, not in microseconds
_REST_LEN: Final = 512  # bytes; struct timex has 208 on Linux


class _Timex(ctypes.Structure):
    """The beginning of struct timex; all zero, it only reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * _REST_LEN),
    )


@dataclass(frozen=True, slots=True)
class KernelClock:
    """The kernel's word on the wall clock."""

    is_synchronised: bool  # something keeps it right (ntpd, chronyd, systemd-timesyncd, ...)
    offset_ns: int  # by which it is still to be moved forward


def read_kernel_clock() -> KernelClock | None:
    """Return what the kernel says; None where it cannot be asked."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if not isinstance(state, int) or state < 0:
        return None
    unit_ns = 1 if timex.status & _STA_NANO else 1000
    return KernelClock(state < _TIME_ERROR, timex.offset * unit_ns)
