"""``coopfs cat``: write files of a snapshot to standard output."""

from __future__ import annotations

import sys

import click

from coopfs.cli.choose import choose, choosing_options
from coopfs.cli.context import Context


@click.command("cat")
@click.argument("specs", nargs=-1, required=True, metavar="SNAPSHOT:PATH...")
@choosing_options
@click.pass_obj
def command(
    ctx: Context,
    *,
    specs: tuple[str, ...],
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
) -> int:
    """Write the content of files to standard output, one after another.

    Every byte is verified before it is written. Damage ends that file's output, is
    reported, and makes the exit code 1; the next file follows.
    """
    from coopfs.cli.progress import path_text
    from coopfs.cli.render import printable
    from coopfs.errors import EXIT_DONE, EXIT_FAILED, CoopfsError, StoreUnavailable
    from coopfs.ops.browse import file_at, write_content

    code = EXIT_DONE
    sys.stdout.flush()
    raw = sys.stdout.buffer.raw if hasattr(sys.stdout.buffer, "raw") else sys.stdout.buffer
    with ctx.open_archive(may_be_away=True, is_for_reading=True) as archive:
        for spec in specs:
            try:
                snapshot, path = choose(archive, spec, host, series, tags)
                entry = file_at(archive, snapshot, path)
                write_content(archive, entry, raw.write)
            except StoreUnavailable:
                raise  # the others would fail alike
            except CoopfsError as exc:
                if len(specs) == 1:
                    raise
                ctx.warn(printable(f"{path_text(spec)}: {exc}"))
                code = EXIT_FAILED
    return code
