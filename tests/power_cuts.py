"""What a disk may hold after the power has failed: a model of what fsync promises.

Records the calls that change or sync files below a folder while something is done, then
makes every state that a cut after any of them could leave: names that were not made
durable by an fsync of their folder are there or not, each on its own; content that was
not fsynced is there or is gone (zero length, what delayed allocation leaves).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from depots import paths_below


@dataclass(slots=True)
class Inode:
    content: bytes
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class NameChange:
    """One name in one folder: from now on it is this inode's, or nobody's."""

    call: int  # its number
    path: str
    inode: Inode | None


@dataclass(slots=True)
class Recording:
    """The files below *root* before, and what was then done to them, in order."""

    root: Path
    before: dict[str, Inode] = field(default_factory=dict)
    now: dict[str, Inode] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    changes: list[NameChange] = field(default_factory=list)
    folder_syncs: list[tuple[int, str]] = field(default_factory=list)  # (call, folder)
    writes: list[tuple[int, Inode]] = field(default_factory=list)
    file_syncs: list[tuple[int, Inode]] = field(default_factory=list)

    @classmethod
    def begin(cls, root: Path, monkeypatch: pytest.MonkeyPatch) -> Recording:
        recording = cls(root)
        inodes: dict[int, Inode] = {}
        for path in paths_below(root):
            status = path.stat()
            inode = inodes.setdefault(status.st_ino, Inode(path.read_bytes(), status.st_mtime_ns))
            recording.before[str(path)] = inode
        recording.now = dict(recording.before)
        for name in ("open", "write", "fsync", "link", "unlink", "rename"):
            monkeypatch.setattr(os, name, recording._watched(name, getattr(os, name)))
        return recording

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            is_new = name == "open" and args[1] & os.O_CREAT and not os.path.lexists(args[0])
            path = os.readlink(f"/proc/self/fd/{args[0]}") if name in ("write", "fsync") else ""
            result = real(*args, **more)
            if name != "open" or is_new:
                self._note(name, path or os.fspath(args[0]), args)
            return result

        return watched

    def _note(self, name: str, path: str, args: tuple[Any, ...]) -> None:
        if not path.startswith(str(self.root)):
            return
        call = len(self.calls)
        self.calls.append(name)
        if name == "open":
            self._rename(call, path, Inode(b"", os.stat(path).st_mtime_ns))
        elif name == "write":
            inode = self.now[path]
            inode.content = Path(path).read_bytes()
            self.writes.append((call, inode))
        elif name == "fsync" and os.path.isdir(path):
            self.folder_syncs.append((call, path))
        elif name == "fsync":
            self.file_syncs.append((call, self.now[path]))
        elif name == "link":
            self._rename(call, args[1], self.now[path])
        elif name == "unlink":
            self._rename(call, path, None)
        else:  # a rename; within one folder everywhere in coopfs
            self._rename(call, args[1], self.now[path])
            self._rename(call, path, None)

    def _rename(self, call: int, path: str, inode: Inode | None) -> None:
        self.changes.append(NameChange(call, path, inode))
        if inode is None:
            self.now.pop(path, None)
        else:
            self.now[path] = inode

    # --- after the cut ------------------------------------------------------------

    def states(self) -> Iterator[tuple[int, dict[str, tuple[Inode, bool]]]]:
        """Yield (calls done, files): path -> (inode, whether its content is there).

        Each state once, at the earliest cut that leaves it, and again after the last call.
        """
        seen = set()
        for done in range(len(self.calls) + 1):
            for files in self._states_after(done):
                state = frozenset((path, id(i), kept) for path, (i, kept) in files.items())
                is_last = done == len(self.calls)
                if (is_last, state) not in seen:
                    seen.add((is_last, state))
                    yield done, files

    def _states_after(self, done: int) -> Iterator[dict[str, tuple[Inode, bool]]]:
        made = [change for change in self.changes if change.call < done]
        loose = [change for change in made if not self._is_name_durable(change, done)]
        lost_sets: list[list[NameChange]] = [[], loose]
        for change in loose:
            lost_sets += [[change], [other for other in loose if other is not change]]
        for lost in lost_sets:
            names = dict(self.before)
            for change in made:
                if any(change is other for other in lost):
                    continue
                if change.inode is None:
                    names.pop(change.path, None)
                else:
                    names[change.path] = change.inode
            for is_kept in (True, False):
                yield {
                    path: (inode, is_kept or self._is_content_durable(inode, done))
                    for path, inode in names.items()
                }

    def _is_name_durable(self, change: NameChange, done: int) -> bool:
        folder = os.path.dirname(change.path)
        return any(
            change.call < call < done and synced == folder for call, synced in self.folder_syncs
        )

    def _is_content_durable(self, inode: Inode, done: int) -> bool:
        written = [call for call, other in self.writes if other is inode and call < done]
        if not written:
            return True  # from before
        return any(max(written) < call < done for call, other in self.file_syncs if other is inode)

    def restore(self, files: dict[str, tuple[Inode, bool]]) -> None:
        """Have exactly *files* below the root; folders stay."""
        for left in paths_below(self.root):
            left.unlink()
        first: dict[int, str] = {}
        for path, (inode, has_content) in files.items():
            if id(inode) in first:
                os.link(first[id(inode)], path)
                continue
            first[id(inode)] = path
            Path(path).write_bytes(inode.content if has_content else b"")
            os.utime(path, ns=(inode.mtime_ns, inode.mtime_ns))
