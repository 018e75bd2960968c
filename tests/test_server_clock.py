from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from depots import DAY_NS, START_NS, Clocks

from coopfs import durable
from coopfs.server.clock import OFF_MAX_NS, SEEN_NS, STEP_MAX_NS, ClockWatch

MINUTE_NS = 60 * 10**9
HOUR_NS = 60 * MINUTE_NS


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def test_an_even_clock_is_believed_for_good(clocks: Clocks, tmp_path: Path) -> None:
    watch = clocks.watch(tmp_path)
    begun_ns = watch.now_ns()
    for _ in range(200):
        clocks.pass_(DAY_NS)
        clocks.jump(5 * 10**9)  # a poor quartz gains five seconds a day
        assert watch.jump() is None
    assert watch.now_ns() - begun_ns == 200 * (DAY_NS + 5 * 10**9)


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS, 31 * DAY_NS, -(10**18), 10**18])
def test_a_jump_is_noticed_and_time_goes_on_evenly(
    clocks: Clocks, tmp_path: Path, jump_ns: int
) -> None:
    watch = clocks.watch(tmp_path)
    before_ns = watch.now_ns()
    clocks.pass_(MINUTE_NS)
    clocks.jump(jump_ns)

    jump = watch.jump()

    assert jump is not None
    assert jump.found_ns - jump.expected_ns == jump_ns
    assert "was expected" in jump.describe()
    assert watch.now_ns() == before_ns + MINUTE_NS
    clocks.pass_(DAY_NS)
    assert watch.now_ns() == before_ns + MINUTE_NS + DAY_NS
    assert clocks.watch(tmp_path).jump() is not None  # another process, or a restart


def test_a_clock_that_comes_back_is_believed_again(clocks: Clocks, tmp_path: Path) -> None:
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    clocks.jump(40 * DAY_NS)
    assert watch.jump() is not None
    clocks.pass_(HOUR_NS)
    clocks.jump(-40 * DAY_NS)

    assert watch.jump() is None
    assert watch.now_ns() == START_NS + HOUR_NS


def test_confirming_makes_nothing_older(clocks: Clocks, tmp_path: Path) -> None:
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    clocks.jump(40 * DAY_NS)
    before_ns = watch.now_ns()

    jump = watch.confirm()

    assert jump is not None
    assert jump.found_ns - jump.expected_ns == 40 * DAY_NS
    assert watch.jump() is None
    assert watch.now_ns() == before_ns == START_NS
    assert watch.wall_of(watch.now_ns()) == clocks.wall
    assert watch.depot_of(clocks.wall) == watch.now_ns()
    assert watch.confirm() is None
    clocks.pass_(DAY_NS)
    assert clocks.watch(tmp_path).now_ns() == before_ns + DAY_NS


