"""What a doctor's look finds: one sentence each, how bad it is, and what to do next."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from os import geteuid
from pathlib import Path

from coopfs.errors import CoopfsError


class Level(IntEnum):
    """How bad a finding is; from WARNING on somebody has something to do."""

    OK = 0
    NOTE = 1  # good to know; may stay as it is
    WARNING = 2  # not lost yet, but not to be left so
    PROBLEM = 3  # backups do not work, or are in danger, now


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    where: str  # an archive's name, "serve NAME" for a partner here; "": this machine
    topic: str  # one of the words in coopfs-doctor(1), for programs
    text: str
    advice: str = ""  # what to do next


class Report:
    """Where the looking functions put what they find; *tell* gets each at once."""

    def __init__(self, tell: Callable[[Finding], None], where: str = "") -> None:
        """*where*: what all of it is about."""
        self._tell = tell
        self.where = where

    def about(self, where: str) -> Report:
        """Return a report about something else."""
        return Report(self._tell, where)

    def ok(self, topic: str, text: str) -> None:
        """This is well."""
        self.add(Level.OK, topic, text)

    def note(self, topic: str, text: str, advice: str = "") -> None:
        """This is good to know."""
        self.add(Level.NOTE, topic, text, advice)

    def warn(self, topic: str, text: str, advice: str = "") -> None:
        """This should be seen to."""
        self.add(Level.WARNING, topic, text, advice)

    def problem(self, topic: str, text: str, advice: str = "") -> None:
        """This must be seen to."""
        self.add(Level.PROBLEM, topic, text, advice)

    def add(self, level: Level, topic: str, text: str, advice: str = "") -> None:
        """Report one finding."""
        self._tell(Finding(level, self.where, topic, text, advice))

    @contextmanager
    def guarded(self, topic: str) -> Iterator[None]:
        """Make a problem of whatever keeps us from looking; the rest is looked at all the same."""
        try:
            yield
        except CoopfsError as exc:
            self.problem(topic, str(exc))
        except OSError as exc:
            named = f"{exc.filename}: " if exc.filename else ""
            self.problem(topic, f"{named}{exc.strerror or exc}")
        except sqlite3.Error as exc:
            self.problem(topic, f"the local state cannot be read: {exc}")


def is_private(report: Report, topic: str, path: Path, *, is_secret: bool) -> bool:
    """Tell whether *path* is ours alone (a secret), or at least only ours to change.

    What is not is a problem that is reported (OSError: it cannot be looked at).
    """
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
    advice = f"chmod {wanted:o} {path}"
    if status.st_uid not in (geteuid(), 0):
        report.problem(topic, f"{path} belongs to another user (uid {status.st_uid})", "chown it")
    elif is_secret and mode & 0o077:
        report.problem(topic, f"{path} is not for you alone (mode {mode:04o})", advice)
    elif mode & 0o022:
        report.problem(topic, f"others may change {path} (mode {mode:04o})", advice)
    else:
        return True
    return False
