"""``coopfs snapshots``: what there is, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.accepted import accepted_json, accepted_lines
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coopfs.archive.snapshots import Snapshot
    from coopfs.format.snapshot import ClockFacts
    from coopfs.ids import SnapshotId


@click.command("snapshots")
@click.option("--host", metavar="NAME", help="Only this host's.")
@click.option("--series", metavar="NAME", help="Only this series'.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only those with TAG; repeatable."
)
@click.option("-l", "--long", "is_long", is_flag=True, help="More about each, its clock included.")
@click.pass_obj
def command(
    ctx: Context, host: str | None, series: str | None, tags: tuple[str, ...], is_long: bool
) -> None:
    """List the snapshots of the archive, oldest first.

    The last line is the archive's fingerprint: six words that every machine shows
    alike that sees the same archive.
    """
    from coopfs.archive.words import heads_fingerprint

    with ctx.open_archive(may_be_away=True, is_for_reading=True) as archive:
        everything = archive.snapshots()
        fingerprint = heads_fingerprint(archive.heads.all())
        name = archive.settings.name
        accepted = archive.heads.accepted()
    chosen = [
        snapshot
        for snapshot in everything
        if host in (None, snapshot.facts.host)
        and series in (None, snapshot.facts.series)
        and set(tags) <= set(snapshot.tags)
    ]
    known = {snapshot.snapshot_id: snapshot for snapshot in everything}
    if ctx.json:
        for snapshot in chosen:
            ctx.emit_json(_json(snapshot, known))
        ctx.emit_json(
            {
                "type": "archive",
                "snapshots": len(everything),
                "fingerprint": fingerprint,
                "accepted_missing": [accepted_json(item) for item in accepted],
            }
        )
        return
    if not everything:
        ctx.echo(f'Archive {name!r} has no snapshots yet; "coopfs snapshot PATH" takes one.')
        for line in accepted_lines(accepted):
            ctx.echo(line)
        return
    for line in _long(chosen, known) if is_long else _short(chosen):
        ctx.echo(line)
    counted = f"{len(chosen)} of {len(everything)}" if chosen != everything else f"{len(chosen)}"
    plural = "" if counted == "1" else "s"
    if accepted:
        ctx.echo()
    for line in accepted_lines(accepted):
        ctx.echo(line)
    ctx.echo(f"\n{counted} snapshot{plural}; fingerprint: {fingerprint}")


def _short(snapshots: list[Snapshot]) -> list[str]:
    from coopfs.archive.select import local_time
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import table
    from coopfs.ids import short_hex

    rows = []
    for snapshot in snapshots:
        facts = snapshot.facts
        rows.append(
            (
                short_hex(snapshot.snapshot_id),
                local_time(facts).strftime("%Y-%m-%d %H:%M:%S"),
                facts.host,
                facts.series,
                str(facts.number),
                _state_text(snapshot) + (", held" if snapshot.is_held else ""),
                f"{facts.counts.files:,}",
                size_text(facts.counts.size),
                " ".join(snapshot.tags),
            )
        )
    titles = ("ID", "TIME", "HOST", "SERIES", "NUMBER", "STATE", "FILES", "SIZE", "TAGS")
    return table(titles, rows, right="NUMBER FILES SIZE")


def _long(snapshots: list[Snapshot], known: Mapping[SnapshotId, Snapshot]) -> list[str]:
    from coopfs.cli.progress import path_text
    from coopfs.cli.render import printable

    lines: list[str] = []
    for snapshot in snapshots:
        if lines:
            lines.append("")
        lines.append(f"snapshot {snapshot.snapshot_id.hex()}")
        lines += [
            f"  {title:<9} {printable(text)}" for title, text in _facts(snapshot, known) if text
        ]
        for problem in snapshot.facts.problems:
            lines.append(printable(f"            {path_text(problem.path)}: {problem.reason}"))
    return lines


def _facts(snapshot: Snapshot, known: Mapping[SnapshotId, Snapshot]) -> list[tuple[str, str]]:
    from coopfs.archive.select import local_time
    from coopfs.cli.progress import path_text, size_text
    from coopfs.ids import short_hex

    facts = snapshot.facts
    counts = facts.counts
    zone = f"{local_time(facts):%z} {facts.zone_name}".rstrip()
    files = f"{counts.files_new:,} new, {counts.files_changed:,} changed, "
    files += f"{counts.files_unchanged:,} unchanged"
    holds = f"{counts.files:,} files, {counts.folders:,} folders, {counts.others:,} others, "
    return [
        ("time", f"{local_time(facts):%Y-%m-%d %H:%M:%S} {zone}"),
        ("took", f"{max(facts.end_ns - facts.time_ns, 0) / 1e9:.1f} s"),
        ("clock", _clock_text(facts.clock)),
        ("", _order_text(snapshot, known)),
        ("series", f"{facts.host}/{facts.series}, number {facts.number}"),
        ("state", _state_text(snapshot)),
        ("previous", " ".join(short_hex(item) for item in facts.previous) or "none"),
        ("sources", " ".join(path_text(path) for path in facts.sources)),
        ("excludes", " ".join(facts.excludes)),
        ("tags", " ".join(snapshot.tags)),
        ("held", "never let go by a rule" if snapshot.is_held else ""),
        ("about", snapshot.description),
        ("holds", holds + size_text(counts.size)),
        ("files", files),
        (
            "bytes",
            f"{size_text(counts.read)} read, {size_text(counts.new)} new, "
            f"{size_text(counts.stored)} stored",
        ),
        ("problems", f"{facts.problem_count:,}" if facts.problem_count else ""),
        ("origin", _origin_text(snapshot)),
        ("writer", f"{short_hex(facts.writer_id)}, coopfs {facts.version}"),
    ]


def _state_text(snapshot: Snapshot) -> str:
    state = snapshot.facts.state.name.lower()
    return f"{state}, DISTRUSTED" if snapshot.is_distrusted else state


def _clock_text(clock: ClockFacts | None) -> str:
    from coopfs.ops.suspicion import clock_doubts

    if clock is None:
        return "not asked about"
    if not clock.source:
        return "nobody answered: not checked"
    offset = f"{clock.offset_ns / 1e9:+.3f} s against {clock.source}"
    if clock.stratum:  # 0: it is not known
        offset += f", stratum {clock.stratum}"
    if not clock.is_synchronised:
        return f"NOT SYNCHRONISED; {offset}"
    return f"WRONG: {offset}" if clock_doubts(clock) else offset


def _order_text(snapshot: Snapshot, known: Mapping[SnapshotId, Snapshot]) -> str:
    after = _dated_after(snapshot, known)
    if after is None:
        return ""
    return f"DATED BEFORE number {after.facts.number}, which it follows: the clock was set back"


def _dated_after(snapshot: Snapshot, known: Mapping[SnapshotId, Snapshot]) -> Snapshot | None:
    """Return a snapshot that this one follows and whose date is later, or None."""
    from coopfs.ops.suspicion import is_dated_before

    before = [known[name] for name in snapshot.facts.previous if name in known]
    return next((one for one in before if is_dated_before(snapshot.facts, one.facts)), None)


def _origin_text(snapshot: Snapshot) -> str:
    from coopfs.ids import short_hex

    origin = snapshot.facts.origin
    if origin is None:
        return ""
    parts = [origin.kind.name.lower(), f"number {origin.number}"]
    if origin.archive_id is not None:
        parts.append(f"archive {short_hex(origin.archive_id)}")
    if origin.snapshot_id is not None:
        parts.append(f"snapshot {short_hex(origin.snapshot_id)}")
    return ", ".join(parts)


def _json(snapshot: Snapshot, known: Mapping[SnapshotId, Snapshot]) -> dict[str, Any]:
    from dataclasses import asdict

    from coopfs.archive.select import local_time

    facts = snapshot.facts
    return {
        "type": "snapshot",
        "id": snapshot.snapshot_id.hex(),
        "host": facts.host,
        "series": facts.series,
        "number": facts.number,
        "previous": [item.hex() for item in facts.previous],
        "time": local_time(facts).isoformat(),
        "time_ns": facts.time_ns,
        "end_ns": facts.end_ns,
        "zone": facts.zone_name,
        "clock": None if facts.clock is None else asdict(facts.clock),
        "is_dated_before_previous": _dated_after(snapshot, known) is not None,
        "root": facts.root.hex(),
        # Bytes that are not UTF-8 become lone surrogates, as Python's own names have them.
        "sources": [path.decode("utf-8", "surrogateescape") for path in facts.sources],
        "excludes": list(facts.excludes),
        "tags": list(snapshot.tags),
        "is_held": snapshot.is_held,
        "is_distrusted": snapshot.is_distrusted,
        "description": snapshot.description,
        "counts": asdict(facts.counts),
        "problem_count": facts.problem_count,
        "problems": [
            {"path": p.path.decode("utf-8", "surrogateescape"), "reason": p.reason}
            for p in facts.problems
        ],
        "state": facts.state.name.lower(),
        "writer_id": facts.writer_id.hex(),
        "version": facts.version,
        "origin": None
        if facts.origin is None
        else {
            "kind": facts.origin.kind.name.lower(),
            "archive_id": facts.origin.archive_id.hex() if facts.origin.archive_id else None,
            "snapshot_id": facts.origin.snapshot_id.hex() if facts.origin.snapshot_id else None,
            "number": facts.origin.number,
        },
    }