def test_many_small_steps_are_a_jump(clocks: Clocks, tmp_path: Path) -> None:
    """A forged time server may step the clock by less than what one look would notice."""
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    for _ in range(10):
        clocks.pass_(MINUTE_NS)
        clocks.jump(STEP_MAX_NS // 5)
        watch.now_ns()

    assert watch.jump() is not None


def test_a_step_of_ntp_is_none(clocks: Clocks, tmp_path: Path) -> None:
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    clocks.jump(STEP_MAX_NS - 1)

    assert watch.jump() is None
    assert watch.now_ns() == START_NS + STEP_MAX_NS - 1


def test_a_machine_may_be_off_for_a_week(clocks: Clocks, tmp_path: Path) -> None:
    clocks.watch(tmp_path).now_ns()
    clocks.reboot(OFF_MAX_NS)

    assert clocks.watch(tmp_path).jump() is None
    assert clocks.watch(tmp_path).now_ns() == START_NS + OFF_MAX_NS
    clocks.jump(HOUR_NS)  # only once: now there is something to compare with
    assert clocks.watch(tmp_path).jump() is not None


def test_a_longer_absence_is_asked_about(clocks: Clocks, tmp_path: Path) -> None:
    clocks.watch(tmp_path).now_ns()
    clocks.reboot(31 * DAY_NS)
    watch = clocks.watch(tmp_path)

    assert watch.jump() is not None
    assert watch.now_ns() == START_NS + clocks.boot
    assert watch.confirm() is not None
    assert watch.jump() is None


def test_a_clock_set_back_while_the_machine_was_off_is_noticed(
    clocks: Clocks, tmp_path: Path
) -> None:
    clocks.watch(tmp_path).now_ns()
    clocks.reboot(-DAY_NS)

    assert clocks.watch(tmp_path).jump() is not None


def test_a_dead_battery_heals_when_the_time_comes(clocks: Clocks, tmp_path: Path) -> None:
    clocks.watch(tmp_path).now_ns()
    right_ns = clocks.wall + 2 * DAY_NS
    clocks.reboot(-START_NS)  # 1970
    watch = clocks.watch(tmp_path)
    assert watch.jump() is not None
    assert watch.now_ns() >= START_NS
    clocks.pass_(MINUTE_NS)
    clocks.wall = right_ns + MINUTE_NS

    assert watch.jump() is None
    assert watch.now_ns() == right_ns + MINUTE_NS


def test_doubt_outlives_another_reboot(clocks: Clocks, tmp_path: Path) -> None:
    clocks.watch(tmp_path).now_ns()
    clocks.jump(60 * DAY_NS)
    doubtful_ns = clocks.watch(tmp_path).now_ns()
    clocks.reboot(HOUR_NS)

    watch = clocks.watch(tmp_path)
    assert watch.jump() is not None
    assert doubtful_ns <= watch.now_ns() < doubtful_ns + HOUR_NS


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"doubt": 1}', b"\xff\xfe"])
def test_lost_state_is_doubt_until_a_person_says_otherwise(
    clocks: Clocks, tmp_path: Path, content: bytes
) -> None:
    clocks.watch(tmp_path).now_ns()
    (tmp_path / "clock.json").write_bytes(content)
    watch = clocks.watch(tmp_path)

    jump = watch.jump()
    assert jump is not None and jump.is_state_lost
    assert "cannot be read" in jump.describe()
    clocks.pass_(DAY_NS)
    assert clocks.watch(tmp_path).jump() is not None
    assert watch.confirm() is not None
    assert clocks.watch(tmp_path).jump() is None


def test_two_processes_share_one_state(clocks: Clocks, tmp_path: Path) -> None:
    server, prompt = clocks.watch(tmp_path), clocks.watch(tmp_path)
    server.now_ns()
    clocks.jump(DAY_NS)
    assert server.jump() is not None
    assert prompt.confirm() is not None

    assert server.jump() is None
    assert server.now_ns() == START_NS


def test_the_time_is_written_down_now_and_then_only(clocks: Clocks, tmp_path: Path) -> None:
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    before = (tmp_path / "clock.json").stat().st_ino
    for _ in range(50):
        clocks.pass_(SEEN_NS // 60)
        watch.now_ns()
    assert (tmp_path / "clock.json").stat().st_ino == before
    clocks.pass_(SEEN_NS)
    watch.now_ns()
    assert json.loads((tmp_path / "clock.json").read_bytes())["seen_ns"] == clocks.wall


def test_a_full_disk_hides_no_jump(
    clocks: Clocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = clocks.watch(tmp_path)
    before_ns = watch.now_ns()

    def full(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "replace", full)
    clocks.pass_(HOUR_NS)
    assert watch.now_ns() == before_ns + HOUR_NS
    clocks.jump(40 * DAY_NS)
    assert watch.jump() is not None
    clocks.pass_(HOUR_NS)
    assert watch.jump() is not None
    assert watch.now_ns() == before_ns + 2 * HOUR_NS
    with pytest.raises(OSError, match="No space left"):
        watch.confirm()
    assert watch.jump() is not None
    monkeypatch.undo()

    assert watch.confirm() is not None
    assert clocks.watch(tmp_path).jump() is None


def test_a_first_start_on_a_full_disk_watches_too(
    clocks: Clocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "replace", full)
    watch = clocks.watch(tmp_path)
    watch.now_ns()
    clocks.jump(40 * DAY_NS)

    assert watch.jump() is not None


def test_the_machines_own_clocks_agree(tmp_path: Path) -> None:
    watch = ClockWatch(tmp_path / "clock.json")

    assert abs(watch.now_ns() - time.time_ns()) < MINUTE_NS
    assert watch.jump() is None


def test_threads_may_look_at_once(clocks: Clocks, tmp_path: Path) -> None:
    watches = [clocks.watch(tmp_path) for _ in range(4)]
    failures: list[BaseException] = []

    def look(watch: ClockWatch) -> None:
        try:
            for _ in range(20):
                assert watch.jump() is None
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=look, args=(watch,)) for watch in watches for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        clocks.pass_(SEEN_NS)
    for thread in threads:
        thread.join()
    assert failures == []
