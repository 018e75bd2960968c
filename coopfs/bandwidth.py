"""How fast a line may be used, and when: a schedule of rates, and the bucket that keeps to it.

A schedule is text, so that it fits into a setting and an option: ``10M`` (bits a second),
``10M, full 20:00-07:00, full sat-sun``.  The first rate holds unless a later rule's days
and hours (local time) match; the last that matches wins.  coopfs-config(5), "Rates".
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coopfs.errors import UsageError

RATE_MIN: Final = 8_000  # bits a second; with less, every transfer would be taken for dead
BURST_S: Final = 0.1  # what may go at once, in seconds of the rate: short enough for voice calls
BURST_MIN: Final = 16 << 10  # bytes; one TLS record (RFC 8446, section 5.1)
_UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_RATE = re.compile(r"([0-9]{1,12})([kmg]?)(?:bit/s)?\Z")
_HOURS = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})\Z")
_DAY_MINUTES: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Rule:
    """One rate and when it holds."""

    bits_per_s: int | None  # None: as fast as it goes
    days: frozenset[int] = frozenset(range(7))  # 0 is Monday; the day on which it begins
    begin: int = 0  # minutes after midnight
    end: int = _DAY_MINUTES  # not after begin: on the following day

    def holds(self, day: int, minute: int) -> bool:
        """Tell whether it holds at *minute* after midnight of week day *day*."""
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        began_today = day in self.days and minute >= self.begin
        return began_today or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Rates over the week; :meth:`parse` makes one."""

    text: str
    rules: tuple[Rule, ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read a schedule; an empty one never slows anything.

        Raises:
            UsageError: what is wrong, and how one is written.
        """
        parts = [part.strip() for part in text.lower().split(",")] if text.strip() else []
        rules = tuple(_parse_rule(part, text) for part in parts)
        if rules and rules[0] != Rule(rules[0].bits_per_s):
            raise _refused(text, "the first rate holds when no other does: no days, no hours")
        return cls(", ".join(" ".join(part.split()) for part in parts), rules)

    def bytes_per_s(self, when: time.struct_time) -> float | None:
        """Return the rate at the local time *when*; None: as fast as it goes."""
        rate = None
        for rule in self.rules:
            if rule.holds(when.tm_wday, when.tm_hour * 60 + when.tm_min):
                rate = rule.bits_per_s
        return None if rate is None else rate / 8


UNLIMITED: Final = Schedule("", ())


class Bucket:
    """Bytes that may pass now, refilled at the schedule's rate.  Thread-safe, never blocks."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        clock: Callable[[], float] = time.monotonic,
        local_time: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self._lock = threading.Lock()
        self._clock, self._local_time = clock, local_time
        self._schedule = schedule
        self._level = 0.0  # bytes; below nothing: somebody took on credit, all others wait
        self._filled_at = clock()
        self._looked_at = -1e9  # when the schedule was last asked
        self._rate: float | None = None
        self._factor = 1.0

    def change(self, schedule: Schedule) -> None:
        """Keep to another schedule from now on."""
        with self._lock:
            self._schedule = schedule
            self._looked_at = -1e9
            self._level = max(self._level, 0.0)  # a debt at the old rate may be minutes of it

    def slow_down(self, factor: float) -> None:
        """Use only this part (0 < *factor* <= 1) of the rate from now on."""
        with self._lock:
            self._refill()
            self._factor = factor

    def take(self, size: int) -> float:
        """Take *size* bytes; return for how many seconds the caller must now do nothing.

        What is taken is taken, so callers move small pieces and wait afterwards.
        """
        with self._lock:
            rate = self._refill()
            if rate is None:
                return 0.0
            self._level -= size
            return max(0.0, -self._level / rate)

    def piece_len(self, wanted: int) -> int:
        """Return how much of *wanted* bytes to move at once, so that the rate stays even."""
        with self._lock:
            rate = self._refill()
            return wanted if rate is None else max(1, min(wanted, self._burst(rate)))

    @staticmethod
    def _burst(rate: float) -> int:
        return max(BURST_MIN, int(rate * BURST_S))

    def _refill(self) -> float | None:
        now = self._clock()
        if now - self._looked_at >= 1.0:  # windows have minutes
            self._looked_at = now
            self._rate = self._schedule.bytes_per_s(self._local_time())
        elapsed, self._filled_at = now - self._filled_at, now
        if self._rate is None:
            self._level = 0.0
            return None
        rate = self._rate * self._factor
        self._level = min(self._level + elapsed * rate, self._burst(rate))
        return rate


def _parse_rule(part: str, text: str) -> Rule:
    words = part.split()
    if not words:
        raise _refused(text, "a rule is empty")
    rate, days, begin, end = _parse_rate(words[0], text), Rule(None).days, 0, _DAY_MINUTES
    for word in words[1:]:
        if hours := _HOURS.match(word):
            numbers = [int(number) for number in hours.groups()]
            begin, end = numbers[0] * 60 + numbers[1], numbers[2] * 60 + numbers[3]
            if numbers[1] > 59 or numbers[3] > 59 or begin >= _DAY_MINUTES or end > _DAY_MINUTES:
                raise _refused(text, f"{word!r} are no hours of a day")
        else:
            days = _parse_days(word, text)
    return Rule(rate, days, begin, end)


def _parse_rate(word: str, text: str) -> int | None:
    if word == "full":
        return None
    rate = _RATE.match(word)
    if rate is None:
        raise _refused(text, f"{word!r} is no rate")
    bits = int(rate[1]) * _UNITS[rate[2]]
    if bits < RATE_MIN:
        raise _refused(text, f"{word!r} is below {RATE_MIN} bits a second")
    return bits


def _parse_days(word: str, text: str) -> frozenset[int]:
    first, _, last = word.partition("-")
    if first not in _DAYS or (last or first) not in _DAYS:
        raise _refused(text, f"{word!r} are neither days (mon-fri) nor hours (20:00-07:00)")
    begin, end = _DAYS.index(first), _DAYS.index(last or first)
    return frozenset((begin + i) % 7 for i in range((end - begin) % 7 + 1))


def _refused(text: str, why: str) -> UsageError:
    return UsageError(
        f"rates {text!r}: {why}; expected a rate and when others hold, such as "
        '"10M, full 20:00-07:00, full sat-sun" (bits a second)'
    )
