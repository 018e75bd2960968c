"""What stat(2) says: entries and virtual nodes as FUSE attributes.

Owns block counts, link counts as given, and the overrides uid=, gid=, umask=.
"""

from __future__ import annotations

import os
import stat
from typing import Final

import pyfuse3

from coopfs.format.tree import Entry, Kind
from coopfs.view.catalogue import VirtualNode
from coopfs.view.options import MountOptions

SNAPSHOT_TIMEOUT_S: Final = 86400.0  # content of snapshots never changes
VIRTUAL_TIMEOUT_S: Final = 1.0  # snapshots come and go
BLKSIZE: Final = 1 << 17  # bytes; what cat and cp then read at once
FOLDER_SIZE: Final = 4096  # bytes, as most file systems show
_SECTOR: Final = 512  # unit of st_blocks
_UNIT: Final = 4096  # space is counted in this unit, as on the usual file systems

_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.FOLDER: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHAR_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
}
_TYPE_BY_NUMBER: Final = tuple(_TYPES[kind] for kind in Kind)


class Attributes:
    """Makes FUSE attributes; holds what the options change about them."""

    def __init__(self, options: MountOptions) -> None:
        """Apply uid=, gid= and umask= of *options*."""
        self._uid = options.uid
        self._gid = options.gid
        self._mode_mask = 0o7777 & ~(options.umask or 0)
        self._own_uid = os.getuid() if options.uid is None else options.uid
        self._own_gid = os.getgid() if options.gid is None else options.gid

    def blank(self) -> pyfuse3.EntryAttributes:
        """Return attributes to be filled again and again while a folder is listed."""
        attributes = pyfuse3.EntryAttributes()
        attributes.entry_timeout = attributes.attr_timeout = SNAPSHOT_TIMEOUT_S
        attributes.st_blksize = BLKSIZE
        return attributes

    def fill(
        self, attributes: pyfuse3.EntryAttributes, entry: Entry, ino: int, link_count: int
    ) -> None:
        """Write what *entry* says into *attributes*; every field that differs between entries."""
        kind = entry.kind
        attributes.st_ino = ino
        attributes.st_mode = _TYPE_BY_NUMBER[kind] | (entry.mode & self._mode_mask)
        attributes.st_nlink = link_count
        attributes.st_uid = entry.uid if self._uid is None else self._uid
        attributes.st_gid = entry.gid if self._gid is None else self._gid
        attributes.st_rdev = entry.rdev
        if kind is Kind.FILE:
            size = entry.size
            occupied = size if entry.data_len is None else entry.data_len
        elif kind is Kind.FOLDER:
            size = occupied = FOLDER_SIZE
        else:
            size, occupied = len(entry.target), 0
        attributes.st_size = size
        attributes.st_blocks = -(-occupied // _UNIT) * (_UNIT // _SECTOR)
        time_ns = entry.mtime_ns
        attributes.st_mtime_ns = time_ns
        attributes.st_ctime_ns = time_ns
        attributes.st_atime_ns = time_ns

    def of_virtual(
        self, node: VirtualNode, ino: int, link_count: int, size: int
    ) -> pyfuse3.EntryAttributes:
        """Return the attributes of a name above the snapshots."""
        attributes = pyfuse3.EntryAttributes()
        attributes.entry_timeout = attributes.attr_timeout = VIRTUAL_TIMEOUT_S
        if node.is_folder:
            mode = stat.S_IFDIR | 0o755
        elif node.target:
            mode = stat.S_IFLNK | 0o777
        else:
            mode = stat.S_IFREG | 0o444
        attributes.st_ino = ino
        attributes.st_mode = stat.S_IFMT(mode) | (mode & self._mode_mask)
        attributes.st_nlink = link_count
        attributes.st_uid = self._own_uid
        attributes.st_gid = self._own_gid
        attributes.st_size = size
        attributes.st_mtime_ns = node.mtime_ns
        attributes.st_ctime_ns = node.mtime_ns
        attributes.st_atime_ns = node.mtime_ns
        return attributes
