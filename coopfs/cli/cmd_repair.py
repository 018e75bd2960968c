"""``coopfs repair``: mend a lost or damaged index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.adminkey import admin_key_option, required_admin_key
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.repair import RepairReport

SHOWN = 20  # on the screen; --json has all


@click.command("repair")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@admin_key_option
@click.pass_obj
def command(ctx: Context, dry_run: bool, recovery_kit: Path | None) -> None:
    """Mend a lost or damaged index from the packs' own directories.

    Packs in no index are put into it again, index objects that cannot be read are
    replaced, and packs that are not in the store any more leave the index. Nothing sound
    is touched. Afterwards "coopfs check" names the files that are hurt all the same, and
    the next snapshot stores again what its source still has. Needs the admin key.
    """
    from coopfs.ops.repair import repair_index

    with ctx.open_archive(refresh=False) as archive:
        admin = None if dry_run else required_admin_key(ctx, archive, recovery_kit, "repairing")
        with ctx.progress("repairing") as progress:
            report = repair_index(archive, admin, is_dry_run=dry_run, progress=progress)
            progress.close()
    if ctx.json:
        _emit(ctx, report, dry_run)
    else:
        _show(ctx, report, dry_run)


def _emit(ctx: Context, report: RepairReport, is_dry_run: bool) -> None:
    ctx.emit_json(
        {
            "type": "summary",
            "is_dry_run": is_dry_run,
            "index_objects": report.index_objects,
            "bad_index": {name.hex(): why for name, why in report.bad_index.items()},
            "recovered": [name.hex() for name in report.recovered],
            "chunks": report.chunks,
            "missing": [name.hex() for name in report.missing],
            "unreadable": {name.hex(): why for name, why in report.unreadable.items()},
            "denial": report.denial or None,
            "duration_s": round(report.duration_s, 3),
        }
    )


def _show(ctx: Context, report: RepairReport, is_dry_run: bool) -> None:
    from coopfs.cli.render import count, printable

    would = "would be " if is_dry_run else ""
    problems = [*report.bad_index.values(), *report.unreadable.values()]
    for problem in problems[:SHOWN]:
        ctx.warn(printable(problem))
    if len(problems) > SHOWN:
        ctx.warn(f"and {len(problems) - SHOWN:,} more (--json has all)")
    if report.bad_index:
        ctx.echo(
            f"{count(len(report.bad_index), 'index object')} that cannot be read {would}replaced"
        )
    if report.recovered:
        ctx.echo(
            f"{count(len(report.recovered), 'pack')} in no index ({count(report.chunks, 'chunk')}) "
            f"{would}put into it again"
        )
    if report.missing:
        ctx.echo(
            f"{count(len(report.missing), 'pack')} that the store does not have any more {would}"
            "taken out of the index"
        )
    if report.unreadable:
        ctx.echo(
            f"{count(len(report.unreadable), 'pack')} in no index cannot be read and stay as "
            "they are; a prune deletes them"
        )
    if report.denial:
        ctx.warn(
            f"the store does not let us delete ({report.denial}); what was replaced is ignored"
        )
    if report.is_needless:
        ctx.echo(f"nothing to repair: {count(report.index_objects, 'index object')} in order")
    elif not is_dry_run:
        ctx.echo('done; "coopfs check" tells whether any file is hurt all the same')
