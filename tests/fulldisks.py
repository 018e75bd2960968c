"""Places that really fill up: a tmpfs, an ext4 of its own, a btrfs folder with a quota.

Mounted for a test, as root; skipped, by name, where mounting is not permitted.  btrfs, since its
quotas are part of every kernel that has it, and bind root too: that is EDQUOT, with room left
on the disk.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import program

KINDS = ("tmpfs", "ext4", "quota")
DISK_LEN = {"tmpfs": 48 << 20, "ext4": 48 << 20, "quota": 256 << 20}  # btrfs has a minimum


class Room:
    """A file system at *path*; :meth:`fill` takes its room, :meth:`relieve` gives it back."""

    def __init__(self, kind: str, path: Path) -> None:
        self.kind = kind
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, leave: int) -> None:
        """Leave about *leave* bytes to whoever writes here."""
        self.relieve()
        if self.kind == "quota":
            _run("btrfs", "filesystem", "sync", self.path)
            shown = _run("btrfs", "qgroup", "show", "--raw", "-f", self.path)
            used = int(shown.splitlines()[-1].split()[1])
            self._limit_to(str(used + leave))
            return
        with self._ballast.open("wb", buffering=0) as stream:
            for size in (1 << 20, 1 << 12):
                try:
                    while stream.write(bytes(size)) == size:
                        pass
                except OSError:  # full, but for less than *size*
                    continue
            stream.truncate(max(stream.tell() - leave, 0))

    def relieve(self) -> None:
        """Let there be room again."""
        if self.kind == "quota":
            self._limit_to("none")
        else:
            self._ballast.unlink(missing_ok=True)

    def _limit_to(self, limit: str) -> None:
        # From above the folder: within it even raising its quota would go over it.
        group = f"0/{_subvolume_id(self.path)}"
        _run("btrfs", "qgroup", "limit", limit, group, self.path.parent)


@contextmanager
def a_room(kind: str, folder: Path) -> Iterator[Room]:
    """Mount a file system of that kind at a new folder in *folder*."""
    path, image = folder / f"room-{kind}", folder / f"{kind}.img"
    path.mkdir()
    if kind == "tmpfs":
        options: list[str | Path] = ["-t", "tmpfs", "-o", f"size={DISK_LEN[kind]}", "coopfs-test"]
    else:
        with image.open("wb") as stream:
            stream.truncate(DISK_LEN[kind])
        if kind == "ext4":
            _run(program("mkfs.ext4", "/sbin/mkfs.ext4"), "-q", "-m", "0", image)
        else:
            _run(program("mkfs.btrfs", "/sbin/mkfs.btrfs"), "-q", image)
        options = ["-o", "loop", image]
    mounted = subprocess.run(["mount", *options, path], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(
            f"no {kind} can be mounted: FULL DISKS ARE NOT TESTED: {mounted.stderr.strip()}"
        )
    try:
        if kind == "quota":
            _run("btrfs", "quota", "enable", path)
            _run("btrfs", "subvolume", "create", path / "limited")
            yield Room(kind, path / "limited")
        else:
            yield Room(kind, path)
    finally:
        _run("umount", "-l", path)
        image.unlink(missing_ok=True)


def _subvolume_id(path: Path) -> str:
    return _run("btrfs", "inspect-internal", "rootid", path).strip()


def _run(*command: str | Path) -> str:
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{command}: {ran.stderr}"
    return ran.stdout
