"""Rates over the week, and the bucket that keeps to them."""

from __future__ import annotations

import threading
import time

import pytest

from coopfs.bandwidth import BURST_MIN, Bucket, Schedule
from coopfs.errors import UsageError


def at(day: str, clock: str) -> time.struct_time:
    """Return that time of a week in November 2026 (the 23rd was a Monday)."""
    number = 23 + ("mon", "tue", "wed", "thu", "fri", "sat", "sun").index(day)
    return time.strptime(f"2026-11-{number} {clock}", "%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("day", "clock", "rate"),
    [
        ("mon", "12:00", 10e6 / 8),
        ("mon", "19:59", 10e6 / 8),
        ("mon", "20:00", None),
        ("tue", "06:59", None),
        ("tue", "07:00", 10e6 / 8),
        ("fri", "23:00", None),
        ("sat", "12:00", None),
        ("sun", "23:59", None),
        ("mon", "06:59", None),  # Sunday's night goes on
        ("wed", "09:00", 2e6 / 8),  # the last rule that matches
        ("thu", "09:00", 10e6 / 8),
    ],
)
def test_last_rule_that_matches_holds(day: str, clock: str, rate: float | None) -> None:
    schedule = Schedule.parse("10M, full 20:00-07:00, FULL sat-sun, 2Mbit/s wed 08:30-10:00")
    assert schedule.bytes_per_s(at(day, clock)) == rate


def test_days_may_pass_the_week_and_hours_midnight() -> None:
    schedule = Schedule.parse("1M, 2M sat-mon 22:00-02:00, 3M fri 00:00-24:00")
    assert schedule.bytes_per_s(at("sun", "23:00")) == 250e3
    assert schedule.bytes_per_s(at("tue", "01:59")) == 250e3  # Monday's
    assert schedule.bytes_per_s(at("wed", "01:59")) == 125e3
    assert schedule.bytes_per_s(at("fri", "23:59")) == 375e3
    assert schedule.bytes_per_s(at("sat", "00:00")) == 125e3


def test_no_schedule_never_slows() -> None:
    for text in ("", "  ", "full"):
        assert Schedule.parse(text).bytes_per_s(at("mon", "12:00")) is None


def test_schedule_is_the_same_when_parsed_from_its_own_text() -> None:
    schedule = Schedule.parse("  10M ,  full   20:00-07:00")
    assert schedule.text == "10m, full 20:00-07:00"
    assert Schedule.parse(schedule.text) == schedule


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "10",
        "7999",
        "-5M",
        "10M,",
        ",10M",
        "10M 20:00-07:00",  # what holds otherwise?
        "full mon",
        "10M, full 25:00-26:00",
        "10M, full 20:60-21:00",
        "10M, full 24:00-25:00",
        "10M, full 8:00-9:00",
        "10M, full someday",
        "10M, full mon-someday",
        "10M, full 20:00-07:00-",
        "9" * 13 + "M",
    ],
)
def test_text_that_is_no_schedule_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="such as"):
        Schedule.parse(text)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_bucket_lets_the_rate_through_whatever_the_pieces() -> None:
    clock = Clock()
    bucket = Bucket(Schedule.parse("8M"), clock=clock)  # 1 MB/s
    clock.now += 10  # what was not used in the past is lost, but for the burst
    began = clock.now
    moved = 0
    for size in [1, 100_000, 1_000_000, 7, 300_000] * 5:
        moved += size
        clock.now += bucket.take(size)
    seconds = clock.now - began
    assert moved / 1e6 - 0.2 <= seconds <= moved / 1e6 + 0.01


def test_bucket_gives_pieces_that_suit_the_rate() -> None:
    assert Bucket(Schedule.parse("")).piece_len(1 << 20) == 1 << 20
    assert Bucket(Schedule.parse("80M")).piece_len(10 << 20) == 1_000_000  # a tenth of a second
    assert Bucket(Schedule.parse("8k")).piece_len(1 << 20) == BURST_MIN


def test_bucket_changes_at_once_and_forgives_what_was_owed() -> None:
    clock = Clock()
    bucket = Bucket(Schedule.parse("80k"), clock=clock)
    assert bucket.take(1_000_000) > 60
    bucket.change(Schedule.parse("8M"))
    assert bucket.take(1_000_000) == pytest.approx(1.0, abs=0.2)
    bucket.change(Schedule.parse(""))
    assert bucket.take(1 << 40) == 0


def test_bucket_follows_the_hours() -> None:
    clock, when = Clock(), [at("mon", "19:59")]
    bucket = Bucket(Schedule.parse("8M, full 20:00-07:00"), clock=clock, local_time=lambda: when[0])
    assert bucket.take(5_000_000) > 4
    when[0] = at("mon", "20:00")
    clock.now += 60
    assert bucket.take(5_000_000) == 0


def test_bucket_slowed_down_lets_a_part_through() -> None:
    clock = Clock()
    bucket = Bucket(Schedule.parse("8M"), clock=clock)
    bucket.take(100_000)  # the burst
    bucket.slow_down(0.1)
    assert bucket.take(1_000_000) == pytest.approx(10, rel=0.2)
    bucket.slow_down(1.0)
    assert bucket.take(0) == pytest.approx(1, rel=0.2)


def test_bucket_is_shared_by_threads_without_losing_bytes() -> None:
    clock = Clock()
    bucket = Bucket(Schedule.parse("8M"), clock=clock)
    threads = [
        threading.Thread(target=lambda: [bucket.take(10) for _ in range(10_000)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bucket.take(0) == pytest.approx(0.8, abs=0.02)
