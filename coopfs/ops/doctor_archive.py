"""What a doctor sees in an archive: are the snapshots fresh and whole, and was that proved?"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.select import local_time
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.words import heads_fingerprint
from coopfs.format.snapshot import State
from coopfs.ids import PackId
from coopfs.ops.audit import AuditResult, audits_text, past_audits
from coopfs.ops.doctor_findings import Report
from coopfs.ops.drill import drills_text, past_drills
from coopfs.ops.proofs import questions_left
from coopfs.ops.suspicion import NS, OFFSET_MAX_NS, clock_doubts, is_dated_before, suspicions
from coopfs.ops.wording import age_text, count, day_text

ENDED_TAG: Final = "ended"  # on the newest snapshot of a series: it is not meant to go on
RUNS_SEEN: Final = 10  # whose pace says what is usual
SLACK_S: Final = 3600.0  # nobody minds an hour
LONE_MAX_S: Final = 8 * 86_400.0  # a series of one snapshot is asked about then
PARTIAL_MAX_S: Final = 86_400.0  # the longest that a first full should stay without a word
SHRUNK_SHARE: Final = 0.5  # of the files of the snapshot before: was a disk not mounted?
SHRUNK_FILES_MIN: Final = 20
AUDIT_MAX_S: Final = 35 * 86_400.0  # monthly, and some days for holidays
LOST_SEEN_MAX: Final = 200_000  # chunks of lost packs that are looked for elsewhere
DAY_S: Final = 86_400.0


# --- snapshots ------------------------------------------------------------------


def look_at_snapshots(report: Report, archive: Archive) -> None:
    """Look at every series of every host."""
    groups: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in archive.snapshots():
        groups.setdefault((snapshot.facts.host, snapshot.facts.series), []).append(snapshot)
    if not groups:
        report.warn("snapshots", "there is no snapshot yet", '"coopfs snapshot PATH" takes one')
        return
    for (host, series), group in sorted(groups.items()):
        # What a hacked host goes on putting must not make its series look fresh.
        trusted = [snapshot for snapshot in group if not snapshot.is_distrusted] or group
        look_at_series(report, f"{host}/{series}", sorted(trusted, key=_number), time.time_ns())
    report.ok(
        "fingerprint",
        f"{heads_fingerprint(archive.heads.all())}: the same words on every machine that sees "
        "the same archive",
    )


def _number(snapshot: Snapshot) -> int:
    return snapshot.facts.number


def look_at_series(report: Report, name: str, group: Sequence[Snapshot], now_ns: int) -> None:
    """Look at one series, in the order of its numbers."""
    complete = [s for s in group if s.facts.state is State.COMPLETE and not s.is_distrusted]
    newest = group[-1]
    if newest.facts.state is State.PARTIAL:
        age_s = (now_ns - newest.facts.end_ns) / NS
        text = f"{name}: the last run was not finished, or goes on; it began " + day_text(
            newest.facts.time_ns
        )
        if age_s > PARTIAL_MAX_S:
            report.warn("partial", text, "take the snapshot again: it goes on there")
        else:
            report.note("partial", text)
    if not complete:
        report.warn("snapshots", f"{name}: no complete snapshot that can be trusted yet")
        return
    _look_at_age(report, name, complete, now_ns)
    _look_at_newest(report, name, complete)
    doubtful = suspicions(group, now_ns, {})
    if doubtful:
        reasons = ", ".join(sorted(set(doubtful.values())))
        report.note(
            "dates",
            f"{name}: the time of {count(len(doubtful), 'snapshot')} cannot be right ({reasons}); "
            "no rule counts them",
            '"coopfs snapshots --long" shows them',
        )


def _look_at_age(report: Report, name: str, complete: Sequence[Snapshot], now_ns: int) -> None:
    newest = complete[-1]
    age_s = (now_ns - newest.facts.time_ns) / NS
    usual_s, limit_s = pace(complete)
    text = f"{name}: newest complete snapshot {age_text(age_s)} old"
    if usual_s is not None:
        text += f", usually one every {age_text(usual_s)}"
    elif len(complete) == 1:
        text += ", the only one"
    if ENDED_TAG in newest.tags:
        report.note("age", f'{text}; tagged "{ENDED_TAG}"')
    elif age_s > limit_s:
        report.warn(
            "age",
            text,
            "see why no other was taken (cron? systemctl list-timers?); a series that is over: "
            f"coopfs tag --add {ENDED_TAG} {name}/latest",
        )
    else:
        report.ok("age", text)


def pace(complete: Sequence[Snapshot]) -> tuple[float | None, float]:
    """Return how many seconds usually lie between two runs, and how many are too many.

    Numbers count runs, so a thinned series tells as much as a whole one.  That backups
    rest at weekends, or stopped once, is allowed for.
    """
    own = [s.facts for s in complete if s.facts.origin is None][-RUNS_SEEN - 1 :]
    gaps = sorted(
        (after.time_ns - before.time_ns) / NS / (after.number - before.number)
        for before, after in pairwise(own)
        if after.time_ns > before.time_ns and after.number > before.number
    )
    if not gaps:
        return None, LONE_MAX_S
    usual_s = median(gaps)
    long_s = gaps[-2] if len(gaps) > 2 else usual_s
    return usual_s, max(2 * usual_s, 1.2 * long_s) + SLACK_S


def _look_at_newest(report: Report, name: str, complete: Sequence[Snapshot]) -> None:
    facts = complete[-1].facts
    if facts.problem_count:
        first = facts.problems[0] if facts.problems else None
        shown = (
            f", {first.path.decode('utf-8', 'backslashreplace')}: {first.reason}" if first else ""
        )
        report.warn(
            "unread",
            f"{name}: {count(facts.problem_count, 'source')} could not be read whole in the last "
            f"run{shown}",
            '"coopfs snapshots --long" lists them; exclude what need not be kept',
        )
    for doubt in clock_doubts(facts.clock):
        # That nobody keeps it is no fault of a run: this machine's is warned of as "clock".
        is_off = facts.clock is not None and abs(facts.clock.offset_ns) > OFFSET_MAX_NS
        tell = report.warn if is_off else report.note
        tell("dates", f"{name}: in the last run: {doubt}", "see to that host's clock")
    if len(complete) < 2:
        return
    before = complete[-2].facts
    if is_dated_before(facts, before):
        report.warn(
            "dates",
            f"{name}: number {facts.number} is dated before number {before.number}",
            "see to that host's clock",
        )
    had, has = before.counts.files, facts.counts.files
    if had >= SHRUNK_FILES_MIN and has < had * SHRUNK_SHARE:
        report.warn(
            "shrunk",
            f"{name}: the newest snapshot has {has:,} files, the one before had {had:,} "
            f"({local_time(before):%Y-%m-%d})",
            "was a disk not mounted? hold the old one until you know: coopfs hold",
        )


# --- what is missing --------------------------------------------------------------


def look_at_losses(report: Report, archive: Archive) -> None:
    """Look at packs that nothing relies on any more: lost ones, and those a prune has marked."""
    index = archive.index
    lost = index.lost().keys() & {pack.pack_id for pack in index.packs()}
    if not lost:
        report.ok("lost", "no pack is known to be lost or damaged")
    else:
        missing, is_all = _missing_chunks(archive, lost)
        text = f"{count(len(lost), 'pack')} found lost or damaged"
        if missing:
            shown = f"{missing:,}" + ("" if is_all else " or more")
            report.problem(
                "lost",
                f"{text}; {shown} chunks of them lie nowhere else",
                '"coopfs snapshot" sends again what its sources still have, "coopfs check" names '
                "the files hurt meanwhile",
            )
        else:
            report.note("lost", f"{text}; all that was in them lies elsewhere by now")
    marked = {pack.pack_id for pack in index.packs()} & index.marked()
    if marked:
        report.note(
            "prune",
            f"{count(len(marked), 'pack')} marked by a prune wait for their grace",
            'the next "coopfs prune" deletes those whose grace is over',
        )


def _missing_chunks(archive: Archive, lost: Set[PackId]) -> tuple[int, bool]:
    """Return how many chunks only *lost* packs have, and whether all were looked at."""
    index = archive.index
    seen: set[bytes] = set()
    missing = 0
    for pack in index.packs():
        if pack.pack_id not in lost:
            continue
        for block in index.blocks_of(pack.pack_no):
            fresh = set(block.chunk_ids) - seen
            seen |= fresh
            missing += sum(not index.has(chunk_id) for chunk_id in fresh)
            if len(seen) > LOST_SEEN_MAX:
                return missing, False
    return missing, True


# --- what was proved ----------------------------------------------------------------


def look_at_audits(report: Report, folder: Path, oldest_ns: int | None) -> None:
    """Look at how the audits on this machine went; *oldest_ns*: the oldest snapshot's time."""
    audits = past_audits(folder)
    now_ns = time.time_ns()
    advice = '"coopfs audit", weekly say, shows whether the store still has the data'
    if not audits:
        is_young = oldest_ns is None or now_ns - oldest_ns < AUDIT_MAX_S * NS
        (report.note if is_young else report.warn)(
            "audit", "no audit was made on this machine yet", advice
        )
        return
    last: AuditResult = audits[-1]
    text = f"last on {audits_text(audits)}"
    if not last.is_passed:
        report.problem(
            "audit", text, '"coopfs snapshot" sends again what it can, then "coopfs audit" again'
        )
    elif now_ns - last.time_ns > AUDIT_MAX_S * NS:
        report.warn(
            "audit", f"{text}; that is {age_text((now_ns - last.time_ns) / NS)} ago", advice
        )
    else:
        report.ok("audit", text)


def look_at_proofs(report: Report, archive: Archive) -> None:
    """Look at how many questions are left for a partner that can prove what it has."""
    if not archive.store.can_prove:
        return
    left = questions_left(archive)
    if not left.packs:
        return
    text = (
        f"{count(left.questions, 'question')} left, about {left.askable:,} of {left.packs:,} packs"
    )
    if left.askable < left.packs / 2:
        report.note("proofs", text, "audits read blocks of the others instead, over the line")
    else:
        report.ok("proofs", text)


def look_at_drills(report: Report, folder: Path) -> None:
    """Look at how the last restore drill on this machine went, if there was one."""
    drills = past_drills(folder)
    if not drills:
        return
    text = f"last on {drills_text(drills)}"
    if drills[-1].is_passed:
        report.ok("drill", text)
    else:
        report.problem("drill", text, '"coopfs check" names what is damaged')
