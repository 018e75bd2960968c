"""Going into the background: the parent waits until the mount is up, or says why not.

The child is forked before anything is opened (SQLite and threads do not survive a
fork) and keeps the terminal until it is up, so it can still ask for a passphrase
and show its own errors.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from coopfs.errors import EXIT_DONE, EXIT_FAILED

SYSLOG: Final = Path("/dev/log")
_UP: Final = b"\0"  # what the child writes when the mount can be used


class Background:
    """One change into the background: :meth:`split`, later :meth:`up` in the child."""

    def __init__(self) -> None:
        """Nothing happens before :meth:`split`."""
        self._to_parent = -1

    def split(self) -> int | None:
        """Fork: None in the child at once; in the parent the exit code, once it is known.

        The exit code is 0 when the mount is up, else the child's, which has told
        the user what went wrong.
        """
        from_child, to_parent = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(from_child)
            self._to_parent = to_parent
            return None
        os.close(to_parent)
        try:
            return _wait_until_up(child, from_child)
        except BaseException:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)  # nobody would know of the mount
            raise

    def up(self) -> None:
        """In the child: the mount can be used; leave the terminal and tell the parent."""
        os.setsid()
        os.chdir("/")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        os.close(nowhere)
        with suppress(BrokenPipeError):  # the parent was killed; the mount is up all the same
            os.write(self._to_parent, _UP)
        os.close(self._to_parent)


def _wait_until_up(child: int, from_child: int) -> int:
    with open(from_child, "rb") as pipe:  # a descriptor, not a path
        if pipe.read(1) == _UP:
            return EXIT_DONE
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code > 0 else EXIT_FAILED


def log_to_terminal(level: int) -> None:
    """Send what is logged from *level* up to standard error."""
    _log_through(logging.StreamHandler(), "coopfs: %(message)s", level)


def log_to_system(log_file: Path) -> None:
    """Send what is logged from now on to syslog, or to *log_file* where there is none."""
    handler: logging.Handler
    if SYSLOG.exists():
        handler = logging.handlers.SysLogHandler(str(SYSLOG))
        _log_through(handler, f"coopfs[{os.getpid()}]: %(message)s", logging.INFO)
        return
    handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
    _log_through(handler, "%(asctime)s %(levelname)s %(message)s", logging.INFO)


def _log_through(handler: logging.Handler, line: str, level: int) -> None:
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    handler.setFormatter(logging.Formatter(line))
    root.addHandler(handler)
    root.setLevel(level)
