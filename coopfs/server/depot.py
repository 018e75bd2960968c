"""One partner's objects on the server's disk: the whole interface of the disk side.

Blocking and thread-safe; no network, no async.  The layout is in
:mod:`coopfs.server.places`.  Owns the translation of OSError: none leaves this module.
Several processes may work on one partner's folder: every step is one that the file
system makes atomic, and whoever changes something from outside the server says so.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from coopfs import durable
from coopfs.errors import ObjectCorrupt, StateBusy, StoreError, UsageError
from coopfs.objects import CONFIG, CONFIG_LEN_MAX
from coopfs.objects import LOCKS as LOCKS  # who asks a depot for locks names them as it does
from coopfs.oserrors import free_bytes
from coopfs.server.census import settle, take_census
from coopfs.server.clock import ClockJump, ClockWatch
from coopfs.server.faults import translated
from coopfs.server.intake import Intake
from coopfs.server.moving import Moving
from coopfs.server.places import ROTTEN, TRASH, Places, check, label_of
from coopfs.server.proofs import answer
from coopfs.server.quota import DAY_NS, Ledger, Terms, Usage, day_of
from coopfs.server.reading import OpenObject, open_plain, plain_size
from coopfs.server.scrub import Finding, Scrub, ScrubState, ScrubStep
from coopfs.server.trash import Emptied, Trash, Trashed, Undeleted
from coopfs.server.upload import Upload

PARTNERS: Final = "partners"
CLOCK_FILE: Final = "clock.json"
PACKS: Final = "data"
EMPTY_LIMIT: Final = 1000  # objects; a second on a hard disk
SCRUB_STEP_LEN: Final = 16 << 20  # bytes; a pack, and some tenths of a second
_IN_USE, _MOVING, _CHANGED = "in-use.lock", "moving.lock", "changed"


class Listed(NamedTuple):
    """One object as a listing shows it."""

    name: str  # 64 hex digits
    size: int  # bytes


def is_served(root: Path, name: str) -> bool:
    """Tell whether a process serves the partner *name* now, without touching its lock.

    Raises:
        OSError: the system does not show its locks.
    """
    try:
        wanted = os.stat(root / PARTNERS / name / _IN_USE).st_ino
    except FileNotFoundError:
        return False  # nobody ever did
    # proc(5): "1: FLOCK  ADVISORY  WRITE 12345 fd:00:2531452 0 EOF"
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if "FLOCK" in fields and any(field.endswith(f":{wanted}") for field in fields):
            return True
    return False


class Depot:
    """Everything one partner stores here.

    Every method may raise, beside what it names itself:
        StoreUnavailable: temporary (the disk is not mounted, too many open files).
        StoreDenied: the server may not do this on its own disk.
        StoreError: the disk fails.
        UsageError: no kind or name of an object.
    """

    def __init__(
        self,
        root: Path,
        terms: Terms,
        *,
        clock: ClockWatch | None = None,
        is_server: bool = True,
    ) -> None:
        """Open the folder of the partner *terms* speaks of, and count what is in it.

        Folders that are missing are made.  Only one process is the server; others (a
        command at the prompt) say *is_server* False and leave uploads alone.

        Raises:
            StateBusy: another process serves this partner.
        """
        self.folder = Path(os.path.abspath(root)) / PARTNERS / terms.name
        self._places = Places(self.folder)
        self._ledger = Ledger(terms)
        self._changed = os.path.join(self._places.top, _CHANGED)
        self._seen_change: tuple[int, int] | None = None
        self._in_use_fd = -1
        if terms.name in ("", ".", "..") or "/" in terms.name or "\0" in terms.name:
            raise UsageError(f"{terms.name!r}: not a name for a partner")
        with translated(self._places, str(self.folder)):
            self._places.make()
            self._places.check_one_disk()
            # Taken before the ledger's lock, wherever both are.
            self._moving = Moving(os.path.join(self._places.top, _MOVING))
        self.clock = clock or ClockWatch(Path(os.path.abspath(root)) / CLOCK_FILE)
        self._trash = Trash(self._places, self._ledger, self.clock, self._moving)
        self._scrub = Scrub(self._places, self._ledger, self.clock, self._moving)
        others = (self._trash.drop, self._scrub.drop)
        self._intake = Intake(self._places, self._ledger, self.clock, others)
        try:
            with translated(self._places, str(self.folder)):
                if is_server:
                    self._become_server()
                self._recount()
        except BaseException:
            self.close()
            raise

    # --- objects ----------------------------------------------------------------

    def begin_put(self, kind: str, name: str, size: int, *, is_admin: bool = False) -> Upload:
        """Let an object of *size* bytes in; what is refused is refused before any byte.

        An object of that name and size is done: what arrives is compared with the name
        and thrown away, and no quota is asked.

        Raises:
            StoreFull: over the quota, the day's share, or more than the disk has free.
            ObjectCorrupt: the name is taken by an object of another size, which stays.
        """
        with translated(self._places, label_of(kind, name)):
            self._look_for_changes()
            return self._intake.begin(kind, name, size, is_admin=is_admin)

    def open_object(self, kind: str, name: str) -> OpenObject:
        """Open an object for reading, a damaged one too while no good one has been put.

        Raises:
            ObjectNotFound: no such object.
            ObjectCorrupt: something else than a plain file stands for it.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        with translated(self._places, label):
            try:
                return open_plain(path, label)
            except FileNotFoundError:
                # Most of a damaged pack is sound, and its reader verifies every block.
                for damaged in self._places.find_aside(ROTTEN, kind, name):
                    return open_plain(damaged.path, label)
                raise

    def size(self, kind: str, name: str) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectNotFound: no such object, or it was found damaged: it should be put again.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        with translated(self._places, label):
            return plain_size(os.lstat(path), label)

    def list(self, kind: str) -> Iterator[Listed]:
        """Yield every whole object of *kind* but the damaged, in the order of their names."""
        check(kind, "0" * 64)
        with translated(self._places, f"{kind}/"):
            for folder in self._places.folders_of(kind):
                found = [Listed(s.name, s.size) for s in self._places.list_objects(kind, folder)]
                yield from sorted(found)

    def delete(self, kind: str, name: str) -> None:
        """Move an object to the trash; what is under ``locks/`` is deleted.

        Durable on return: the trash has it, or the object is still there.

        Raises:
            ObjectNotFound: no such object.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        with translated(self._places, label), self._moving:
            try:
                size = plain_size(os.lstat(path), label)
            except FileNotFoundError:
                # Nobody needs to put it again, so nobody need hear that it is damaged.
                if not self._places.find_aside(ROTTEN, kind, name):
                    raise
                self._scrub.let_go(kind, name, self._trash)
                return
            if kind == LOCKS:
                os.unlink(path)
            else:
                self._trash.take_in(kind, name, path, size)
            self._ledger.gone(size)

    # --- the trash --------------------------------------------------------------

    def trash(self) -> Iterator[Trashed]:
        """Yield what was deleted and can still be had back."""
        with translated(self._places, TRASH):
            yield from self._trash.contents()

    def undelete(
        self, names: Collection[str] | None = None, *, since_ns: int | None = None
    ) -> Undeleted:
        """Restore what was deleted: of *names* (hex) only, and since *since_ns* (wall clock) only.

        Never refused for the quota: what is over it then keeps puts out, no more.
        """
        with translated(self._places, TRASH):
            undeleted = self._trash.undelete(names, since_ns)
            self.say_changed()
            return undeleted

    def empty_trash(self, limit: int = EMPTY_LIMIT) -> Emptied:
        """Delete for good what has been in the trash for the agreed time, by our own clock.

        Nothing while the clock is not believed.  *limit* keeps one call short.
        """
        with translated(self._places, TRASH):
            return self._trash.empty(limit)

    def confirm_clock(self) -> ClockJump | None:
        """Have a person's word that the clock is right now; return the jump it had made."""
        with translated(self._places, CLOCK_FILE):
            return self.clock.confirm()

    # --- keeping it sound -------------------------------------------------------

    def scrub_step(self, limit: int = SCRUB_STEP_LEN) -> ScrubStep:
        """Read and hash about *limit* bytes more; wait :meth:`scrub_pause_s` after it."""
        with translated(self._places, "scrub"):
            return self._scrub.step(limit)

    def scrub_pause_s(self, step: ScrubStep) -> float:
        """Return how long to wait before the next step."""
        return self._scrub.pause_s(step)

    def scrub_state(self) -> ScrubState:
        """Return where the scrub is."""
        return self._scrub.state()

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found damaged and has not been put again yet."""
        with translated(self._places, ROTTEN):
            return tuple(self._scrub.findings())

    def prove(self, name: str, question: bytes) -> bytes:
        """Return the keyed BLAKE3 of the pack *name* under *question*, read from the disk.

        Raises:
            ObjectNotFound: no such pack, or it was found damaged.
            UsageError: *question* has not 32 bytes.
        """
        path, label = self._places.object(PACKS, name), label_of(PACKS, name)
        with translated(self._places, label):
            fd, size = open_plain(path, label)
            try:
                return answer(label, fd, size, question)
            finally:
                os.close(fd)

    # --- the config -------------------------------------------------------------

    def get_config(self) -> bytes:
        """Return the config, whole and unverified.

        Raises:
            ObjectNotFound: there is none.
            ObjectCorrupt: it is longer than any config.
        """
        with translated(self._places, CONFIG):
            fd, size = open_plain(self._places.config, CONFIG)
            try:
                if size > CONFIG_LEN_MAX:
                    raise ObjectCorrupt(f"config: {size} bytes, expected {CONFIG_LEN_MAX} at most")
                return os.pread(fd, size, 0)
            finally:
                os.close(fd)

    def put_config(self, data: bytes) -> None:
        """Store the config durably; the same bytes again are done.

        Raises:
            StoreError: another config is there, which stays; or it is longer than any.
        """
        if len(data) > CONFIG_LEN_MAX:
            raise StoreError(f"config: {len(data)} bytes, expected {CONFIG_LEN_MAX} at most")
        with translated(self._places, CONFIG):
            with self._ledger.lock:  # or a recount in between would count it twice
                is_new = durable.write_new(self._places.config, [memoryview(data)])
                self._ledger.count.used += len(data) if is_new else 0
            if not is_new:
                if self.get_config() != data:
                    raise StoreError("config: another one is there; it is never replaced")
                durable.sync_file(self._places.config)
            durable.sync_folder(self._places.objects)

    # --- figures ----------------------------------------------------------------

    @property
    def terms(self) -> Terms:
        """What was agreed with the partner."""
        return self._ledger.terms

    def change_terms(self, terms: Terms) -> None:
        """Have other terms hold from now on; uploads on their way are not touched."""
        if terms.name != self.terms.name:
            raise UsageError(f"these are the terms of {terms.name}, not of {self.terms.name}")
        with self._ledger.lock:
            self._ledger.terms = terms

    def usage(self) -> Usage:
        """Return what is used and what is left."""
        with translated(self._places, str(self.folder)):
            self._look_for_changes()
            return self._ledger.usage(day_of(self.clock), free_bytes(self._places.top))

    def say_changed(self) -> None:
        """Have the server count again, if that is another process: something was put or moved."""
        if self._in_use_fd < 0:
            with translated(self._places, _CHANGED):
                os.close(durable.open_lock(self._changed))  # made, if it is not there
                now_ns = self.clock.wall_ns()
                os.utime(self._changed, ns=(now_ns, now_ns))
                self._seen_change = self._change()

    def close(self) -> None:
        """Let another process serve this partner.  May be called again."""
        with suppress(OSError):  # where the scrub was is not worth an error
            self._scrub.close()
        self._moving.close()
        fd, self._in_use_fd = self._in_use_fd, -1
        if fd >= 0:
            os.close(fd)

    # --- within -----------------------------------------------------------------

    def _become_server(self) -> None:
        fd = durable.open_lock(os.path.join(self._places.top, _IN_USE))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(fd)
            raise StateBusy(f"{self.folder}: another coopfs serve uses it") from exc
        self._in_use_fd = fd
        with self._moving:
            settle(self._places)
        # Nobody else uploads, so whatever is here was left by a server that was killed.
        for name in os.listdir(self._places.incoming):
            os.unlink(os.path.join(self._places.incoming, name))
        for folder in (self._places.objects, self._places.top):
            for name in os.listdir(folder):
                if name.startswith(durable.TEMPORARY_PREFIX):
                    os.unlink(os.path.join(folder, name))

    def _look_for_changes(self) -> None:
        """Count again if another process has changed something since."""
        if self._change() != self._seen_change:
            self._recount()

    def _change(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._changed)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _recount(self) -> None:
        """Count what is on the disk."""
        # First, so that a change while we count is seen the next time.
        self._seen_change = self._change()
        day = day_of(self.clock)
        with self._moving, self._ledger.lock:
            self._ledger.count = take_census(self._places, day, self.clock.wall_of(day * DAY_NS))
