"""``coopfs serve held``, ``undelete`` and ``import``: a partner's objects, without the line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from coopfs.cli.context import Context
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coopfs.format.receipt import Receipt
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


@click.command("import")
@click.argument("name")
@click.argument("store")
@click.option(
    "--receipts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write this server's signed receipts there, one a line.",
)
@root_option
@click.pass_obj
def import_(
    ctx: Context, /, name: str, store: str, receipts: Path | None, root: Path | None
) -> int:
    """Take the objects in STORE, on a disk the partner NAME has sent, into its store here.

    Each is hashed while it is copied, and counts against the quota; the disk stays as it
    is. The server may run. The partner then says "coopfs store move coop://US".
    """
    from contextlib import ExitStack

    from coopfs.cli.quantities import show_size
    from coopfs.cli.render import count, printable
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.format.keys import SigningKey
    from coopfs.identity import load_identity
    from coopfs.ops.seed import import_objects, receipt_writer
    from coopfs.server.serve import IDENTITY_FILE
    from coopfs.server.settings import load_partner
    from coopfs.store.open import open_store

    chosen = root_of(ctx, root)
    terms = load_partner(chosen, name)
    with ExitStack() as stack:
        on_receipt: Callable[[Receipt], None] = _nobody
        if receipts is not None:
            signer = SigningKey(load_identity(chosen / IDENTITY_FILE).seed)
            on_receipt = receipt_writer(stack.enter_context(_new_file(receipts)), signer)
        source = stack.enter_context(open_store(store))
        progress = stack.enter_context(ctx.progress("importing"))
        done = import_objects(chosen, terms, source, progress, on_receipt)
        progress.close()
    for problem in done.problems:
        ctx.warn(printable(problem))
    if ctx.json:
        ctx.emit_json(
            {
                "type": "imported",
                "partner": name,
                "objects": done.objects,
                "bytes": done.size,
                "there_already": done.there_already,
                "problems": done.problems,
            }
        )
    ctx.echo(
        f"{count(done.objects, 'object')}, {show_size(done.size)}: taken in for {name}; "
        f"{done.there_already:,} there already."
    )
    if done.problems:
        ctx.echo(f"INCOMPLETE: {count(len(done.problems), 'object')} on the disk cannot be used.")
    return EXIT_FAILED if done.problems else EXIT_DONE


def _nobody(receipt: Receipt) -> None:
    """Keep no receipt."""


def _new_file(path: Path) -> TextIO:
    from coopfs.errors import CoopfsError

    try:
        return path.open("x", encoding="ascii")
    except OSError as exc:
        raise CoopfsError(f"{path}: {exc.strerror}; no receipt can be written there") from exc
