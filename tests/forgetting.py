"""Snapshots for tests of what stays and what goes: only what the plan looks at is real."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from vectors import samples

from coopfs.archive.amendments import Words
from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import Origin, State
from coopfs.ids import SnapshotId

SECOND_NS = 1_000_000_000
NOW = datetime(2020, 1, 1, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * SECOND_NS


def ns(moment: datetime) -> int:
    """Return *moment* in nanoseconds since 1970."""
    return int(moment.timestamp()) * SECOND_NS


def snapshot(
    moment: datetime | str,
    number: int,
    *,
    host: str = "anna",
    series: str = "home",
    tags: tuple[str, ...] = (),
    state: State = State.COMPLETE,
    is_held: bool = False,
    origin: Origin | None = None,
    zone_s: int = 0,
    name: str = "",
) -> Snapshot:
    """Return a snapshot taken at *moment*; text is local time ("2019-09-01 11:00:00")."""
    if isinstance(moment, str):
        zone = timezone(timedelta(seconds=zone_s))
        moment = datetime.fromisoformat(moment).replace(tzinfo=zone)
    facts = replace(
        samples.SNAPSHOT,
        host=host,
        series=series,
        number=number,
        previous=(),
        time_ns=ns(moment),
        end_ns=ns(moment) + 60 * SECOND_NS,
        zone_offset_s=zone_s,
        tags=tags,
        state=state,
        origin=origin,
    )
    digest = hashlib.sha256(f"{host}/{series}/{number}/{moment}/{name}".encode()).digest()
    words = Words(tags, "", is_held) if is_held else None
    return Snapshot(SnapshotId(digest), facts, words)


def in_order(moments: list[datetime], **options: object) -> list[Snapshot]:
    """Return one series, numbered by time."""
    return [
        snapshot(moment, number, **options)  # type: ignore[arg-type]
        for number, moment in enumerate(sorted(moments), 1)
    ]
