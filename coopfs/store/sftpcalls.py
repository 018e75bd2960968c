"""What an SFTP server's replies mean for whoever uses the store.

Owns the translation of its refusals; what does not parse ends the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from coopfs.errors import CoopfsError, StoreDenied, StoreError, StoreFull, StoreUnavailable
from coopfs.store import sftpwire as wire
from coopfs.store.remotefiles import FileInfo
from coopfs.store.sftpchannel import Pending, SftpChannel
from coopfs.store.sftpwire import Attrs, Code, Op, WireError

_ROOM_MIN: Final = 1 << 20  # bytes free at which a disk counts as full
# Names in the folders asked for at once; more is a server that would have us keep them all
# in memory until there is none left.  As many objects as a REST listing may have.
LISTED_MAX: Final = 2_500_000
# What was asked, where it makes a difference to what a refusal means.
WRITING: Final = "writing"

_Parsed = TypeVar("_Parsed")


class Refused(Exception):
    """The server said no."""

    def __init__(self, code: int, said: str, request: str) -> None:
        self.code = code
        self.said = said
        self.request = request  # what was asked, for messages: "writing"


class SftpCalls:
    """The replies of one channel, understood."""

    def __init__(self, channel: SftpChannel) -> None:
        self.channel = channel
        self.where = channel.where
        self._has_statvfs = wire.STATVFS in channel.extensions

    def status(self, reply: Pending) -> tuple[int, str]:
        """Return code and message of a STATUS; anything else is nonsense."""
        if reply.op != Op.STATUS:
            raise self.nonsense(f"a reply of type {reply.op} where a status was expected")
        return self.parsed(wire.parse_status, reply)

    def done(self, reply: Pending, request: str) -> None:
        """Raise Refused unless the reply says that *request* was done."""
        code, said = self.status(reply)
        if code != Code.OK:
            raise Refused(code, said, request)

    def handle(self, reply: Pending, request: str = "opening") -> bytes:
        """Return the handle in a reply (Refused)."""
        if reply.op != Op.HANDLE:
            raise Refused(*self.status(reply), request)
        return self.parsed(wire.parse_handle, reply)

    def attrs(self, reply: Pending) -> Attrs:
        """Return the attributes in a reply (Refused)."""
        if reply.op != Op.ATTRS:
            raise Refused(*self.status(reply), "looking")
        return self.parsed(wire.parse_attrs, reply)

    def parsed(self, parse: Callable[[bytes], _Parsed], reply: Pending) -> _Parsed:
        """Return what *parse* makes of the reply's body."""
        try:
            return parse(reply.body)
        except WireError as exc:
            raise self.nonsense(str(exc)) from exc

    def nonsense(self, what: str) -> StoreError:
        """End the conversation; return the error that says *what* made no sense."""
        self.channel.close()
        return StoreError(f"{self.where}: its SFTP server answers nonsense: {what}")

    def meant(self, exc: Refused, path: str, label: str) -> Exception:
        """Return what a refusal means for whoever uses the store."""
        reason = f"{exc.request} was refused: {ascii(exc.said)[1:-1] or f'code {exc.code}'}"
        if exc.code == Code.NO_SUCH_FILE:
            return FileNotFoundError(path)
        if exc.code == Code.PERMISSION_DENIED:
            return StoreDenied(
                f"{label} at {self.where}: {reason}; check the owner and the rights of the "
                f"store's folder there"
            )
        if exc.code in (Code.NO_CONNECTION, Code.CONNECTION_LOST):
            return StoreUnavailable(f"{label} at {self.where}: {reason}")
        if exc.request in (WRITING, "making a file", "making a folder"):
            # SFTP has no code for a full disk; only the disk itself can tell.
            room = self._known_room(path)
            if exc.request == WRITING or (room is not None and room < _ROOM_MIN):
                free = "unknown" if room is None else f"{room} bytes"
                return StoreFull(
                    f"{label} at {self.where}: no room left, a quota is full or the disk fails "
                    f"({reason}); free on that disk: {free}; make room or raise the quota, then "
                    f"run it again: what was stored is kept"
                )
        return StoreError(f"{label} at {self.where}: {reason}")

    def _known_room(self, path: str) -> int | None:
        folder = path.rpartition("/")[0] or "/"
        try:
            return self.free_bytes(folder)
        except (CoopfsError, FileNotFoundError):
            return None  # the error that matters is another

    def look(self, path: str, label: str) -> FileInfo | None:
        """See :meth:`RemoteFiles.look`."""
        try:
            return info_of(path, self.attrs(self.channel.ask(wire.lstat(path))))
        except Refused as exc:
            meant = self.meant(exc, path, label)
            if isinstance(meant, FileNotFoundError):
                return None
            raise meant from exc

    def is_folder(self, path: str) -> bool:
        """See :meth:`RemoteFiles.is_folder`."""
        try:
            return self.attrs(self.channel.ask(wire.stat_path(path))).is_folder
        except Refused as exc:
            meant = self.meant(exc, path, path)
            if isinstance(meant, FileNotFoundError):
                return False
            raise meant from exc

    def close_handles(self, handles: Sequence[bytes]) -> None:
        """Let the server close *handles*."""
        # Nobody waits for the answers: whoever reads next takes them in.
        if handles and self.channel.is_usable:
            try:
                self.channel.send([wire.close(handle) for handle in handles])
            except StoreUnavailable:
                return  # and the handles went with the line

    def list_folders(self, paths: Sequence[str]) -> list[list[FileInfo] | None]:
        """See :meth:`RemoteFiles.list_folders`; all of them take the same round trips."""
        replies = map(self.channel.finish, self.channel.send([*map(wire.open_folder, paths)]))
        listings: list[list[FileInfo] | None] = []
        handles: dict[int, bytes] = {}
        for number, reply in enumerate(replies):
            listings.append([])
            try:
                handles[number] = self.handle(reply)
            except Refused as exc:
                meant = self.meant(exc, paths[number], paths[number])
                if isinstance(meant, FileNotFoundError):
                    listings[number] = None
                    continue
                self.close_handles([*handles.values()])
                raise meant from exc
        rest = dict(handles)
        left = LISTED_MAX
        try:
            while rest:
                # Two each: most folders end with the second.
                asked = [(n, wire.read_folder(handle)) for n, handle in rest.items() for _ in "12"]
                sent = self.channel.send([request for _, request in asked])
                for (number, _), pending in zip(asked, sent, strict=True):
                    found = self._names(self.channel.finish(pending), paths[number])
                    if found is None:
                        rest.pop(number, None)
                        continue
                    listing = listings[number]
                    if listing is None:
                        raise AssertionError("it was opened")
                    listing += found
                    left -= len(found)
                    if left < 0:
                        raise self.nonsense(f"a listing of more than {LISTED_MAX:,} names")
        finally:
            self.close_handles([*handles.values()])
        return listings

    def _names(self, reply: Pending, path: str) -> list[FileInfo] | None:
        """Return the entries in *reply*, sizes known; None at the end of the folder."""
        if reply.op != Op.NAME:
            code, said = self.status(reply)
            if code == Code.EOF:
                return None
            refused = Refused(code, said, "listing")
            raise self.meant(refused, path, path) from refused
        entries = []
        for name, attrs in self.parsed(wire.parse_names, reply):
            if name in (".", ".."):
                continue
            if attrs.size is None or attrs.mode is None:
                found = self.look(f"{path}/{name}", name)
                entries += [] if found is None else [found]
            else:
                entries.append(info_of(name, attrs))
        return entries

    def free_bytes(self, path: str) -> int | None:
        """See :meth:`RemoteFiles.free_bytes`."""
        if not self._has_statvfs:
            return None
        try:
            room, files = self._room(path)
        except Refused as exc:
            if exc.code == Code.OP_UNSUPPORTED:  # offered all the same, by rclone for one
                return None
            raise self.meant(exc, path, "free space") from exc
        return room if files else 0

    def _room(self, path: str) -> tuple[int, int]:
        reply = self.channel.ask(wire.statvfs(path))
        if reply.op != Op.EXTENDED_REPLY:
            raise Refused(*self.status(reply), "asking for free space")
        return self.parsed(wire.parse_room, reply)


def info_of(path: str, attrs: Attrs) -> FileInfo:
    """Return what is known of *path*."""
    name = path.rpartition("/")[2]
    return FileInfo(name, attrs.size or 0, attrs.is_file, attrs.is_folder, attrs.mtime_s)
