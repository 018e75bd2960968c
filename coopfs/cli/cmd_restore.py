"""``coopfs restore``: copy a snapshot, or a part of it, into a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.choose import choose, choosing_options
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.snapshots import Snapshot
    from coopfs.format.snapshot import Problem
    from coopfs.ops.restore import RestoreReport, RestoreRequest
    from coopfs.ops.selection import Selection

PROBLEMS_SHOWN = 20  # on the screen as they happen; --json has the first thousand
OVERWRITE = ("if-changed", "if-newer", "always", "never")


@click.command("restore")
@click.argument("spec", metavar="SNAPSHOT[:PATH]")
@click.option(
    "-t",
    "--target",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="The folder to restore into; made if it is not there.",
)
@click.option(
    "-i",
    "--include",
    "includes",
    multiple=True,
    metavar="PATTERN",
    help="Only what matches, as in .gitignore, and all below it (repeatable).",
)
@click.option(
    "-e",
    "--exclude",
    "excludes",
    multiple=True,
    metavar="PATTERN",
    help="Leave out what matches, and all below it (repeatable).",
)
@click.option(
    "--exclude-file",
    "exclude_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read such patterns from FILE, one a line (repeatable).",
)
@click.option(
    "--overwrite",
    type=click.Choice(OVERWRITE),
    default=OVERWRITE[0],
    show_default=True,
    help="Which files that are in DIR already to write again.",
)
@click.option(
    "--numeric-owner", is_flag=True, help="Owners by number; else by name, if known here."
)
@click.option("--verify", "is_verifying", is_flag=True, help="Read again what was written.")
@click.option(
    "-n", "--dry-run", "is_dry_run", is_flag=True, help="Write nothing; with -v list all."
)
@choosing_options
@click.pass_obj
def command(
    ctx: Context,
    *,
    spec: str,
    target: str,
    includes: tuple[str, ...],
    excludes: tuple[str, ...],
    exclude_files: tuple[Path, ...],
    overwrite: str,
    numeric_owner: bool,
    is_verifying: bool,
    is_dry_run: bool,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
) -> int:
    """Copy a snapshot, or what is at PATH in it, into DIR.

    A folder's content goes right into DIR, a single file into DIR under its name. Run
    again it goes on: a file of the right size and modification time is kept (with
    --verify its content is compared first). Nothing outside DIR is ever written.

    Exit code 1 when something could not be restored; the rest is then there.
    """
    from coopfs.archive.allocator import prepare_bulk_work
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.format.snapshot import State
    from coopfs.ops.restore import RestoreRequest, restore
    from coopfs.ops.restore_plan import Overwrite

    if not target:  # as a path that would be the folder one happens to be in
        raise click.UsageError("--target is empty (a variable that is not set?)")
    prepare_bulk_work()
    selection = _selection(includes, excludes, exclude_files)
    with ctx.open_archive(is_for_reading=True, goes_first=True) as archive:
        snapshot, path = choose(archive, spec, host, series, tags)
        request = RestoreRequest(
            target=os.fsencode(target),
            path=path,
            selection=selection,
            overwrite=Overwrite(overwrite),
            numeric_owner=numeric_owner,
            is_dry_run=is_dry_run,
            is_verifying=is_verifying,
        )
        if snapshot.facts.state is State.PARTIAL:
            ctx.warn("this snapshot is partial: it was taken in the middle of a long run")
        talk = _Talk(ctx)
        with ctx.progress("restoring") as progress:
            report = restore(
                archive,
                snapshot,
                request,
                progress=progress,
                on_problem=talk.problem,
                on_path=talk.path if ctx.verbosity and not ctx.json else None,
            )
    _render(ctx, snapshot, request, report)
    return EXIT_FAILED if report.problem_count else EXIT_DONE


def _selection(
    includes: tuple[str, ...], excludes: tuple[str, ...], exclude_files: tuple[Path, ...]
) -> Selection:
    from coopfs.ops.exclude import Excludes, read_exclude_file
    from coopfs.ops.selection import Selection

    left_out = [os.fsencode(pattern) for pattern in excludes]
    for file in exclude_files:
        left_out.extend(read_exclude_file(file))
    chosen = Selection(Excludes.from_patterns(includes), Excludes.from_patterns(left_out))
    useless = (*chosen.includes.useless, *chosen.excludes.useless)
    if useless:
        raise click.UsageError(f"pattern {os.fsdecode(useless[0])!r} cannot match anything")
    if includes and chosen.includes.is_empty:
        raise click.UsageError("--include with nothing but patterns that take back")
    return chosen


class _Talk:
    """Tells what happens while it happens."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._told = 0

    def problem(self, problem: Problem) -> None:
        from coopfs.cli.progress import path_text
        from coopfs.cli.render import printable

        self._told += 1
        if self._told <= PROBLEMS_SHOWN:
            self._ctx.warn(printable(f"{path_text(problem.path)}: {problem.reason}"))

    def path(self, path: bytes) -> None:
        from coopfs.cli.progress import path_text
        from coopfs.cli.render import printable

        self._ctx.info(printable(path_text(path)))


def _render(
    ctx: Context, snapshot: Snapshot, request: RestoreRequest, report: RestoreReport
) -> None:
    from coopfs.cli.progress import path_text, size_text
    from coopfs.cli.render import printable
    from coopfs.ids import short_hex

    if ctx.json:
        ctx.emit_json(_json(snapshot, request, report))
        return
    counts = report.counts
    if report.problem_count > PROBLEMS_SHOWN:
        ctx.warn(f"and {report.problem_count - PROBLEMS_SHOWN:,} more problems")
    for what, count in report.left_out:
        ctx.warn(f"{what} ({count:,} times)")
    parts = [f"{counts.files:,} files", f"{counts.folders:,} folders"]
    parts += [f"{counts.links:,} hard links"] if counts.links else []
    parts += [f"{counts.others:,} others"] if counts.others else []
    verb = "to restore" if request.is_dry_run else "restored"
    ctx.echo(f"{verb}: {', '.join(parts)}; {size_text(counts.written)}")
    if counts.files_kept or report.skipped:
        ctx.echo(f"there already: {counts.files_kept:,} right, {report.skipped:,} left as they are")
    if request.is_verifying:
        ctx.echo(f"verified: {report.verified:,} files read and compared")
    if report.problem_count:
        ctx.warn(f"{report.problem_count:,} could not be restored, or not whole; see above")
    where = printable(path_text(request.target))
    label = short_hex(snapshot.snapshot_id)
    if request.is_dry_run:
        ctx.echo(f"dry run of snapshot {label} into {where}: nothing was written")
    else:
        ctx.echo(f"snapshot {label} is in {where} ({report.duration_s:.1f} s)")


def _json(snapshot: Snapshot, request: RestoreRequest, report: RestoreReport) -> dict[str, object]:
    counts = report.counts
    return {
        "type": "summary",
        "snapshot": snapshot.snapshot_id.hex(),
        "path": os.fsdecode(request.path),
        "target": os.fsdecode(request.target),
        "dry_run": request.is_dry_run,
        "files": counts.files,
        "folders": counts.folders,
        "hard_links": counts.links,
        "others": counts.others,
        "written": counts.written,
        "files_kept": counts.files_kept,
        "skipped": report.skipped,
        "verified": report.verified,
        "left_out": [{"what": what, "count": count} for what, count in report.left_out],
        "problems": [{"path": os.fsdecode(p.path), "reason": p.reason} for p in report.problems],
        "problem_count": report.problem_count,
        "seconds": round(report.duration_s, 3),
    }
