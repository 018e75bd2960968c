"""Pacing a line, changing its rates meanwhile, and who goes first on it."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import pytest
from mounting import wait_until

from coopfs.bandwidth import BURST_MIN, UNLIMITED, Schedule
from coopfs.errors import ConfigError
from coopfs.store import line as line_module
from coopfs.store.line import FREE_LINE, READING_S, Line, Pace, Rates

PIECE = 128 << 10  # bytes


def rates(up: str, down: str = "") -> Rates:
    return Rates(Schedule.parse(up), Schedule.parse(down))


def time_to_move(pace: Pace, size: int) -> float:
    """Return how many seconds *size* bytes take."""
    begun = time.monotonic()
    while size:
        piece = pace.piece_len(min(size, PIECE))
        pace.passed(piece)
        size -= piece
    return time.monotonic() - begun


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have lines look often."""
    monkeypatch.setattr(line_module, "LOOK_S", 0.02)
    monkeypatch.setattr(line_module, "SETTINGS_S", 0.02)


def test_threads_share_the_rate_of_their_line() -> None:
    pace = Line(rates("8M")).up
    threads = [threading.Thread(target=time_to_move, args=(pace, 100_000)) for _ in range(5)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun > 0.95 * (0.5 - 0.1)


def test_what_moves_at_once_is_counted_before_and_waited_for_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pace = Line(rates("8k")).up
    waits: list[float] = []
    monkeypatch.setattr(pace, "_wait_until", waits.append)
    begun = time.monotonic()
    with pace.moving(100_000):
        assert pace._bucket.take(0) > 90  # others wait meanwhile
    assert waits == [pytest.approx(begun + 100, abs=10)]
    with pytest.raises(ValueError, match="broke"), pace.moving(100_000):
        raise ValueError("it broke")  # and nobody waits for it
    assert len(waits) == 1
    with Line().up.moving(1 << 50):
        pass  # a free line keeps nobody waiting


def test_directions_do_not_slow_each_other() -> None:
    line = Line(rates("1M"))
    assert line.down.piece_len(1 << 30) == 1 << 30
    assert time_to_move(line.down, 100 << 20) < 0.5
    assert line.up.piece_len(1 << 30) < 1 << 20


def test_a_free_line_costs_next_to_nothing() -> None:
    # At 1 GB/s in pieces of 128 KiB there are 8,000 a second: 1 % of the time is 10 us each.
    fastest = min(time_to_move(FREE_LINE.up, 1000 * PIECE) for _ in range(5))
    assert fastest / 1000 < 10e-6


@pytest.mark.usefixtures("quick")
def test_a_changed_rate_ends_a_wait_at_the_old_one() -> None:
    now = [rates("8k")]
    line = Line(now[0], look=lambda: now[0])
    begun = time.monotonic()
    waiting = threading.Thread(target=line.up.passed, args=(1 << 20,))  # for 17 minutes
    waiting.start()
    now[0] = rates("full")
    waiting.join(10)
    assert not waiting.is_alive()
    assert time.monotonic() - begun < 10
    assert time_to_move(line.up, 10 << 20) < 1


@pytest.mark.usefixtures("quick")
def test_a_free_line_learns_of_a_limit() -> None:
    found = [None, rates("8M")]
    line = Line(look=lambda: found.pop(0) if found else None)
    line.up.piece_len(1)
    wait_until(lambda: line.up.piece_len(1 << 30) < 1 << 20, "the limit")
    assert time_to_move(line.up, 500_000) > 0.95 * (0.5 - 0.1)


@pytest.mark.usefixtures("quick")
def test_settings_that_cannot_be_used_change_nothing_and_are_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    looks = []

    def look_in_vain() -> Rates | None:
        looks.append(1)
        raise ConfigError("archive.toml: not valid TOML")

    line = Line(rates("80M"), look=look_in_vain)
    with caplog.at_level(logging.WARNING):
        wait_until(lambda: line.up.piece_len(1 << 30) == 1_000_000 and len(looks) > 2, "looks")
    assert [r.message for r in caplog.records] == [
        "archive.toml: not valid TOML; the rates from before still hold"
    ]


def test_a_closed_line_keeps_nobody_waiting() -> None:
    line = Line(rates("8k"))
    waiting = threading.Thread(target=line.up.passed, args=(1 << 20,))
    waiting.start()
    line.close()
    waiting.join(10)
    assert not waiting.is_alive()


# --- who goes first -----------------------------------------------------------------


def both(folder: Path, up: str = "") -> tuple[Line, Line]:
    """Return the lines of a restore and of a snapshot on one host."""
    hint = folder / "state" / "reading"
    return Line(hint=hint, goes_first=True), Line(rates(up), hint=hint)


LONG = 1 << 30
BURST = {"8M": 100_000, "0.8M": BURST_MIN}  # bytes: what goes at once at that rate


def look(line: Line) -> int:
    """Have *line* look at the hint now; return how much may be uploaded at once."""
    line._next_look = 0.0
    return line.up.piece_len(LONG)


def test_uploads_make_way_while_somebody_reads_and_have_the_line_back_then(
    tmp_path: Path,
) -> None:
    restore, snapshot = both(tmp_path, "8M")
    assert look(snapshot) == BURST["8M"]
    restore.reading()
    assert look(snapshot) == BURST["0.8M"]
    hint = tmp_path / "state" / "reading"
    for seconds, expected in ((READING_S / 2, "0.8M"), (READING_S + 1, "8M")):
        moment = time.time() - seconds
        os.utime(hint, (moment, moment))
        assert look(snapshot) == BURST[expected]


def test_uploads_without_a_limit_leave_a_part_of_what_they_reached() -> None:
    pace = Line().up
    begun = pace._measured_at
    for second in range(1, 4):
        pace.passed(10_000_000)
        pace.measure(begun + second)
    pace.make_way(True)
    assert pace.piece_len(LONG) == 100_000  # a tenth of a second of a tenth
    pace.passed(1)
    pace.measure(begun + 100)  # is not what the line can do
    pace.make_way(False)
    assert pace.piece_len(LONG) == LONG
    pace.make_way(True)
    assert pace.piece_len(LONG) == 100_000


@pytest.mark.parametrize(("rate", "bytes_per_s"), [("64k", 8_000), ("512k", 16 << 10)])
def test_a_slow_line_keeps_enough_to_stay_connected(rate: str, bytes_per_s: int) -> None:
    pace = Line(rates(rate)).up
    pace.make_way(True)
    pace._bucket.take(BURST_MIN)
    assert pace._bucket.take(10 * bytes_per_s) == pytest.approx(10 + BURST_MIN / bytes_per_s, abs=1)


def test_a_hint_from_the_past_or_the_future_is_none(tmp_path: Path) -> None:
    restore, snapshot = both(tmp_path)
    restore.reading()
    hint = tmp_path / "state" / "reading"
    assert hint.stat().st_mode & 0o777 == 0o600
    for moment in (time.time() - 3600, time.time() + 3600):
        os.utime(hint, (moment, moment))
        assert look(snapshot) == LONG


def test_who_reads_does_not_make_way_for_itself_or_others(tmp_path: Path) -> None:
    restore, _ = both(tmp_path)
    restore.reading()
    assert look(restore) == LONG


def test_a_hint_that_cannot_be_given_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"a file where a folder should be")
    restore, snapshot = both(tmp_path)
    restore.reading()
    assert snapshot.up.piece_len(1 << 30) == 1 << 30


def test_an_unlimited_schedule_is_free() -> None:
    assert Line().up.piece_len(7) == Line(Rates(UNLIMITED, UNLIMITED)).up.piece_len(7) == 7
