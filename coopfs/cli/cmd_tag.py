"""``coopfs tag``: add tags to snapshots, or take them away."""

from __future__ import annotations

from pathlib import Path

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.amending import amend
from coopfs.cli.choose import choosing_options
from coopfs.cli.context import Context


@click.command("tag")
@click.argument("names", nargs=-1, required=True, metavar="SNAPSHOT…")
@click.option("--add", "added", multiple=True, metavar="TAG", help="Add TAG; repeatable.")
@click.option("--remove", "removed", multiple=True, metavar="TAG", help="Take TAG away; likewise.")
@choosing_options
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    names: tuple[str, ...],
    added: tuple[str, ...],
    removed: tuple[str, ...],
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
    recovery_kit: Path | None,
) -> None:
    """Add tags to SNAPSHOTs, or take them away.

    A host can add tags to its own snapshots; to take tags away, or to speak of another
    host's, the admin key is needed.
    """
    from coopfs.ops.amend import Change

    if not added and not removed:
        raise click.UsageError("nothing to change; give --add TAG or --remove TAG")
    amend(ctx, names, (host, series, tags), Change(added, removed), recovery_kit)
