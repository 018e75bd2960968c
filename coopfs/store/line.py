"""The line to a store: how fast it may be used, changeable meanwhile, and who goes first.

Stores move bodies in pieces, and ask for each how long it may be and, once it has moved,
when the next one may.  Between processes of one user a file is the hint that somebody
reads a store elsewhere: uploads then make way, and need no lock for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.bandwidth import UNLIMITED, Bucket, Rule, Schedule
from coopfs.dirs import make_private_folder
from coopfs.errors import ConfigError, CoopfsError

LOOK_S: Final = 0.5  # how often the hint is looked at, and given
SETTINGS_S: Final = 2.0  # how often changed settings are looked for
READING_S: Final = 2.0  # a restore asks in pieces, so it counts as going on for so long
# What is left to uploads while somebody reads, of their rate or, where they have none, of
# what they reached before: enough to stay connected and to come to an end some day.
BESIDE_READING: Final = 0.1
BESIDE_READING_MIN: Final = 16 << 10  # bytes a second; 1/8 of an upload at 1 Mbit/s
_FORGETTING: Final = 0.98  # of the best speed seen, each LOOK_S: half of it in 17 s

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast a line may be used each way, and when; see :mod:`coopfs.bandwidth`."""

    upload: Schedule = UNLIMITED
    download: Schedule = UNLIMITED


class Pace:
    """One direction of a line; for any number of threads."""

    def __init__(self, line: Line, schedule: Schedule) -> None:
        self._line = line
        self._schedule = schedule
        self._bucket = Bucket(schedule)
        self._changes = 0
        self._is_free = not schedule.rules
        self._makes_way = False
        # An estimate for when uploads make way: threads may count over each other.
        self._moved = 0
        self._measured_at = time.monotonic()
        self._best = 0.0  # bytes a second

    def piece_len(self, wanted: int) -> int:
        """Return how much of *wanted* bytes to move at once."""
        self._line.notice()
        return wanted if self._is_free else self._bucket.piece_len(wanted)

    def passed(self, size: int) -> None:
        """Count *size* bytes that have been moved; return when the next may be.

        Where the line is closed or gets faster meanwhile, earlier.
        """
        self._moved += size
        if not self._is_free:
            self._wait_until(time.monotonic() + self._bucket.take(size))

    @contextmanager
    def moving(self, size: int) -> Iterator[None]:
        """Count *size* bytes that the block moves at once; it then takes as long as they may."""
        self._line.notice()
        until = 0.0 if self._is_free else time.monotonic() + self._bucket.take(size)
        yield
        self._moved += size
        self._wait_until(until)

    def _wait_until(self, until: float) -> None:
        changes = self._changes
        while (left := until - time.monotonic()) > 0 and changes == self._changes:
            if self._line.closed.wait(min(left, LOOK_S)):
                return
            self._line.notice()

    # --- for the line, one thread at a time ---------------------------------------------

    def change(self, schedule: Schedule) -> None:
        """Keep to another schedule from now on."""
        if schedule != self._schedule:
            self._schedule = schedule
            self._apply()

    def measure(self, now: float) -> None:
        """Note the speed since the last time."""
        elapsed = now - self._measured_at
        if elapsed >= LOOK_S / 2:
            speed, self._moved, self._measured_at = self._moved / elapsed, 0, now
            if not self._makes_way:
                self._best = max(speed, self._best * _FORGETTING)

    def make_way(self, makes_way: bool) -> None:
        """Go slowly from now on, or as before."""
        if makes_way != self._makes_way:
            self._makes_way = makes_way
            self._apply()

    def _apply(self) -> None:
        schedule = self._schedule
        if self._makes_way:
            usual = schedule.bytes_per_s(time.localtime())
            rate = max((usual or self._best) * BESIDE_READING, BESIDE_READING_MIN)
            rate = rate if usual is None else min(rate, usual)
            schedule = Schedule("", (Rule(int(rate * 8)),))
        self._bucket.change(schedule)
        self._is_free = not schedule.rules
        self._changes += 1


class Line:
    """Both directions, and what is looked at meanwhile.  Without arguments: a free one."""

    def __init__(
        self,
        rates: Rates | None = None,
        *,
        look: Callable[[], Rates | None] | None = None,
        hint: Path | None = None,
        goes_first: bool = False,
    ) -> None:
        """*look* returns other rates once they have changed; it may raise a CoopfsError.

        *hint* is the file through which who reads (*goes_first*) is noticed by who uploads.
        """
        rates = rates or Rates()
        self.closed = threading.Event()
        self.up = Pace(self, rates.upload)
        self.down = Pace(self, rates.download)
        self._look = look
        self._hint = hint
        self._goes_first = goes_first
        self._lock = threading.Lock()
        is_looking = look is not None or hint is not None
        self._next_look = -1.0 if is_looking else float("inf")
        self._next_settings = 0.0
        self._next_hint = 0.0
        self._has_complained = False

    def close(self) -> None:
        """Keep nobody waiting from now on."""
        self.closed.set()

    def notice(self) -> None:
        """Look, now and then, whether something has changed; most calls cost nothing."""
        now = time.monotonic()
        if now < self._next_look or not self._lock.acquire(blocking=False):
            return
        try:
            self._next_look = now + LOOK_S
            if now >= self._next_settings:
                self._next_settings = now + SETTINGS_S
                self._look_at_settings()
            self.up.measure(now)
            self.up.make_way(not self._goes_first and self._somebody_reads())
        finally:
            self._lock.release()

    def reading(self) -> None:
        """Say that data is about to be read, so that others' uploads make way."""
        if self._goes_first and time.monotonic() >= self._next_hint:
            self._next_hint = time.monotonic() + LOOK_S
            self._give_hint()

    def _look_at_settings(self) -> None:
        if self._look is None:
            return
        try:
            rates = self._look()
        except CoopfsError as exc:
            if not self._has_complained:
                self._has_complained = True
                log.warning("%s; the rates from before still hold", exc)
            return
        if rates is not None:
            self._has_complained = False
            self.up.change(rates.upload)
            self.down.change(rates.download)

    def _give_hint(self) -> None:
        if self._hint is None:
            return
        # Where it cannot be given (a full disk, a state folder that is read-only) the
        # restore is slower, but goes on.
        with suppress(OSError, ConfigError):
            try:
                os.utime(self._hint)
            except FileNotFoundError:
                make_private_folder(self._hint.parent)
                self._hint.touch(mode=0o600)

    def _somebody_reads(self) -> bool:
        if self._hint is None:
            return False
        try:
            given_s = os.stat(self._hint).st_mtime
        except OSError:
            return False
        # In the future: the clock was set back since, and nobody has read after that.
        return abs(time.time() - given_s) < READING_S


FREE_LINE: Final = Line()
