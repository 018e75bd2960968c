"""``coopfs describe``: change what is said about a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.amending import amend
from coopfs.cli.choose import choosing_options
from coopfs.cli.context import Context


@click.command("describe")
@click.argument("name", metavar="SNAPSHOT")
@click.argument("text")
@choosing_options
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    name: str,
    text: str,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
    recovery_kit: Path | None,
) -> None:
    """Have TEXT be the description of SNAPSHOT; an empty one takes it away.

    A host can describe its own snapshots; for another host's the admin key is needed.
    """
    from coopfs.ops.amend import Change

    amend(ctx, (name,), (host, series, tags), Change(description=text), recovery_kit)
