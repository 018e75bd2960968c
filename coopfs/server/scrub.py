"""The keyless scrub: every object is read and hashed again, in turn, for ever.

Knows no key: an object's name is the SHA-256 of its bytes.  One that no longer is what
its name says is moved aside, so that the owner's next put of it is accepted; until then
it can be read (most of it is sound), is in no listing, and is reported.  Where a pass
has got to is written down now and then, so that a restart goes on there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Final

from coopfs import durable
from coopfs.objects import FANNED_OUT, KINDS, READ_FLAGS
from coopfs.server.clock import NS, ClockWatch
from coopfs.server.moving import Moving
from coopfs.server.places import ROTTEN, Places
from coopfs.server.quota import Ledger
from coopfs.server.reading import drop_cached, read_into
from coopfs.server.trash import Trash

STATE_FILE: Final = "scrub.json"
SAVE_NS: Final = 60 * NS  # a restart reads again what was read in the last minute
# A pass in a fortnight: a quarter of the shortest time in which a second fault is likely
# to meet the first, by the monthly scrubs that file systems with checksums recommend.
PASS_S: Final = 14 * 24 * 3600
LOOK_S: Final = 600  # how long after a pass to ask again whether the next one is due
RATE_MIN: Final = 4 << 20  # bytes a second; no disk notices it
RATE_MAX: Final = 64 << 20  # half of what a single hard disk reads

_UNREADABLE = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA})


@dataclass(frozen=True, slots=True)
class Finding:
    """One object that is not what its name says, and has not been put again yet."""

    kind: str
    name: str  # 64 hex digits
    size: int  # bytes, as found
    found_ns: int  # by the wall clock, as it counts today


@dataclass(frozen=True, slots=True)
class ScrubState:
    """Where the scrub is.  Times are the wall clock's, in nanoseconds."""

    kind: str = KINDS[0]
    name: str = ""  # the last object looked at, in the order of names; "": none of its kind
    begun_ns: int = 0  # this pass
    objects: int = 0  # looked at in this pass
    bytes_read: int = 0  # in this pass
    last_begun_ns: int = 0  # the last whole pass; 0: there was none yet
    last_finished_ns: int = 0


@dataclass(frozen=True, slots=True)
class ScrubStep:
    """What one step did."""

    bytes_read: int
    objects: int  # finished
    found: tuple[Finding, ...]  # in this step
    is_pass_done: bool  # the next step begins anew


@dataclass(slots=True)
class _Reading:
    """An object half read."""

    kind: str
    name: str
    path: str
    status: os.stat_result
    fd: int  # -1: it cannot even be opened
    sha256: hashlib._Hash
    offset: int = 0
    is_over: bool = False

    def read(self, length: int) -> int:
        """Hash the next *length* bytes; return how many there were, -1 if it is not open."""
        if self.fd < 0:
            return -1
        return read_into(self.fd, self.offset, length, self.sha256.update)

    @property
    def size(self) -> int:
        return self.status.st_size


