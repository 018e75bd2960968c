"""``coopfs copy``: a second store for an archive, or its snapshots in another archive."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.context import Context
from coopfs.errors import EXIT_DONE, EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.archive.settings import ArchiveSettings
    from coopfs.archive.snapshots import Snapshot
    from coopfs.format.keys import SigningKey
    from coopfs.ids import ObjectId
    from coopfs.ops.copy_snapshots import CopyPlan, CopyReport
    from coopfs.ops.mirror import Mirrored, MirrorPlan
    from coopfs.ops.mirror_trim import Trimmed
    from coopfs.store.base import Kind

PROBLEMS_SHOWN = 20  # on the screen; --json has all


@click.command("copy")
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]…")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="STORE|ARCHIVE",
    help="Where to: another store of this archive, or another archive of this host.",
)
@click.option("--host", metavar="NAME", help="Only this host's, into another archive.")
@click.option("--series", metavar="NAME", help="Only this series', into another archive.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only those with TAG; repeatable."
)
@click.option(
    "--delete", is_flag=True, help="What the archive has let go leaves the second store too."
)
@click.option(
    "--grace",
    default="7d",
    show_default=True,
    metavar="TIME",
    help="With --delete: how long it must have been missed: 7d, 12h.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be copied.")
@click.option(
    "--to-passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The passphrase of the other archive's keys.",
)
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    /,
    names: tuple[str, ...],
    target: str,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
    delete: bool,
    grace: str,
    dry_run: bool,
    to_passphrase_file: Path | None,
    recovery_kit: Path | None,
) -> int:
    """Copy the archive to a second store, or snapshots into another archive.

    Where STORE holds nothing, or this very archive, it becomes a copy of all of it, object
    by object, under the same keys: for a second partner, or a disk in a drawer. Read from it
    with --store.

    Another ARCHIVE has keys of its own: there snapshots are opened and sealed anew, all or
    those named, and keep host, series, time and tags.

    What is there already is not sent again, whether by a run that was stopped or not.
    """
    from coopfs.cli.cmd_prune import parse_grace
    from coopfs.ops.copy_target import find_target

    grace_s = parse_grace(grace)
    with ctx.open_archive(is_for_reading=True) as archive:
        there = find_target(ctx.dirs, archive.settings, target)
        if there.archive_id != archive.settings.archive_id:
            if delete:
                raise UsageError("--delete is for a second store; in another archive: forget")
            chosen = _chosen(archive, names, host, series, tags)
            other = _open_other(ctx, there, to_passphrase_file)
            with other:
                admin = None if dry_run else _admin(ctx, other, recovery_kit)
                return _into_archive(ctx, archive, other, chosen, admin, bool(names), dry_run)
        if names or host or series or tags:
            raise UsageError(
                f"--to {there.shown_store} becomes a copy of all of the archive: a choice of "
                "snapshots goes into an archive of its own (coopfs init --archive NAME)"
            )
        if dry_run:
            return _plan_mirror(ctx, archive, there, is_deleting=delete)
        admin = _admin(ctx, archive, recovery_kit)
        return _mirror(ctx, archive, there, admin, grace_s if delete else None)


# --- the same archive ---------------------------------------------------------------


def _plan_mirror(
    ctx: Context, archive: Archive, there: ArchiveSettings, *, is_deleting: bool
) -> int:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count
    from coopfs.ops import mirror
    from coopfs.ops.copy_target import config_at
    from coopfs.ops.mirror_trim import superfluous
    from coopfs.store.open import open_store

    going: dict[Kind, dict[ObjectId, int]] = {}
    if config_at(there.store) is None:
        plan = mirror.plan_mirror(archive, None)
    else:
        lost = mirror.lost_in_copy(there.state_folder(ctx.dirs))
        with open_store(there.store) as store:
            plan = mirror.plan_mirror(archive, store, lost)
            if is_deleting:
                going = superfluous(archive, store)
    sizes = [size for found in going.values() for size in found.values()]
    _show_plan(ctx, there, plan, len(sizes), sum(sizes))
    if is_deleting:
        ctx.echo(
            f"would delete {count(len(sizes), 'object')} ({size_text(sum(sizes))}) that the "
            "archive has let go, once they were missed for the grace"
        )
    return EXIT_DONE


def _mirror(
    ctx: Context,
    archive: Archive,
    there: ArchiveSettings,
    admin: SigningKey | None,
    grace_s: float | None,
) -> int:
    """Copy, and with a grace also delete, in the second store."""
    from coopfs.archive.line import open_line
    from coopfs.ops import mirror
    from coopfs.ops.forget import checked_admin_key
    from coopfs.ops.mirror_trim import hidden_snapshots, trim_mirror
    from coopfs.ops.owner import act_as_owner, lend_owner

    folder = there.state_folder(ctx.dirs)
    lost = mirror.lost_in_copy(folder)
    if grace_s is not None:
        admin = checked_admin_key(archive, admin, "deleting in a copy")
    trimmed = None
    with mirror.open_mirror(archive, there.store) as store:
        store.keep_to(open_line(ctx.dirs, archive.settings, ctx.limits))
        lend_owner(store, archive.ring)
        plan = mirror.plan_mirror(archive, store, lost)
        if (
            not plan.snapshots_there
            and there.store.startswith("coop:")
            and not archive.ring.admin()
        ):
            ctx.warn(
                "the admin key is not on this machine: run this once where it is, so that the "
                "partner knows the archive's owner, who alone may delete and recover there"
            )
        for hidden in hidden_snapshots(archive, store, plan):
            ctx.warn(
                f"{there.shown_store} holds snapshot {hidden}, which {archive.store.address} does "
                "not show and nobody let go: was that put back to an older copy?"
            )
        with ctx.progress("copying") as progress:
            done = mirror.apply_mirror(archive, store, plan, progress)
            if grace_s is not None and admin is not None and not done.problems:
                act_as_owner(store, admin)
                trimmed = trim_mirror(archive, store, folder, plan, grace_s, progress)
            progress.close()
    mirror.note_mended(folder, plan.replaced.intersection(done.packs))
    _show_mirrored(ctx, there, plan, done, trimmed)
    return EXIT_FAILED if done.problems else EXIT_DONE


def _show_plan(
    ctx: Context, there: ArchiveSettings, plan: MirrorPlan, going: int, going_len: int
) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count

    if ctx.json:
        ctx.emit_json(
            {
                "type": "summary",
                "is_dry_run": True,
                "store": there.shown_store,
                "snapshots": plan.snapshots,
                "packs": len(plan.packs),
                "objects": plan.objects,
                "bytes": plan.size,
                "waiting": going,
                "waiting_bytes": going_len,
            }
        )
    ctx.echo(
        f"would send {count(plan.snapshots, 'snapshot')}: {size_text(plan.size)} in "
        f"{count(plan.objects, 'object')}; there already: "
        f"{count(plan.snapshots_there, 'snapshot')}, {count(plan.packs_there, 'pack')}"
    )


def _show_mirrored(
    ctx: Context,
    there: ArchiveSettings,
    plan: MirrorPlan,
    done: Mirrored,
    trimmed: Trimmed | None,
) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count, printable

    for problem in done.problems if ctx.json else done.problems[:PROBLEMS_SHOWN]:
        if ctx.json:
            ctx.emit_json({"type": "damage", "subject": "pack", "message": problem})
        else:
            ctx.warn(printable(problem))
    if ctx.json:
        ctx.emit_json(
            {
                "type": "summary",
                "is_dry_run": False,
                "store": there.shown_store,
                "snapshots": plan.snapshots,
                "packs": len(done.packs),
                "objects": done.objects,
                "bytes": done.sent_len,
                "mended": len(plan.replaced.intersection(done.packs)),
                "problems": len(done.problems),
                "deleted": trimmed.objects if trimmed else 0,
                "deleted_bytes": trimmed.size if trimmed else 0,
                "waiting": trimmed.waiting if trimmed else 0,
                "duration_s": round(done.duration_s, 3),
            }
        )
    ctx.echo(
        f"{there.shown_store}: {count(plan.snapshots, 'new snapshot')}, "
        f"{plan.snapshots_there:,} there already; sent {size_text(done.sent_len)} in "
        f"{count(done.objects, 'object')}, {done.duration_s:.1f} s"
    )
    if trimmed is not None:
        ctx.echo(
            f"deleted: {count(trimmed.objects, 'object')} ({size_text(trimmed.size)}) that the "
            f"archive has let go; {trimmed.waiting:,} more once they were missed for the grace"
        )
        if trimmed.denial:
            ctx.warn(f"the store does not let us delete ({trimmed.denial})")
    if done.problems:
        ctx.echo(
            f"INCOMPLETE: {count(len(done.problems), 'pack')} could not be copied, missing or "
            'damaged where the archive is; "coopfs check" names the files hurt'
        )


# --- another archive ----------------------------------------------------------------


def _chosen(
    archive: Archive,
    names: tuple[str, ...],
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
) -> list[Snapshot]:
    from coopfs.archive.select import resolve

    if names:
        found = (resolve(archive, name, host=host, series=series, tags=tags) for name in names)
        return list({snapshot.snapshot_id: snapshot for snapshot in found}.values())
    return [
        snapshot
        for snapshot in archive.snapshots()
        if host in (None, snapshot.facts.host)
        and series in (None, snapshot.facts.series)
        and set(tags) <= set(snapshot.tags)
    ]


def _open_other(ctx: Context, there: ArchiveSettings, passphrase_file: Path | None) -> Archive:
    from coopfs.archive.keyring import load_keyring
    from coopfs.cli.passphrase import Passphrases

    # Not the ones of this archive: the other's keys may be wrapped with another passphrase.
    passphrases = Passphrases(passphrase_file or ctx.passphrase_file)
    return ctx.open_with(there, load_keyring(ctx.dirs, there, passphrases))


def _admin(ctx: Context, other: Archive, recovery_kit: Path | None) -> SigningKey | None:
    from coopfs.cli.adminkey import optional_admin_key

    return optional_admin_key(ctx, other, recovery_kit)


def _into_archive(
    ctx: Context,
    archive: Archive,
    other: Archive,
    chosen: list[Snapshot],
    admin: SigningKey | None,
    is_named: bool,
    is_dry_run: bool,
) -> int:
    from coopfs.ops.copy_snapshots import copy_snapshots, plan_copy

    plan = plan_copy(archive, other, chosen, is_named=is_named)
    if is_dry_run:
        _show_copy(ctx, other, plan, None)
        return EXIT_DONE
    with ctx.progress("copying") as progress:
        report = copy_snapshots(archive, other, plan.wanted, admin, progress)
        progress.close()
    _show_copy(ctx, other, plan, report)
    return EXIT_FAILED if report.problems else EXIT_DONE


def _show_copy(ctx: Context, other: Archive, plan: CopyPlan, report: CopyReport | None) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count, printable
    from coopfs.ids import short_hex

    if ctx.json:
        _emit_copy(ctx, other, plan, report)
    name = other.settings.name
    also = f"{plan.there:,} there already"
    if plan.partial:
        also += f", {count(plan.partial, 'partial one')} left out"
    if plan.distrusted:
        also += f", {plan.distrusted:,} of distrusted writers left out"
    if report is None:
        for snapshot in plan.wanted:
            facts = snapshot.facts
            ctx.echo(
                f"would copy {short_hex(snapshot.snapshot_id)}, number {facts.number} of "
                f"{facts.host}/{facts.series}, {size_text(facts.counts.size)}"
            )
        ctx.echo(f"into archive {name}: {count(len(plan.wanted), 'snapshot')}, {also}")
        return
    for problem in report.problems:
        ctx.warn(printable(problem))
    for theirs, copy in report.copied:
        ctx.echo(
            f"{short_hex(theirs.snapshot_id)} is {short_hex(copy.snapshot_id)}, number "
            f"{copy.facts.number} of {copy.facts.host}/{copy.facts.series}"
        )
    ctx.echo(
        f"into archive {name}: {count(len(report.copied), 'snapshot')}, {also}; read "
        f"{size_text(report.read_len)}, new {size_text(report.new_len)}, stored "
        f"{size_text(report.stored_len)}, {report.duration_s:.1f} s"
    )
    if report.problems:
        ctx.echo(f"INCOMPLETE: {count(len(report.problems), 'snapshot')} could not be copied")


def _emit_copy(ctx: Context, other: Archive, plan: CopyPlan, report: CopyReport | None) -> None:
    for snapshot in plan.wanted if report is None else ():
        ctx.emit_json({"type": "planned", "snapshot": snapshot.snapshot_id.hex()})
    for theirs, copy in report.copied if report else ():
        ctx.emit_json(
            {
                "type": "copied",
                "snapshot": theirs.snapshot_id.hex(),
                "copy": copy.snapshot_id.hex(),
                "number": copy.facts.number,
            }
        )
    for problem in report.problems if report else ():
        ctx.emit_json({"type": "damage", "subject": "snapshot", "message": problem})
    summary: dict[str, object] = {
        "type": "summary",
        "is_dry_run": report is None,
        "archive": other.settings.name,
        "snapshots": len(plan.wanted) if report is None else len(report.copied),
        "there_already": plan.there,
        "partial": plan.partial,
        "distrusted": plan.distrusted,
    }
    if report is not None:
        summary |= {
            "problems": len(report.problems),
            "read": report.read_len,
            "new": report.new_len,
            "stored": report.stored_len,
            "duration_s": round(report.duration_s, 3),
        }
    ctx.emit_json(summary)
