"""``coopfs umount``: take a mount away."""

from __future__ import annotations

import click

from coopfs.cli.context import Context


@click.command("umount")
@click.argument("mountpoint", type=click.Path())
@click.option(
    "-l", "--lazy", is_flag=True, help="Let it vanish now, and end when its last user is gone."
)
@click.pass_obj
def command(context: Context, mountpoint: str, lazy: bool) -> None:
    """Unmount the archive shown at MOUNTPOINT.

    While something below it is in use the mount stays, and the message says by
    whom it is used.
    """
    from coopfs.view.mountpoint import unmount

    path = unmount(mountpoint, is_lazy=lazy)
    context.info(f"{path}: unmounted")
