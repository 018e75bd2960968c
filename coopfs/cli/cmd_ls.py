"""``coopfs ls``: list a folder of a snapshot."""

from __future__ import annotations

import os
import stat
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.choose import choose, choosing_options
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.format.tree import Entry
    from coopfs.ops.browse import Listed


@click.command("ls")
@click.argument("spec", metavar="SNAPSHOT[:PATH]")
@click.option("-l", "--long", "is_long", is_flag=True, help="Mode, owner, size and time as well.")
@click.option("-R", "--recursive", "is_recursive", is_flag=True, help="What is below, too.")
@choosing_options
@click.pass_obj
def command(
    ctx: Context,
    *,
    spec: str,
    is_long: bool,
    is_recursive: bool,
    host: str | None,
    series: str | None,
    tags: tuple[str, ...],
) -> int:
    """List the folder at PATH of a snapshot (without a PATH: its root), by name.

    On a terminal, bytes of names that cannot be shown are written as escapes; elsewhere
    names go out as they are. With --json, an object an entry.
    """
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.ops.browse import list_entries

    is_terminal = sys.stdout.isatty()
    unreadable = 0

    def report(path: bytes, reason: str) -> None:
        nonlocal unreadable
        unreadable += 1
        ctx.warn(f"{shown(path, safely=True)}: {reason}")

    with ctx.open_archive(may_be_away=True, is_for_reading=True) as archive:
        snapshot, path = choose(archive, spec, host, series, tags)
        for listed in list_entries(
            archive, snapshot, path, is_recursive=is_recursive, on_unreadable=report
        ):
            if ctx.json:
                ctx.emit_json(_json(listed))
            elif is_long:
                ctx.echo(_long(listed, safely=is_terminal))
            else:
                ctx.echo(shown(listed.path, safely=is_terminal))
    return EXIT_FAILED if unreadable else EXIT_DONE


def shown(name: bytes, *, safely: bool) -> str:
    """Return *name* for printing; *safely*: nothing in it can steer a terminal."""
    if not safely:
        return name.decode("utf-8", "surrogateescape")
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _type_bits(entry: Entry) -> int:
    from coopfs.ops.restore_plan import FILE_TYPES

    return FILE_TYPES[entry.kind]


def _long(listed: Listed, *, safely: bool) -> str:
    path, entry = listed
    mode = stat.filemode(entry.mode | _type_bits(entry))
    mode += "+" if any(name.startswith(b"system.posix_acl") for name, _ in entry.xattrs) else " "
    if entry.totals is not None:
        size = str(entry.totals.size)
    elif entry.rdev:
        size = f"{os.major(entry.rdev)}, {os.minor(entry.rdev)}"
    else:
        size = str(entry.size)
    user = shown(entry.user, safely=True) or str(entry.uid)
    group = shown(entry.group, safely=True) or str(entry.gid)
    text = f"{mode} {user:<8} {group:<8} {size:>12} {_time(entry.mtime_ns):<19} "
    text += shown(path, safely=safely)
    return f"{text} -> {shown(entry.target, safely=safely)}" if entry.target else text


def _time(time_ns: int) -> str:
    """Return a time in the zone of whoever looks, as `ls -l` does."""
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"@{time_ns // 1_000_000_000}"  # beyond the calendar


def _json(listed: Listed) -> dict[str, Any]:
    import base64

    path, entry = listed
    value: dict[str, Any] = {
        "type": "entry",
        # Bytes that are not UTF-8 become lone surrogates, as Python's own names have them.
        "path": path.decode("utf-8", "surrogateescape"),
        "kind": entry.kind.name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "user": entry.user.decode("utf-8", "surrogateescape"),
        "group": entry.group.decode("utf-8", "surrogateescape"),
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
    }
    if entry.data_len is not None:
        value["data_len"] = entry.data_len
    if entry.birth_ns is not None:
        value["birth_ns"] = entry.birth_ns
    if entry.rdev:
        value["device"] = [os.major(entry.rdev), os.minor(entry.rdev)]
    if entry.target:
        value["target"] = entry.target.decode("utf-8", "surrogateescape")
    if entry.hard_link_id is not None:
        value["hard_link_id"] = entry.hard_link_id.hex()
        value["link_count"] = entry.link_count
    if entry.xattrs:
        value["xattrs"] = {
            name.decode("utf-8", "surrogateescape"): base64.b64encode(content).decode()
            for name, content in entry.xattrs
        }
    if entry.totals is not None:
        value["below"] = entry.totals._asdict()
    if entry.unsupported:
        value["unsupported"] = entry.unsupported
    return value
