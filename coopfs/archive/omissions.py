"""Rollback and omission: what the store has shown and does not show any more.

Pure functions.  A snapshot is gone only when a record with the admin's signature lets it
go; whatever else is gone was withheld, or the store was put back to an older copy.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from coopfs.archive.heads import Head
from coopfs.format.snapshot import SnapshotFacts
from coopfs.ids import SnapshotId, short_hex

NAMED_MAX: Final = 5  # of one series, in a message


@dataclass(frozen=True, slots=True)
class Missing:
    """A snapshot that was seen here and that the store does not show."""

    snapshot_id: SnapshotId
    host: str
    series: str
    number: int
    facts: SnapshotFacts | None  # None: only its number is known (the local state was lost)


@dataclass(frozen=True, slots=True)
class Gap:
    """A snapshot that was never seen here, but that one which is there is based on."""

    snapshot_id: SnapshotId
    follower_id: SnapshotId
    follower: SnapshotFacts

    @property
    def text(self) -> str:
        """A sentence that names both."""
        facts = self.follower
        return (
            f"snapshot {short_hex(self.snapshot_id)}, on which number {facts.number} of "
            f"{facts.host}/{facts.series} ({short_hex(self.follower_id)}) is based, is "
            "not there, and nobody with the admin key let it go: withheld or deleted; "
            "ask the partner"
        )


def find_gaps(
    snapshots: Iterable[tuple[SnapshotId, SnapshotFacts]], explained: Collection[SnapshotId]
) -> list[Gap]:
    """Return what *snapshots* are based on and is neither among them nor *explained*."""
    items = list(snapshots)
    known = {snapshot_id for snapshot_id, _ in items} | set(explained)
    gaps = []
    for snapshot_id, facts in items:
        for previous in facts.previous:
            if previous not in known:
                known.add(previous)
                gaps.append(Gap(previous, snapshot_id, facts))
    return gaps


def continuing(
    snapshots: Iterable[tuple[SnapshotId, SnapshotFacts]],
    heads: Iterable[Head],
    previous_of: Mapping[SnapshotId, tuple[SnapshotId, ...]],
) -> tuple[list[Head], list[str]]:
    """Return the heads to adopt, and a sentence for each snapshot that leads to no known head."""
    known_heads = {(head.host, head.series): head for head in heads}
    by_series: dict[tuple[str, str], list[tuple[int, SnapshotId]]] = {}
    for snapshot_id, facts in snapshots:
        by_series.setdefault((facts.host, facts.series), []).append((facts.number, snapshot_id))
    adopted, strays = [], []
    for (host, series), items in by_series.items():
        known = known_heads.get((host, series))
        for number, snapshot_id in sorted(items, key=lambda item: item[0], reverse=True):
            if known is not None and number <= known.number:
                break
            if known is None or _leads_to(snapshot_id, known.snapshot_id, previous_of):
                adopted.append(Head(host, series, number, snapshot_id))
                break
            strays.append(
                f"snapshot {short_hex(snapshot_id)} of {host}/{series} does not "
                f"continue number {known.number}, the newest known here; was that "
                "host's state lost, or are there two hosts of this name?"
            )
    return adopted, strays


def _leads_to(
    snapshot_id: SnapshotId,
    known: SnapshotId,
    previous_of: Mapping[SnapshotId, tuple[SnapshotId, ...]],
) -> bool:
    """Tell whether the chain of *snapshot_id* leads back to *known*."""
    pending = [snapshot_id]
    seen: set[SnapshotId] = set()
    while pending:
        for previous in previous_of.get(pending.pop(), ()):
            if previous == known:
                return True
            if previous not in seen:
                seen.add(previous)
                pending.append(previous)
    return False


def rollback_message(
    missing: Iterable[Missing], newest: Mapping[tuple[str, str], SnapshotFacts]
) -> str:
    """Say what is missing since when, and what to do; *newest*: what is left of each series."""
    by_series: dict[tuple[str, str], list[Missing]] = {}
    for item in missing:
        by_series.setdefault((item.host, item.series), []).append(item)
    parts = []
    for key in sorted(by_series):
        items = sorted(by_series[key], key=lambda item: (item.number, item.snapshot_id))
        parts.append(f"{_of_series(items)}; {_what_is_left(items, newest.get(key))}")
    return (
        f"the store no longer shows snapshots which this machine has seen: {'; '.join(parts)}. It "
        "was put back to an older copy, or something is withheld; nobody with the admin key let "
        'go what is missing. Ask the partner before anything else; "coopfs repair '
        '--accept-rollback" goes on with what there is'
    )


def _of_series(items: list[Missing]) -> str:
    named = ", ".join(f"number {i.number} ({short_hex(i.snapshot_id)})" for i in items[:NAMED_MAX])
    if len(items) > NAMED_MAX:
        named += f" and {len(items) - NAMED_MAX} more up to number {items[-1].number}"
    dates = [taken_text(item.facts) for item in items if item.facts is not None]
    taken = ""
    if dates:
        taken = f", taken {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    return f"{named} of {items[0].host}/{items[0].series}{taken}"


def _what_is_left(items: list[Missing], newest: SnapshotFacts | None) -> str:
    if newest is None:
        return "nothing is left of that series"
    left = f"the newest that is left is number {newest.number}, taken {taken_text(newest)}"
    if newest.number > items[-1].number:
        return left
    return f"{left}, and all since is missing"


def taken_text(facts: SnapshotFacts) -> str:
    """Return when a snapshot was taken, in its own zone."""
    zone = timezone(timedelta(seconds=facts.zone_offset_s))
    moment = datetime.fromtimestamp(facts.time_ns // 1_000_000_000, UTC).astimezone(zone)
    return f"{moment:%Y-%m-%d %H:%M:%S}"
