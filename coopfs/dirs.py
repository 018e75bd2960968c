"""Where coopfs keeps its own files, and how it writes the private ones.

Three folders after XDG: config (settings and keys: back them up), state (what may
not be lost between runs) and cache (what may be dropped).  coopfs-config(5), "Files".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.errors import ConfigError
from coopfs.ids import ArchiveId

FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600
TEMPORARY_PREFIX: Final = ".new-"


@dataclass(frozen=True, slots=True)
class Dirs:
    """The three folders of one user; none of them need exist."""

    config: Path
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Dirs:
        """Return the folders: COOPFS_{CONFIG,STATE,CACHE}_DIR, else XDG's."""
        import platformdirs  # late: 15 ms

        environ = os.environ if environ is None else environ

        def folder(kind: str, default: Path) -> Path:
            chosen = environ.get(f"COOPFS_{kind}_DIR")
            return Path(os.path.abspath(chosen)) if chosen else default

        return cls(
            config=folder("CONFIG", platformdirs.user_config_path("coopfs")),
            state=folder("STATE", platformdirs.user_state_path("coopfs")),
            cache=folder("CACHE", platformdirs.user_cache_path("coopfs")),
        )

    @property
    def archives(self) -> Path:
        """One folder an archive: its settings and key files."""
        return self.config / "archives"

    def archive_config(self, name: str) -> Path:
        """Return the folder with the settings and keys of the archive called *name*."""
        return self.archives / name

    def archive_state(self, archive_id: ArchiveId) -> Path:
        """Return the folder of what must be kept about an archive (its known heads)."""
        return self.state / archive_id.hex()

    def archive_cache(self, archive_id: ArchiveId) -> Path:
        """Return the folder of what can be had again from the store."""
        return self.cache / archive_id.hex()


def make_private_folder(path: Path) -> None:
    """Make *path* and the folders above it, all 0700; existing ones stay as they are.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        missing, above = [], path
        while not above.is_dir():
            missing.append(above)
            if above == above.parent:
                break
            above = above.parent
        for folder in reversed(missing):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            sync_folder(folder.parent)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be made: {exc.strerror}") from exc


def write_private(path: Path, data: bytes, *, replace: bool) -> None:
    """Write *path* (0600) atomically and durably; its folder must exist.

    At every moment the old content or the new one is there, whole.

    Raises:
        ConfigError: it cannot be written, or it exists and *replace* is False.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _move(temporary, path, replace=replace)
        finally:
            with suppress(OSError):
                temporary.unlink()
        sync_folder(path.parent)
    except FileExistsError as exc:
        raise ConfigError(f"{path}: exists already; it was not overwritten") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc


def _move(temporary: Path, path: Path, *, replace: bool) -> None:
    if replace:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path, follow_symlinks=False)  # fails where the name is taken
    except FileExistsError:
        raise
    except OSError:
        # No hard links here (vfat, some FUSE): the name is looked at, then taken.
        if os.path.lexists(path):
            raise FileExistsError(str(path)) from None
        temporary.rename(path)


def sync_folder(path: Path) -> None:
    """Make the names in *path* durable (OSError)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
