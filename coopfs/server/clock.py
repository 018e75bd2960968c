"""The clock a trash is emptied by: one that nobody can turn forward unnoticed.

Whoever can make the server's clock jump (a forged time server, a dead battery, a slip
of the hand) could have every trash emptied before its time.  So the wall clock is
compared with CLOCK_BOOTTIME, which only counts, and across restarts with the time last
seen.  After a jump nothing is emptied until somebody confirms the clock or it is back.

Ages are counted in *depot time*: the wall clock less every jump that was confirmed.  It
never jumps itself, so neither a jump nor its confirmation makes anything older.
The state is one small file, shared by every process that works on the same root.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final

from coopfs import durable

NS: Final = 10**9
# An hour is what a wrong time zone in the hardware clock costs and must be noticed; NTP
# slews what is less than its 128 ms, and steps of seconds are common after a resume.
STEP_MAX_NS: Final = 300 * NS
# The wall clock may gain STEP_MAX_NS at most in each such period: a day in a year, then.
ANCHOR_NS: Final = 24 * 3600 * NS
# A machine that was off says nothing about how long; a week's absence needs no question.
OFF_MAX_NS: Final = 7 * 24 * 3600 * NS
SEEN_NS: Final = 60 * NS  # how often the time is written down while nothing else changes


_NONE, _JUMPED, _LOST = "", "jumped", "lost"


@dataclass(frozen=True, slots=True)
class ClockJump:
    """Why the clock is not believed."""

    expected_ns: int  # wall clock, as it should be now
    found_ns: int  # wall clock, as it is now
    is_state_lost: bool  # nothing to compare with: what had been seen cannot be read

    def describe(self) -> str:
        """Return it as a sentence for the person at the server."""
        found = _utc(self.found_ns)
        if self.is_state_lost:
            return f"what was last seen of the clock cannot be read; it shows {found} now"
        return f"the clock shows {found} where {_utc(self.expected_ns)} was expected"


@dataclass(frozen=True, slots=True)
class _State:
    anchor_wall_ns: int  # what the wall clock was, or should have been, ...
    anchor_boot_ns: int  # ... when CLOCK_BOOTTIME said this ...
    boot_id: str  # ... in this run of the kernel
    slack_ns: int  # how far ahead the wall clock may be beside STEP_MAX_NS
    seen_ns: int  # newest time believed, as a wall clock
    skew_ns: int  # depot time is the wall clock less this
    doubt: str = _NONE

    @property
    def is_suspect(self) -> bool:
        return self.doubt != _NONE

    def expected_ns(self, boot_ns: int) -> int:
        return self.anchor_wall_ns + boot_ns - self.anchor_boot_ns


def _boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class ClockWatch:
    """Watches the machine's clock for everything kept under one root.  Thread-safe."""

    def __init__(
        self,
        path: Path,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        boot_ns: Callable[[], int] = _boot_ns,
        boot_id: Callable[[], str] = _boot_id,
    ) -> None:
        """Keep the state in *path*, whose folder exists; the clocks are for tests."""
        self._path = path
        self._read_wall_ns, self._read_boot_ns, self._read_boot_id = wall_ns, boot_ns, boot_id
        with suppress(OSError):  # not there yet, or not ours: nothing hangs on it
            durable.sweep_temporaries(str(path.parent))
        self._lock = threading.Lock()
        self._version: tuple[int, int] | None = None  # inode and mtime of what was read
        self._state: _State | None = None

    def now_ns(self) -> int:
        """Return depot time: it goes on evenly whatever the wall clock does."""
        state, expected_ns, wall_ns = self._observe()
        return (expected_ns if state.is_suspect else wall_ns) - state.skew_ns

    def wall_ns(self) -> int:
        """Return what the wall clock shows, right or wrong."""
        return self._read_wall_ns()

    def wall_of(self, depot_ns: int) -> int:
        """Return the wall clock's time, as it counts today, at a depot time."""
        return depot_ns + self._observe()[0].skew_ns

    def depot_of(self, wall_ns: int) -> int:
        """Return the depot time at a time of the wall clock, as it counts today."""
        return wall_ns - self._observe()[0].skew_ns

    def jump(self) -> ClockJump | None:
        """Look at the clock; return what is wrong with it, or None."""
        state, expected_ns, wall_ns = self._observe()
        return ClockJump(expected_ns, wall_ns, state.doubt == _LOST) if state.is_suspect else None

    def confirm(self) -> ClockJump | None:
        """Take the clock as it is now for right; return the jump that this confirms.

        What is in a trash gets no older by it: the jump is left out of every age.

        Raises:
            OSError: this cannot be written down.
        """
        with self._lock, self._locked_file():
            state, expected_ns, wall_ns = self._step(self._read() or self._state)
            if not state.is_suspect:
                return None
            confirmed = replace(
                state,
                anchor_wall_ns=wall_ns,
                anchor_boot_ns=self._read_boot_ns(),
                slack_ns=0,
                seen_ns=wall_ns,
                skew_ns=state.skew_ns + wall_ns - expected_ns,
                doubt=_NONE,
            )
            self._write(confirmed)
            return ClockJump(expected_ns, wall_ns, state.doubt == _LOST)

    # --- within -------------------------------------------------------------------

    def _observe(self) -> tuple[_State, int, int]:
        """Return (state, what the wall clock should be, what it is), after a look at it."""
        with self._lock:
            known = self._read_if_changed()
            found = self._step(known)
            if known is not None and not _is_worth_writing(known, found[0]):
                return found
            try:
                with self._locked_file():
                    # Another process may have been faster.
                    found = self._step(self._read() or known)
                    self._write(found[0])
            except OSError:
                # A full disk must not keep its owner from making room.  What is kept in
                # memory holds until it can be written; a restart compares with older times.
                self._state = found[0]
            return found

    def _step(self, state: _State | None) -> tuple[_State, int, int]:
        wall_ns, boot_ns, boot_id = self._read_wall_ns(), self._read_boot_ns(), self._read_boot_id()
        if state is None:  # the first look ever, or what was seen before is lost
            is_lost = os.path.lexists(self._path)
            doubt = _LOST if is_lost else _NONE
            return _State(wall_ns, boot_ns, boot_id, 0, wall_ns, 0, doubt), wall_ns, wall_ns
        if state.boot_id != boot_id:
            state = replace(
                state,
                # All that CLOCK_BOOTTIME has counted came after the time last seen.
                anchor_wall_ns=state.seen_ns + boot_ns,
                anchor_boot_ns=boot_ns,
                boot_id=boot_id,
                slack_ns=OFF_MAX_NS,
            )
        expected_ns = state.expected_ns(boot_ns)
        ahead_ns = wall_ns - expected_ns
        if not -STEP_MAX_NS <= ahead_ns <= STEP_MAX_NS + state.slack_ns:
            doubt = state.doubt or _JUMPED
            return replace(state, doubt=doubt, seen_ns=expected_ns), expected_ns, wall_ns
        if state.doubt == _LOST:  # that the clock runs evenly since does not make it right
            return replace(state, seen_ns=expected_ns), expected_ns, wall_ns
        state = replace(state, doubt=_NONE, seen_ns=wall_ns)  # never left, or it is back
        if state.slack_ns or boot_ns - state.anchor_boot_ns >= ANCHOR_NS:
            state = replace(state, anchor_wall_ns=wall_ns, anchor_boot_ns=boot_ns, slack_ns=0)
        return state, expected_ns, wall_ns

    def _read_if_changed(self) -> _State | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return self._state
        version = (status.st_ino, status.st_mtime_ns)
        if version != self._version:
            self._state, self._version = self._read(), version
        return self._state

    def _read(self) -> _State | None:
        """Return the state, or None if there is none that can be read."""
        try:
            found = json.loads(self._path.read_bytes())
            if not isinstance(found, dict) or any(
                type(found.get(field.name)) is not (str if field.name in _TEXTS else int)
                for field in fields(_State)
            ):
                return None
            return _State(**{field.name: found[field.name] for field in fields(_State)})
        except (OSError, ValueError):
            return None

    def _write(self, state: _State) -> None:
        durable.replace(str(self._path), json.dumps(asdict(state), indent=1).encode())

    @contextmanager
    def _locked_file(self) -> Iterator[None]:
        """Keep other processes from changing the state meanwhile."""
        # A file of its own: the state is replaced, so a lock on it would hold nobody.
        fd = durable.open_lock(f"{self._path}.lock")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


_TEXTS: Final = ("boot_id", "doubt")


def _is_worth_writing(known: _State, found: _State) -> bool:
    return replace(found, seen_ns=known.seen_ns) != known or (
        abs(found.seen_ns - known.seen_ns) >= SEEN_NS
    )


def _utc(wall_ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_ns // NS))
    except (OverflowError, ValueError, OSError):  # a clock may show anything
        return f"{wall_ns // NS} s after 1970"
