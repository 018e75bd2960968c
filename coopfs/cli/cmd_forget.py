"""``coopfs forget``: let snapshots go, by rules or by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.archive.snapshots import Snapshot
    from coopfs.ops.forget import ForgetResult
    from coopfs.ops.forget_plan import KeepRules, Verdict

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PERIODS = ("hourly", "daily", "weekly", "monthly", "yearly")


def _count(ctx: click.Context, param: click.Parameter, value: str | None) -> int:
    """Turn "7" or "unlimited" into a number (-1: no limit)."""
    if value is None:
        return 0
    if value.strip() == "unlimited":
        return -1
    if not value.strip().isdecimal():
        raise click.BadParameter(f'{value!r}: expected a number or "unlimited"')
    return int(value)


def _keep_options(function: _Function) -> _Function:
    """Add all --keep-… options, in the order of the help page."""
    options = [
        click.option("--keep-last", "last", callback=_count, metavar="N", help="Keep the newest N.")
    ]
    for period in _PERIODS:
        what = "day" if period == "daily" else period[:-2]
        options.append(
            click.option(
                f"--keep-{period}",
                period,
                callback=_count,
                metavar="N",
                help=f"Keep the newest of each of the last N {what}s that have one.",
            )
        )
    options.append(
        click.option(
            "--keep-within",
            "within",
            metavar="TIME",
            help="Keep all of the time before the series' newest: 2y5m7d3h.",
        )
    )
    for period in _PERIODS:
        what = "day" if period == "daily" else period[:-2]
        options.append(
            click.option(
                f"--keep-within-{period}",
                f"within_{period}",
                metavar="TIME",
                help=f"Keep the newest of each {what} of that time.",
            )
        )
    options.append(
        click.option(
            "--keep-tag",
            "keep_tags",
            multiple=True,
            metavar="TAG[,TAG…]",
            help="Keep those with all these tags; repeatable; '' is without tags.",
        )
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command("forget")
@click.argument("names", nargs=-1, metavar="[SNAPSHOT]…")
@_keep_options
@click.option("--host", metavar="NAME", help="Only this host's.")
@click.option("--series", metavar="NAME", help="Only this series'.")
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only those with TAG; repeatable."
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would stay and go, and why.")
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    /,
    names: tuple[str, ...],
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
    dry_run: bool,
    recovery_kit: Path | None,
    **keep: Any,
) -> None:
    """Let snapshots go that no rule keeps, or those that are named.

    Rules apply to each series by itself; a snapshot stays when any rule keeps it. The
    newest of a series and those on hold always stay, and so does one whose time cannot
    be right: it counts for no rule either. Their data is freed by "coopfs prune".

    Needs the admin key. Nothing can be taken back, unless the store keeps a trash.
    """
    from coopfs.cli.adminkey import required_admin_key
    from coopfs.ops.forget import apply_forget, refuse_unreadable

    rules = _rules(keep)
    if bool(names) == (not rules.is_empty):
        raise click.UsageError(
            "say what to keep (--keep-daily 7, say), or name the SNAPSHOTs to let go"
            if not names
            else "either rules (--keep-…) or names of snapshots, not both"
        )
    with ctx.open_archive() as archive:
        verdicts = _verdicts(archive, names, rules, host, series, tags)
        refuse_unreadable(archive)
        result: ForgetResult | None = None
        if not dry_run:
            admin = required_admin_key(ctx, archive, recovery_kit, "forgetting")
            result = apply_forget(archive, verdicts, admin)
    if ctx.json:
        _emit(ctx, verdicts, result)
    else:
        _show(ctx, verdicts, result)


def _rules(keep: dict[str, Any]) -> KeepRules:
    from coopfs.ops.forget_plan import KeepRules, parse_duration

    tags = tuple(
        frozenset(tag.strip() for tag in item.split(",") if tag.strip())
        for item in keep.pop("keep_tags")
    )
    values: dict[str, Any] = {
        name: parse_duration(value) if name.startswith("within") and value is not None else value
        for name, value in keep.items()
    }
    return KeepRules(tags=tags, **values)


def _verdicts(
    archive: Archive,
    names: tuple[str, ...],
    rules: KeepRules,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
) -> list[Verdict]:
    import time

    from coopfs.archive.select import resolve
    from coopfs.errors import UsageError
    from coopfs.ops.forget_plan import plan_forget, plan_named

    if names:
        found = [resolve(archive, n, host=host, series=series, tags=tags) for n in names]
        for name, snapshot in zip(names, found, strict=True):
            if snapshot.is_held:
                raise UsageError(
                    f"{name}: is on hold; nothing was let go. If it may go after all: "
                    f'"coopfs hold --release {name}"'
                )
        return plan_named({snapshot.snapshot_id: snapshot for snapshot in found}.values())

    def is_chosen(snapshot: Snapshot) -> bool:
        facts = snapshot.facts
        return (
            host in (None, facts.host)
            and series in (None, facts.series)
            and set(tags) <= set(snapshot.tags)
        )

    return plan_forget(archive.snapshots(), rules, time.time_ns(), is_chosen=is_chosen)


def _emit(ctx: Context, verdicts: list[Verdict], result: ForgetResult | None) -> None:
    from coopfs.archive.select import local_time

    for verdict in verdicts:
        facts = verdict.snapshot.facts
        ctx.emit_json(
            {
                "type": "verdict",
                "id": verdict.snapshot.snapshot_id.hex(),
                "host": facts.host,
                "series": facts.series,
                "number": facts.number,
                "time": local_time(facts).isoformat(),
                "is_kept": verdict.is_kept,
                "reasons": list(verdict.reasons),
                "suspicion": verdict.suspicion or None,
            }
        )
    going = sum(not verdict.is_kept for verdict in verdicts)
    ctx.emit_json(
        {
            "type": "summary",
            "is_dry_run": result is None,
            "kept": len(verdicts) - going,
            "forgotten": going,
            "deleted": 0 if result is None else result.deleted,
            "left": 0 if result is None else result.left,
        }
    )


def _show(ctx: Context, verdicts: list[Verdict], result: ForgetResult | None) -> None:
    from coopfs.cli.render import count

    going = [verdict for verdict in verdicts if not verdict.is_kept]
    distrusted = [verdict for verdict in verdicts if verdict.snapshot.is_distrusted]
    doubtful = [v for v in verdicts if v.suspicion and not v.snapshot.is_distrusted]
    shown = verdicts if result is None or ctx.verbosity else going
    if shown:
        for line in _table(shown):
            ctx.echo(line)
        ctx.echo()
    if doubtful:
        ctx.warn(
            f"{count(len(doubtful), 'snapshot')} with a doubtful time: kept, and counted for no "
            "rule; a wrong clock, or somebody invents dates (coopfs-forget(1)"
            + (")" if result is None else '; "--dry-run" names them)')
        )
    if any(verdict.is_kept for verdict in distrusted):
        ctx.warn(
            f"{count(len(distrusted), 'snapshot')} of distrusted writers: kept, and counted for no "
            "rule; those that are named are let go"
        )
    kept = f"kept: {len(verdicts) - len(going):,}"
    if result is None:
        ctx.echo(f"would let go {count(len(going), 'snapshot')}; {kept}")
        return
    if not going:
        ctx.echo(f"nothing to let go; {kept}")
        return
    if result.denial:
        ctx.warn(
            f"{count(result.left, 'snapshot')} let go, but the store does not let us delete "
            f"({result.denial}); the record counts as soon as they are deleted"
        )
    ctx.echo(
        f'let go {count(len(going), "snapshot")}; {kept}. "coopfs prune" frees what only '
        "they needed"
    )


def _table(verdicts: list[Verdict]) -> list[str]:
    from coopfs.archive.select import local_time
    from coopfs.cli.render import table
    from coopfs.ids import short_hex

    rows = [
        (
            "keep" if verdict.is_kept else "forget",
            short_hex(verdict.snapshot.snapshot_id),
            local_time(verdict.snapshot.facts).strftime("%Y-%m-%d %H:%M:%S"),
            verdict.snapshot.facts.host,
            verdict.snapshot.facts.series,
            str(verdict.snapshot.facts.number),
            " ".join(verdict.snapshot.tags),
            ", ".join(verdict.reasons),
        )
        for verdict in verdicts
    ]
    titles = ("", "ID", "TIME", "HOST", "SERIES", "NUMBER", "TAGS", "WHY")
    return table(titles, rows, right="NUMBER")
