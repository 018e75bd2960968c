"""What stays and what goes: restic's documented examples, and what must always hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from forgetting import NOW, NOW_NS, SECOND_NS, in_order, ns, snapshot
from hypothesis import given
from hypothesis import strategies as st

from coopfs.archive.snapshots import Snapshot
from coopfs.errors import UsageError
from coopfs.format.snapshot import Origin, OriginKind, State
from coopfs.ids import SnapshotId
from coopfs.ops.forget_plan import (
    UNLIMITED,
    Duration,
    KeepRules,
    Verdict,
    parse_duration,
    plan_forget,
    plan_named,
)


def kept(verdicts: list[Verdict]) -> set[SnapshotId]:
    return {v.snapshot.snapshot_id for v in verdicts if v.is_kept}


def plan(snapshots: list[Snapshot], rules: KeepRules, now_ns: int = NOW_NS) -> list[Verdict]:
    return plan_forget(snapshots, rules, now_ns)


def days_kept(snapshots: list[Snapshot], rules: KeepRules, now_ns: int = NOW_NS) -> list[str]:
    return [
        datetime.fromtimestamp(v.snapshot.facts.time_ns / SECOND_NS, UTC).date().isoformat()
        for v in plan(snapshots, rules, now_ns)
        if v.is_kept
    ]


# --- restic's documented examples ----------------------------------------------

SUNDAYS = in_order([datetime(2019, 9, 1, 11, tzinfo=UTC) + timedelta(weeks=n) for n in range(12)])


def test_one_backup_every_sunday_keep_daily_4() -> None:
    assert days_kept(SUNDAYS, KeepRules(daily=4)) == [
        *("2019-10-27", "2019-11-03", "2019-11-10", "2019-11-17"),
    ]
    verdicts = plan(SUNDAYS, KeepRules(daily=4))
    assert [v.reasons for v in verdicts[-2:]] == [
        ("daily",),
        ("newest of its series", "daily"),
    ]
    assert {v.reasons for v in verdicts if not v.is_kept} == {("no rule keeps it",)}


def test_a_backup_every_day_for_100_years() -> None:
    last = datetime(2019, 12, 31, 12, tzinfo=UTC)  # a Tuesday
    everything = in_order([last - timedelta(days=n) for n in range(100 * 365)])
    found = [
        datetime.fromisoformat(day)
        for day in days_kept(everything, KeepRules(daily=7, weekly=5, monthly=12, yearly=75))
    ]
    days = [last.replace(hour=0, tzinfo=None) - timedelta(days=n) for n in range(7)]
    weeks = [datetime(2019, 12, 29) - timedelta(weeks=n) for n in range(4)]  # Sundays
    months = [datetime(2019, month + 1, 1) - timedelta(days=1) for month in range(1, 12)]
    years = [datetime(year, 12, 31) for year in range(1945, 2020)]
    assert found == sorted({*days, *weeks, *months, *years})


def test_calendar_rules_count_only_periods_in_which_there_is_one() -> None:
    irregular = in_order(
        [datetime(2019, 1, 1, 8, tzinfo=UTC), datetime(2019, 1, 1, 20, tzinfo=UTC)]
        + [datetime(2019, 5, day, 8, tzinfo=UTC) for day in (3, 9)]
    )
    assert days_kept(irregular, KeepRules(daily=3)) == ["2019-01-01", "2019-05-03", "2019-05-09"]
    assert [v.is_kept for v in plan(irregular, KeepRules(daily=3))] == [False, True, True, True]


def test_durations_reach_back_from_the_newest_not_from_now() -> None:
    much_later = NOW_NS + 10 * 365 * 86400 * SECOND_NS
    rules = KeepRules(within=parse_duration("7d"))
    found = days_kept(SUNDAYS, rules, much_later)
    assert found == ["2019-11-17"]  # exactly seven days before is no more
    rules = KeepRules(within=parse_duration("7d1h"))
    assert days_kept(SUNDAYS, rules, much_later) == ["2019-11-10", "2019-11-17"]


def test_within_daily_weekly_monthly_yearly() -> None:
    last = datetime(2019, 12, 31, 12, tzinfo=UTC)
    everything = in_order([last - timedelta(days=n, hours=h) for n in range(800) for h in (0, 5)])
    rules = KeepRules(
        within_daily=Duration(days=7),
        within_weekly=Duration(months=1),
        within_monthly=Duration(years=1),
        within_yearly=Duration(years=75),
    )
    found = days_kept(everything, rules)
    days = {(last - timedelta(days=n)).date() for n in range(7)}
    weeks = {datetime(2019, 12, day).date() for day in (29, 22, 15, 8)}
    months = {(datetime(2019, m + 1, 1) - timedelta(days=1)).date() for m in range(1, 12)}
    # Exactly a year before is not within; of 2018 and 2017 the newest and, as it is the
    # oldest of all, the first.
    years = {datetime(2018, 12, 31).date(), datetime(2017, 12, 31).date()}
    oldest = (last - timedelta(days=799, hours=5)).date()
    expected = days | weeks | months | years | {oldest}
    assert found == sorted(day.isoformat() for day in expected)
    verdicts = plan(everything, rules)
    assert verdicts[0].reasons == ("oldest yearly within 75y",)


def test_the_oldest_is_kept_while_a_rule_has_some_left() -> None:
    two = in_order([datetime(2019, 1, 1, h, tzinfo=UTC) for h in (8, 20)])
    verdicts = plan(two, KeepRules(daily=4))
    assert verdicts[0].reasons == ("oldest daily",)
    assert not plan(two, KeepRules(daily=1))[0].is_kept


def test_a_snapshot_in_the_future_is_not_removed_and_is_not_the_newest_for_durations() -> None:
    future = snapshot(NOW + timedelta(days=400), len(SUNDAYS) + 1)
    verdicts = plan([*SUNDAYS, future], KeepRules(within=parse_duration("7d1h")))
    assert [v.is_kept for v in verdicts] == [False] * 10 + [True] * 3
    assert "future" in verdicts[-1].suspicion


def test_keep_tag_needs_all_tags_of_one_option() -> None:
    tagged = [
        replace(item, facts=replace(item.facts, tags=tags))
        for item, tags in zip(
            SUNDAYS[:5], [("a",), ("a", "b"), ("b", "c", "a"), (), ("x",)], strict=True
        )
    ]
    rules = KeepRules(tags=(frozenset("ab"), frozenset("x")))
    assert [v.is_kept for v in plan(tagged, rules)] == [False, True, True, False, True]
    assert plan(tagged, rules)[1].reasons == ("tagged a, b",)
    untagged = KeepRules(tags=(frozenset(),))
    assert [v.is_kept for v in plan(tagged, untagged)] == [False, False, False, True, True]


# --- what differs ---------------------------------------------------------------


def test_rules_see_the_time_the_snapshot_was_taken_in() -> None:
    # 23:30 and 00:30 in Tokyo are two days there and one in UTC.
    two = [
        snapshot("2019-03-01 23:30:00", 1, zone_s=9 * 3600),
        snapshot("2019-03-02 00:30:00", 2, zone_s=9 * 3600),
    ]
    assert [v.is_kept for v in plan(two, KeepRules(daily=2))] == [True, True]


def test_the_hour_that_comes_twice_is_two_hours() -> None:
    two = [
        snapshot("2019-10-27 02:30:00", 1, zone_s=7200),
        snapshot("2019-10-27 02:30:00", 2, zone_s=3600),
    ]
    assert [v.reasons[-1] for v in plan(two, KeepRules(hourly=2))] == ["hourly", "hourly"]


def test_each_series_of_each_host_is_by_itself() -> None:
    parts = [
        in_order([datetime(2019, 1, day, tzinfo=UTC) for day in (1, 2)], host=host, series=series)
        for host in ("anna", "bob")
        for series in ("etc", "home")
    ]
    verdicts = plan([s for part in parts for s in part], KeepRules(last=1))
    assert [(v.snapshot.facts.host, v.snapshot.facts.series) for v in verdicts] == [
        (host, series) for host in ("anna", "bob") for series in ("etc", "home") for _ in (1, 2)
    ]
    assert [v.is_kept for v in verdicts] == [False, True] * 4


def test_what_is_filtered_out_is_not_judged_and_not_counted() -> None:
    tagged = [
        replace(s, facts=replace(s.facts, tags=("odd",) * (s.facts.number % 2))) for s in SUNDAYS
    ]
    verdicts = plan_forget(tagged, KeepRules(last=2), NOW_NS, is_chosen=lambda s: "odd" in s.tags)
    assert [v.snapshot.facts.number for v in verdicts] == [1, 3, 5, 7, 9, 11]
    assert [v.is_kept for v in verdicts] == [False] * 4 + [True] * 2


def test_a_held_one_stays() -> None:
    held = snapshot("2019-01-01 00:00:00", 0, is_held=True)
    verdicts = plan([held, *SUNDAYS], KeepRules(last=1))
    assert verdicts[0].reasons == ("held",)
    assert [v.is_kept for v in plan_named([held, SUNDAYS[0]])] == [True, False]


def test_a_partial_one_goes_once_a_complete_one_followed_and_counts_for_nothing() -> None:
    first = snapshot("2019-01-01 00:00:00", 1)
    partial = snapshot("2019-01-02 00:00:00", 2, state=State.PARTIAL)
    verdicts = plan([first, partial], KeepRules(last=1))
    assert [v.reasons for v in verdicts] == [
        ("newest complete one of its series", "last"),
        ("newest of its series",),
    ]
    second = snapshot("2019-01-03 00:00:00", 3)
    verdicts = plan([first, partial, second], KeepRules(last=2))
    assert [v.reasons[0] for v in verdicts] == [
        *("last", "partial, and a complete one followed", "newest of its series"),
    ]
    two = [replace(s, facts=replace(s.facts, state=State.PARTIAL)) for s in (first, second)]
    assert [v.is_kept for v in plan(two, KeepRules(yearly=1))] == [True, True]


def test_with_only_tags_to_keep_the_newest_stays() -> None:
    verdicts = plan(SUNDAYS, KeepRules(tags=(frozenset(["none has it"]),)))
    assert kept(verdicts) == {SUNDAYS[-1].snapshot_id}


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("2y5m7d3h", Duration(2, 5, 7, 3)),
        ("7d", Duration(days=7)),
        (" 36h ", Duration(hours=36)),
        ("1y1h", Duration(years=1, hours=1)),
    ],
)
def test_durations_are_read_and_shown(text: str, duration: Duration) -> None:
    assert parse_duration(text) == duration
    assert str(duration) == text.strip()


@pytest.mark.parametrize("text", ["", "7", "1w", "3h2d", "-1d", "1.5d", "99999y", "1d 2h"])
def test_no_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("duration", "before"),
    [
        (Duration(months=1), datetime(2019, 3, 3)),  # the 31st of February
        (Duration(months=3), datetime(2018, 12, 31)),
        (Duration(years=1, days=30, hours=24), datetime(2018, 2, 28)),
        (Duration(years=2018), datetime(1, 3, 31)),
        (Duration(years=2019), datetime.min),
        (Duration(years=2018, days=999), datetime.min),
    ],
)
def test_durations_are_calendar_time(duration: Duration, before: datetime) -> None:
    assert duration.before(datetime(2019, 3, 31)) == before


# --- what must always hold -------------------------------------------------------

counts = st.just(0) | st.integers(1, 4) | st.just(UNLIMITED)
durations = st.none() | st.builds(
    Duration, st.integers(0, 2), st.integers(0, 3), st.integers(0, 40), st.integers(0, 30)
)
rule_sets = st.builds(
    KeepRules,
    *[counts] * 6,
    *[durations] * 6,
    st.lists(st.frozensets(st.sampled_from("ab"), max_size=2), max_size=1).map(tuple),
)
moments = st.integers(0, 900 * 24).map(lambda hours: NOW - timedelta(hours=hours))
series_of = st.builds(
    lambda times, tags: [
        snapshot(moment, number, tags=tag)
        for number, (moment, tag) in enumerate(zip(sorted(times), tags, strict=False), 1)
    ],
    st.lists(moments, min_size=1, max_size=25),
    st.lists(st.sampled_from([(), ("a",), ("a", "b")]), min_size=25, max_size=25),
)


@given(series_of, rule_sets)
def test_the_newest_stays_and_everything_has_a_reason(
    series: list[Snapshot], rules: KeepRules
) -> None:
    verdicts = plan(series, rules)
    assert [v.snapshot for v in verdicts] == series
    assert series[-1].snapshot_id in kept(verdicts)
    assert all(v.reasons and not v.suspicion for v in verdicts)


@given(series_of, rule_sets)
def test_the_same_rules_again_let_nothing_more_go(series: list[Snapshot], rules: KeepRules) -> None:
    stayed = [v.snapshot for v in plan(series, rules) if v.is_kept]
    assert kept(plan(stayed, rules)) == {s.snapshot_id for s in stayed}


@given(series_of, rule_sets, rule_sets)
def test_more_rules_keep_more(series: list[Snapshot], a: KeepRules, b: KeepRules) -> None:
    both = replace(a, tags=a.tags + b.tags, monthly=UNLIMITED)
    assert kept(plan(series, a)) <= kept(plan(series, both))


@given(series_of, rule_sets, series_of)
def test_what_is_kept_stays_kept_when_older_ones_are_added(
    series: list[Snapshot], rules: KeepRules, others: list[Snapshot]
) -> None:
    oldest = series[0].facts.time_ns
    older = [
        snapshot(datetime.fromtimestamp(oldest / SECOND_NS - n, UTC), 0, name=f"old {n}")
        for n in range(1, len(others) + 1)
    ]
    before, after = plan(series, rules), plan([*older, *series], rules)
    # But for the one that stayed only as it was the oldest.
    firm = {v.snapshot.snapshot_id for v in before if v.is_kept and not is_oldest_only(v)}
    assert firm <= kept(after)


def is_oldest_only(verdict: Verdict) -> bool:
    return all(reason.startswith("oldest ") for reason in verdict.reasons)


@given(series_of, rule_sets, series_of)
def test_other_series_change_nothing(
    series: list[Snapshot], rules: KeepRules, others: list[Snapshot]
) -> None:
    elsewhere = [replace(s, facts=replace(s.facts, series="other")) for s in others]
    verdicts = plan([*elsewhere, *series], rules)
    assert kept(plan(series, rules)) == {
        v.snapshot.snapshot_id for v in verdicts if v.is_kept and v.snapshot.facts.series == "home"
    }


@given(series_of, rule_sets, st.lists(st.integers(2, 100_000), max_size=40))
def test_invented_dates_in_the_future_push_nothing_out(
    series: list[Snapshot], rules: KeepRules, hours: list[int]
) -> None:
    invented = [
        snapshot(NOW + timedelta(days=1, hours=h), len(series) + n, name="invented")
        for n, h in enumerate(hours, 1)
    ]
    verdicts = plan([*series, *invented], rules)
    assert kept(plan(series, rules)) - {series[-1].snapshot_id} <= kept(verdicts)
    assert {s.snapshot_id for s in invented} <= kept(verdicts)


@given(series_of, rule_sets, st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=20))
def test_snapshots_of_a_distrusted_writer_stay_and_decide_nothing(
    series: list[Snapshot], rules: KeepRules, hours: list[int]
) -> None:
    theirs = [
        replace(snapshot(NOW + timedelta(hours=h), n * 7 % 50, name="theirs"), is_distrusted=True)
        for n, h in enumerate(hours)
    ]
    verdicts = plan([*series, *theirs], rules)
    names = {s.snapshot_id for s in theirs}
    assert kept(verdicts) - names == kept(plan(series, rules))
    assert names <= kept(verdicts)
    for verdict in verdicts:
        if verdict.snapshot.is_distrusted:
            assert verdict.reasons[0] == "its writer is distrusted"
    assert [v.is_kept for v in plan_named(theirs)] == [False] * len(theirs)


@given(series_of, rule_sets, st.data())
def test_an_invented_date_in_the_past_pushes_nothing_out(
    series: list[Snapshot], rules: KeepRules, data: st.DataObject
) -> None:
    times = sorted({s.facts.time_ns for s in series})
    if len(times) < 3:
        return
    hours = data.draw(st.integers(1, 10_000))
    before = times[-2] - hours * 3600 * SECOND_NS  # older than two that come before it
    moment = datetime.fromtimestamp(before / SECOND_NS, UTC)
    invented = snapshot(moment, len(series) + 1, name="invented")
    verdicts = {v.snapshot.snapshot_id: v for v in plan([*series, invented], rules)}
    if verdicts[invented.snapshot_id].suspicion:
        assert verdicts[invented.snapshot_id].is_kept
        stay = kept(plan(series, rules)) - {series[-1].snapshot_id}
        assert all(verdicts[name].is_kept for name in stay)
    else:  # with so few, nobody can tell which is wrong; then those that differ all stay
        in_doubt = [s for s in series if s.facts.time_ns > ns(moment)]
        assert all(verdicts[s.snapshot_id].is_kept for s in in_doubt)


@given(series_of, rule_sets, st.integers(0, 24))
def test_a_receipt_that_differs_takes_a_snapshot_out_of_the_counting(
    series: list[Snapshot], rules: KeepRules, place: int
) -> None:
    doubted = series[place % len(series)]
    received = {doubted.snapshot_id: doubted.facts.end_ns + 25 * 3600 * SECOND_NS}
    verdicts = plan_forget(series, rules, NOW_NS, receipts=received)
    (verdict,) = [v for v in verdicts if v.suspicion]
    assert verdict.snapshot is doubted and verdict.is_kept
    rest = [s for s in series if s is not doubted]
    assert kept(plan(rest, rules)) - {s.snapshot_id for s in rest[-1:]} <= kept(verdicts)


def imported(item: Snapshot) -> Snapshot:
    origin = Origin(OriginKind.IMPORTED, None, None, 0)
    return replace(item, facts=replace(item.facts, origin=origin))


@pytest.mark.parametrize(
    ("change", "late_h", "is_doubted"),
    [
        (lambda s: s, 23, False),
        (lambda s: s, 25, True),
        (lambda s: s, -25, True),
        (imported, 9999, False),
    ],
)
def test_receipts_and_imports(
    change: Callable[[Snapshot], Snapshot], late_h: int, is_doubted: bool
) -> None:
    item = change(SUNDAYS[0])
    receipts = {item.snapshot_id: item.facts.end_ns + late_h * 3600 * SECOND_NS}
    (verdict,) = plan_forget([item], KeepRules(last=1), NOW_NS, receipts=receipts)
    assert bool(verdict.suspicion) is is_doubted


def test_a_run_of_weeks_is_judged_by_its_end() -> None:
    long = replace(SUNDAYS[0], facts=replace(SUNDAYS[0].facts, end_ns=SUNDAYS[3].facts.time_ns))
    receipts = {long.snapshot_id: SUNDAYS[3].facts.time_ns + SECOND_NS}
    (verdict,) = plan_forget([long], KeepRules(last=1), NOW_NS, receipts=receipts)
    assert not verdict.suspicion


def test_times_and_ids_decide_the_order_of_what_came_at_once() -> None:
    moment = datetime(2019, 1, 1, tzinfo=UTC)
    twins = [snapshot(moment, 1, name=name) for name in "abc"]
    orders = [plan(list(order), KeepRules(last=1)) for order in (twins, twins[::-1])]
    assert all(a == b for a, b in pairwise(orders))
