"""The folder a restore writes into, and the folders below it.

Owns the rule that nothing is ever written outside: each folder is opened from its
parent's descriptor, never through a symlink, and everything in it is done relative to
its own descriptor.  A folder that was exchanged for another one meanwhile is refused.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from coopfs.errors import CoopfsError
from coopfs.format.tree import Entry
from coopfs.ops.attributes import ACL_DEFAULT, list_xattrs, proc_path

FOLDERS_OPEN: Final = 400  # descriptors
OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_PATH: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# On a target that a restore has made and not finished, so that a later run knows that
# the folder's attributes are still to be set.
UNFINISHED: Final = "user.coopfs.unfinished"
MODE_WHILE_FILLED: Final = 0o700  # nobody else gets in before the restored mode is set


class InTheWay(CoopfsError):
    """Something in the target is where a folder should be, and may not be replaced."""


class Folder:
    """A folder of the target; its descriptor comes and goes."""

    __slots__ = (
        "born", "entry", "fd", "has_default_acl", "identity", "is_made", "is_new", "mode_before",
        "parent", "problem",
    )  # fmt: skip

    def __init__(self, parent: Folder | None, entry: Entry) -> None:
        """Nothing is made yet; *entry* is what it shall become."""
        self.parent = parent
        self.entry = entry
        self.fd: int | None = None
        self.is_made = False
        self.is_new = False  # made by this run, so empty at first
        self.identity = (0, 0)  # device and inode number
        self.mode_before = 0  # of one that was there
        self.born: tuple[int, int] | None = None  # owner of files made here; None: not seen yet
        self.has_default_acl = False  # files made here get attributes nobody asked for
        self.problem: str | None = None  # why it cannot be used

    @property
    def path(self) -> bytes:
        """Its path below the target; empty for the target itself."""
        names = []
        folder = self
        while folder.parent is not None:
            names.append(folder.entry.name)
            folder = folder.parent
        return b"/".join(reversed(names))

    def path_of(self, name: bytes) -> bytes:
        """Return the path of *name* in it, below the target."""
        path = self.path
        return path + b"/" + name if path else name


class Target:
    """Makes and opens folders; keeps the descriptors in use, and not more of them."""

    def __init__(self, path: bytes, entry: Entry, *, is_dry_run: bool) -> None:
        """Open the folder *path*, or make it with its parents; *entry* is what goes there.

        Raises:
            CoopfsError: it cannot be made or opened.
        """
        self.path = path
        self.is_dry_run = is_dry_run
        self._open: OrderedDict[Folder, int] = OrderedDict()
        # Of what the system allows, half stays for everything else.
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._open_max = min(FOLDERS_OPEN, allowed // 2) if allowed > 0 else FOLDERS_OPEN
        self.root = Folder(None, entry)
        self.root.is_made = True
        self.is_own = False  # made by this run, or by one that did not finish
        try:
            # The way to the target is the user's own and may lead through symlinks.
            if not os.path.isdir(path):
                self.root.is_new = True
                if is_dry_run:
                    return
                os.makedirs(path)
            self.root.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.is_own = self.root.is_new or UNFINISHED in list_xattrs(self.root.fd)
            if self.root.is_new:
                with suppress(OSError):  # a file system without such attributes
                    os.setxattr(self.root.fd, UNFINISHED, b"")
        except OSError as exc:
            name = path.decode("utf-8", "backslashreplace")
            raise CoopfsError(f"target {name}: {exc.strerror}") from exc
        self._look_at(self.root, self.root.fd)

    def finish(self) -> None:
        """Note that everything is there."""
        if self.is_own and self.root.fd is not None:
            with suppress(OSError):
                os.removexattr(self.root.fd, UNFINISHED)

    def close(self) -> None:
        """Close every descriptor."""
        if self.root.fd is not None:
            os.close(self.root.fd)
            self.root.fd = None
        for folder, fd in self._open.items():
            os.close(fd)
            folder.fd = None
        self._open.clear()

    def fd_of(self, folder: Folder) -> int:
        """Return the folder's descriptor, opened again if need be.

        Raises:
            OSError: it cannot be opened, or is another folder than before.
        """
        fd = folder.fd
        if fd is not None:
            return fd
        missing = []
        above: Folder | None = folder
        while above is not None and above.fd is None:
            missing.append(above)
            above = above.parent
        for lower in reversed(missing):
            fd = self._open_below(lower)
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != lower.identity:
                os.close(fd)
                raise OSError(errno.ESTALE, "was exchanged for another folder meanwhile")
            self._keep(lower, fd)
        if fd is None:
            raise AssertionError("the target itself is always open")
        return fd

    def _open_below(self, folder: Folder) -> int:
        if folder.parent is None or folder.parent.fd is None:
            raise AssertionError("parents are opened before their children")
        return os.open(folder.entry.name, OPEN_FOLDER, dir_fd=folder.parent.fd)

    def _keep(self, folder: Folder, fd: int) -> None:
        folder.fd = fd
        self._open[folder] = fd
        if len(self._open) > self._open_max:
            # The oldest; never the one just opened, nor its parent, which is needed next.
            for oldest in self._open:
                if oldest is not folder and oldest is not folder.parent:
                    self.let_go(oldest)
                    break

    def let_go(self, folder: Folder) -> None:
        """Close the folder's descriptor, if it has one."""
        fd = self._open.pop(folder, None)
        if fd is not None:
            os.close(fd)
            folder.fd = None

    # --- making folders -------------------------------------------------------

    def make(self, folder: Folder, *, may_replace: bool) -> None:
        """Make *folder* and what is missing above it, or take the one that is there.

        *may_replace*: a file or symlink in its place is removed; else it is in the way.

        Raises:
            OSError, InTheWay: it cannot be made; the reason is kept in ``problem``.
        """
        missing = []
        above: Folder | None = folder
        while above is not None and not above.is_made:
            missing.append(above)
            above = above.parent
        for lower in reversed(missing):
            try:
                self._make_one(lower, may_replace=may_replace)
            except OSError as exc:
                lower.problem = exc.strerror
                raise
            except InTheWay as exc:
                lower.problem = str(exc)
                raise
            lower.is_made = True

    def _make_one(self, folder: Folder, *, may_replace: bool) -> None:
        parent = folder.parent
        if parent is None or parent.problem is not None:
            raise InTheWay("the folder above could not be made")
        if self.is_dry_run and parent.is_new:
            folder.is_new = True
            return
        parent_fd = self.fd_of(parent)
        name = folder.entry.name
        if self.is_dry_run:
            folder.is_new = not is_folder(name, parent_fd)
        else:
            folder.is_new = self._mkdir(name, parent_fd, may_replace=may_replace)
        if folder.is_new and self.is_dry_run:
            return
        if not folder.is_new and not self.is_dry_run:
            make_accessible(name, parent_fd, folder)
        fd = self._open_below(folder)
        self._look_at(folder, fd)
        self._keep(folder, fd)
        if folder.is_new:
            self._make_neutral(folder, fd)

    def _mkdir(self, name: bytes, parent_fd: int, *, may_replace: bool) -> bool:
        """Make a folder; False when there is one already."""
        try:
            os.mkdir(name, MODE_WHILE_FILLED, dir_fd=parent_fd)
        except FileExistsError:
            if is_folder(name, parent_fd):
                return False
            if not may_replace:
                raise InTheWay("something that is no folder is in its place, and kept") from None
            os.unlink(name, dir_fd=parent_fd)
            os.mkdir(name, MODE_WHILE_FILLED, dir_fd=parent_fd)
        return True

    def _look_at(self, folder: Folder, fd: int) -> None:
        status = os.fstat(fd)
        folder.identity = (status.st_dev, status.st_ino)
        folder.mode_before = folder.mode_before or stat.S_IMODE(status.st_mode)
        parent = folder.parent
        if not folder.is_new or parent is None or parent.has_default_acl:
            folder.has_default_acl = ACL_DEFAULT in list_xattrs(fd)

    def _make_neutral(self, folder: Folder, fd: int) -> None:
        """Take off a new folder what it got from its parent and would pass on."""
        if folder.has_default_acl:
            with suppress(OSError):
                os.removexattr(fd, ACL_DEFAULT)
                folder.has_default_acl = False
        if folder.mode_before != MODE_WHILE_FILLED:
            os.fchmod(fd, MODE_WHILE_FILLED)


def is_folder(name: bytes, parent_fd: int) -> bool:
    """Tell whether *name* is a folder itself, not a symlink to one."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def make_accessible(name: bytes, parent_fd: int, folder: Folder) -> None:
    """Let the owner into a folder that is there and closed even to its owner."""
    if os.geteuid() == 0:
        return
    fd = os.open(name, OPEN_PATH, dir_fd=parent_fd)
    try:
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and ~mode & 0o700:
            folder.mode_before = mode
            os.chmod(proc_path(fd), mode | 0o700)
    finally:
        os.close(fd)
