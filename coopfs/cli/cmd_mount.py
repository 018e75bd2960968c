"""``coopfs mount``: show the archive as dated, read-only folders."""

from __future__ import annotations

import click

from coopfs.cli.context import Context


@click.command("mount")
@click.argument("mountpoint", type=click.Path())
@click.option("-f", "--foreground", is_flag=True, help="Stay in the terminal until unmounted.")
@click.option(
    "-o",
    "given",
    multiple=True,
    metavar="OPTION[,…]",
    help="Mount options: allow_other, uid=, gid=, umask=, shadow, refresh=, …",
)
@click.pass_obj
def command(
    context: Context, mountpoint: str, foreground: bool, given: tuple[str, ...]
) -> int | None:
    """Show the archive at MOUNTPOINT, an empty folder.

    Each snapshot is a folder: by-host/HOST/SERIES/DATE_TIME, with a symlink
    "latest" to the newest complete one, and by-date/DATE/HOST_SERIES_TIME.
    Everything can be read with ordinary tools; nothing can be changed.  The
    mount ends with "coopfs umount", or on SIGTERM or SIGINT.
    """
    import logging

    from coopfs.view.background import Background, log_to_system, log_to_terminal
    from coopfs.view.mount import run_mount
    from coopfs.view.mountpoint import check_fuse, check_mountpoint
    from coopfs.view.options import parse_options

    options = parse_options(given)
    # Before a passphrase is asked for.
    check_fuse(options)
    mountpoint = check_mountpoint(mountpoint, options)
    background = Background()
    if not foreground:
        code = background.split()
        if code is not None:
            return code
    log_to_terminal(logging.INFO if context.verbosity else logging.WARNING)
    with context.open_archive(
        memory_len=options.block_memory_len, may_be_away=True, is_for_reading=True
    ) as archive:

        def on_ready() -> None:
            if not foreground:
                log_to_system(archive.state_folder / "mount.log")
                background.up()

        run_mount(archive, mountpoint, options, on_ready)
    return None
