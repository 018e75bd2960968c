"""``coopfs archive``: the archives this machine knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.archives import LocalArchive


@click.group("archive")
def command() -> None:
    """List the archives that this machine knows, or remove one from it.

    "coopfs init STORE --archive NAME" makes another one; every command takes --archive
    NAME to choose one.
    """


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the archives on this machine; * marks the one used where none is named.

    Neither a store nor a passphrase is needed.
    """
    from coopfs.cli.render import table
    from coopfs.ops.archives import list_archives

    archives = list_archives(ctx.dirs)
    for archive in archives:
        if archive.problem:
            ctx.warn(f"archive {archive.name}: {archive.problem}")
    if ctx.json:
        for archive in archives:
            ctx.emit_json(_facts(archive))
        return
    if not archives:
        ctx.echo('No archive is set up here; "coopfs init STORE" makes one.')
        return
    titles = ("", "ARCHIVE", "ID", "HOST", "PASSPHRASE", "ADMIN KEY", "STORE")
    for line in table(titles, [_row(archive) for archive in archives]):
        ctx.echo(line)


def _row(archive: LocalArchive) -> tuple[str, ...]:
    from coopfs.ids import short_hex

    mark = "*" if archive.is_chosen else ""
    admin = "here" if archive.has_admin_key else "-"
    settings = archive.settings
    if settings is None:
        return (mark, archive.name, "?", "?", "?", admin, "unusable")
    return (
        mark,
        archive.name,
        short_hex(settings.archive_id),
        settings.host,
        "yes" if archive.is_wrapped else "no",
        admin,
        settings.shown_store,
    )


def _facts(archive: LocalArchive) -> dict[str, object]:
    settings = archive.settings
    return {
        "type": "archive",
        "archive": archive.name,
        "archive_id": settings.archive_id.hex() if settings else None,
        "store": settings.shown_store if settings else None,
        "host": settings.host if settings else None,
        "is_wrapped": archive.is_wrapped if settings else None,
        "has_admin_key": archive.has_admin_key,
        "is_default": archive.is_chosen,
        "problem": archive.problem or None,
    }


@command.command("remove")
@click.argument("name")
@click.option(
    "--recovery-kit",
    "kit_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Read the kit from FILE; twice for two sheets (default: standard input, or typed).",
)
@click.option("--yes", is_flag=True, help="Ask for no kit: the keys here may be the last ones.")
@click.pass_obj
def remove(ctx: Context, name: str, kit_files: tuple[Path, ...], yes: bool) -> None:
    """Delete the keys, settings, state and cache of the archive NAME from this machine.

    Its store keeps everything, and "coopfs recover" brings it back with the kit, which
    is asked for first, so that the archive cannot be lost by this. Take its mounts away
    before.
    """
    from coopfs.archive.settings import choose_archive
    from coopfs.cli.keyinput import obtain_kit
    from coopfs.ops.archives import check_kit_at_hand, remove_archive

    choose_archive(ctx.dirs, name)
    if not yes:
        check_kit_at_hand(ctx.dirs, name, obtain_kit(ctx, kit_files), ctx.passphrases)
    gone = remove_archive(ctx.dirs, name)
    if ctx.json:
        ctx.emit_json({"type": "removed", "archive": name, "deleted": [str(p) for p in gone]})
    for path in gone:
        ctx.echo(f"{path}: deleted")
