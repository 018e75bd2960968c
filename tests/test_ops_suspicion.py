"""Whose time is in doubt."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.ops.suspicion import certainly_in_order


@pytest.mark.parametrize(
    ("times", "doubted"),
    [
        ([], []),
        ([5], []),
        ([1, 1, 1], []),
        ([1, 2, 3, 100, 4, 5, 6], [100]),  # ahead for once
        ([10, 11, 0, 12, 13], [0]),  # 1970 for once
        ([1, 2, 10, 5, 11, 12], [10, 5]),  # either may be wrong
        ([2, 1], [2, 1]),
        ([1, 2, 3, 50, 51, 4, 5, 6, 7], [50, 51]),
        ([50, 51, 52, 1], [1]),  # an invented past after real ones
        ([3, 4, 5, 1, 2, 3, 4, 5], [3, 4, 5]),  # the clock was set back for good
    ],
)
def test_the_fewest_are_doubted(times: list[int], doubted: list[int]) -> None:
    certain = certainly_in_order(times)
    assert [t for t, is_certain in zip(times, certain, strict=True) if not is_certain] == doubted


@given(st.lists(st.integers(0, 6), max_size=8))
def test_certain_is_what_every_longest_run_has(times: list[int]) -> None:
    places = range(len(times))
    runs = [
        set(chosen)
        for size in range(len(times) + 1)
        for chosen in itertools.combinations(places, size)
        if all(times[a] <= times[b] for a, b in itertools.pairwise(chosen))
    ]
    longest = max(map(len, runs))
    in_all = set(places).intersection(*(run for run in runs if len(run) == longest))
    assert [place in in_all for place in places] == certainly_in_order(times)
