"""``coopfs store``: where the archive is, where copies of it are, and moving it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.archive.settings import ArchiveSettings


@click.group("store")
def command() -> None:
    """Name the archive's other stores, or move it to another one.

    Copies are made by "coopfs copy --to STORE", and read with --store.
    """


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the archive's own store and those with copies that have a name.

    Nobody is asked.
    """
    from coopfs.cli.render import table
    from coopfs.store.shown import shown_address

    settings = ctx.load_settings()
    rows = [("", settings.shown_store, "the archive")]
    rows += [(other.name, shown_address(other.address), "a copy") for other in settings.others]
    if ctx.json:
        for name, address, what in rows:
            ctx.emit_json(
                {"type": "store", "name": name, "store": address, "is_copy": what == "a copy"}
            )
        return
    for line in table(("NAME", "STORE", "HOLDS"), rows):
        ctx.echo(line)


@command.command("add")
@click.argument("name")
@click.argument("store")
@click.pass_obj
def add(ctx: Context, /, name: str, store: str) -> None:
    """Call the STORE in which a copy of the archive is NAME, for --store and --to."""
    from coopfs.ops.stores import add_store
    from coopfs.store.shown import shown_address

    settings = add_store(ctx.dirs, ctx.load_settings(), name, store)
    address = shown_address(settings.others[-1].address)
    if ctx.json:
        ctx.emit_json({"type": "store", "name": name, "store": address, "is_copy": True})
    ctx.echo(f"The copy of archive {settings.name!r} in {address} is called {name!r}.")


@command.command("remove")
@click.argument("name")
@click.pass_obj
def remove(ctx: Context, /, name: str) -> None:
    """Forget the store called NAME. What is in it stays."""
    from coopfs.ops.stores import remove_store

    settings = remove_store(ctx.dirs, ctx.load_settings(), name)
    if ctx.json:
        ctx.emit_json({"type": "removed", "name": name})
    ctx.echo(
        f"Archive {settings.name!r} has no store called {name!r} any more; nothing was deleted."
    )


@command.command("move")
@click.argument("store")
@click.option(
    "--incomplete", is_flag=True, help="Although something is missing there, and lost elsewhere."
)
@click.option(
    "--receipts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the receipts that the partner's server wrote as it took the disk in.",
)
@click.pass_obj
def move(ctx: Context, /, store: str, incomplete: bool, receipts: Path | None) -> None:
    """Use the archive in STORE from now on, where all of it must be.

    For an archive that was begun on a disk and carried to a partner, and for one whose
    store is lost while a copy is not. Nothing is sent and nothing deleted. On every other
    host of the archive the same command is given.
    """
    from coopfs.cli.render import count, printable
    from coopfs.ops.stores import move_archive, take_in_receipts

    settings = ctx.load_settings()
    if receipts is not None:
        kept = take_in_receipts(ctx.dirs, settings.address_of(store), receipts)
        ctx.echo(f"{count(kept, 'receipt')} of the partner's server: kept.")
    ring = ctx.load_keyring(settings)

    def open_at(chosen: ArchiveSettings) -> Archive:
        return ctx.open_with(chosen, ring, refresh=False)

    moved = move_archive(ctx.dirs, settings, store, open_at, is_partial=incomplete)
    shown = moved.settings.shown_store
    if moved.old_store_error:
        ctx.warn(
            f"the old store could not be asked ({printable(moved.old_store_error)}): the new one "
            "was compared with what this host knew"
        )
    if not moved.is_owner_known and moved.settings.store.startswith("coop:"):
        ctx.warn(
            "the admin key is not on this machine: run this once where it is, so that the partner "
            "knows the archive's owner, who alone may delete and recover"
        )
    if ctx.json:
        ctx.emit_json(
            {
                "type": "moved",
                "archive": moved.settings.name,
                "store": shown,
                "snapshots": moved.snapshots,
                "packs": moved.packs,
                "rollback": moved.rollback or None,
                "missing": [pack_id.hex() for pack_id in moved.missing],
                "is_old_store_asked": not moved.old_store_error,
            }
        )
    if moved.missing:
        ctx.warn(
            f"{count(len(moved.missing), 'pack')} missing: the next snapshot stores again what its "
            'source still has; "coopfs check" names the files hurt'
        )
    if moved.rollback:
        ctx.warn(moved.rollback)
    ctx.echo(
        f"Archive {moved.settings.name!r} is in {shown} now: "
        f"{count(moved.snapshots, 'snapshot')}, {count(moved.packs, 'pack')}."
    )
    ctx.echo('The recovery kit names the old store: print it again ("coopfs key export").')
