"""``coopfs serve held`` and ``undelete``: what lies here for a partner, without the line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coopfs.cli.context import Context
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from coopfs.ops.held import Held

FINDINGS_SHOWN: Final = 10  # of many; --json has them all

root_option: Final = click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with everything partners keep here (default: STATE/serve).",
)


def root_of(ctx: Context, root: Path | None) -> Path:
    """Return the server's folder; --root may stand before the subcommand."""
    above = click.get_current_context().parent
    if root is None and above is not None:
        root = above.params.get("root")
    return Path(root).absolute() if root is not None else ctx.dirs.state / "serve"


@click.command("held")
@click.argument("name")
@click.option("--trash", is_flag=True, help="List what is in the trash, the newest first.")
@root_option
@click.pass_obj
def held(ctx: Context, /, name: str, trash: bool, root: Path | None) -> None:
    """Show what lies here for the partner NAME, and in which state.

    Counted from the disk; the server may run.
    """
    from dataclasses import asdict

    from coopfs.ops.held import look_at_held
    from coopfs.server.settings import load_partner

    chosen = root_of(ctx, root)
    found = look_at_held(chosen, load_partner(chosen, name))
    if ctx.json:
        facts: dict[str, Any] = {"type": "held", **asdict(found)}
        facts["clock_jump"] = found.clock_jump.describe() if found.clock_jump else None
        if not trash:
            del facts["trash"]
        ctx.emit_json(facts)
        return
    for title, value in _rows(found):
        ctx.echo(f"{title:<22}{value}")
    if trash:
        _list_trash(ctx, found)


def _rows(found: Held) -> list[tuple[str, str]]:
    from coopfs.cli.quantities import show_size
    from coopfs.cli.render import count

    usage, scrub = found.usage, found.scrub
    rows = [
        ("partner", found.name),
        ("it keeps", f"{show_size(usage.used)} in {count(usage.objects, 'object')}"),
        ("of", show_size(usage.quota) if usage.quota else "any"),
        ("left", show_size(usage.left)),
        ("put today", show_size(usage.today)),
        (
            "in the trash",
            f"{show_size(usage.trash_used)} in {count(usage.trash_objects, 'object')}, "
            f"kept for {count(found.retention_days, 'day')}",
        ),
    ]
    if found.oldest_deleted_ns is not None and found.newest_deleted_ns is not None:
        first, last = _time(found.oldest_deleted_ns), _time(found.newest_deleted_ns)
        rows.append(("deleted", f"{first} to {last}"))
    rows.append(
        ("last scrub", _time(scrub.last_finished_ns) if scrub.last_finished_ns else "none yet")
    )
    if found.clock_jump is not None:
        rows.append(("CLOCK IN DOUBT", found.clock_jump.describe()))
        rows.append(("", 'no trash is emptied; "coopfs serve confirm-clock" confirms the clock'))
    if found.findings:
        rows.append(("DAMAGED", count(len(found.findings), "object") + ", until put again"))
        rows += [
            ("", f"{finding.kind}/{finding.name}, found {_time(finding.found_ns)}")
            for finding in found.findings[:FINDINGS_SHOWN]
        ]
    return rows


def _list_trash(ctx: Context, found: Held) -> None:
    from coopfs.cli.quantities import show_size
    from coopfs.cli.render import table

    rows = [
        (
            f"{item.kind}/{item.name}",
            show_size(item.size),
            _time(item.deleted_ns),
            _time(item.kept_until_ns),
        )
        for item in found.trash
    ]
    for line in table(("OBJECT", "SIZE", "DELETED", "KEPT UNTIL"), rows, right="SIZE"):
        ctx.echo(line)
    if len(rows) < found.usage.trash_objects:
        ctx.echo(f"and {found.usage.trash_objects - len(rows):,} that were deleted earlier")


def _time(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ns / 1e9))


@click.command("undelete")
@click.argument("name")
@click.argument("objects", nargs=-1, metavar="[OBJECT]...")
@click.option(
    "--since", metavar="DATE", help='Only what was deleted since: 2026-11-23 or "2026-11-23 04:28".'
)
@click.option("--all", "is_all", is_flag=True, help="Everything that is in the trash.")
@root_option
@click.pass_obj
def undelete(
    ctx: Context,
    /,
    name: str,
    objects: tuple[str, ...],
    since: str | None,
    is_all: bool,
    root: Path | None,
) -> None:
    """Put back what the partner NAME has deleted here, while it is in the trash.

    OBJECT is a name as "held --trash" shows it, or eight digits of it at least.
    """
    from coopfs.cli.quantities import parse_since, show_size
    from coopfs.cli.render import count
    from coopfs.ops.held import undelete_held
    from coopfs.server.settings import load_partner

    if is_all == bool(objects or since):
        raise UsageError("say what to put back: OBJECTs, --since DATE, or --all alone")
    chosen = root_of(ctx, root)
    restored = undelete_held(
        chosen,
        load_partner(chosen, name),
        [text.rpartition("/")[2] for text in objects] or None,
        None if since is None else parse_since(since, "--since"),
    )
    if ctx.json:
        ctx.emit_json(
            {
                "type": "undeleted",
                "partner": name,
                "objects": restored.objects,
                "bytes": restored.restored,
                "there_already": restored.there_already,
            }
        )
    ctx.echo(f"{count(restored.objects, 'object')}, {show_size(restored.restored)}: put back.")
    if restored.there_already:
        ctx.echo(f"{count(restored.there_already, 'object')} had been put again, and stayed.")
