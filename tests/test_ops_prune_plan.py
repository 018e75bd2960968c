"""Which packs are marked, by how much of each is needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import UsageError
from coopfs.ids import PackId
from coopfs.ops.prune_plan import PackUse, Tolerance, choose_packs, parse_share, parse_tolerance


def use(number: int, size: int, needed: int) -> PackUse:
    return PackUse(number, PackId(bytes([number]) * 32), size, needed)


uses = st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000)), max_size=20).map(
    lambda pairs: [use(n, size, min(needed, size)) for n, (size, needed) in enumerate(pairs)]
)
tolerances = (
    st.just(Tolerance())
    | st.floats(0, 1).map(lambda share: Tolerance(share=share))
    | st.integers(0, 5000).map(lambda size: Tolerance(size=size))
)


@given(uses, tolerances, st.floats(0, 1))
def test_what_is_chosen(packs: list[PackUse], tolerance: Tolerance, below: float) -> None:
    choice = choose_packs(packs, tolerance, below)
    assert set(choice.unneeded) == {p for p in packs if p.needed_len == 0}
    assert all(0 < p.needed_len < below * p.size for p in choice.repack)
    left = [p for p in packs if p not in choice.unneeded and p not in choice.repack]
    assert choice.unused_len == sum(p.unused_len for p in left)
    assert choice.needed_len == sum(p.needed_len for p in packs)
    limit = tolerance.limit(choice.needed_len)
    if limit is None:
        assert not choice.repack
    elif choice.unused_len > limit:  # then there was nothing more to choose
        assert all(p.needed_len >= below * p.size for p in left if p.unused_len)
    if choice.repack:  # nor more than had to be
        last = max(choice.repack, key=lambda p: (p.needed_len / p.size, p.pack_no))
        assert limit is not None and choice.unused_len + last.unused_len > limit
        assert all(
            p.needed_len / p.size >= last.needed_len / last.size for p in left if p.unused_len
        )


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        ("5%", Tolerance(share=0.05)),
        ("0%", Tolerance(share=0.0)),
        ("unlimited", Tolerance()),
        ("0", Tolerance(size=0)),
        ("500M", Tolerance(size=500_000_000)),
        ("1.5GiB", Tolerance(size=3 << 29)),
        ("2k", Tolerance(size=2000)),
    ],
)
def test_tolerances_are_read(text: str, tolerance: Tolerance) -> None:
    assert parse_tolerance(text) == tolerance


@pytest.mark.parametrize("text", ["", "5", "101%", "x%", "-5%", "%"])
def test_no_shares_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_share(text)


@pytest.mark.parametrize("text", ["", "some", "-1", "5Q", "101%", "1.2.3"])
def test_no_tolerances_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tolerance(text)
