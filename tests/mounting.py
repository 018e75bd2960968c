"""A real mount for tests: the command in a process of its own, until it is unmounted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Host

from coopfs.view.mountpoint import mounted_at

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 60


def has_fuse() -> bool:
    """Tell whether this machine can mount."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return True


needs_fuse = pytest.mark.skipif(not has_fuse(), reason="no /dev/fuse here: MOUNTS ARE NOT TESTED")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds; fail the test, saying *what*, after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for: {what}"
        time.sleep(0.01)


def command(host: Host, *args: object) -> subprocess.Popen[str]:
    """Start ``coopfs ARGS`` as a process of *host*."""
    return subprocess.Popen(
        [sys.executable, "-m", "coopfs.cli.main", *map(str, args)],
        env={**os.environ, **host.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Mounted:
    """A mount in the foreground."""

    def __init__(self, path: Path, process: subprocess.Popen[str]) -> None:
        self.path = path
        self.process = process

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """End it with a signal; return (exit code, what it logged)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, log


@contextmanager
def mounted(host: Host, path: Path, *args: object) -> Iterator[Mounted]:
    """Mount the archive of *host* on *path*, which is made; unmount at the end."""
    path.mkdir(exist_ok=True)
    mount = Mounted(path, command(host, "mount", "--foreground", "-v", path, *args))
    try:
        wait_until(
            lambda: mount.process.poll() is not None or mounted_at(str(path)), f"a mount on {path}"
        )
        if mount.process.poll() is not None:
            pytest.fail(f"the mount ended: {mount.stop()}")
        yield mount
    finally:
        mount.stop()
        if mounted_at(str(path)):
            subprocess.run(["umount", "-l", str(path)], check=False)
