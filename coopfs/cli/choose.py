"""What ls, cat and restore share: naming a snapshot, or a path in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.archive.snapshots import Snapshot

_Function = TypeVar("_Function", bound=Callable[..., Any])


def choosing_options(function: _Function) -> _Function:
    """Add --host, --series and --tag, which narrow what a snapshot's name can mean."""
    function = click.option(
        "--tag", "tags", multiple=True, metavar="TAG", help="Among those with TAG (repeatable)."
    )(function)
    function = click.option(
        "--series", metavar="NAME", help='Among this series\' snapshots: "latest" is its latest.'
    )(function)
    return click.option("--host", metavar="NAME", help="Among this host's snapshots.")(function)


def choose(
    archive: Archive, spec: str, host: str | None, series: str | None, tags: tuple[str, ...]
) -> tuple[Snapshot, bytes]:
    """Return the snapshot and the path that ``SNAPSHOT[:PATH]`` names (NotFound, UsageError)."""
    from coopfs.archive.select import resolve, split_spec

    name, path = split_spec(spec)
    return resolve(archive, name, host=host, series=series, tags=tags), path
