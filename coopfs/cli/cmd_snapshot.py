"""``coopfs snapshot``: take files, folders or a stream into the archive."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from coopfs.archive.effort import EFFORTS
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.ops.snapshot import SnapshotReport, SnapshotRequest

PROBLEMS_SHOWN = 20  # on the screen; the snapshot keeps the first thousand
_INTERVAL = re.compile(r"(\d+)\s*(s|m|min|h|d)?\Z", re.IGNORECASE)
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@click.command("snapshot")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--stdin-name", metavar="NAME", help="Take standard input as the file NAME.")
@click.option("--series", metavar="NAME", help="The series this snapshot continues.")
@click.option("--host", metavar="NAME", help="Refuse to run unless this host has that name.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="Tag the snapshot (repeatable).")
@click.option("--description", default="", metavar="TEXT", help="Describe the snapshot.")
@click.option(
    "-e",
    "--exclude",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Leave out what matches, as in .gitignore (repeatable).",
)
@click.option(
    "--exclude-file",
    "pattern_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read patterns from FILE, one a line (repeatable).",
)
@click.option("--exclude-caches", is_flag=True, help="Leave out folders with a CACHEDIR.TAG.")
@click.option("-x", "--one-file-system", is_flag=True, help="Do not enter mounted file systems.")
@click.option("--ignore-inode", is_flag=True, help="Do not read again because inodes changed.")
@click.option("--ignore-ctime", is_flag=True, help="Do not read again because ctimes changed.")
@click.option(
    "--partial-interval",
    metavar="TIME",
    help="Commit a partial snapshot every TIME, such as 4h; 0 for never.",
)
@click.option(
    "--compression",
    type=click.Choice(EFFORTS),
    help="How hard to compress; auto: as hard as the store leaves time for.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Read everything, store nothing.")
@click.pass_obj
def command(ctx: Context, /, **options: Any) -> int:
    """Take PATHs into the archive as a new snapshot, or a stream with --stdin-name.

    Paths keep their place from the root: /home/ann appears as home/ann. Only what
    changed since the last snapshot of the series is read, and only what the archive
    does not have is stored.

    Exit codes: 0 done; 3 the snapshot was taken, but some sources could not be read;
    130 interrupted (the next run continues).
    """
    from coopfs.archive.allocator import prepare_bulk_work
    from coopfs.errors import EXIT_DONE, EXIT_SOURCES_UNREADABLE
    from coopfs.ops.snapshot import take_snapshot

    prepare_bulk_work()
    settings = ctx.load_settings()
    if options["host"] not in (None, settings.host):
        raise click.UsageError(
            f"this host is enrolled as {settings.host!r}; it cannot take snapshots for "
            f"{options['host']!r} (see coopfs writer --help)"
        )
    request = _request(options, settings)
    for pattern in request.rules.excludes.useless:
        raise click.UsageError(
            f"--exclude {os.fsdecode(pattern)!r}: this pattern can match nothing; "
            "patterns are written as in .gitignore"
        )
    with ctx.open_archive() as archive, ctx.progress("reading") as progress:
        report = take_snapshot(archive, request, progress, _stop_on_signal())
        progress.close()
        _render(ctx, archive, request, report)
    return EXIT_SOURCES_UNREADABLE if report.facts.problem_count else EXIT_DONE


def _request(options: dict[str, Any], settings: Any) -> SnapshotRequest:
    from coopfs.ops.exclude import Excludes, read_exclude_file
    from coopfs.ops.folder import WalkRules
    from coopfs.ops.roots import absolute_paths, default_series
    from coopfs.ops.snapshot import SnapshotRequest
    from coopfs.ops.witness import WitnessRules

    stdin_name: str | None = options["stdin_name"]
    paths = absolute_paths(options["paths"])
    if bool(paths) == (stdin_name is not None):
        raise click.UsageError("give one PATH or more, or --stdin-name for standard input")
    patterns: list[bytes] = [os.fsencode(pattern) for pattern in options["patterns"]]
    for file in options["pattern_files"]:
        patterns.extend(read_exclude_file(file))
    series = options["series"]
    if series is None:
        named = settings.series_for(tuple(os.fsdecode(path) for path in paths)) if paths else None
        series = named or default_series(paths or (os.fsencode(str(stdin_name)),))
    interval = options["partial_interval"]
    return SnapshotRequest(
        paths=paths,
        rules=WalkRules(
            excludes=Excludes.from_patterns(patterns),
            one_file_system=options["one_file_system"],
            exclude_caches=options["exclude_caches"],
            witness=WitnessRules(options["ignore_inode"], options["ignore_ctime"]),
        ),
        series=series,
        stdin_name=stdin_name,
        excludes=tuple(pattern.decode("utf-8", "replace") for pattern in patterns),
        tags=options["tags"],
        description=options["description"],
        is_dry_run=options["dry_run"],
        compression=options["compression"],
        partial_interval_s=(
            settings.partial_interval_s if interval is None else _parse_interval(interval)
        ),
    )


def _parse_interval(text: str) -> int:
    match = _INTERVAL.match(text.strip())
    if not match:
        raise click.UsageError(f"--partial-interval {text!r}: expected a time such as 30m or 4h")
    return int(match[1]) * _SECONDS[(match[2] or "s").lower()]


def _stop_on_signal() -> Any:
    """Let the first SIGINT or SIGTERM end the run in good order, the second at once."""
    asked: list[int] = []

    def handler(signum: int, frame: FrameType | None) -> None:
        asked.append(signum)
        if len(asked) > 1:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    return lambda: bool(asked)


def _render(
    ctx: Context, archive: Archive, request: SnapshotRequest, report: SnapshotReport
) -> None:
    from dataclasses import asdict

    from coopfs.archive.select import folder_name
    from coopfs.cli.progress import path_text, size_text
    from coopfs.cli.render import printable
    from coopfs.ids import short_hex

    facts, counts = report.facts, report.facts.counts
    for problem in facts.problems[:PROBLEMS_SHOWN]:
        ctx.warn(printable(f"{path_text(problem.path)}: {problem.reason}"))
    if facts.problem_count > PROBLEMS_SHOWN:
        ctx.warn(f"and {facts.problem_count - PROBLEMS_SHOWN} more that could not be read whole")
    for doubt in report.clock_doubts:
        if ctx.verbosity or doubt not in report.doubts_told_before:
            ctx.warn(f"the date of this snapshot may be wrong: {doubt}")
    snapshot_id = report.snapshot.snapshot_id.hex() if report.snapshot else None
    if ctx.json:
        ctx.emit_json(
            {
                "type": "summary",
                "dry_run": request.is_dry_run,
                "snapshot": snapshot_id,
                "parent": report.parent.hex() if report.parent else None,
                "host": facts.host,
                "series": facts.series,
                "number": facts.number,
                **{name: getattr(counts, name) for name in counts.__slots__},
                "problems": [
                    {"path": os.fsdecode(p.path), "reason": p.reason} for p in facts.problems
                ],
                "problem_count": facts.problem_count,
                "clock": asdict(facts.clock) if facts.clock else None,
                "clock_doubts": list(report.clock_doubts),
                "seconds": round(report.duration_s, 3),
            }
        )
        return
    ctx.echo(
        f"files: {counts.files_new:,} new, {counts.files_changed:,} changed, "
        f"{counts.files_unchanged:,} unchanged"
    )
    ctx.echo(
        f"bytes: {size_text(counts.size)} in all, {size_text(counts.read)} read, "
        f"{size_text(counts.new)} new, {size_text(counts.stored)} stored"
    )
    place = f"{facts.host}/{facts.series}/{folder_name(facts)}"
    if report.snapshot is None:
        ctx.echo(f"dry run: nothing was stored ({report.duration_s:.1f} s)")
    else:
        label = short_hex(report.snapshot.snapshot_id)
        ctx.echo(f"snapshot {label} saved: {place} ({report.duration_s:.1f} s)")
