"""The folders above the snapshots: by-host, by-date, latest, the names for Samba.

Pure: a list of snapshots becomes a tree of names.  What is inside a snapshot is
:mod:`coopfs.view.names`'s.  Described in coopfs-mount(1), "What the mount shows".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from coopfs.archive.select import LATEST, folder_names
from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import State

STATUS_FOLDER: Final = b".coopfs"
STATUS_FILE: Final = b"status"


@dataclass(frozen=True, slots=True)
class VirtualNode:
    """One name above the snapshots.

    A snapshot's folder has *snapshot* set, a symlink *target*, a folder
    *children*; what has none of them is the status file.
    """

    path: bytes  # from the top of the mount, b"" for the top itself
    mtime_ns: int
    children: dict[bytes, VirtualNode] | None = None  # by name, as they are listed
    target: bytes = b""
    snapshot: Snapshot | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, a snapshot's included."""
        return self.children is not None or self.snapshot is not None


@dataclass(slots=True)
class _Draft:
    """A folder while it is being put together."""

    path: bytes
    children: dict[bytes, VirtualNode | _Draft] = field(default_factory=dict)

    def folder(self, name: str | bytes) -> _Draft:
        name = name.encode() if isinstance(name, str) else name
        child = self.children.setdefault(name, _Draft(_join(self.path, name)))
        if not isinstance(child, _Draft):
            raise TypeError(f"{child.path!r} is not a folder")  # no two kinds share a name
        return child

    def symlink(self, name: str, target: str, mtime_ns: int) -> None:
        key = name.encode()
        self.children[key] = VirtualNode(_join(self.path, key), mtime_ns, target=target.encode())

    def snapshot(self, name: str, snapshot: Snapshot) -> None:
        key = name.encode()
        self.children[key] = VirtualNode(
            _join(self.path, key), snapshot.facts.time_ns, snapshot=snapshot
        )

    def finish(self, oldest_ns: int) -> VirtualNode:
        """Return the finished folder, as young as the youngest thing in it."""
        children = {
            name: child.finish(oldest_ns) if isinstance(child, _Draft) else child
            for name, child in sorted(self.children.items())
        }
        mtime_ns = max((child.mtime_ns for child in children.values()), default=oldest_ns)
        return VirtualNode(self.path, mtime_ns, children)


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def build_catalogue(snapshots: Iterable[Snapshot], *, shadow: bool, mounted_ns: int) -> VirtualNode:
    """Return the top of the mount for *snapshots* (oldest first).

    *mounted_ns* dates what no snapshot dates; *shadow* adds the ``@GMT-…`` folders.
    """
    top = _Draft(b"")
    by_host, by_date = top.folder("by-host"), top.folder("by-date")
    series: dict[tuple[str, str], list[Snapshot]] = {}
    for snapshot in snapshots:
        series.setdefault((snapshot.facts.host, snapshot.facts.series), []).append(snapshot)
    for (host, name), members in series.items():
        _add_series(by_host.folder(host).folder(name), by_date, host, name, members)
        if shadow:
            _add_shadow_names(by_host.folder(host).folder(name), members)
    status = top.folder(STATUS_FOLDER)
    status.children[STATUS_FILE] = VirtualNode(_join(status.path, STATUS_FILE), mounted_ns)
    return top.finish(mounted_ns)


def _add_series(
    folder: _Draft, by_date: _Draft, host: str, series: str, members: list[Snapshot]
) -> None:
    named = folder_names(members)
    newest: tuple[bool, int, int, str] | None = None
    for name, snapshot in named.items():
        facts = snapshot.facts
        folder.snapshot(name, snapshot)
        day, _, clock = name.partition("_")
        by_date.folder(day).symlink(
            f"{host}_{series}_{clock}", f"../../by-host/{host}/{series}/{name}", facts.time_ns
        )
        # Newest by number: a wrong clock must not hide the last snapshot.  Nor a hacked host.
        rank = (not snapshot.is_distrusted, facts.number, facts.time_ns, name)
        if facts.state is State.COMPLETE and (newest is None or rank > newest):
            newest = rank
    if newest is not None:
        folder.symlink(LATEST, newest[3], newest[2])


def _add_shadow_names(folder: _Draft, members: list[Snapshot]) -> None:
    """Add a folder a snapshot as Samba's shadow_copy2 expects them by default, in UTC."""
    for snapshot in members:
        moment = datetime.fromtimestamp(snapshot.facts.time_ns // 1_000_000_000, UTC)
        name = moment.strftime("@GMT-%Y.%m.%d-%H.%M.%S")
        # The name has no room for a suffix: of two in one second the later one is shown.
        folder.snapshot(name, snapshot)
