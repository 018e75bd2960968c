"""The real command on a pseudo-terminal, for what only happens where somebody sits."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

DEADLINE_S = 60


# The terminal becomes the one the process belongs to, so that it has a /dev/tty.
_CHILD = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv[0] = "coopfs"
from coopfs.cli.main import main
main()
"""


class Terminal:
    """A running ``coopfs ARGS`` whose stdin, stdout, stderr and /dev/tty are one terminal."""

    def __init__(self, args: Sequence[object], environ: Mapping[str, str]) -> None:
        self.output = b""
        self._seen = 0
        self._fd, child_fd = os.openpty()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *map(str, args)],
                stdin=child_fd,
                stdout=child_fd,
                stderr=child_fd,
                env={**os.environ, **environ, "TERM": "xterm"},
                start_new_session=True,
            )
        finally:
            os.close(child_fd)

    def expect(self, text: str) -> None:
        """Wait until *text* is shown after what was expected before."""
        wanted = text.encode()
        deadline = time.monotonic() + DEADLINE_S
        while (place := self.output.find(wanted, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.output!r}"
            if not self._read():
                raise AssertionError(f"ended without {text!r}: {self.output!r}")
        self._seen = place + len(wanted)

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self.output += data
        return bool(data)

    def type(self, text: str) -> None:
        """Type *text*."""
        os.write(self._fd, text.encode())

    def finish(self) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read():
            assert time.monotonic() < deadline, f"does not end: {self.output!r}"
        code = self._process.wait(DEADLINE_S)
        os.close(self._fd)
        return code
