"""Whose time cannot be right: against the series' numbers, the clock here, the store's receipt.

Pure functions.  A hacked host can date its snapshots as it likes, and a lying partner
can say that it got them whenever.  Neither may make rules let real snapshots go, so
whatever is in doubt is taken out of the counting; that it then stays for longer than it
need is the lesser evil (restic#22057).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import ClockFacts, SnapshotFacts
from coopfs.ids import ArchiveId, SnapshotId

NS: Final = 1_000_000_000
OFFSET_MAX_NS: Final = NS  # an offset over one second is pointed out: DESIGN, "Clock"
APART_MAX_S: Final = 2.0  # of two clocks, where one tells whole seconds only
DAY_NS: Final = 86_400 * 1_000_000_000  # a zone or a slow clock is forgiven, DESIGN "Data ..."

FUTURE: Final = "it lies in the future"
RECEIPT: Final = "it is more than a day from when the store got it"
ORDER: Final = "it is out of order with the numbers of its series"


def suspicions(
    series: Sequence[Snapshot], now_ns: int, receipts: Mapping[SnapshotId, int]
) -> dict[SnapshotId, str]:
    """Return the snapshots of one series whose time is in doubt, and why.

    *receipts*: when the store's clock saw them, ns, where known; a snapshot that was
    copied or imported keeps its old time and is not compared with that.  One that the admin
    key vouches for is in order with those of the same origin, by the numbers they had there.
    """
    found: dict[SnapshotId, str] = {}
    believed = []
    for snapshot in series:
        facts = snapshot.facts
        received_ns = receipts.get(snapshot.snapshot_id)
        # A snapshot's time is its run's start; it may be received long after.
        started_late = received_ns is not None and facts.time_ns > received_ns + DAY_NS
        ended_early = received_ns is not None and facts.end_ns < received_ns - DAY_NS
        if facts.time_ns > now_ns + DAY_NS:
            found[snapshot.snapshot_id] = FUTURE
        elif facts.origin is None and (started_late or ended_early):
            found[snapshot.snapshot_id] = RECEIPT
        else:
            believed.append(snapshot)
    for group in _by_origin(believed):
        in_order = certainly_in_order([s.facts.time_ns for s in group])
        for snapshot, is_in_order in zip(group, in_order, strict=True):
            if not is_in_order:
                found[snapshot.snapshot_id] = ORDER
    return found


def _by_origin(snapshots: Sequence[Snapshot]) -> list[list[Snapshot]]:
    """Return what was taken here, then what came from each other archive, all in order."""
    groups: dict[ArchiveId | None, list[tuple[int, int, SnapshotId, Snapshot]]] = {}
    for snapshot in snapshots:
        facts, origin = snapshot.facts, snapshot.facts.origin
        # A writer's own word that it only copied something must not free it from the order.
        is_foreign = snapshot.is_vouched and origin is not None
        key = origin.archive_id if is_foreign and origin else None
        number = origin.number if is_foreign and origin else facts.number
        group = groups.setdefault(key, [])
        group.append((number, facts.time_ns, snapshot.snapshot_id, snapshot))
    return [[item[3] for item in sorted(group)] for group in groups.values()]


def certainly_in_order(times: Sequence[int]) -> list[bool]:
    """Tell for each of *times* whether it is in every longest run that never goes back.

    One clock that was wrong for a while is thus told from all the others, and where
    either of two could be the wrong one, neither is certain.
    """
    up_to = _longest_ending(times)
    onward = _longest_ending([-time for time in reversed(times)])[::-1]
    longest = max(up_to, default=0)
    # In some longest run: as its member number up_to.  In every one: the only such member.
    rivals = Counter(
        here for here, rest in zip(up_to, onward, strict=True) if here + rest - 1 == longest
    )
    return [
        here + rest - 1 == longest and rivals[here] == 1
        for here, rest in zip(up_to, onward, strict=True)
    ]


def _longest_ending(times: Sequence[int]) -> list[int]:
    """Return the length of the longest run that never goes back and ends with each."""
    ends: list[int] = []  # the least time with which a run of each length ends
    lengths = []
    for time in times:
        place = bisect_right(ends, time)
        ends[place : place + 1] = [time]
        lengths.append(place + 1)
    return lengths


# --- of one snapshot, when it is taken or shown -----------------------------------


def clock_doubts(clock: ClockFacts | None) -> list[str]:
    """Return what is wrong with a host's clock, in words; nothing where nobody knows."""
    if clock is None or not clock.source:
        return []
    doubts = []
    if _is_unkept(clock):
        doubts.append(_unkept_text(clock))
    if abs(clock.offset_ns) > OFFSET_MAX_NS:
        doubts.append(f"the clock is {apart_text(-clock.offset_ns / NS)} {clock.source}")
    return doubts


def snapshot_doubts(
    facts: SnapshotFacts, previous: Snapshot | None, partner_ahead_s: float | None
) -> list[str]:
    """Return why the date of a snapshot just taken may be wrong, in words.

    *partner_ahead_s*: how far the partner's clock is ahead of ours, where it is known.
    """
    doubts = clock_doubts(facts.clock)
    is_measured = facts.clock is not None and facts.clock.is_synchronised
    if is_measured and partner_ahead_s is not None and abs(partner_ahead_s) > APART_MAX_S:
        doubts.append(
            f"the clock is {apart_text(-partner_ahead_s)} the partner's; one of them is wrong"
        )
    if previous is not None and is_dated_before(facts, previous.facts):
        doubts.append(
            f"its date lies {(previous.facts.time_ns - facts.time_ns) / NS:,.1f} s before that of "
            f"number {previous.facts.number}, which it follows: the clock was set back"
        )
    return doubts


def doubts_told_before(facts: SnapshotFacts, previous: Snapshot | None) -> list[str]:
    """Return those of :func:`snapshot_doubts` that the run before has warned about already.

    Only that nobody keeps the clock: on most virtual machines and in containers that is so
    every night, and a warning that comes every night is one that nobody reads.
    """
    clock, before = facts.clock, previous.facts.clock if previous else None
    if clock is None or before is None or not (_is_unkept(clock) and _is_unkept(before)):
        return []
    return [_unkept_text(clock)]


def _is_unkept(clock: ClockFacts) -> bool:
    return bool(clock.source) and not clock.is_synchronised


def _unkept_text(clock: ClockFacts) -> str:
    # A partner only tells how far the clocks are apart.
    how = "compared with" if clock.source.startswith("coop://") else "says"
    return f"the clock is not synchronised ({how} {clock.source})"


def apart_text(ahead_s: float) -> str:
    """Return "3.0 s ahead of" or "3.0 s behind", for a clock and what it is compared with."""
    return f"{abs(ahead_s):,.1f} s " + ("ahead of" if ahead_s > 0 else "behind")


def is_dated_before(facts: SnapshotFacts, previous: SnapshotFacts) -> bool:
    """Tell whether a snapshot's date lies before that of the one it follows."""
    return facts.time_ns < previous.time_ns
