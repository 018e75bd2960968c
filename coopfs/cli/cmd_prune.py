"""``coopfs prune``: free what no snapshot needs any more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.adminkey import admin_key_option, required_admin_key
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.prune import PruneTotals

_GRACE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_grace(text: str) -> float:
    """Turn "7d" or "36h" into seconds; only 0 needs no unit."""
    match = _GRACE.match(text.strip())
    if match is None or (not match[2] and float(match[1])):
        raise click.BadParameter(
            f"{text!r}: expected a time such as 7d or 36h (s, m, h, d, w), or 0",
            param_hint="'--grace'",
        )
    return float(match[1]) * _SECONDS.get(match[2], 1)


def grace_text(seconds: float) -> str:
    """Return how people say so many seconds."""
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


@click.command("prune")
@click.option(
    "--max-unused",
    default="5%",
    metavar="LIMIT",
    help='Leave so much unused before data is moved: 5%, 2G or "unlimited" (default 5%).',
)
@click.option(
    "--repack-below",
    default="80%",
    metavar="SHARE",
    help="Move data only out of packs of which less is needed (default 80%).",
)
@click.option(
    "--grace",
    default="7d",
    metavar="TIME",
    help="Delete what was marked so long ago (default 7d). Shorter than 20m: see the manual.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    max_unused: str,
    repack_below: str,
    grace: str,
    dry_run: bool,
    recovery_kit: Path | None,
) -> None:
    """Free what no snapshot needs any more.

    Works beside any number of hosts that take snapshots; nothing is locked. What is not
    needed is first marked, and deleted by a later run once the grace has passed. Run it
    regularly; killed at any point, the next run goes on. Refuses to do anything when
    something cannot be read. Needs the admin key.
    """
    from coopfs.archive.allocator import prepare_bulk_work
    from coopfs.ops.prune import PruneRequest, prune_archive
    from coopfs.ops.prune_plan import parse_share, parse_tolerance
    from coopfs.ops.secure import FRESH_S

    request = PruneRequest(
        parse_tolerance(max_unused), parse_share(repack_below), parse_grace(grace), dry_run
    )
    if request.grace_s < 2 * FRESH_S and not dry_run:
        ctx.warn(
            f"with a grace under {2 * FRESH_S / 60:.0f} minutes a snapshot that another host is "
            "just taking may lose what it relies on; nobody else must be writing"
        )
    prepare_bulk_work()
    with ctx.open_archive(refresh=False) as archive:
        admin = None if dry_run else required_admin_key(ctx, archive, recovery_kit, "pruning")
        with ctx.progress("pruning") as progress:
            totals = prune_archive(archive, request, admin, progress, ctx.warn)
            progress.close()
    if ctx.json:
        ctx.emit_json(_json(totals, request.is_dry_run))
    else:
        _show(ctx, totals, request.is_dry_run, request.grace_s)


def _json(totals: PruneTotals, is_dry_run: bool) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(totals)
    values["duration_s"] = round(totals.duration_s, 3)
    values["wait_s"] = round(totals.wait_s, 3)
    return {"type": "summary", "is_dry_run": is_dry_run, **values}


def _show(ctx: Context, totals: PruneTotals, is_dry_run: bool, grace_s: float) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count

    def packs(number: int, size: int) -> str:
        return f"{count(number, 'pack')} ({size_text(size)})"

    would = "would be " if is_dry_run else ""
    ctx.echo(
        f"{count(totals.snapshots, 'snapshot needs', 'snapshots need')} "
        f"{size_text(totals.needed_len)}; {size_text(totals.unused_len)} beside it stay unused"
    )
    if totals.marked_packs:
        ctx.echo(f"{would}marked: {packs(totals.marked_packs, totals.marked_len)}")
    if totals.repacked_packs:
        moved = totals.move_len if is_dry_run else totals.copied.stored_len
        ctx.echo(
            f"{would}moved: {size_text(moved)} that {count(totals.repacked_packs, 'pack')} of "
            "those held beside what nobody needs"
        )
    if totals.young_packs:
        ctx.echo(
            f"left alone: {packs(totals.young_packs, totals.young_len)}, new, perhaps of a "
            "snapshot that is being taken"
        )
    if totals.waiting_packs:
        ctx.echo(
            f"waiting: {packs(totals.waiting_packs, totals.waiting_len)} marked; the first can be "
            f"deleted in {grace_text(totals.wait_s)}"
        )
    if totals.deleted_packs:
        ctx.echo(f"{would}deleted: {packs(totals.deleted_packs, totals.deleted_len)}")
    if totals.denial:
        ctx.warn(
            f"the store does not let us delete ({totals.denial}); what is marked stays until "
            "somebody may"
        )
    elif totals.undeleted_packs:
        ctx.warn(
            f"{count(totals.undeleted_packs, 'pack')} could not be deleted in this run; the next "
            "one goes on"
        )
    if not any((totals.marked_packs, totals.waiting_packs, totals.deleted_packs)):
        ctx.echo("nothing to free")
    elif totals.marked_packs and is_dry_run and grace_s:
        ctx.echo(f"what is marked is deleted by a run {grace_text(grace_s)} later")
