"""Depots for tests: terms, clocks that are turned by hand, and puts in one line."""

from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from coopfs.format.receipt import Receipt
from coopfs.server.clock import ClockWatch
from coopfs.server.depot import Depot
from coopfs.server.quota import Usage

DAY_NS = 24 * 3600 * 10**9
START_NS = time.time_ns()  # files are dated by the machine, which goes on from here


@dataclass(frozen=True, slots=True)
class Agreed:
    """What was agreed with the partner of a test."""

    name: str = "ann"
    quota_bytes: int = 0
    per_day_bytes: int = 0
    retention_days: int = 30


@dataclass(slots=True)
class Clocks:
    """The clocks of one machine, turned by hand."""

    wall: int = START_NS
    boot: int = 1000 * 10**9
    boot_id: str = "first"

    def watch(self, root: Path) -> ClockWatch:
        return ClockWatch(
            root / "clock.json",
            wall_ns=lambda: self.wall,
            boot_ns=lambda: self.boot,
            boot_id=lambda: self.boot_id,
        )

    def pass_(self, ns: int) -> None:
        """Let time go by."""
        self.wall += ns
        self.boot += ns

    def jump(self, ns: int) -> None:
        """Turn the wall clock."""
        self.wall += ns

    def reboot(self, off_ns: int) -> None:
        """Switch the machine off for a while."""
        self.wall += off_ns
        self.boot = 20 * 10**9
        self.boot_id += "'"


@dataclass
class Lab:
    """A server's root with one partner's depot, opened anew whenever a test likes."""

    root: Path
    agreed: Agreed = field(default_factory=Agreed)
    clocks: Clocks = field(default_factory=Clocks)

    def __post_init__(self) -> None:
        self.root.mkdir(exist_ok=True)
        self.depot = self.open()

    def open(self, *, is_server: bool = True) -> Depot:
        clock = self.clocks.watch(self.root)
        return Depot(self.root, self.agreed, clock=clock, is_server=is_server)

    def restart(self) -> Depot:
        self.depot.close()
        self.depot = self.open()
        return self.depot

    @property
    def folder(self) -> Path:
        return self.depot.folder

    def path(self, kind: str, name: str) -> Path:
        fan_out = name[:2] if kind == "data" else ""
        return self.folder / "objects" / kind / fan_out / name


def name_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def some_bytes(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def put(depot: Depot, data: bytes, kind: str = "data", *, is_admin: bool = False) -> str:
    """Put *data* and return its name."""
    put_receipt(depot, data, kind, is_admin=is_admin)
    return name_of(data)


def put_receipt(
    depot: Depot, data: bytes, kind: str = "data", *, is_admin: bool = False
) -> Receipt:
    with depot.begin_put(kind, name_of(data), len(data), is_admin=is_admin) as upload:
        for start in range(0, len(data), 100_000):
            upload.write(data[start : start + 100_000])
        return upload.finish()


def read(depot: Depot, kind: str, name: str) -> bytes:
    fd, size = depot.open_object(kind, name)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def names(depot: Depot, kind: str = "data") -> list[str]:
    return [listed.name for listed in depot.list(kind)]


def sums(depot: Depot) -> Usage:
    """Return the usage without what other programs, or a day's traffic, change."""
    return replace(depot.usage(), disk_free=0, left=0, today=0)


def paths_below(folder: Path) -> list[Path]:
    """Return every file below *folder* (rglob() takes six times as long)."""
    return [Path(top, name) for top, _, names in os.walk(folder) for name in names]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return every file below *folder*, by its path in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths_below(folder)}


def rot(path: Path) -> None:
    """Flip one bit in the middle, as a disk may, and keep the times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(status.st_size // 2)
        file.write(bytes([byte[0] ^ 4]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
