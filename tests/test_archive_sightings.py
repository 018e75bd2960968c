"""The grace is counted by clocks that never run ahead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from clocks import Clocks, clocks
from hypothesis import given
from hypothesis import strategies as st

from coopfs.archive.sightings import Reading, Sightings, elapsed_ns, read_clocks
from coopfs.archive.state import State
from coopfs.ids import ObjectId

__all__ = ["clocks"]  # a fixture

DAY_S = 86_400.0
ONE, TWO = ObjectId(b"1" * 32), ObjectId(b"2" * 32)


@pytest.fixture
def sightings(tmp_path: Path, clocks: Clocks) -> Sightings:
    return Sightings(State(tmp_path))


def days(sightings: Sightings, name: ObjectId = ONE) -> float:
    return sightings.see([name])[name] / 1e9 / DAY_S


def test_time_passes_from_the_first_sight(sightings: Sightings, clocks: Clocks) -> None:
    assert sightings.see([ONE]) == {ONE: 0}
    clocks.pass_(3 * DAY_S)
    assert sightings.see([ONE, TWO]) == {ONE: 3 * 86_400 * 10**9, TWO: 0}
    assert sightings.known() == {ONE, TWO}
    sightings.drop([ONE])
    assert sightings.see([ONE])[ONE] == 0


def test_a_clock_that_is_set_ahead_lets_no_time_pass(sightings: Sightings, clocks: Clocks) -> None:
    sightings.see([ONE])
    clocks.wall_s += 8 * DAY_S
    assert days(sightings) == 0
    clocks.pass_(DAY_S)
    assert days(sightings) == 1


def test_a_clock_that_is_ahead_all_the_time_does_no_harm(tmp_path: Path, clocks: Clocks) -> None:
    clocks.wall_s += 8 * DAY_S
    sightings = Sightings(State(tmp_path))
    assert days(sightings) == 0
    clocks.pass_(2 * DAY_S)
    assert days(sightings) == 2


def test_across_a_start_a_synchronised_clock_counts(sightings: Sightings, clocks: Clocks) -> None:
    sightings.see([ONE])
    clocks.restart(down_s=2 * DAY_S - 10, up_s=10)
    assert days(sightings) == 2


@pytest.mark.parametrize("was_right", [True, False])
def test_across_a_start_another_clock_counts_only_while_the_machine_is_up(
    sightings: Sightings, clocks: Clocks, was_right: bool
) -> None:
    clocks.is_synchronised = was_right
    sightings.see([ONE])
    clocks.is_synchronised = not was_right
    clocks.restart(down_s=30 * DAY_S, up_s=DAY_S / 2)
    assert days(sightings) == 0.5


def test_a_clock_that_goes_back_takes_nothing_away(sightings: Sightings, clocks: Clocks) -> None:
    sightings.see([ONE])
    clocks.pass_(DAY_S)
    assert days(sightings) == 1
    clocks.restart(down_s=-30 * DAY_S)
    assert days(sightings) == 1


readings = st.builds(
    Reading,
    st.sampled_from(["", "a", "b"]),
    st.integers(0, 10**18),
    st.integers(0, 2 * 10**18),
    st.booleans(),
)


@given(readings, readings)
def test_elapsed_is_never_negative_and_never_of_an_unsure_wall_clock(
    before: Reading, now: Reading
) -> None:
    passed = elapsed_ns(before, now)
    assert passed >= 0
    if not (before.is_synchronised and now.is_synchronised):
        assert passed == elapsed_ns(replace(before, wall_ns=0), replace(now, wall_ns=1 << 62))


def test_the_real_clocks_can_be_read() -> None:
    first, second = read_clocks(), read_clocks()
    assert first.boot_id == second.boot_id != ""
    assert 0 <= elapsed_ns(first, second) < 60 * 10**9
    assert first.wall_ns > 1_600_000_000 * 10**9