def rate_for(used: int) -> int:
    """Return how many bytes a second the scrub of *used* bytes should read."""
    return min(max(used // PASS_S, RATE_MIN), RATE_MAX)


class Scrub:
    """The scrub of one partner.  Thread-safe; raises OSError and translates nothing."""

    def __init__(self, places: Places, ledger: Ledger, clock: ClockWatch, moving: Moving) -> None:
        """Share the depot's *moving*: it is held while a file has two names."""
        self._places, self._ledger, self._clock = places, ledger, clock
        self._moving = moving
        self._lock = threading.Lock()
        self._path = os.path.join(places.top, STATE_FILE)
        self._state: ScrubState | None = None
        self._saved_ns = 0
        self._is_unsaved = False  # else a command at the prompt would overwrite the server's
        self._reading: _Reading | None = None
        self._ahead: Iterator[tuple[str, str]] | None = None

    def state(self) -> ScrubState:
        """Return where the scrub is."""
        with self._lock:
            return self._loaded()

    def findings(self) -> list[Finding]:
        """Return what is damaged and has not been put again yet."""
        found = []
        for aside in self._places.list_aside(ROTTEN):
            with suppress(FileNotFoundError):
                size = os.lstat(aside.path).st_size
                found.append(
                    Finding(aside.kind, aside.name, size, self._clock.wall_of(aside.since_ns))
                )
        return found

    def drop(self, kind: str, name: str) -> None:
        """Let go of the damaged copies of an object that has been put again."""
        with self._moving:
            for aside in self._places.find_aside(ROTTEN, kind, name):
                with suppress(FileNotFoundError):
                    size = os.lstat(aside.path).st_size
                    os.unlink(aside.path)
                    self._ledger.rotted(-size, objects=-1)

    def let_go(self, kind: str, name: str, trash: Trash) -> None:
        """Move the damaged copies of an object that is deleted to the trash."""
        with self._moving:
            for aside in self._places.find_aside(ROTTEN, kind, name):
                size = os.lstat(aside.path).st_size
                trash.take_in(kind, name, aside.path, size)
                self._ledger.rotted(-size, objects=-1)

    def step(self, limit: int) -> ScrubStep:
        """Read about *limit* bytes further; the caller waits :meth:`pause_s` after each step.

        Returns sooner where a pass ends, and at once while the next one is not due.
        """
        with self._lock:
            state = self._loaded()
            if not state.begun_ns and self._is_resting(state):
                return ScrubStep(0, 0, (), True)
            if not state.begun_ns:
                self._state = state = replace(state, begun_ns=self._clock.wall_ns())
            done = objects = 0
            found: list[Finding] = []
            while done < limit:
                reading = self._reading or self._open_next(state)
                if reading is None:
                    self._end_pass(state)
                    return ScrubStep(done, objects, tuple(found), True)
                self._reading = reading
                done += self._read_on(reading, limit - done, found)
                if reading.is_over:
                    objects += 1
                    state = replace(
                        state,
                        kind=reading.kind,
                        name=reading.name,
                        objects=state.objects + 1,
                        bytes_read=state.bytes_read + reading.size,
                    )
                    self._state, self._is_unsaved = state, True
            if abs(self._clock.wall_ns() - self._saved_ns) >= SAVE_NS:
                self._save(state)
            return ScrubStep(done, objects, tuple(found), False)

    def pause_s(self, step: ScrubStep) -> float:
        """Return how long to wait after *step*, so that the disk hardly notices."""
        if step.is_pass_done:
            return LOOK_S
        return step.bytes_read / rate_for(self._ledger.count.used)

    def close(self) -> None:
        """Write down where the scrub is and let go of what it has open."""
        with self._lock:
            self._stop_reading()
            if self._is_unsaved:
                self._save(self._loaded())
            self._ahead = None

    def _is_resting(self, state: ScrubState) -> bool:
        """Tell whether the last pass began too short a time ago for another."""
        return abs(self._clock.wall_ns() - state.last_begun_ns) < PASS_S * NS

    # --- within -------------------------------------------------------------------

    def _read_on(self, reading: _Reading, limit: int, found: list[Finding]) -> int:
        """Read at most *limit* bytes; judge the object when all of it was read."""
        wanted = min(limit, reading.size - reading.offset)
        try:
            got = reading.read(wanted)
        except OSError as exc:
            if exc.errno not in _UNREADABLE:
                self._stop_reading()
                raise
            got = -1
        if got == wanted:
            drop_cached(reading.fd, reading.offset, got)
            reading.offset += got
            if reading.offset < reading.size:
                return got
            if reading.sha256.hexdigest() == reading.name:
                self._stop_reading()
                return got
        # Once more before it is called damaged: memory and cables have bad moments too.
        if not _is_sound(reading) and (finding := self._move_aside(reading)) is not None:
            found.append(finding)
        self._stop_reading()
        return max(got, 0) + reading.size

    def _move_aside(self, reading: _Reading) -> Finding | None:
        """Take a damaged object out of the way, unless it is another one by now."""
        with self._moving:
            try:
                if not os.path.samestat(os.lstat(reading.path), reading.status):
                    return None
            except FileNotFoundError:
                return None
            now_ns = self._clock.now_ns()
            target = self._places.aside(ROTTEN, reading.kind, reading.name, now_ns)
            if not durable.move_new(reading.path, target):
                return None
            self._ledger.gone(reading.size)
            self._ledger.rotted(reading.size)
        return Finding(reading.kind, reading.name, reading.size, self._clock.wall_of(now_ns))

    def _open_next(self, state: ScrubState) -> _Reading | None:
        if self._ahead is None:
            self._ahead = self._names_after(state.kind, state.name)
        for kind, name in self._ahead:
            path = self._places.object(kind, name)
            with suppress(FileNotFoundError):  # deleted since it was listed
                status = os.lstat(path)
                return _Reading(kind, name, path, status, _open(path), hashlib.sha256())
        return None

    def _names_after(self, kind: str, name: str) -> Iterator[tuple[str, str]]:
        for next_kind in KINDS[KINDS.index(kind) :]:
            after = name if next_kind == kind else ""
            for folder in self._places.folders_of(next_kind):
                if next_kind == FANNED_OUT and os.path.basename(folder) < after[:2]:
                    continue
                names = sorted(s.name for s in self._places.list_objects(next_kind, folder))
                yield from ((next_kind, found) for found in names if found > after)

    def _end_pass(self, state: ScrubState) -> None:
        self._ahead = None
        now_ns = self._clock.wall_ns()
        self._save(ScrubState(last_begun_ns=state.begun_ns, last_finished_ns=now_ns))

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.is_over = True
            if reading.fd >= 0:
                os.close(reading.fd)

    def _loaded(self) -> ScrubState:
        if self._state is None:
            self._state = _load(self._path)
        return self._state

    def _save(self, state: ScrubState) -> None:
        self._state = state
        with suppress(OSError):  # a full disk; it costs reading some objects twice
            durable.replace(self._path, json.dumps(asdict(state), indent=1).encode())
        self._saved_ns = self._clock.wall_ns()
        self._is_unsaved = False


def _open(path: str) -> int:
    try:
        fd = os.open(path, READ_FLAGS)
    except OSError as exc:
        if exc.errno not in _UNREADABLE:
            raise
        return -1
    drop_cached(fd)
    return fd


def _is_sound(reading: _Reading) -> bool:
    if reading.fd < 0:
        return False
    sha256 = hashlib.sha256()
    try:
        drop_cached(reading.fd)
        read_into(reading.fd, 0, reading.size, sha256.update)
        return sha256.hexdigest() == reading.name
    except OSError as exc:
        if exc.errno not in _UNREADABLE:
            raise
        return False


def _load(path: str) -> ScrubState:
    """Read the state; one that makes no sense is begun anew: nothing is lost but a pass."""
    try:
        with open(path, "rb") as file:
            found = json.load(file)
        state = ScrubState(**found)
        is_sane = state.kind in KINDS and isinstance(state.name, str)
        numbers = [value for key, value in asdict(state).items() if key not in ("kind", "name")]
        return state if is_sane and all(type(n) is int for n in numbers) else ScrubState()
    except (OSError, ValueError, TypeError):
        return ScrubState()
