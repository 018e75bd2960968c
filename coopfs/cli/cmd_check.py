"""``coopfs check``: verify the archive, and name the files that damage hurts."""

from __future__ import annotations

import re

import click

from coopfs.cli.context import Context

_SHARE = re.compile(r"(\d{1,3}(?:\.\d+)?)\s*%?\Z")


def _share(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """Turn "10%" into 0.1."""
    if value is None:
        return 0.0
    match = _SHARE.match(value.strip())
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(f"{value!r}: expected a share such as 10%, at most 100%")
    return share


@click.command("check")
@click.option(
    "--read-data",
    "read_share",
    is_flag=False,
    flag_value="100%",
    callback=_share,
    metavar="[N%]",
    help="Read all data too and verify every byte; with =N% a random part of it.",
)
@click.pass_obj
def command(ctx: Context, read_share: float) -> int:
    """Verify that everything the snapshots promise is there and can be read.

    Compares packs, index, trees and snapshots with each other, as the store has them
    now. What is damaged or missing is named by the files of the snapshots it hurts.
    Nothing in the store is changed; the next snapshot stores again what was lost and
    is still at its source.

    Exit codes: 0 all is well; 1 something is damaged or missing.
    """
    from coopfs.archive.allocator import prepare_bulk_work
    from coopfs.cli.findings import JsonView, TextView
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.ops.check import CheckRequest, check_archive

    prepare_bulk_work()
    view = JsonView(ctx) if ctx.json else TextView(ctx)
    with (
        ctx.open_archive(refresh=False, is_for_reading=True) as archive,
        ctx.progress("checking") as progress,
    ):
        totals = check_archive(archive, CheckRequest(read_share), view.show, progress)
        progress.close()
        view.finish(totals)
    return EXIT_DONE if totals.is_whole else EXIT_FAILED
