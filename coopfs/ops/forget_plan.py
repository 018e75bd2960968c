"""Which snapshots stay and which go: a pure function of what is known about them.

The rules are restic's (its manual, "Removing snapshots according to a policy"), applied
to each series by itself, in the time zone each snapshot was taken in.  Three things
differ, so that invented dates push nothing real out: a snapshot whose time cannot be
right, or whose writer is distrusted, stays and counts for no rule; the newest of a series
always stays; and a partial one counts for none and goes once a complete one follows it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Final

from coopfs.archive.select import local_time
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import UsageError
from coopfs.format.snapshot import State
from coopfs.ids import SnapshotId
from coopfs.ops.suspicion import suspicions

UNLIMITED: Final = -1
_DURATION = re.compile(r"(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?\Z")


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of calendar time, as typed: ``2y5m7d3h``."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0

    def __str__(self) -> str:
        parts = ((getattr(self, item.name), item.name[0]) for item in fields(self))
        return "".join(f"{number}{unit}" for number, unit in parts if number) or "0h"

    def before(self, moment: datetime) -> datetime:
        """Return the moment that long before *moment*; a day that is not there carries over."""
        month = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        year, month = divmod(month, 12)
        if year < 1:
            return datetime.min.replace(tzinfo=moment.tzinfo)
        first = moment.replace(year=year, month=month + 1, day=1)
        try:
            return first + timedelta(days=moment.day - 1 - self.days, hours=-self.hours)
        except OverflowError:
            return datetime.min.replace(tzinfo=moment.tzinfo)


def parse_duration(text: str) -> Duration:
    """Read ``2y5m7d3h`` (UsageError)."""
    match = _DURATION.match(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(
            f"{text!r}: expected a duration such as 2y5m7d3h (years, months, days, hours)"
        )
    return Duration(*(int(number or 0) for number in match.groups()))


@dataclass(frozen=True, slots=True)
class KeepRules:
    """What to keep; a snapshot stays when any of them says so."""

    last: int = 0  # how many; UNLIMITED: all
    hourly: int = 0  # the newest of each of so many hours in which there is one
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: Duration | None = None  # all so shortly before the series' newest
    within_hourly: Duration | None = None  # the newest of each hour in that time
    within_daily: Duration | None = None
    within_weekly: Duration | None = None
    within_monthly: Duration | None = None
    within_yearly: Duration | None = None
    tags: tuple[frozenset[str], ...] = ()  # with all tags of one set; an empty one: without tags

    @property
    def is_empty(self) -> bool:
        """Whether they would keep nothing at all."""
        return self == KeepRules()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one snapshot, and why."""

    snapshot: Snapshot
    is_kept: bool
    reasons: tuple[str, ...]  # why it stays; why it goes
    suspicion: str = ""  # why its time is not believed, or all of it


def plan_forget(
    snapshots: Iterable[Snapshot],
    rules: KeepRules,
    now_ns: int,
    *,
    is_chosen: Callable[[Snapshot], bool] = lambda snapshot: True,
    receipts: Mapping[SnapshotId, int] | None = None,
) -> list[Verdict]:
    """Apply *rules* to those of *snapshots* that are chosen; by host, series and time.

    *snapshots* are all there are: what is suspicious, and what is newest, is a question
    of the whole series.  *receipts* says when the store's own clock saw a snapshot, ns.
    """
    series: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in snapshots:
        series.setdefault((snapshot.facts.host, snapshot.facts.series), []).append(snapshot)
    verdicts = []
    for key in sorted(series):
        verdicts += _plan_series(series[key], rules, now_ns, is_chosen, receipts or {})
    return verdicts


def plan_named(named: Iterable[Snapshot]) -> list[Verdict]:
    """Let go the snapshots that were named, whatever rules there are; not held ones."""
    verdicts = []
    for snapshot in sorted(named, key=_order):
        reason = HELD if snapshot.is_held else "named"
        verdicts.append(Verdict(snapshot, snapshot.is_held, (reason,)))
    return verdicts


HELD: Final = "held"
DISTRUSTED: Final = "its writer is distrusted"
NEWEST: Final = "newest of its series"
NEWEST_COMPLETE: Final = "newest complete one of its series"
NO_RULE: Final = "no rule keeps it"


def _order(snapshot: Snapshot) -> tuple[str, str, int, int, bytes]:
    facts = snapshot.facts
    return facts.host, facts.series, facts.time_ns, facts.number, snapshot.snapshot_id


def _by_number(snapshot: Snapshot) -> tuple[bool, int, int, bytes]:
    # What was copied here later, with a higher number, is not newer than what was taken here,
    # nor than what had a higher number where it comes from.
    facts, origin = snapshot.facts, snapshot.facts.origin
    is_own = origin is None or not snapshot.is_vouched
    number = facts.number if is_own or origin is None else origin.number
    return is_own, number, facts.time_ns, snapshot.snapshot_id


