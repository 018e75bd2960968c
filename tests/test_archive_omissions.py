"""What is missing is said in a sentence a person can use."""

from __future__ import annotations

from dataclasses import replace

from forgetting import snapshot

from coopfs.archive.heads import Head
from coopfs.archive.omissions import Missing, continuing, find_gaps, rollback_message
from coopfs.ids import SnapshotId

ONE = SnapshotId(b"\x01" * 32)


def missing(number: int, *, is_known: bool = True) -> Missing:
    facts = snapshot(f"2019-09-{number:02} 11:00:00", number).facts
    name = SnapshotId(bytes([number]) * 32)
    return Missing(name, "anna", "home", number, facts if is_known else None)


def test_the_message_names_series_numbers_dates_and_what_is_left() -> None:
    left = snapshot("2019-09-02 10:00:00", 2).facts
    text = rollback_message([missing(4), missing(3)], {("anna", "home"): left})
    assert (
        "number 3 (03030303), number 4 (04040404) of anna/home, taken 2019-09-03 11:00:00 to "
        "2019-09-04 11:00:00; the newest that is left is number 2, taken 2019-09-02 10:00:00, and "
        "all since is missing" in text
    )
    assert "coopfs repair --accept-rollback" in text


def test_of_many_only_some_are_named() -> None:
    text = rollback_message([missing(number) for number in range(1, 20)], {})
    assert "number 5 (05050505) and 14 more up to number 19 of anna/home" in text
    assert "nothing is left of that series" in text


def test_one_whose_facts_are_lost_is_named_by_its_number() -> None:
    left = snapshot("2019-09-20 10:00:00", 20).facts
    text = rollback_message([missing(7, is_known=False)], {("anna", "home"): left})
    assert "number 7 (07070707) of anna/home; the newest that is left is number 20, taken" in text
    assert "all since is missing" not in text


def test_a_gap_is_found_once_and_only_where_nothing_explains_it() -> None:
    first = snapshot("2019-09-01 10:00:00", 2, name="a")
    facts = replace(first.facts, previous=(ONE, first.snapshot_id))
    items = [(first.snapshot_id, first.facts), (SnapshotId(b"\x02" * 32), facts)]
    twice = [*items, (SnapshotId(b"\x03" * 32), facts)]
    (gap,) = find_gaps(twice, ())
    assert (gap.snapshot_id, gap.follower_id) == (ONE, b"\x02" * 32)
    assert "snapshot 01010101, on which number 2 of anna/home (02020202) is based" in gap.text
    assert find_gaps(twice, {ONE}) == []


def test_only_what_leads_to_the_known_head_is_adopted() -> None:
    items = [snapshot("2019-09-01 10:00:00", number, name=str(number)) for number in (1, 2, 3)]
    pairs = [(item.snapshot_id, item.facts) for item in items]
    one, two, three = (item.snapshot_id for item in items)
    known = Head("anna", "home", 1, one)
    chain = {three: (two,), two: (one,)}
    assert continuing(pairs, [known], chain) == ([Head("anna", "home", 3, three)], [])
    adopted, strays = continuing(pairs, [known], {two: (one,)})
    assert adopted == [Head("anna", "home", 2, two)]
    assert "does not continue number 1" in strays[0]
    assert continuing(pairs, [], {}) == ([Head("anna", "home", 3, three)], [])
    # A chain that bites its own tail is no way anywhere.
    assert continuing(pairs[1:], [known], {three: (two,), two: (three,)})[0] == []
