"""Setting what a file system knows about a file beside its content.

Owns owners (by name or by number), modes, extended attributes (ACLs and capabilities
are among them) and times, and the order in which they must be set.  Works on open
descriptors only: a path could be replaced under us.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from coopfs.format.tree import Entry, Kind

SPECIAL_BITS: Final = 0o7000
ACL_DEFAULT: Final = "system.posix_acl_default"
ACL_ACCESS: Final = "system.posix_acl_access"
# linux/posix_acl_xattr.h: a version, then (tag, permissions, uid or gid) each.
_ACL_HEADER_LEN: Final = 4
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_GROUP: Final = 4  # the tag of what the file's own group may do
KEEP: Final = -1  # chown's way of saying: leave it as it is
# What the system itself gives to new files; anything else that is not wanted is taken off.
_OF_THE_SYSTEM: Final = frozenset(("security.selinux", "security.ima", "security.evm"))
_UNSUPPORTED: Final = frozenset((errno.ENOTSUP, errno.ENOSYS))

Where = int | str  # an open descriptor, or proc_path() of one that is open as a path only


def proc_path(fd: int) -> str:
    """Return a path that leads to what *fd* is open on and nowhere else.

    For descriptors opened with O_PATH, which the f* calls refuse; works for symlinks
    themselves, devices, FIFOs and sockets without touching what is behind them.
    """
    return f"/proc/self/fd/{fd}"


class Owner(NamedTuple):
    """Who should own an entry here, and what this user may set of that (else KEEP)."""

    uid: int
    gid: int
    settable_uid: int
    settable_gid: int


class Owners:
    """Finds owners: by name, by number where this machine does not know the name."""

    def __init__(self, *, numeric: bool) -> None:
        """*numeric*: never look names up."""
        self._numeric = numeric
        self._uid = os.geteuid()
        self._groups = frozenset((os.getegid(), *os.getgroups()))
        self._known: dict[tuple[int, bytes, int, bytes], Owner] = {}

    def of(self, entry: Entry) -> Owner:
        """Return the owner of *entry*; each name is looked up once."""
        key = (entry.uid, entry.user, entry.gid, entry.group)
        owner = self._known.get(key)
        if owner is None:
            uid = self._look_up(entry.uid, entry.user, lambda name: pwd.getpwnam(name).pw_uid)
            gid = self._look_up(entry.gid, entry.group, lambda name: grp.getgrnam(name).gr_gid)
            may_all = self._uid == 0
            owner = self._known[key] = Owner(
                uid,
                gid,
                uid if may_all or uid == self._uid else KEEP,
                gid if may_all or gid in self._groups else KEEP,
            )
        return owner

    def _look_up(self, number: int, name: bytes, find: Callable[[str], int]) -> int:
        if self._numeric or not name:
            return number
        try:
            return find(os.fsdecode(name))
        except (KeyError, ValueError):
            return number


class Attributes:
    """Sets attributes; counts what cannot be set for a reason that is always the same."""

    def __init__(self, *, numeric_owner: bool) -> None:
        """One a run."""
        self._owners = Owners(numeric=numeric_owner)
        self._is_root = os.geteuid() == 0
        self._now_ns = time.time_ns()  # access time of all: the archive holds none
        self._not_at_once = SPECIAL_BITS | current_umask()
        self.left_out: Counter[str] = Counter()  # what and why -> entries

    def is_plain(self, entry: Entry, born: tuple[int, int]) -> bool:
        """Tell whether a file made with its final mode then needs its times set, no more.

        *born* is (uid, gid) of what this process creates there.
        """
        if entry.xattrs or entry.mode & self._not_at_once:
            return False
        uid, gid, settable_uid, settable_gid = self._owners.of(entry)
        if settable_uid not in (KEEP, born[0]) or settable_gid not in (KEEP, born[1]):
            return False
        if (uid, gid) != born:
            self._note_owner()
        return True

    def set_times(self, where: Where, entry: Entry) -> None:
        """Set the modification time; comes last, as everything else may change it."""
        os.utime(where, ns=(self._now_ns, entry.mtime_ns))

    def apply(self, where: Where, entry: Entry, found: os.stat_result, *, is_clean: bool) -> None:
        """Make the open *where*, which looks like *found*, what *entry* says.

        *is_clean*: it has no extended attributes yet.

        Raises:
            OSError: something could not be set that usually can be.
        """
        # The owner first, since chown takes off special bits and capabilities; the mode
        # after the ACL, which changes it, and after user.* attributes, which it may forbid.
        owner = self._owners.of(entry)
        uid, gid = owner.settable_uid, owner.settable_gid
        if uid not in (KEEP, found.st_uid) or gid not in (KEEP, found.st_gid):
            os.chown(where, uid, gid)
        uid = found.st_uid if uid == KEEP else uid
        gid = found.st_gid if gid == KEEP else gid
        if (uid, gid) != (owner.uid, owner.gid):
            self._note_owner()
        mode = entry.mode
        if entry.xattrs or not is_clean:
            self._set_xattrs(where, entry, is_clean=is_clean)
            mode = self._mode_with_acl(where, entry)
        if entry.kind is not Kind.SYMLINK:
            if entry.kind is Kind.FILE:
                # A program must not run with the rights of somebody who never owned it.
                mode &= ~((uid != owner.uid and stat.S_ISUID) | (gid != owner.gid and stat.S_ISGID))
            os.chmod(where, mode)
        self.set_times(where, entry)

    def amend(self, where: Where, entry: Entry, found: os.stat_result) -> None:
        """As :meth:`apply`, but touch nothing when *found* and its attributes are right already.

        A change that changes nothing would still make the next snapshot read the file.
        """
        owner = self._owners.of(entry)
        is_right = (
            owner.settable_uid in (KEEP, found.st_uid)
            and owner.settable_gid in (KEEP, found.st_gid)
            and (entry.kind is Kind.SYMLINK or stat.S_IMODE(found.st_mode) == entry.mode)
            and found.st_mtime_ns == entry.mtime_ns
        )
        if not is_right or not self._has_xattrs(where, entry):
            self.apply(where, entry, found, is_clean=False)

    def _has_xattrs(self, where: Where, entry: Entry) -> bool:
        present = [name for name in list_xattrs(where) if name not in _OF_THE_SYSTEM]
        wanted = {os.fsdecode(name): value for name, value in entry.xattrs}
        wanted = {name: wanted[name] for name in wanted if name not in _OF_THE_SYSTEM}
        return sorted(present) == sorted(wanted) and all(
            os.getxattr(where, name) == value for name, value in wanted.items()
        )

    def _mode_with_acl(self, where: Where, entry: Entry) -> int:
        """Return the mode to set, which is narrower where the entry's ACL cannot be had.

        With an ACL the group's bits are its mask, what anybody named in it may have at
        most; without it they would be what the group itself gets.
        """
        acl = dict(entry.xattrs).get(ACL_ACCESS.encode())
        if acl is None or ACL_ACCESS in list_xattrs(where):
            return entry.mode
        granted = 0
        if len(acl) % _ACL_ENTRY.size == _ACL_HEADER_LEN:
            for tag, allowed, _ in _ACL_ENTRY.iter_unpack(acl[_ACL_HEADER_LEN:]):
                granted |= allowed if tag == _ACL_GROUP else 0
        return entry.mode & (~0o070 | granted << 3)

    def _set_xattrs(self, where: Where, entry: Entry, *, is_clean: bool) -> None:
        wanted = {os.fsdecode(name): value for name, value in entry.xattrs}
        present = [] if is_clean else list_xattrs(where)
        for name in present:
            if name not in wanted and name not in _OF_THE_SYSTEM:
                self._change(name, os.removexattr, where, name)
        for name, value in wanted.items():
            if name not in present or os.getxattr(where, name) != value:
                self._change(name, os.setxattr, where, name, value)

    def _change(self, name: str, change: Callable[..., None], *arguments: Where | bytes) -> None:
        try:
            change(*arguments)
        except OSError as exc:
            if not self._is_excused(name, exc):
                raise OSError(exc.errno, f"attribute {name}: {exc.strerror}") from exc

    def _note_owner(self) -> None:
        self.left_out["owners: only root can give them away"] += 1

    def _is_excused(self, name: str, exc: OSError) -> bool:
        """Count an attribute that can never be had here; False when it should have worked."""
        space = name.partition(".")[0]
        if exc.errno in _UNSUPPORTED:
            reason = "the target's file system does not have them"
        elif exc.errno == errno.EPERM and not self._is_root and space != "user":
            reason = "only root can set them"
        else:
            return exc.errno == errno.ENODATA  # one to be removed is gone already
        what = "ACLs" if "posix_acl" in name else f"attributes {space}.*"
        self.left_out[f"{what}: {reason}"] += 1
        return True


def list_xattrs(where: Where) -> list[str]:
    """Return the names of the extended attributes; none where there are no such things."""
    try:
        return os.listxattr(where)
    except OSError as exc:
        if exc.errno in _UNSUPPORTED:
            return []
        raise


def current_umask() -> int:
    """Return the process's umask without changing it, which other threads would notice."""
    try:
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o777  # every mode is then set afterwards
