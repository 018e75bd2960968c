"""``coopfs hold``: protect snapshots from being let go."""

from __future__ import annotations

from pathlib import Path

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.amending import amend
from coopfs.cli.choose import choosing_options
from coopfs.cli.context import Context


@click.command("hold")
@click.argument("names", nargs=-1, required=True, metavar="SNAPSHOT…")
@click.option("--release", is_flag=True, help="Protect them no more.")
@choosing_options
@admin_key_option
@click.pass_obj
def command(
    ctx: Context,
    names: tuple[str, ...],
    release: bool,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
    recovery_kit: Path | None,
) -> None:
    """Protect SNAPSHOTs: neither a rule nor their name lets them go.

    A host can hold its own snapshots; to release a hold, or to hold another host's, the
    admin key is needed.
    """
    from coopfs.ops.amend import Change

    amend(ctx, names, (host, series, tags), Change(is_held=not release), recovery_kit)
