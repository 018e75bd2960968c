"""The clock of a snapshot: who is asked, who is believed, and that nobody is waited for."""

from __future__ import annotations

import os
import re
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, write
from timeservers import answer, fake_chronyc, fake_program, time_server

from coopfs.archive.kernelclock import KernelClock
from coopfs.archive.settings import load_settings, save_settings
from coopfs.format.invitation import Endpoint
from coopfs.format.snapshot import ClockFacts, State
from coopfs.format.sntp import TimeAnswer
from coopfs.ops import clock
from coopfs.ops.clock import (
    UNKNOWN,
    ClockProbe,
    ask_daemon,
    ask_server,
    parse_chronyc,
    parse_ntpq,
    with_second_opinion,
)

__all__ = ["lab"]

LONG_S = 30.0


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs, the only one there is."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(clock, "read_kernel_clock", lambda: KernelClock(False, 0))
    return folder


# --- time servers ---------------------------------------------------------------------


@pytest.mark.parametrize("ahead_s", [0.0, 3.0, -3.0])
def test_a_server_tells_how_wrong_our_clock_is(ahead_s: float) -> None:
    with time_server(lambda question: answer(question, ahead_s=ahead_s)) as server:
        found = ask_server(server, LONG_S)
    assert isinstance(found, TimeAnswer)
    assert abs(found.offset_ns / 1e9 - ahead_s) < 0.5
    assert (found.stratum, found.reference) == (1, "GPS")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (lambda question: answer(question, stratum=0, refid=b"DENY"), "refuses (DENY)"),
        (lambda question: answer(question, leap=3), "not synchronised itself"),
        (lambda question: os.urandom(48), "no answer"),
        (lambda question: b"HTTP/1.1 400 Bad Request\r\n\r\n", "no answer"),
        (lambda question: question, "no answer"),
        (lambda question: None, "no answer"),
    ],
)
def test_a_server_of_no_use_says_why(reply: object, why: str) -> None:
    with time_server(reply) as server:  # type: ignore[arg-type]  # a lambda
        found = ask_server(server, 0.2 if why == "no answer" else LONG_S)
    assert isinstance(found, str)
    assert why in found


def test_a_forged_answer_before_the_true_one_is_passed_over() -> None:
    asked = threading.Event()

    def first_forged(question: bytes) -> bytes:
        if not asked.is_set():
            asked.set()
            return answer(bytes(48), ahead_s=1000)
        return answer(question)

    with time_server(first_forged) as server:
        found = ask_server(server, LONG_S)
    assert isinstance(found, TimeAnswer)
    assert abs(found.offset_ns) < 500_000_000


def test_nobody_there_is_no_answer() -> None:
    with time_server(lambda question: None) as server:
        pass  # its port is free again
    assert "refused" in str(ask_server(server, LONG_S))
    assert isinstance(ask_server(Endpoint("no-such-host.invalid", 123), LONG_S), str)
    assert ask_server(Endpoint("a" * 70 + ".example.org", 123), LONG_S) == "no such host"


def test_of_three_servers_one_that_lies_changes_nothing(programs: Path) -> None:
    with ExitStack() as stack:
        servers = [
            stack.enter_context(time_server(lambda q, s=ahead: answer(q, ahead_s=s)))
            for ahead in (0.02, 86_400.0, 0.01)
        ]
        facts = ClockProbe(servers).facts(LONG_S)
    assert facts.source == "127.0.0.1 (GPS)"
    assert facts.is_synchronised
    assert abs(facts.offset_ns) < 500_000_000


def test_where_no_server_answers_the_local_daemon_counts(programs: Path) -> None:
    fake_chronyc(programs)
    with time_server(lambda q: answer(q, stratum=0, refid=b"RATE")) as server:
        facts = ClockProbe([server]).facts(LONG_S)
    assert facts == ClockFacts("chronyd (192.0.2.1)", 12_345, 2, True)


def test_a_silent_server_is_not_waited_for_and_the_others_count(programs: Path) -> None:
    released = threading.Event()

    def late(question: bytes) -> bytes:
        assert released.wait(LONG_S)
        return answer(question)

    with time_server(late) as silent, time_server(lambda q: answer(q, ahead_s=3)) as server:
        probe = ClockProbe([silent, server])
        deadline = time.monotonic() + LONG_S
        while (facts := probe.facts(0.01)).source != "127.0.0.1 (GPS)":
            assert time.monotonic() < deadline
        assert 2.5 < facts.offset_ns / 1e9 < 3.5
        released.set()


# --- local daemons ------------------------------------------------------------------------


