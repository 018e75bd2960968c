"""Source files into the archive: content, metadata, hard links.

Owns how one path becomes an :class:`Entry`, and which paths are one file.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from blake3 import blake3

from coopfs.format.tree import HARD_LINK_ID_LEN, NAME_MAX, Entry, Kind
from coopfs.ops.content import ContentReader
from coopfs.ops.source import OwnerNames, base_entry, kind_of, read_xattrs, storable_ns
from coopfs.ops.tally import Tally

OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class _LinkGroup(NamedTuple):
    """The hard links of one inode."""

    link_id: bytes
    first: Entry | None = None  # once stored, while more links may come
    ctime_ns: int = 0  # of the inode when *first* was stored
    left: int = 0  # links not seen yet


class FileStorer:
    """Stores single files; one a run."""

    def __init__(self, reader: ContentReader, link_key: bytes, tally: Tally) -> None:
        """*link_key* is what the ids of hard-link groups are keyed with."""
        self._reader = reader
        self._link_key = link_key
        self._tally = tally
        self._owners = OwnerNames()
        self._links: dict[tuple[int, int], _LinkGroup] = {}

    def folder_entry(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        """Return the entry of a folder, still without its tree; None (and a report) if unfit."""
        entry = base_entry(name, Kind.FOLDER, status, self._owners)
        try:
            xattrs = read_xattrs(path)
        except OSError as exc:
            self._tally.report(path, exc)
            xattrs = ()
        if len(name) > NAME_MAX:
            self._tally.report(path, "its name is too long to be stored")
            return None
        return entry._replace(xattrs=xattrs) if xattrs else entry

    def store_file(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        """Store whatever *path* is, a folder excepted; None (and a report) when it cannot be."""
        kind = kind_of(status.st_mode)
        if kind is None or len(name) > NAME_MAX:
            self._tally.report(path, "its type or name cannot be stored")
            return None
        try:
            if kind is Kind.FILE:
                return self._store_regular(path, name, status)
            entry = base_entry(name, kind, status, self._owners)
            if kind is Kind.SYMLINK:
                entry = entry._replace(target=os.readlink(path))
            entry = entry._replace(xattrs=read_xattrs(path))
        except FileNotFoundError:
            self._tally.report(path, "vanished before it was read")
            return None
        except OSError as exc:
            self._tally.report(path, exc)
            return None
        if status.st_nlink > 1:
            link_id = self.link_id(path, status)
            entry = entry._replace(hard_link_id=link_id, link_count=status.st_nlink)
        return entry

    def _store_regular(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        link_id: bytes | None = None
        if status.st_nlink > 1:
            link_id = self.link_id(path, status)
            group = self._links[status.st_dev, status.st_ino]
            # Written to since the first link was read, or another file by now: read again.
            if group.first is not None and group.ctime_ns == status.st_ctime_ns:
                self._let_link_go(status)
                return group.first._replace(name=name)
        fd = open_for_reading(path)
        try:
            content = self._reader.read_file(fd, status.st_size, status.st_blocks)
            xattrs = read_xattrs(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if after.st_ctime_ns != status.st_ctime_ns or after.st_ino != status.st_ino:
            if not stat.S_ISREG(after.st_mode):
                self._tally.report(path, "was replaced by something else while it was read")
                return None
            if after.st_mtime_ns != status.st_mtime_ns or after.st_size != status.st_size:
                self._tally.report(path, "changed while it was read; stored as read")
            status = after
        self._tally.read += content.read_len
        owners = self._owners
        entry = Entry(
            name,
            Kind.FILE,
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            storable_ns(status.st_mtime_ns),
            owners.user(status.st_uid),
            owners.group(status.st_gid),
            content.size,
            getattr(status, "st_birthtime_ns", None),
            0,
            b"",
            xattrs,
            link_id,
            status.st_nlink if link_id else 1,
            content.data_len,
            content.inline,
            content.spans,
            content.span_root,
        )
        if link_id is not None:
            self._links[status.st_dev, status.st_ino] = _LinkGroup(
                link_id, entry, status.st_ctime_ns, status.st_nlink - 1
            )
        return entry

    def link_id(self, path: bytes, status: os.stat_result) -> bytes:
        """Return the id of the group of hard links, from the first path seen of it."""
        known = self._links.get((status.st_dev, status.st_ino))
        if known is not None:
            return known.link_id
        key = self._link_key
        link_id = blake3(path, key=key).digest(HARD_LINK_ID_LEN)
        self._links[status.st_dev, status.st_ino] = _LinkGroup(link_id)
        return link_id

    def _let_link_go(self, status: os.stat_result) -> None:
        """Count down a group's links; after the last nothing of it is kept in memory."""
        key = (status.st_dev, status.st_ino)
        group = self._links[key]
        if group.left <= 1:
            # Only the content is let go: the id may still be asked for by a folder's look.
            self._links[key] = _LinkGroup(group.link_id)
        else:
            self._links[key] = group._replace(left=group.left - 1)


def open_for_reading(path: bytes) -> int:
    """Open a regular file without touching its access time, where that is allowed."""
    try:
        return os.open(path, OPEN_FLAGS | os.O_NOATIME)
    except PermissionError:
        return os.open(path, OPEN_FLAGS)  # not ours: only the owner may leave atime alone
