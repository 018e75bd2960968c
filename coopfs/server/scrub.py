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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Final

from coopfs import durable
from coopfs.objects import FANNED_OUT, KINDS, READ_FLAGS
from coopfs.server.clock import NS, ClockWatch
from coopfs.server.moving import Moving
from coopfs.server.places import ROTTEN, Aside, Places
from coopfs.server.quota import Ledger
from coopfs.server.reading import drop_cached, read_into
from coopfs.server.trash import Trash

STATE_FILE: Final = "scrub.json"
SAVE_NS: Final = 60 * NS  # a restart reads again what was read in the last minute
# A pass in a fortnight: a quarter of the shortest time in which a second fault is likely
# to meet the first, by the monthly scrubs that file systems with checksums recommend.
PASS_S: Final = 14 * 24 * 3600
LOOK_S: Final = 600  # how long after a pass to ask again whether the next one is due
OBJECTS_MAX: Final = 64  # in one step, however small
OBJECT_S: Final = 0.05  # pause for each; a hard disk seeks five times as often
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
    objects: int  # finished, damaged ones that were looked at again included
    found: tuple[Finding, ...]  # in this step
    is_pass_done: bool  # the next step begins anew


@dataclass(slots=True)
class _Reading:
    """An object that is being read."""

    kind: str
    name: str
    path: str
    status: os.stat_result
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    fd: int = -1
    offset: int = 0  # bytes read
    is_unreadable: bool = False
    is_over: bool = False

    @property
    def size(self) -> int:
        return self.status.st_size

    def open(self) -> None:
        """Open the file, if the disk lets it be opened (OSError: something else is wrong)."""
        with self._noting_damage():
            self.fd = os.open(self.path, READ_FLAGS)
            drop_cached(self.fd)

    def read(self, length: int) -> int:
        """Hash the next *length* bytes; return how many could be read."""
        with self._noting_damage():
            if self.fd >= 0:
                got = read_into(self.fd, self.offset, length, self.sha256.update)
                drop_cached(self.fd, self.offset, got)
                return got
        return 0

    def is_as_named(self) -> bool:
        """Tell whether all that was read is what the name says."""
        return not self.is_unreadable and self.sha256.hexdigest() == self.name

    def close(self) -> None:
        self.is_over = True
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    @contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno not in _UNREADABLE:
                raise
            self.is_unreadable = True


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
        self._doubtful: Iterator[Aside] | None = None  # of what was set aside, at a pass's end

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
        What cannot be looked at is an error, once a pass: the next step goes on behind it.
        """
        with self._lock:
            state = self._loaded()
            if not state.begun_ns:
                if self._is_resting(state):
                    return ScrubStep(0, 0, (), True)
                self._state = replace(state, begun_ns=self._clock.wall_ns())
            done = objects = 0
            found: list[Finding] = []
            while done < limit and objects < OBJECTS_MAX:
                self._reading = reading = self._reading or self._open_next()
                if reading is not None:
                    done += self._read_on(reading, limit - done, found)
                    objects += reading.is_over
                elif (size := self._look_again()) is not None:
                    done += size
                    objects += 1
                else:
                    self._end_pass()
                    return ScrubStep(done, objects, tuple(found), True)
            if abs(self._clock.wall_ns() - self._saved_ns) >= SAVE_NS:
                self._save()
            return ScrubStep(done, objects, tuple(found), False)

    def pause_s(self, step: ScrubStep) -> float:
        """Return how long to wait after *step*, so that the disk hardly notices."""
        if step.is_pass_done:
            return LOOK_S
        return max(step.bytes_read / rate_for(self._ledger.count.used), step.objects * OBJECT_S)

    def close(self) -> None:
        """Write down where the scrub is and let go of what it has open."""
        with self._lock:
            if self._reading is not None:
                self._reading.close()
                self._reading = None
            if self._is_unsaved:
                self._save()
            self._ahead = self._doubtful = None

    def _is_resting(self, state: ScrubState) -> bool:
        """Tell whether the last pass began too short a time ago for another."""
        return abs(self._clock.wall_ns() - state.last_begun_ns) < PASS_S * NS

    # --- within -------------------------------------------------------------------

    def _read_on(self, reading: _Reading, limit: int, found: list[Finding]) -> int:
        """Read at most *limit* bytes; judge the object when all of it was read."""
        wanted = min(limit, reading.size - reading.offset)
        try:
            got = reading.read(wanted)
            reading.offset += got
            if got == wanted and reading.offset < reading.size:
                return got
            if not reading.is_as_named():
                # Once more before it is called damaged: memory and cables have bad moments.
                got += reading.size
                if not _is_sound(reading.path, reading.name):
                    found += self._move_aside(reading)
        except OSError:
            self._pass_over(reading)
            raise
        self._pass_over(reading)
        return got

    def _move_aside(self, reading: _Reading) -> list[Finding]:
        """Take a damaged object out of the way, unless it is another one by now."""
        with self._moving:
            try:
                if not os.path.samestat(os.lstat(reading.path), reading.status):
                    return []
            except FileNotFoundError:
                return []
            now_ns = self._clock.now_ns()
            target = self._places.aside(ROTTEN, reading.kind, reading.name, now_ns)
            if not durable.move_new(reading.path, target):
                return []
            self._ledger.gone(reading.size)
            self._ledger.rotted(reading.size)
        found_ns = self._clock.wall_of(now_ns)
        return [Finding(reading.kind, reading.name, reading.size, found_ns)]

    def _look_again(self) -> int | None:
        """Put one object back that was called damaged and is sound; None: all were looked at.

        A disk that could not be read for a while (a loose cable) takes nothing with it.
        """
        if self._doubtful is None:
            self._doubtful = self._places.list_aside(ROTTEN)
        aside = next(self._doubtful, None)
        if aside is None:
            return None
        with suppress(FileNotFoundError):  # let go of meanwhile
            size = os.lstat(aside.path).st_size
            if _is_sound(aside.path, aside.name):
                with self._moving:
                    if durable.move_new(aside.path, self._places.object(aside.kind, aside.name)):
                        self._ledger.rotted(-size, objects=-1)
                        self._ledger.back(size)
            return size
        return 0

    def _open_next(self) -> _Reading | None:
        state = self._loaded()
        if self._ahead is None:
            self._ahead = self._names_after(state.kind, state.name)
        for kind, name in self._ahead:
            path = self._places.object(kind, name)
            try:
                status = os.lstat(path)
                reading = _Reading(kind, name, path, status)
                reading.open()
            except FileNotFoundError:  # deleted since it was listed
                continue
            except OSError:
                self._pass_over(reading)
                raise
            return reading
        return None

    def _pass_over(self, reading: _Reading) -> None:
        """Go on with what comes after it."""
        reading.close()
        self._reading = None
        state = self._loaded()
        self._state, self._is_unsaved = (
            replace(
                state,
                kind=reading.kind,
                name=reading.name,
                objects=state.objects + 1,
                bytes_read=state.bytes_read + reading.offset,
            ),
            True,
        )

    def _names_after(self, kind: str, name: str) -> Iterator[tuple[str, str]]:
        for next_kind in KINDS[KINDS.index(kind) :]:
            after = name if next_kind == kind else ""
            for folder in self._places.folders_of(next_kind):
                if next_kind == FANNED_OUT and os.path.basename(folder) < after[:2]:
                    continue
                names = sorted(s.name for s in self._places.list_objects(next_kind, folder))
                yield from ((next_kind, found) for found in names if found > after)

    def _end_pass(self) -> None:
        self._ahead = self._doubtful = None
        begun_ns = self._loaded().begun_ns
        self._state = ScrubState(last_begun_ns=begun_ns, last_finished_ns=self._clock.wall_ns())
        self._save()

    def _loaded(self) -> ScrubState:
        if self._state is None:
            self._state = _load(self._path)
        return self._state

    def _save(self) -> None:
        state = self._loaded()
        with suppress(OSError):  # a full disk; it costs reading some objects twice
            durable.replace(self._path, json.dumps(asdict(state), indent=1).encode())
        self._saved_ns = self._clock.wall_ns()
        self._is_unsaved = False


def _is_sound(path: str, name: str) -> bool:
    """Read the file anew; FileNotFoundError where it is gone."""
    reading = _Reading("", name, path, os.lstat(path))
    try:
        reading.open()
        reading.offset = reading.read(reading.size)
        return reading.is_as_named()
    finally:
        reading.close()


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