def test_chronyd_is_asked_first_then_ntpd_then_the_kernel(programs: Path) -> None:
    assert ClockProbe(()).facts(LONG_S) == ClockFacts("kernel", 0, 16, False)
    fake_program(programs, "ntpq", f"cat <<'END'\n{NTPQ}\nEND")
    (programs / "cat").symlink_to("/bin/cat")
    assert ClockProbe(()).facts(LONG_S) == ClockFacts("ntpd (192.0.2.9)", -1_234_567, 3, True)
    fake_chronyc(programs, offset="-3.5")
    assert ClockProbe(()).facts(LONG_S) == ClockFacts(
        "chronyd (192.0.2.1)", -3_500_000_000, 2, True
    )


@pytest.mark.parametrize(
    "script",
    ["echo '506 Cannot talk to daemon'; exit 1", "exit 1", "echo garbage", "printf '\\377'"],
)
def test_a_daemon_that_does_not_run_is_passed_over(programs: Path, script: str) -> None:
    fake_program(programs, "chronyc", script)
    assert ask_daemon() is None


def test_a_program_that_hangs_is_ended(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "TIMEOUT_S", 0.1)
    fake_program(programs, "chronyc", "exec /bin/sleep 1000")
    assert ask_daemon() is None


NTPQ = """associd=0 status=0615 leap_none, sync_ntp, 1 event, clock_sync,
version="ntpd 4.2.8p15@1.3728-o Wed Sep 23 11:46:38 UTC 2020 (1)",
processor="x86_64", system="Linux/6.1.0", leap=00, stratum=3,
precision=-24, rootdelay=12.345, rootdisp=23.456, refid=192.0.2.9,
reftime=e8f0d5a1.2b3c4d5e  Mon, Nov 23 2026 10:00:01.168,
clock=e8f0d9d2.1a2b3c4d  Mon, Nov 23 2026 10:17:54.102, peer=12345, tc=10,
mintc=3, offset=-1.234567, frequency=-12.345, sys_jitter=0.123456,
clk_jitter=0.234, clk_wander=0.012"""


def test_what_ntpq_says_is_understood() -> None:
    assert parse_ntpq(NTPQ) == ClockFacts("ntpd (192.0.2.9)", -1_234_567, 3, True)
    alarm = NTPQ.replace("leap=00, stratum=3", "leap=11, stratum=16")
    assert parse_ntpq(alarm) == ClockFacts("ntpd", -1_234_567, 16, False)


@pytest.mark.parametrize(
    "text", ["", "ntpq: read: Connection refused", "leap=00, stratum=x, offset=1", "offset=nan"]
)
def test_what_is_no_answer_of_ntpq(text: str) -> None:
    assert parse_ntpq(text) is None


def test_what_chronyc_says_is_understood() -> None:
    unsynchronised = "00000000,,0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,1.0,0.0,Not synchronised\n"
    assert parse_chronyc(unsynchronised) == ClockFacts("chronyd", 0, 16, False)
    lines = ["a,b", ",,x,,,,,,,,,,,", "a,b,2,0,inf,,,,,,,,,Normal", "a,b,99,0,0,,,,,,,,,Normal"]
    assert [parse_chronyc(line) for line in lines] == [None] * 4


def test_the_partner_counts_where_nobody_else_knows_an_offset() -> None:
    kernel = ClockFacts("kernel", 0, 16, False)
    assert with_second_opinion(kernel, "coop://berta", -5.0) == ClockFacts(
        "coop://berta", -5_000_000_000, 16, False
    )
    assert with_second_opinion(kernel, "coop://berta", None) == kernel
    known = ClockFacts("chronyd", 0, 2, True)
    assert with_second_opinion(known, "coop://berta", -5.0) == known
    assert with_second_opinion(UNKNOWN, "x" * 999, 1.0).source == "x" * 256


# --- a snapshot -----------------------------------------------------------------------------


