"""Files that root makes in a server's folder belong to the user the server runs as.

A service under a user of its own could otherwise not read the partner that an
administrator has just made.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from coopfs.errors import ConfigError
from coopfs.server.settings import partner_folder


def hand_over(root: Path, name: str) -> None:
    """Give what belongs to the partner *name*, and what lies above it, to *root*'s owner.

    Does nothing unless we are root and the folder is somebody else's.  Objects are not
    looked at: only the server makes those.

    Raises:
        ConfigError: it cannot be given away.
    """
    try:
        owner = root.stat()
        if os.geteuid() != 0 or owner.st_uid == 0:
            return
        folder = partner_folder(root, name)
        for path in (*root.iterdir(), folder, *_shallow(folder)):
            status = path.lstat()
            if (status.st_uid, status.st_gid) != (owner.st_uid, owner.st_gid):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    except FileNotFoundError:
        return  # the partner was removed
    except OSError as exc:
        raise ConfigError(
            f"{exc.filename or root}: cannot be given to the server's user: {exc.strerror}"
        ) from exc


def _shallow(folder: Path) -> list[Path]:
    """Return what lies in *folder* and in its folders, three levels deep."""
    found: list[Path] = []
    level = [folder]
    for _ in range(3):
        below = []
        for place in level:
            with suppress(NotADirectoryError):
                below += [entry for entry in place.iterdir() if not _is_object(entry.name)]
        found += below
        level = [path for path in below if path.is_dir() and not path.is_symlink()]
    return found


def _is_object(name: str) -> bool:
    return len(name) == 64
