"""What an error of the operating system means for whoever uses a store in a folder."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from coopfs.errors import (
    CoopfsError,
    ObjectCorrupt,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# The disk or the machine behind the mount went away; it may come back.
_AWAY = frozenset(
    {
        errno.ENOTCONN,
        errno.ESTALE,
        errno.ENODEV,
        errno.ENXIO,
        errno.ETIMEDOUT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.ECONNREFUSED,
        errno.ESHUTDOWN,
        errno.EINTR,
        errno.EAGAIN,
        errno.EBUSY,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    }
)


def free_bytes(root: str) -> int:
    """Return how much an ordinary user may still write to the disk of *root*."""
    figures = os.statvfs(root)
    return figures.f_bavail * figures.f_frsize


def store_error(exc: OSError, label: str, root: str) -> CoopfsError:
    """Return what *exc* means for whoever uses the store; *root* is where to ask for room."""
    reason = exc.strerror or str(exc)
    if exc.errno in _FULL:
        free = "unknown"
        with suppress(OSError):
            free = f"{free_bytes(root)} bytes"
        return StoreFull(
            f"{label}: no room left ({reason}); free on that disk: {free}; "
            f"make room or raise the quota, then run it again: what was stored is kept"
        )
    if exc.errno in _DENIED:
        return StoreDenied(f"{label}: {reason}; check the owner and the mount options of the store")
    if exc.errno == errno.ELOOP:
        return ObjectCorrupt(f'{label}: a symlink stands for it; run "coopfs check"')
    if exc.errno in _AWAY:
        return StoreUnavailable(f"{label}: {reason}")
    if exc.errno == errno.EIO:
        return StoreError(f"{label}: {reason}; the disk may be failing, see the kernel's log")
    return StoreError(f"{label}: {reason}")
