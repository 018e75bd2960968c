"""Files that appear whole, durable and once: write aside, fsync, link, fsync the folder.

Plain functions on paths; they raise OSError and translate nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

PAGE: Final = 4096  # bytes; what O_DIRECT wants lengths, offsets and buffers to be multiples of
DIRECT_MIN: Final = 1 << 20  # bytes; less is not worth two more system calls
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600

# Neither an object's name (64 hex digits) nor visible to a plain `ls`.
TEMPORARY_PREFIX: Final = ".tmp-"
TEMPORARY_AGE_MAX_S: Final = 24 * 3600  # no put takes that long: whoever wrote it is gone

# File systems without hard links say one of these (vfat, exfat, CIFS, some FUSE).
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


def write_new(path: str, pieces: Iterable[memoryview]) -> bool:
    """Make *path* with the pieces as its content; return False if the name was taken.

    At every moment *path* is absent or whole, whoever is killed.  Its name is durable
    only after :func:`sync_folder`, which is left to the caller, who needs it for a
    taken name too.  On any failure nothing of it stays.
    """
    folder = os.path.dirname(path)
    # In the target folder: another one might be another file system, and stock
    # rest-servers stumble over a file directly in data/ when they list.
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            for piece in pieces:
                write_all(fd, piece)
            os.fsync(fd)
        finally:
            # After the fsync close() has nothing left to report; without it NFS and
            # quotas may first complain here, and then the write has failed as well.
            os.close(fd)
        return link_new(temporary, path)
    finally:
        # Renamed already, or the disk is failing: then a later sweep gets it, and the error
        # that matters is the one on its way.
        with suppress(OSError):
            os.unlink(temporary)


def write_all(fd: int, piece: memoryview) -> None:
    """Write the whole *piece*, around the page cache where lengths and memory allow it."""
    # Around the page cache where the system allows it: a pack is fsynced at once and not
    # read soon, and the copy costs more than the disk (1.0 GB/s instead of 0.2 to 0.7).
    is_direct = len(piece) >= DIRECT_MIN and len(piece) % PAGE == 0 and _set_direct(fd, True)
    while piece:
        try:
            written = os.write(fd, piece)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not is_direct:
                raise
            _set_direct(fd, False)  # the buffer or the rest of it is not aligned
            is_direct = False
            continue
        piece = piece[written:]
    if is_direct:
        _set_direct(fd, False)


def _set_direct(fd: int, wanted: bool) -> bool:
    """Turn O_DIRECT on or off; return False where the file system has no such thing."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    flags = flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return False
    return True


def link_new(temporary: str, path: str) -> bool:
    """Give the file *temporary* the name *path* too; return False if that was taken.

    Where the file system has no hard links, *temporary* is gone afterwards.
    """
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            return False
        # A name that appears just now is replaced, by the same bytes: it is their hash.
        os.rename(temporary, path)
    return True


def replace(path: str, data: bytes) -> None:
    """Write the small file *path* durably; at every moment the old or the new content is there."""
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(8).hex()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            own_like_folder(fd, folder)
            write_all(fd, memoryview(data))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def open_lock(path: str) -> int:
    """Open the file *path*, made if need be, for flock(); return its descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    own_like_folder(fd, os.path.dirname(path))
    return fd


def own_like_folder(fd: int, folder: str) -> None:
    """Give the open file to the owner of *folder*, if we are root.

    What root writes at the prompt must stay usable for the server, which is not root.
    """
    if os.geteuid() != 0:
        return
    wanted, found = os.stat(folder), os.fstat(fd)
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        # A root that is none there (NFS, a user namespace) has no more to give away.
        with suppress(PermissionError):
            os.fchown(fd, wanted.st_uid, wanted.st_gid)


def move_new(source: str, target: str) -> bool:
    """Give the file *source* the name *target* instead; return False if that was taken.

    At every moment, whoever is killed and wherever the power fails, it has at least one
    of the two names; the new one is durable on return, the old one may come back.
    """
    if not link_new(source, target):
        return False
    sync_folder(os.path.dirname(target))
    with suppress(FileNotFoundError):  # no hard links here: it was renamed
        os.unlink(source)
    return True


def sync_file(path: str) -> None:
    """Make the content of *path* durable, whoever wrote it."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW)


def sync_folder(path: str) -> None:
    """Make the names in the folder *path* durable."""
    try:
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        # Some network and FUSE file systems cannot fsync a folder: there is no more to do.
        if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _sync(path: str, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sweep_temporaries(folder: str) -> None:
    """Remove what killed writers left in *folder* more than a day ago."""
    oldest_s = time.time() - TEMPORARY_AGE_MAX_S
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(TEMPORARY_PREFIX):
                continue
            # Not ours to remove, or somebody else was faster: neither hinders a put.
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest_s:
                    os.unlink(entry.path)
