"""What is done with files over one SFTP connection, in as few round trips as there can be.

Owns the handles kept open for reading, and what a server's refusals mean.  A range of a
file whose handle is kept costs one round trip, of another two; a new file three.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.durable import FOLDER_MODE
from coopfs.errors import CoopfsError, StoreError, StoreUnavailable
from coopfs.store import sftpwire as wire
from coopfs.store.base import range_len, truncated
from coopfs.store.line import FREE_LINE, Pace
from coopfs.store.remotefiles import FileInfo, plain_size
from coopfs.store.sftpcalls import WRITING, Refused, SftpCalls, info_of
from coopfs.store.sftpchannel import Pending, SftpChannel
from coopfs.store.sftpwire import Code, Op, OpenFlag

HANDLES_KEPT: Final = 64  # packs of 16 MiB: a working set of 1 GiB
# Without limits@openssh.com: what every server must take (the draft, section 3).
_IO_LEN_MIN: Final = 32 << 10
_IO_LEN_MAX: Final = 255 << 10  # bytes; OpenSSH's own limit is 255 KiB
# Bytes asked for at once, the next lot before the last has come; ssh itself lets 2 MiB
# be under way.
_LOT_LEN: Final = 8 << 20
_WRITE_LOT_LEN: Final = 1 << 20  # bytes sent before it is asked again how fast they may go
_FILE_MODE: Final = 0o600
# A kept handle still reads what has been deleted or replaced.  Whether it has been is asked in
# the packet of a read, which makes a small one half as dear again; so not for each.
LOOK_AGAIN_S: Final = 1.0


@dataclass(slots=True)
class _Kept:
    """A handle open for reading, and what was found when it was opened."""

    handle: bytes
    size: int
    looked: float  # when the file was last seen to be there, on the monotonic clock
    users: int = 0
    is_kept: bool = True  # False: whoever reads last closes it


class _Changed(Exception):
    """A kept handle is not what its path leads to any more."""


class SftpSession(SftpCalls):
    """See above; thread-safe.  A path that is not there is a FileNotFoundError."""

    def __init__(self, channel: SftpChannel, *, may_link: bool = True) -> None:
        """Ask what the server takes; the session owns *channel*.

        Without *may_link* the file system there is known to have no hard links.
        """
        super().__init__(channel)
        self.load = 0  # bytes that callers are moving; guarded by whoever chooses sessions
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        extensions = channel.extensions
        self.has_fsync = wire.FSYNC in extensions
        self.has_links = may_link and wire.HARDLINK in extensions
        self._read_len = self._write_len = _IO_LEN_MIN
        self._kept_max = HANDLES_KEPT
        if wire.LIMITS in extensions:
            self._take_limits()

    def _take_limits(self) -> None:
        reply = self.channel.ask(wire.limits())
        if reply.op != Op.EXTENDED_REPLY:
            return
        limits = self.parsed(wire.parse_limits, reply)
        self._read_len = max(min(limits.read_len, _IO_LEN_MAX), _IO_LEN_MIN)
        self._write_len = max(min(limits.write_len, _IO_LEN_MAX), _IO_LEN_MIN)
        if limits.handles:
            # Half of them for what is written and listed.
            self._kept_max = max(min(HANDLES_KEPT, limits.handles // 2), 1)

    # --- reading ----------------------------------------------------------------------

    def read(
        self,
        path: str,
        label: str,
        offset: int,
        length: int | None,
        pace: Pace = FREE_LINE.down,
    ) -> bytes:
        """See :meth:`RemoteFiles.read`; of what was deleted just now a range may still come."""
        for is_last_try in (False, True):
            kept, is_new = self._borrow(path, label, fresh=is_last_try)
            is_seen = time.monotonic() - kept.looked < LOOK_AGAIN_S and length is not None
            look = not is_new and not is_seen
            try:
                wanted = range_len(label, kept.size, offset, length)
                return self._read_range(path, label, kept, (offset, wanted), pace, look=look)
            except Refused as exc:
                if is_new or is_last_try:
                    raise self.meant(exc, path, label) from exc
            except _Changed:
                pass
            finally:
                self._give_back(kept)
            # A kept handle outlives what it stood for: deleted, replaced, a disk that was
            # mounted anew.  One that was opened just now does not.
            self.forget(path)
        raise AssertionError("unreachable: the last try returns or raises")

    def _read_range(
        self,
        path: str,
        label: str,
        kept: _Kept,
        asked: tuple[int, int],
        pace: Pace,
        *,
        look: bool,
    ) -> bytes:
        offset, wanted = asked
        asked_at = time.monotonic()
        buffer = bytearray(wanted)
        view = memoryview(buffer)
        # In the packet of the first lot: a handle still reads what has been deleted.
        looking = [wire.lstat(path)] if look else []
        looked: list[Pending] = []
        count = -(-wanted // pace.piece_len(self._read_len))
        part_len = -(-wanted // max(count, 1)) or 1
        starts = range(0, wanted, part_len)
        first = 0
        before: list[tuple[int, memoryview, Pending]] = []
        while first < len(starts) or before:
            lot = max(pace.piece_len(_LOT_LEN) // part_len, 1)
            parts = [(offset + at, view[at : at + part_len]) for at in starts[first : first + lot]]
            first += lot
            requests = [wire.read(kept.handle, start, len(part)) for start, part in parts]
            into = [*(None for _ in looking), *(part for _, part in parts)]
            sent = self.channel.send([*looking, *requests], into) if into else []
            looked += sent[: len(looking)]
            sent, looking = sent[len(looking) :], []
            for start, part, pending in before:
                self._take_part(kept.handle, start, part, pending, label, asked)
            before = [(start, part, p) for (start, part), p in zip(parts, sent, strict=True)]
            pace.passed(sum(len(part) for _, part in parts))
        if looking:  # nothing was to be read
            looked = self.channel.send(looking)
        for pending in looked:
            attrs = self.attrs(self.channel.finish(pending))
            if not attrs.is_file or attrs.size != kept.size:
                raise _Changed
            kept.looked = asked_at
        return bytes(buffer)

    def _take_part(
        self,
        handle: bytes,
        start: int,
        part: memoryview,
        pending: Pending,
        label: str,
        asked: tuple[int, int],
    ) -> None:
        while True:
            reply = self.channel.finish(pending)
            if reply.op != Op.DATA:
                code, said = self.status(reply)
                if code == Code.EOF:
                    raise truncated(label, *asked, start)
                raise Refused(code, said, "reading")
            if reply.data_len == len(part):
                return
            if not reply.data_len:
                raise StoreError(f"{label}: {self.where} answered a read with nothing")
            # Servers may send less than was asked for.
            start += reply.data_len
            part = part[reply.data_len :]
            pending = self.channel.send([wire.read(handle, start, len(part))], [part])[0]

    def _borrow(self, path: str, label: str, *, fresh: bool) -> tuple[_Kept, bool]:
        """Return a handle for *path* and whether it was opened just now."""
        with self._lock:
            kept = None if fresh else self._kept.get(path)
            if kept is not None:
                self._kept.move_to_end(path)
                kept.users += 1
                return kept, False
        kept = self._open(path, label)
        surplus = []
        with self._lock:
            if path in self._kept:  # another thread was faster
                kept.is_kept = False
            else:
                self._kept[path] = kept
                while len(self._kept) > self._kept_max:
                    surplus += self._let_go(next(iter(self._kept)))
        self.close_handles(surplus)
        return kept, True

    def _open(self, path: str, label: str) -> _Kept:
        sent = self.channel.send([wire.lstat(path), wire.open_file(path, OpenFlag.READ)])
        looked, opened = (self.channel.finish(pending) for pending in sent)
        try:
            handle = self.handle(opened)
        except Refused as exc:
            raise self.meant(exc, path, label) from exc
        try:
            size = plain_size(info_of(path, self.attrs(looked)), label)
            return _Kept(handle, size, time.monotonic(), users=1)
        except Refused as exc:  # deleted between the two
            self.close_handles([handle])
            raise self.meant(exc, path, label) from exc
        except CoopfsError:
            self.close_handles([handle])
            raise

    def _give_back(self, kept: _Kept) -> None:
        with self._lock:
            kept.users -= 1
            is_last = not kept.users and not kept.is_kept
        if is_last:
            self.close_handles([kept.handle])

    def _let_go(self, path: str) -> list[bytes]:
        """Stop keeping *path*; return the handle to close if nobody reads.  Lock held."""
        kept = self._kept.pop(path, None)
        if kept is None:
            return []
        kept.is_kept = False
        return [] if kept.users else [kept.handle]

    def forget(self, path: str) -> None:
        """Keep no handle of *path*: it has been deleted."""
        with self._lock:
            idle = self._let_go(path)
        self.close_handles(idle)

    # --- writing ----------------------------------------------------------------------

    def write_new(
        self,
        temporary: str,
        path: str,
        pieces: Sequence[memoryview],
        *,
        new_folder: str | None,
        pace: Pace = FREE_LINE.up,
    ) -> FileInfo | None:
        """See :meth:`RemoteFiles.write_new`."""
        label = path.rpartition("/")[2]
        handle, found = self._begin(temporary, path, new_folder)
        if found is not None:
            return found
        try:
            self._write(handle, pieces, pace)
        except Refused as exc:
            closing = [wire.close(handle)] if self.has_fsync else []
            undone = self.channel.send([*closing, wire.remove(temporary)])
            self.channel.finish(undone[-1])
            raise self.meant(exc, path, label) from exc
        refused = self._publish(handle, temporary, path)
        if refused is None and self.has_fsync:
            return None
        found = self.look(path, label)
        if found is not None and (refused is not None or found.size == sum(map(len, pieces))):
            return found if refused is not None else None
        if self.has_links:
            # A file system without them, most likely, or a server that says it linked and
            # did not (rclone's): once more, by renaming.
            self.has_links = False
            return self.write_new(temporary, path, pieces, new_folder=None, pace=pace)
        if refused is not None:
            raise self.meant(refused, path, label) from refused
        raise StoreUnavailable(f"{label} at {self.where}: was put, and is not there")

    def _begin(
        self, temporary: str, path: str, new_folder: str | None
    ) -> tuple[bytes, FileInfo | None]:
        """Open the temporary; return its handle, or what has the name already."""
        flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE
        requests = [wire.lstat(path), wire.open_file(temporary, flags, _FILE_MODE)]
        if new_folder is not None:
            requests.insert(0, wire.make_folder(new_folder, FOLDER_MODE))
        *_, looked, opened = map(self.channel.finish, self.channel.send(requests))
        try:
            handle = self.handle(opened, "making a file")
        except Refused as exc:
            if looked.op == Op.ATTRS:  # where nothing may be written, what is there is there
                return b"", info_of(path, self.attrs(looked))
            raise self.meant(exc, temporary, temporary) from exc
        if looked.op != Op.ATTRS:
            return handle, None
        undone = self.channel.send([wire.close(handle), wire.remove(temporary)])
        self.channel.finish(undone[-1])
        return b"", info_of(path, self.attrs(looked))

    def _write(self, handle: bytes, pieces: Sequence[memoryview], pace: Pace) -> None:
        """Have all of *pieces* written, durably where the server can; else close the file."""
        payloads = wire.payloads(pieces, part_len := pace.piece_len(self._write_len))
        sent: list[Pending] = []
        at = 0
        while at < len(payloads):
            lot = payloads[at : at + max(pace.piece_len(_WRITE_LOT_LEN) // part_len, 1)]
            sent += self.channel.send(
                [wire.write(handle, n * part_len, data) for n, data in enumerate(lot, at)]
            )
            at += len(lot)
            pace.passed(sum(len(piece) for data in lot for piece in data))
        # Without fsync closing is what may still complain (NFS, quotas).
        sent += self.channel.send([wire.fsync(handle) if self.has_fsync else wire.close(handle)])
        refused: Refused | None = None
        for reply in map(self.channel.finish, sent):
            try:
                self.done(reply, WRITING)
            except Refused as exc:
                refused = refused or exc
        if refused is not None:
            raise refused

    def _publish(self, handle: bytes, temporary: str, path: str) -> Refused | None:
        """Give the written file its name and take the other away; return why it got none.

        RENAME must not replace either, says the draft, and OpenSSH's does not; where
        another server's does, it is by the same bytes: the name is their hash.
        """
        naming = wire.hardlink if self.has_links else wire.rename
        # The fsync after the name: on file systems with a journal it carries the name to
        # the disk with the inode (ext4, XFS, btrfs); SFTP cannot fsync a folder.
        closing = [wire.fsync(handle), wire.close(handle)] if self.has_fsync else []
        # After a rename nothing is to be removed, and must not be: a server that renames
        # later than it says would lose the file by it.
        removing = [wire.remove(temporary)] if self.has_links else []
        sent = self.channel.send([naming(temporary, path), *closing, *removing])
        named, *others = map(self.channel.finish, sent)
        try:
            self.done(named, "naming a file")
        except Refused as exc:
            if not removing:
                self.channel.ask(wire.remove(temporary))
            return exc
        if self.has_fsync:
            try:
                self.done(others[0], "making a file durable")
            except Refused as exc:
                raise self.meant(exc, path, path) from exc
        return None

    def sync(self, path: str, label: str) -> None:
        """See :meth:`RemoteFiles.sync`."""
        if not self.has_fsync:
            return
        try:
            handle = self.handle(self.channel.ask(wire.open_file(path, OpenFlag.READ)))
            sent = self.channel.send([wire.fsync(handle), wire.close(handle)])
            self.done(self.channel.finish(sent[0]), "making a file durable")
        except Refused as exc:
            raise self.meant(exc, path, label) from exc

    def delete(self, path: str, label: str) -> None:
        """See :meth:`RemoteFiles.delete`."""
        try:
            self.done(self.channel.ask(wire.remove(path)), "deleting")
        except Refused as exc:
            raise self.meant(exc, path, label) from exc

    def make_folder(self, path: str) -> None:
        """See :meth:`RemoteFiles.make_folder`."""
        try:
            self.done(self.channel.ask(wire.make_folder(path, FOLDER_MODE)), "making a folder")
        except Refused as exc:
            if self.is_folder(path):
                return
            raise self.meant(exc, path, path) from exc
