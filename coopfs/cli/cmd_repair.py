"""``coopfs repair``: mend an index, distrust a writer, go on after a rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.adminkey import admin_key_option, required_admin_key
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.heads import Accepted
    from coopfs.ops.distrust import DistrustPlan
    from coopfs.ops.repair import RepairReport

SHOWN = 20  # on the screen; --json has all


@click.command("repair")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option(
    "--distrust",
    metavar="WRITER",
    help="Rely no more on what this writer (an id, or its host) has made: it was hacked.",
)
@click.option("--undo", is_flag=True, help="With --distrust: it was not hacked after all.")
@click.option(
    "--accept-rollback",
    is_flag=True,
    help="Go on although snapshots are missing that were there; this machine remembers it.",
)
@click.option(
    "--set-aside",
    "named",
    multiple=True,
    metavar="OBJECT",
    help="Take away this unreadable object under snapshots/, too; repeatable.",
)
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    dry_run: bool,
    distrust: str | None,
    undo: bool,
    accept_rollback: bool,
    named: tuple[str, ...],
    recovery_kit: Path | None,
) -> None:
    """Mend what is lost or damaged, from what is there.

    Packs in no index are put into it again from their own directories, index objects that
    cannot be read are replaced, packs that are not in the store any more leave the index,
    and objects under snapshots/ that nobody who writes to the archive has made are set
    aside. Nothing sound is touched; files that are hurt all the same are named, and the next
    snapshot stores again what its source still has. Needs the admin key.

    With --distrust nothing relies any more on what a hacked host has written: see the manual.
    With --accept-rollback nothing is mended; what the store shows is taken for all there is.
    """
    modes = [distrust is not None, accept_rollback, bool(named)]
    if sum(modes) > 1:
        raise click.UsageError("--distrust, --accept-rollback and --set-aside go one at a time")
    if undo and distrust is None:
        raise click.UsageError("--undo goes with --distrust WRITER")
    if accept_rollback:
        _accept_rollback(ctx, dry_run)
    elif distrust is not None:
        _distrust(ctx, distrust, undo, dry_run, recovery_kit)
    else:
        _repair(ctx, named, dry_run, recovery_kit)


# --- mending ----------------------------------------------------------------------------


def _repair(
    ctx: Context, named: tuple[str, ...], is_dry_run: bool, recovery_kit: Path | None
) -> None:
    from coopfs.cli.findings import JsonView, TextView
    from coopfs.ops.repair import repair_archive

    view = JsonView(ctx) if ctx.json else TextView(ctx)
    with ctx.open_archive(refresh=False) as archive:
        admin = None if is_dry_run else required_admin_key(ctx, archive, recovery_kit, "repairing")
        with ctx.progress("repairing") as progress:
            report = repair_archive(
                archive,
                admin,
                is_dry_run=is_dry_run,
                progress=progress,
                named=named,
                on_hurt=view.show,
            )
            progress.close()
    if ctx.json:
        _emit(ctx, report, is_dry_run)
    else:
        _show(ctx, report, is_dry_run)


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
            "set_aside": {name.hex(): why for name, why in report.strangers.certain.items()},
            "copies": None if report.copies is None else str(report.copies),
            "doubtful": {name.hex(): why for name, why in report.strangers.doubtful.items()},
            "hurt": report.hurt,
            "denial": report.denial or None,
            "duration_s": round(report.duration_s, 3),
        }
    )


def _show(ctx: Context, report: RepairReport, is_dry_run: bool) -> None:
    from coopfs.cli.render import count, printable

    would = "would be " if is_dry_run else ""
    strangers = report.strangers
    problems = [*report.bad_index.values(), *report.unreadable.values()]
    problems += strangers.certain.values()
    problems += [
        f"{problem}; it stays, as it may be real. If it is lost for good: "
        f'"coopfs repair --set-aside {name.hex()[:16]}"'
        for name, problem in strangers.doubtful.items()
    ]
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
    if strangers.certain:
        kept = "" if report.copies is None else f"; copies lie in {report.copies}"
        ctx.echo(
            f"{count(len(strangers.certain), 'object')} under snapshots/ that nobody needs {would}"
            f"set aside{kept}"
        )
    if report.denial:
        ctx.warn(
            f"the store does not let us delete ({report.denial}); what was replaced or set aside "
            "is ignored"
        )
    if report.is_needless:
        ctx.echo(f"nothing to repair: {count(report.index_objects, 'index object')} in order")
    elif report.hurt:
        ctx.warn(
            f"{count(report.hurt, 'file or folder', 'files or folders')} of snapshots, named "
            f"above, {'could' if is_dry_run else 'can'} not be read whole; the next snapshots "
            "store again what their sources still have"
        )
    elif not is_dry_run:
        ctx.echo("done; no file of a snapshot relies on what is gone")


# --- distrusting ------------------------------------------------------------------------


def _distrust(
    ctx: Context, name: str, is_undo: bool, is_dry_run: bool, recovery_kit: Path | None
) -> None:
    from coopfs.ops.distrust import apply_distrust, find_writer, plan_distrust

    with ctx.open_archive() as archive:
        writer = find_writer(archive, name)
        admin = None
        if not is_dry_run:
            admin = required_admin_key(ctx, archive, recovery_kit, "distrusting a writer")
        with ctx.progress("looking") as progress:
            plan = plan_distrust(archive, writer, is_distrusted=not is_undo, progress=progress)
            progress.close()
        if not is_dry_run:
            apply_distrust(archive, plan, admin)
    if ctx.json:
        _emit_distrust(ctx, plan, is_dry_run)
    else:
        _show_distrust(ctx, plan, is_dry_run)


def _emit_distrust(ctx: Context, plan: DistrustPlan, is_dry_run: bool) -> None:
    reliance = plan.reliance
    ctx.emit_json(
        {
            "type": "distrust",
            "is_dry_run": is_dry_run,
            "writer_id": plan.writer.writer_id.hex(),
            "host": plan.writer.host,
            "is_distrusted": plan.is_distrusted,
            "is_needless": plan.is_needless,
            "is_this_host": plan.is_own,
            "snapshots": [s.snapshot_id.hex() for s in plan.snapshots],
            "packs": plan.packs,
            "pack_len": plan.pack_len,
            "relying_snapshots": [s.snapshot_id.hex() for s in reliance.snapshots],
            "relied_chunks": reliance.chunks,
            "relied_len": reliance.length,
        }
    )


def _show_distrust(ctx: Context, plan: DistrustPlan, is_dry_run: bool) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count
    from coopfs.ids import short_hex

    name = f"writer {short_hex(plan.writer.writer_id)} of host {plan.writer.host}"
    if plan.is_needless:
        ctx.echo(f"{name} is {'distrusted' if plan.is_distrusted else 'trusted'} already")
        return
    would = "would be" if is_dry_run else "is"
    own = (
        f"{count(len(plan.snapshots), 'snapshot')} and {count(plan.packs, 'pack')} "
        f"({size_text(plan.pack_len)})"
    )
    if not plan.is_distrusted:
        ctx.echo(f"{name} {would} trusted again, with {own}")
        return
    ctx.echo(f"{name} {would} distrusted, with {own}")
    reliance = plan.reliance
    if reliance.snapshots:
        ctx.echo(
            f"{count(len(reliance.snapshots), 'snapshot')} by others rely on "
            f"{count(reliance.chunks, 'chunk')} ({size_text(reliance.length)}) in its packs alone; "
            "the next snapshots of those series store again what their sources still have"
        )
    else:
        ctx.echo("no snapshot by another relies on what is in its packs alone")
    if plan.is_own:
        ctx.warn("that is this host's own writer: it takes no snapshots until it is enrolled anew")
    if not is_dry_run:
        ctx.echo('"coopfs check --read-data" tells whether anything in its packs is poisoned')


# --- after a rollback -------------------------------------------------------------------


def _accept_rollback(ctx: Context, is_dry_run: bool) -> None:
    from coopfs.errors import Rollback

    with ctx.open_archive(refresh=False, is_for_reading=True) as archive:
        accepted: list[Accepted] = []
        if is_dry_run:
            try:
                archive.refresh()
                gaps = archive.objects.gaps(archive.heads.accepted_ids())
                problems = [gap.text for gap in gaps]
            except Rollback as exc:
                problems = [str(exc)]
            if ctx.json:
                ctx.emit_json({"type": "rollback", "problems": problems})
            for problem in problems or ["nothing is missing that this machine has seen"]:
                ctx.echo(problem)
            return
        accepted = archive.objects.accept_rollback()
        archive.refresh()
        for warning in archive.warnings:
            ctx.warn(warning)
    _show_accepted(ctx, accepted)


def _show_accepted(ctx: Context, accepted: list[Accepted]) -> None:
    from coopfs.cli.accepted import accepted_json, accepted_lines

    if ctx.json:
        ctx.emit_json({"type": "accepted", "missing": [accepted_json(item) for item in accepted]})
        return
    if not accepted:
        ctx.echo("nothing is missing that this machine has seen")
        return
    for line in accepted_lines(accepted):
        ctx.echo(line)
    ctx.echo('what is there counts from now on; "coopfs check" tells whether it is whole')