def name_servers(lab: Lab, *servers: Endpoint) -> None:
    settings = load_settings(lab.host.dirs, None)
    save_settings(lab.host.dirs, replace(settings, ntp_servers=servers))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a snapshot wait for its answers: the machine of the tests may be slow."""
    monkeypatch.setattr("coopfs.ops.snapshot.LATE_S", LONG_S)


def test_a_snapshot_records_what_its_clock_was_worth(lab: Lab, patient: None) -> None:
    write(lab.source / "file", "x")
    assert lab.take().facts.clock == ClockFacts("chronyd (192.0.2.1)", 12_345, 2, True)
    with time_server(lambda question: answer(question, ahead_s=-3)) as server:
        name_servers(lab, server)
        ran = lab.host.ok("snapshot", lab.source, "--series", "main")
        told = lab.host.ok("--json", "snapshot", lab.source, "--series", "main").lines()[-1]
    wrong = "the date of this snapshot may be wrong: the clock is (2.[5-9]|3.[0-5]) s ahead of "
    assert re.search(rf"warning: {wrong}127\.0\.0\.1 \(GPS\)", ran.err)
    assert told["clock"]["source"] == "127.0.0.1 (GPS)"
    assert "s ahead of 127.0.0.1 (GPS)" in told["clock_doubts"][0]
    text = lab.host.ok("snapshots", "--long").out
    assert "clock     +0.000 s against chronyd (192.0.2.1), stratum 2" in text
    assert re.search(r"clock     WRONG: -(2.[5-9]|3.[0-5])\d\d s against 127", text)


def test_a_snapshot_says_that_its_clock_is_not_synchronised(
    lab: Lab, programs: Path, patient: None
) -> None:
    write(lab.source / "file", "x")
    ran = lab.host.ok("-q", "snapshot", lab.source)
    assert "the clock is not synchronised (says kernel)" in ran.err
    assert "NOT SYNCHRONISED" in lab.host.ok("snapshots", "--long").out


def test_a_clock_that_stays_unsynchronised_is_warned_about_once(
    lab: Lab, programs: Path, patient: None
) -> None:
    write(lab.source / "file", "x")
    unkept = "the clock is not synchronised (says kernel)"
    assert unkept in lab.host.ok("snapshot", lab.source).err
    assert lab.host.ok("snapshot", lab.source).err == ""  # as cron runs it: nothing to mail

    # Yet it is kept with the snapshot, and told to whoever asks.
    told = lab.host.ok("--json", "snapshot", lab.source)
    assert (told.err, told.lines()[-1]["clock_doubts"]) == ("", [unkept])
    assert unkept in lab.host.ok("-v", "snapshot", lab.source).err
    assert lab.host.ok("snapshots", "--long").out.count("NOT SYNCHRONISED") == 4
    assert unkept in lab.host.run("doctor").out

    # When it changes it is news again; so it is for another series.
    fake_chronyc(programs)
    assert lab.host.ok("snapshot", lab.source).err == ""
    (programs / "chronyc").unlink()
    assert unkept in lab.host.ok("snapshot", lab.source).err
    assert unkept in lab.host.ok("snapshot", lab.source, "--series", "other").err


def test_a_silent_server_and_a_program_that_hangs_hold_up_no_snapshot(
    lab: Lab, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "TIMEOUT_S", LONG_S)
    write(lab.source / "file", "x")
    gate = programs / "gate"
    os.mkfifo(gate)
    fake_program(programs, "chronyc", f"exec /bin/cat {gate}")
    released = threading.Event()

    def late(question: bytes) -> bytes:
        assert released.wait(LONG_S)
        return answer(question)

    with time_server(late) as server:
        name_servers(lab, server)
        try:
            report = lab.take()
        finally:
            released.set()
            gate.write_bytes(b"")
    assert report.facts.clock == UNKNOWN
    assert report.clock_doubts == ()
    assert report.duration_s < LONG_S / 2
    assert "nobody answered" in lab.host.ok("snapshots", "--long").out


def test_a_clock_set_back_is_reported_and_reorders_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(lab.source / "file", "x")
    first = lab.take()
    real_ns = time.time_ns
    monkeypatch.setattr("coopfs.ops.snapshot.time.time_ns", lambda: real_ns() - 3600 * 10**9)
    second = lab.take()
    monkeypatch.undo()
    assert (second.facts.number, second.facts.state) == (2, State.COMPLETE)
    assert second.parent == first.snapshot.snapshot_id  # type: ignore[union-attr]
    assert "before that of number 1, which it follows" in second.clock_doubts[0]
    assert "DATED BEFORE number 1" in lab.host.ok("snapshots", "--long").out
    listed = lab.host.ok("snapshots", "--json").lines()[:-1]
    assert {item["number"]: item["is_dated_before_previous"] for item in listed} == {
        1: False,
        2: True,
    }


def test_a_partner_whose_clock_differs_is_a_second_opinion(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    write(lab.source / "file", "x")
    monkeypatch.setattr("coopfs.store.faulty.FaultyStore.clock_ahead_s", lambda self: 60.0)
    report = lab.take()
    assert report.facts.clock == ClockFacts("chronyd (192.0.2.1)", 12_345, 2, True)
    assert report.clock_doubts == (
        "the clock is 60.0 s behind the partner's; one of them is wrong",
    )