def _plan_series(
    everything: list[Snapshot],
    rules: KeepRules,
    now_ns: int,
    is_chosen: Callable[[Snapshot], bool],
    receipts: Mapping[SnapshotId, int],
) -> list[Verdict]:
    # A hacked host's word decides nothing, not even what is out of order.
    trusted = [s for s in everything if not s.is_distrusted]
    suspicious = suspicions(trusted, now_ns, receipts)
    suspicious |= {s.snapshot_id: DISTRUSTED for s in everything if s.is_distrusted}
    newest = max(trusted or everything, key=_by_number)
    complete = [s for s in trusted or everything if s.facts.state is State.COMPLETE]
    newest_complete = max(complete, key=_by_number, default=newest)
    chosen = sorted(filter(is_chosen, everything), key=_order)
    counted = [
        snapshot
        for snapshot in reversed(chosen)
        if snapshot.snapshot_id not in suspicious and snapshot.facts.state is State.COMPLETE
    ]
    by_rule = _apply(counted, rules)
    verdicts = []
    for snapshot in chosen:
        suspicion = suspicious.get(snapshot.snapshot_id, "")
        reasons = [HELD] if snapshot.is_held else []
        if suspicion:
            is_distrusted = suspicion == DISTRUSTED
            reasons.append(suspicion if is_distrusted else f"its time is doubtful: {suspicion}")
        if snapshot is newest:
            reasons.append(NEWEST)
        elif snapshot is newest_complete:
            reasons.append(NEWEST_COMPLETE)
        reasons += _tag_reasons(snapshot, rules)
        reasons += by_rule.get(snapshot.snapshot_id, ())
        why_not = NO_RULE
        if snapshot.facts.state is State.PARTIAL and not reasons:
            if newest_complete.facts.number > snapshot.facts.number and complete:
                why_not = "partial, and a complete one followed"
            else:
                reasons.append("partial, and no complete one followed yet")
        verdicts.append(Verdict(snapshot, bool(reasons), tuple(reasons or (why_not,)), suspicion))
    return verdicts


def _tag_reasons(snapshot: Snapshot, rules: KeepRules) -> list[str]:
    tags = set(snapshot.tags)
    return [
        f"tagged {', '.join(sorted(wanted))}" if wanted else "has no tag"
        for wanted in rules.tags
        if (wanted <= tags if wanted else not tags)
    ]


# --- counting -----------------------------------------------------------------


def _hour_of(moment: datetime) -> Hashable:
    # The hour that comes twice when summer ends is two.
    return moment.year, moment.month, moment.day, moment.hour, moment.utcoffset()


def _day_of(moment: datetime) -> Hashable:
    return moment.year, moment.month, moment.day


def _week_of(moment: datetime) -> Hashable:
    return moment.isocalendar()[:2]


def _month_of(moment: datetime) -> Hashable:
    return moment.year, moment.month


def _year_of(moment: datetime) -> Hashable:
    return moment.year


_PERIODS: Final[tuple[tuple[str, Callable[[datetime], Hashable]], ...]] = (
    ("hourly", _hour_of),
    ("daily", _day_of),
    ("weekly", _week_of),
    ("monthly", _month_of),
    ("yearly", _year_of),
)


class _Period:
    """One rule: the newest of each period, so many of them or so far back."""

    def __init__(
        self,
        title: str,
        key_of: Callable[[datetime], Hashable],
        left: int,
        since: datetime | None,
    ) -> None:
        self._title = title
        self._key_of = key_of
        self._left = left  # UNLIMITED: no limit
        self._since = since
        self._last: Hashable = None

    def reason(self, moment: datetime, *, is_oldest: bool) -> str:
        """Return why the next older snapshot, taken at *moment*, stays; "" if it need not."""
        if self._left == 0 or (self._since is not None and moment <= self._since):
            return ""
        key = self._key_of(moment)
        is_new = key != self._last
        if not is_new and not is_oldest:
            return ""
        self._last = key
        if self._left > 0:
            self._left -= 1
        return self._title if is_new else f"oldest {self._title}"


def _apply(newest_first: Sequence[Snapshot], rules: KeepRules) -> dict[SnapshotId, list[str]]:
    """Return why rules that count keep snapshots, for those that are kept."""
    if not newest_first:
        return {}
    latest = local_time(newest_first[0].facts)
    periods = [_Period(title, key_of, getattr(rules, title), None) for title, key_of in _PERIODS]
    for title, key_of in _PERIODS:
        within = getattr(rules, f"within_{title}")
        if within is not None:
            name = f"{title} within {within}"
            periods.append(_Period(name, key_of, UNLIMITED, within.before(latest)))
    since = None if rules.within is None else rules.within.before(latest)
    found: dict[SnapshotId, list[str]] = {}
    for place, snapshot in enumerate(newest_first):
        moment = local_time(snapshot.facts)
        is_oldest = place + 1 == len(newest_first)
        reasons = []
        if place < rules.last or rules.last == UNLIMITED:
            reasons.append("last")
        if since is not None and moment > since:
            reasons.append(f"within {rules.within}")
        reasons += filter(None, [p.reason(moment, is_oldest=is_oldest) for p in periods])
        if reasons:
            found[snapshot.snapshot_id] = reasons
    return found
