"""``coopfs drill``: restore random files, and say how long all of it would take."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.drill import DrilledFile, DrillResult

BAD_SHOWN = 20  # on the screen; --json has all


@click.command("drill")
@click.option(
    "--files",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="How many files to restore.",
)
@click.option(
    "--bytes",
    "max_size",
    default="1G",
    show_default=True,
    metavar="SIZE",
    help="No more than that in all; larger files are passed over.",
)
@click.option("--host", metavar="NAME", help="Only out of this host's snapshots.")
@click.option("--series", metavar="NAME", help="Only out of this series' snapshots.")
@click.option(
    "--scratch",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Restore below DIR, instead of where temporary files go.",
)
@click.option("--seed", type=int, metavar="N", help="Draw the same files again; for tests.")
@click.pass_obj
def command(
    ctx: Context,
    files: int,
    max_size: str,
    host: str | None,
    series: str | None,
    scratch: Path | None,
    seed: int | None,
) -> int:
    """Restore random files of random snapshots, compare them, and throw them away.

    They come from the store, whatever is cached here, by the way of "coopfs restore", and
    are compared with the ids in their snapshots. From how long it took follows about how
    long a full restore of the newest snapshot would take.

    Exit codes: 0 all came back; 1 something did not.
    """
    import tempfile

    from coopfs.cli.quantities import parse_size
    from coopfs.errors import EXIT_DONE, EXIT_FAILED, CoopfsError
    from coopfs.ops.drill import DrillRequest, run_drill

    max_len = parse_size(max_size, "--bytes")
    try:
        folder = tempfile.TemporaryDirectory(prefix="coopfs-drill-", dir=scratch)
    except OSError as exc:
        raise CoopfsError(
            f"{scratch or tempfile.gettempdir()}: {exc.strerror}; --scratch says where to restore"
        ) from exc
    with folder as place, ctx.open_archive(is_for_reading=True, is_uncached=True) as archive:
        request = DrillRequest(Path(place), files, max_len, host, series, seed)
        with ctx.progress("restoring") as progress:
            result, drilled = run_drill(archive, request, progress)
            progress.close()
    if ctx.json:
        _emit(ctx, result, drilled)
    else:
        _show(ctx, result, drilled)
    return EXIT_DONE if result.is_passed else EXIT_FAILED


def _emit(ctx: Context, result: DrillResult, drilled: list[DrilledFile]) -> None:
    from dataclasses import asdict

    from coopfs.ops.drill import place_of

    for file in drilled:
        ctx.emit_json(
            {
                "type": "file",
                "file": place_of(file),
                "snapshot": file.snapshot.snapshot_id.hex(),
                "bytes": file.size,
                "problem": file.problem or None,
            }
        )
    ctx.emit_json({"type": "summary", "is_passed": result.is_passed, **asdict(result)})


def _show(ctx: Context, result: DrillResult, drilled: list[DrilledFile]) -> None:
    from coopfs.cli.progress import duration_text, size_text
    from coopfs.cli.render import count, printable
    from coopfs.ops.drill import place_of

    for file in drilled:
        ctx.info(printable(f"{place_of(file)} ({size_text(file.size)})"))
    bad = [file for file in drilled if file.problem]
    for file in bad[:BAD_SHOWN]:
        ctx.warn(printable(f"{place_of(file)}: {file.problem}"))
    if len(bad) > BAD_SHOWN:
        ctx.warn(f"and {len(bad) - BAD_SHOWN:,} more (--json has all)")
    ctx.echo(
        f"{count(result.files, 'file')} of {count(result.snapshots, 'snapshot')} came back as they "
        f"were: {size_text(result.size)} in {result.duration_s:.1f} s, "
        f"{size_text(result.fetched_len)} from the store"
    )
    if result.too_large:
        ctx.echo(f"passed over: {count(result.too_large, 'file')} too large for --bytes")
    if result.full_s is not None:
        ctx.echo(
            f"all of the newest snapshot ({count(result.newest_files, 'file')}, "
            f"{size_text(result.newest_len)}) would take "
            + (
                "less than a second"
                if result.full_s < 1
                else f"about {duration_text(result.full_s)}"
            )
        )
    if bad:
        ctx.echo(
            f'FAILED: {count(len(bad), "file")} did not come back; "coopfs check --read-data" '
            "finds all that is hurt"
        )
