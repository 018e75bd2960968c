"""When this host first saw what may be deleted after the grace, by a clock that never runs ahead.

A prune deletes what was marked once the grace has passed *since this host first saw the
mark*: what another host's clock says counts for nothing, and a clock here that jumps a
week ahead must not make a week pass.  So the grace is counted by CLOCK_BOOTTIME while
the machine stays up; across a restart by the wall clock if the kernel says that it was
synchronised before and after, and else only by the time the machine has been up.  That
is late at worst, never early.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.kernelclock import read_kernel_clock
from coopfs.archive.state import State
from coopfs.ids import ObjectId

BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
_FACTS: Final = ("grace_total_ns", "grace_boottime_ns", "grace_wall_ns", "grace_is_synchronised")


@dataclass(frozen=True, slots=True)
class Reading:
    """All clocks at one moment."""

    boot_id: str  # of this start of the machine; empty: unknown
    boottime_ns: int  # since the machine started, suspends included
    wall_ns: int
    is_synchronised: bool  # what the kernel says of the wall clock


def read_clocks() -> Reading:
    """Return what the clocks say now."""
    try:
        boot_id = BOOT_ID_FILE.read_text().strip()
    except OSError:
        boot_id = ""
    return Reading(
        boot_id,
        time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        time.time_ns(),
        _is_synchronised(),
    )


def _is_synchronised() -> bool:
    kernel = read_kernel_clock()
    return kernel is not None and kernel.is_synchronised


def elapsed_ns(before: Reading, now: Reading) -> int:
    """Return how much time has passed at least between two readings."""
    if before.boot_id and before.boot_id == now.boot_id:
        return max(now.boottime_ns - before.boottime_ns, 0)
    if before.is_synchronised and now.is_synchronised:
        return max(now.wall_ns - before.wall_ns, 0)
    # Started anew since: it has been up for that long at least.  Unknown: nothing is sure.
    return now.boottime_ns if before.boot_id and now.boot_id else 0


class Sightings:
    """First sightings of objects, in the local state; lost with it, the grace starts anew."""

    def __init__(self, state: State) -> None:
        """Use the tables of *state*."""
        self._state = state

    def advance(self) -> int:
        """Let the clock go on to now; return its time in ns."""
        now = read_clocks()
        with self._state.transaction() as connection:
            before = _kept_reading(connection)
            total = self._state.fact("grace_total_ns")
            if before is not None:
                total += elapsed_ns(before, now)
            values = (total, now.boottime_ns, now.wall_ns, int(now.is_synchronised))
            rows: list[tuple[str, int | str]] = list(zip(_FACTS, values, strict=True))
            connection.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                [*rows, ("grace_boot_id", now.boot_id)],
            )
        return total

    def see(self, names: Collection[bytes]) -> dict[ObjectId, int]:
        """Note what is there now; return for how long each has been seen, in ns."""
        now = self.advance()
        with self._state.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO sightings VALUES (?, ?)", [(name, now) for name in names]
            )
            rows = connection.execute("SELECT name, seen_ns FROM sightings").fetchall()
        wanted = set(names)
        return {ObjectId(name): now - seen for name, seen in rows if name in wanted}

    def drop(self, names: Iterable[bytes]) -> None:
        """Forget what is gone."""
        with self._state.transaction() as connection:
            connection.executemany(
                "DELETE FROM sightings WHERE name = ?", [(name,) for name in names]
            )

    def known(self) -> set[ObjectId]:
        """Return everything that was ever seen and not dropped."""
        rows = self._state.connection.execute("SELECT name FROM sightings").fetchall()
        return {ObjectId(row[0]) for row in rows}


def _kept_reading(connection: sqlite3.Connection) -> Reading | None:
    rows = dict(
        connection.execute("SELECT name, value FROM facts WHERE name LIKE 'grace_%'").fetchall()
    )
    if "grace_boottime_ns" not in rows:
        return None
    return Reading(
        str(rows["grace_boot_id"]),
        int(rows["grace_boottime_ns"]),
        int(rows["grace_wall_ns"]),
        bool(rows["grace_is_synchronised"]),
    )


def boottime_s() -> float:
    """Return the seconds since the machine started; they go on while it is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
