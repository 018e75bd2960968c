"""Source files as tree entries: everything but their content.

Owns how a stat, the extended attributes and the owners' names become an
:class:`Entry`.  Nothing here follows a symlink.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from typing import Final

from coopfs.format.encoding import I64_MAX
from coopfs.format.tree import XATTR_VALUE_MAX, XATTRS_LEN_MAX, XATTRS_MAX, Entry, Kind

_KIND_OF_TYPE: Final = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}
_TYPE_BITS: Final = 0o170000  # what stat.S_IFMT() leaves, without the call
_NO_XATTRS: Final = frozenset((errno.ENOTSUP, errno.ENODATA, errno.ENOSYS))
Xattrs = tuple[tuple[bytes, bytes], ...]


class OwnerNames:
    """Names of users and groups, each asked for once a run."""

    def __init__(self) -> None:
        """Start with nothing known."""
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        """Return the user's name, empty where the system knows none."""
        name = self._users.get(uid)
        if name is None:
            try:
                name = os.fsencode(pwd.getpwuid(uid).pw_name)[:128]
            except KeyError:
                name = b""
            self._users[uid] = name
        return name

    def group(self, gid: int) -> bytes:
        """Return the group's name, empty where the system knows none."""
        name = self._groups.get(gid)
        if name is None:
            try:
                name = os.fsencode(grp.getgrgid(gid).gr_name)[:128]
            except KeyError:
                name = b""
            self._groups[gid] = name
        return name


def kind_of(mode: int) -> Kind | None:
    """Return what an ``st_mode`` says; None for a type no archive holds (a door, say)."""
    return _KIND_OF_TYPE.get(mode & _TYPE_BITS)


def read_xattrs(target: int | bytes) -> Xattrs:
    """Return the extended attributes of an open file or of a path, sorted by name.

    ACLs (``system.posix_acl_*``) and capabilities (``security.capability``) are
    among them.

    Raises:
        OSError: they cannot be read.
    """
    follow = type(target) is int
    try:
        names = os.listxattr(target) if follow else os.listxattr(target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _NO_XATTRS:
            return ()
        raise
    if not names:
        return ()
    pairs = []
    total_len = 0  # bytes; beyond the limit no reader would accept the entry
    for name in names[:XATTRS_MAX]:
        try:
            value = os.getxattr(target, name, follow_symlinks=follow)
        except OSError as exc:
            if exc.errno in _NO_XATTRS:
                continue  # removed meanwhile
            raise
        total_len += len(os.fsencode(name)) + len(value)
        if len(value) <= XATTR_VALUE_MAX and total_len <= XATTRS_LEN_MAX:
            pairs.append((os.fsencode(name), value))
    return tuple(sorted(pairs))


def storable_ns(time_ns: int) -> int:
    """Return *time_ns*, or the nearest that the format can hold: 1677 to 2262.

    ext4 keeps times up to 2446, btrfs and tmpfs any: a file with such a one is stored all the same.
    """
    return max(-I64_MAX, min(time_ns, I64_MAX))


def base_entry(name: bytes, kind: Kind, status: os.stat_result, names: OwnerNames) -> Entry:
    """Return the entry of *name* as far as a stat tells; content and xattrs are missing."""
    birth_ns: int | None = getattr(status, "st_birthtime_ns", None)
    return Entry(
        name,
        kind,
        status.st_mode & 0o7777,
        status.st_uid,
        status.st_gid,
        storable_ns(status.st_mtime_ns),
        names.user(status.st_uid),
        names.group(status.st_gid),
        status.st_size if kind is Kind.FILE else 0,
        birth_ns,
        status.st_rdev if kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE) else 0,
    )
