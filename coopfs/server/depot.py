"""One partner's objects on the server's disk: the whole interface of the disk side.

Blocking and thread-safe; no network, no async.  The layout is in
:mod:`coopfs.server.places`.  Owns the translation of OSError: none leaves this module.
Several processes may work on one partner's folder: every step is one that the file
system makes atomic, and whoever changes something from outside the server says so.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from coopfs import durable
from coopfs.errors import (
    ObjectCorrupt,
    ObjectNotFound,
    StateBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from coopfs.format.receipt import Receipt
from coopfs.ids import ObjectId
from coopfs.objects import CONFIG, CONFIG_LEN_MAX, READ_FLAGS
from coopfs.oserrors import free_bytes, store_error
from coopfs.server.census import settle, take_census
from coopfs.server.clock import ClockWatch
from coopfs.server.places import ROTTEN, TRASH, Places, check, label_of
from coopfs.server.quota import DAY_NS, Ledger, Terms, Usage
from coopfs.server.upload import Buffers, Upload

PARTNERS: Final = "partners"
CLOCK_FILE: Final = "clock.json"
LOCKS: Final = "locks"  # restic's own; the one kind that is really deleted
_IN_USE, _CHANGED = "in-use.lock", "changed"


class OpenObject(NamedTuple):
    """An object opened for reading; whoever opened it closes *fd*."""

    fd: int  # only pread() it
    size: int  # bytes


class Listed(NamedTuple):
    """One object as a listing shows it."""

    name: str  # 64 hex digits
    size: int  # bytes


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
        self._buffers = Buffers()
        self._changed = os.path.join(self._places.top, _CHANGED)
        self._seen_change: tuple[int, int] | None = None
        # One at a time are moved, and none while a recount looks.  Taken before the ledger's.
        self._moving = threading.RLock()
        self._number_lock = threading.Lock()
        self._uploads_begun = 0
        self._in_use_fd = -1
        if terms.name in ("", ".", "..") or "/" in terms.name or "\0" in terms.name:
            raise UsageError(f"{terms.name!r}: not a name for a partner")
        with self.translated(str(self.folder)):
            self._places.make()
            self.clock = clock or ClockWatch(Path(os.path.abspath(root)) / CLOCK_FILE)
            if is_server:
                self._become_server()
            self._recount()

    # --- objects ----------------------------------------------------------------

    def begin_put(self, kind: str, name: str, size: int, *, is_admin: bool = False) -> Upload:
        """Let an object of *size* bytes in; what is refused is refused before any byte.

        An object of that name and size is done: what arrives is compared with the name
        and thrown away, and no quota is asked.

        Raises:
            StoreFull: over the quota, the day's share, or more than the disk has free.
            ObjectCorrupt: the name is taken by an object of another size, which stays.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        if size < 0:
            raise UsageError(f"{label}: a size of {size} bytes")
        with self.translated(label):
            self._look_for_changes()
            if self._is_there(path, label, size):
                return Upload(self, self._buffers, kind, name, size, None)
            free = free_bytes(self._places.top)
            if size > free:
                raise StoreFull(
                    f"{label}: {size} bytes are more than the {free} that are free on the "
                    f"partner's disk; ask the partner to make room"
                )
            self._ledger.reserve(label, size, self._day(), is_admin=is_admin)
            with self._number_lock:
                self._uploads_begun += 1
                number = self._uploads_begun
            temporary = f"{self._places.incoming}/{os.getpid()}-{number}"
            return Upload(self, self._buffers, kind, name, size, temporary)

    def open_object(self, kind: str, name: str) -> OpenObject:
        """Open an object for reading, a damaged one too while no good one has been put.

        Raises:
            ObjectNotFound: no such object.
            ObjectCorrupt: something else than a plain file stands for it.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        with self.translated(label):
            try:
                return _open(path, label)
            except FileNotFoundError:
                # Most of a damaged pack is sound, and its reader verifies every block.
                for damaged in self._places.find_aside(ROTTEN, kind, name):
                    return _open(damaged.path, label)
                raise

    def size(self, kind: str, name: str) -> int:
        """Return the object's size in bytes.

        Raises:
            ObjectNotFound: no such object, or it was found damaged: it should be put again.
        """
        path, label = self._places.object(kind, name), label_of(kind, name)
        with self.translated(label):
            return _plain_size(os.lstat(path), label)

    def list(self, kind: str) -> Iterator[Listed]:
        """Yield every whole object of *kind* but the damaged, in the order of their names."""
        check(kind, "0" * 64)
        with self.translated(f"{kind}/"):
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
        with self.translated(label), self._moving:
            size = os.lstat(path).st_size
            if kind == LOCKS:
                os.unlink(path)
            else:
                target = self._places.aside(TRASH, kind, name, self.clock.now_ns())
                if not durable.move_new(path, target):
                    raise StoreUnavailable(f"{label}: is being deleted by somebody else")
                self._ledger.trashed(size)
            self._ledger.gone(size)

    # --- the config -------------------------------------------------------------

    def get_config(self) -> bytes:
        """Return the config, whole and unverified.

        Raises:
            ObjectNotFound: there is none.
            ObjectCorrupt: it is longer than any config.
        """
        with self.translated(CONFIG):
            fd, size = _open(self._places.config, CONFIG)
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
        with self.translated(CONFIG):
            if durable.write_new(self._places.config, [memoryview(data)]):
                with self._ledger.lock:
                    self._ledger.count.used += len(data)
            elif self.get_config() != data:
                raise StoreError("config: another one is there; it is never replaced")
            else:
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
        with self.translated(str(self.folder)):
            self._look_for_changes()
            return self._ledger.usage(self._day(), free_bytes(self._places.top))

    def close(self) -> None:
        """Let another process serve this partner.  May be called again."""
        fd, self._in_use_fd = self._in_use_fd, -1
        if fd >= 0:
            os.close(fd)

    # --- what uploads need ------------------------------------------------------

    def publish(self, upload: Upload) -> Receipt:
        """See :class:`~coopfs.server.upload.Desk`."""
        path = self._places.object(upload.kind, upload.name)
        is_new = False
        if upload.temporary is not None:
            # Together, so that a recount finds the object once, in the sum or on the disk.
            with self._ledger.lock:
                is_new = durable.link_new(upload.temporary, path)
                if is_new:
                    self._ledger.put(upload.size, self._day())
        if not is_new:
            if not self._is_there(path, upload.label, upload.size):
                raise StoreUnavailable(
                    f"{upload.label}: was deleted by somebody while it was being put; put it again"
                )
            # Linked by a server that was killed before its last step, or brought by hand.
            durable.sync_file(path)
        durable.sync_folder(os.path.dirname(path))
        return Receipt(
            upload.kind, ObjectId(bytes.fromhex(upload.name)), upload.size, self.clock.wall_ns()
        )

    def close_upload(self, upload: Upload) -> None:
        """See :class:`~coopfs.server.upload.Desk`."""
        if upload.temporary is not None:
            self._ledger.release(upload.size)

    @contextmanager
    def translated(self, label: str) -> Iterator[None]:
        """See :class:`~coopfs.server.upload.Desk`."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as exc:
            if not os.path.isdir(self._places.objects):
                raise StoreUnavailable(
                    f"{label}: the folder of this store is gone; is the server's disk mounted?"
                ) from exc
            raise ObjectNotFound(f"{label}: there is no such object") from exc
        except OSError as exc:
            raise store_error(exc, label, self._places.top) from exc

    # --- within -----------------------------------------------------------------

    def _day(self) -> int:
        return self.clock.now_ns() // DAY_NS

    def _is_there(self, path: str, label: str, size: int) -> bool:
        """Tell whether the object is there; ObjectCorrupt if it has another size."""
        try:
            found = _plain_size(os.lstat(path), label)
        except FileNotFoundError:
            return False
        if found != size:
            raise ObjectCorrupt(
                f"{label}: the store holds {found} bytes under this name where {size} belong; "
                f'nothing was overwritten; run "coopfs check"'
            )
        return True

    def _become_server(self) -> None:
        fd = durable.open_lock(os.path.join(self._places.top, _IN_USE))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(fd)
            raise StateBusy(f"{self.folder}: another coopfs serve uses it") from exc
        self._in_use_fd = fd
        settle(self._places)
        # Nobody else uploads, so whatever is here was left by a server that was killed.
        for name in os.listdir(self._places.incoming):
            os.unlink(os.path.join(self._places.incoming, name))
        for name in os.listdir(self._places.objects):
            if name.startswith(durable.TEMPORARY_PREFIX):
                os.unlink(os.path.join(self._places.objects, name))

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
        day = self._day()
        with self._moving, self._ledger.lock:
            self._ledger.count = take_census(self._places, day, self.clock.wall_of(day * DAY_NS))


def _open(path: str, label: str) -> OpenObject:
    fd = os.open(path, READ_FLAGS)
    try:
        return OpenObject(fd, _plain_size(os.fstat(fd), label))
    except BaseException:
        os.close(fd)
        raise


def _plain_size(status: os.stat_result, label: str) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectCorrupt(
            f"{label}: not a plain file on the server (mode {status.st_mode:o}); "
            f"ask the partner to remove it"
        )
    return status.st_size
