"""Clocks that a test can set: of the machine's start, the wall's, and whether it is right."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from coopfs.archive import sightings


class Clocks:
    """Stands for the machine's clocks wherever the grace is counted or a run looks again."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.boot_id = "first start"
        self.boottime_s = 1000.0
        self.wall_s = 1.7e9
        self.is_synchronised = True
        fake = SimpleNamespace(
            CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
            clock_gettime=lambda clock: self.boottime_s,
            clock_gettime_ns=lambda clock: int(self.boottime_s * 1e9),
            time_ns=lambda: int(self.wall_s * 1e9),
        )
        patch.setattr(sightings, "time", fake)
        patch.setattr(sightings, "_is_synchronised", lambda: self.is_synchronised)
        patch.setattr(sightings, "BOOT_ID_FILE", SimpleNamespace(read_text=lambda: self.boot_id))

    def pass_(self, seconds: float) -> None:
        """Let time pass on all of them."""
        self.boottime_s += seconds
        self.wall_s += seconds

    def restart(self, *, down_s: float = 60, up_s: float = 10) -> None:
        """Start the machine anew."""
        self.boot_id += " again"
        self.boottime_s = up_s
        self.wall_s += down_s + up_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """The machine's clocks, to be set."""
    return Clocks(monkeypatch)
