"""How mount(8) calls us: ``coopfs NAME MOUNTPOINT -o OPTIONS``.

For ``mount -t fuse.coopfs NAME MOUNTPOINT`` and for a line of /etc/fstab with that
type, mount.fuse3(8) runs the program called like the subtype, with these arguments.
"""

from __future__ import annotations

from collections.abc import Container, Sequence


def command_line_of(args: Sequence[str], commands: Container[str]) -> list[str]:
    """Return *args* as our own command line, rewritten where mount(8) made them.

    A command's name wins over an archive's: an archive called like a command
    cannot be mounted from /etc/fstab.
    """
    is_mount = len(args) == 2 or (len(args) == 4 and args[2] == "-o")
    if not is_mount or args[0] in commands or args[0].startswith("-"):
        return list(args)
    source, mountpoint, *options = args
    # mount(8) makes a path of a source that is one: started by systemd, in /, "home" comes as
    # "/home".  No archive has a slash in its name.
    name = source.rpartition("/")[2]
    if not mountpoint.startswith("/"):  # mount(8) always gives the whole path
        return list(args)
    return ["--archive", name, "mount", mountpoint, *options]
