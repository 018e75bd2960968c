"""The kernel is asked about its clock, and never told anything."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from coopfs.archive import kernelclock
from coopfs.archive.kernelclock import KernelClock, read_kernel_clock


def kernel_saying(
    patch: pytest.MonkeyPatch, state: int, offset: int = 0, status: int = 0
) -> list[int]:
    """Let adjtimex() answer so; returns the modes it was called with."""
    modes = []

    def adjtimex(timex: Any) -> int:
        fields = timex._obj
        modes.append(fields.modes)
        fields.offset, fields.status = offset, status
        return state

    patch.setattr(ctypes, "CDLL", lambda *args, **kwargs: SimpleNamespace(adjtimex=adjtimex))
    return modes


def test_this_kernel_can_be_asked() -> None:
    found = read_kernel_clock()
    assert found is not None
    assert abs(found.offset_ns) < 10**10


@pytest.mark.parametrize(
    ("state", "offset", "status", "expected"),
    [
        (0, 250, 0x1, KernelClock(True, 250_000)),  # microseconds
        (0, -250, 0x2001, KernelClock(True, -250)),  # STA_NANO
        (3, 0, 0x1, KernelClock(True, 0)),  # a leap second is under way
        (5, 0, 0x40, KernelClock(False, 0)),  # STA_UNSYNC
        (-1, 0, 0, None),
    ],
)
def test_what_it_says_is_understood(
    monkeypatch: pytest.MonkeyPatch,
    state: int,
    offset: int,
    status: int,
    expected: KernelClock | None,
) -> None:
    modes = kernel_saying(monkeypatch, state, offset, status)
    assert read_kernel_clock() == expected
    assert modes == [0]  # reads only


def test_where_there_is_no_adjtimex_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: SimpleNamespace())
    assert kernelclock.read_kernel_clock() is None
