from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Host
from terminal import Terminal

from coopfs.cli import progress
from coopfs.cli.context import Context
from coopfs.cli.progress import (
    ProgressBar,
    ProgressJson,
    ProgressLines,
    ProgressReport,
    duration_text,
    make_progress,
    shorten,
    size_text,
)

DEADLINE_S = 30


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def until(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_done():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)  # let the other thread run


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (ProgressBar, ProgressLines, ProgressJson):
        monkeypatch.setattr(kind, "interval_s", 0.001)
    monkeypatch.setattr(progress, "BAR_DELAY_S", 0)


@pytest.mark.parametrize(
    ("context", "is_terminal", "expected"),
    [
        (Context(), True, ProgressBar),
        (Context(), False, ProgressReport),
        (Context(verbosity=1), False, ProgressLines),
        (Context(verbosity=1), True, ProgressBar),
        (Context(json=True), True, ProgressJson),
        (Context(json=True), False, ProgressJson),
        (Context(quiet=True), True, ProgressReport),
        (Context(quiet=True, json=True, verbosity=1), False, ProgressReport),
    ],
)
def test_what_is_shown_suits_where_the_output_goes(
    context: Context,
    is_terminal: bool,
    expected: type[ProgressReport],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Tty() if is_terminal else io.StringIO())
    assert type(make_progress(context, "reading")) is expected


def test_json_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with Context(json=True).progress("reading") as report:
        report.start(10, 1000)
        report.update(files=4, bytes_=500, current=b"/a/\xff")
        until(lambda: '"files": 4' in out.getvalue())
    line = next(json.loads(text) for text in out.getvalue().splitlines() if '"files": 4' in text)
    assert line["type"] == "progress"
    assert (line["bytes"], line["total_bytes"], line["total_files"]) == (500, 1000, 10)
    assert line["current"] == "/a/\\xff"
    assert line["remaining_s"] == pytest.approx(line["elapsed_s"], abs=0.2)


def test_lines_for_a_log_have_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    err = io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    with Context(verbosity=1).progress("reading") as report:
        report.start(None, None)
        report.update(files=1234, bytes_=5_000_000)
        until(lambda: "1,234 files, 5.0 MB" in err.getvalue())
        assert "left" not in err.getvalue()  # nobody knows the total yet
        report.start(2000, 10_000_000)
        until(lambda: "50 %" in err.getvalue() and "left" in err.getvalue())
        report.update(files=2001, bytes_=15_000_000)  # more than was expected
        until(lambda: "2,001 files, 15.0 MB" in err.getvalue())
    assert "150 %" not in err.getvalue()
    assert (report.total_files, report.total_bytes) == (None, None)


def test_a_bar_is_drawn_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    err = Tty()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    context = Context()
    with context.progress("reading") as report:
        report.start(10, 1000)
        report.update(files=3, bytes_=500, current=b"/home/ann/[bold]file")
        until(lambda: "3/10 files" in err.getvalue() and "[bold]file" in err.getvalue())
        context.warn("[red]this[/red] is odd")
    shown = err.getvalue()
    assert "[red]this[/red] is odd" in shown
    assert "\x1b[2K" in shown[shown.index("is odd") :]  # the line of the bar is erased
    context.warn("afterwards")
    assert err.getvalue().endswith("afterwards\n")


def test_a_warning_that_goes_elsewhere_is_not_drawn_on_the_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    err, out = Tty(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    context = Context()
    with context.progress("reading") as report:
        report.start(1, 1)
        until(lambda: "reading" in err.getvalue())
        context.echo("result")
    assert out.getvalue() == "result\n"


def test_reporting_is_cheap() -> None:
    report = ProgressJson("reading", Context(quiet=True))
    before_s = time.thread_time()
    for number in range(100_000):
        report.update(files=number, bytes_=number, current=b"x")
    assert time.thread_time() - before_s < 0.5


def test_no_thread_stays_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    before = threading.active_count()
    report = Context(json=True).progress("reading")
    report.start(None, None)
    assert threading.active_count() == before + 1
    report.close()
    report.close()
    assert threading.active_count() == before
    report.start(None, None)  # after the end: nothing is shown any more
    assert threading.active_count() == before


def test_output_nobody_reads_any_more_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with Context(verbosity=1).progress("reading") as report:
        report.start(1, 1)
        until(lambda: not _progress_threads())


def _progress_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "progress"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (10**12, "1.0 TB"),
        (10**18, "1000 PB"),
    ],
)
def test_sizes_have_a_unit(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (3599, "59:59 min"), (7620, "2:07 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_a_long_path_keeps_its_end_and_no_control_characters() -> None:
    assert shorten(b"/a/b", 10) == "/a/b"
    assert shorten(b"/a/very/long/path/to/file", 10) == "…h/to/file"
    assert shorten(b"/a\x1b[31m\n", 20) == "/a?[31m?"


def test_a_real_snapshot_on_a_terminal_ends_with_its_summary(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store")
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    run = Terminal(["snapshot", tmp_path / "file"], host.environ)
    assert run.finish() == 0
    assert b"saved" in run.output
