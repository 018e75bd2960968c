"""The disk cache: sealed blocks of remote stores, kept as long as there is room.

Owns a folder of files that may be dropped at any time.  What lies here is still
sealed: whoever reads it opens and verifies it, so a damaged file is only a miss.
Metadata blocks are kept whatever the size, so that names never wait for the partner.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from coopfs.dirs import make_private_folder
from coopfs.errors import ConfigError
from coopfs.ids import PackId

DATA_LEN_MAX: Final = 4 << 30  # bytes of file content kept by default
_TRIM_TO: Final = 0.9  # of the limit, so that not every put trims


class BlockCache:
    """Sealed blocks by pack and ordinal; thread-safe."""

    def __init__(self, folder: Path, data_len_max: int = DATA_LEN_MAX) -> None:
        """Keep at most *data_len_max* bytes of content under *folder*."""
        self._folder = folder
        self._limit = data_len_max
        self._lock = threading.Lock()
        self._data_len: int | None = None  # bytes; counted at the first put

    def _path(self, pack_id: PackId, ordinal: int, *, is_meta: bool) -> Path:
        kind = "meta" if is_meta else "data"
        name = pack_id.hex()
        return self._folder / kind / name[:2] / f"{name}-{ordinal}"

    def get(self, pack_id: PackId, ordinal: int, *, is_meta: bool) -> bytes | None:
        """Return the sealed block, or None; not verified."""
        try:
            return self._path(pack_id, ordinal, is_meta=is_meta).read_bytes()
        except OSError:
            return None

    def has(self, pack_id: PackId, ordinal: int, *, is_meta: bool) -> bool:
        """Tell whether the block is here (a file check, no read)."""
        return self._path(pack_id, ordinal, is_meta=is_meta).exists()

    def put(self, pack_id: PackId, ordinal: int, sealed: bytes, *, is_meta: bool) -> None:
        """Keep a block; a full or read-only disk only means that nothing is kept."""
        path = self._path(pack_id, ordinal, is_meta=is_meta)
        part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            if not path.parent.is_dir():
                make_private_folder(self._folder)  # mkdir() gives those above no mode
                path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(sealed)
            part.replace(path)
        except (OSError, ConfigError):
            with suppress(OSError):
                part.unlink()
            return
        if not is_meta:
            self._count(len(sealed))

    def keep_only_meta(self, pack_ids: Container[PackId]) -> None:
        """Drop the metadata blocks of all packs but *pack_ids*."""
        for path in (self._folder / "meta").glob("*/*"):
            name, _, _ = path.name.partition("-")
            try:
                is_kept = PackId(bytes.fromhex(name)) in pack_ids
            except ValueError:
                is_kept = False
            # A part that is being written may be of a pack that has only just become known.
            if not is_kept and path.suffix != ".part":
                with suppress(OSError):
                    path.unlink()

    def _count(self, added: int) -> None:
        with self._lock:
            if self._data_len is None:
                self._data_len = sum(size for _, size, _ in self._data_files())
            else:
                self._data_len += added
            if self._data_len <= self._limit:
                return
            for _, size, path in sorted(self._data_files()):
                if self._data_len <= self._limit * _TRIM_TO:
                    break
                with suppress(OSError):
                    path.unlink()
                self._data_len -= size

    def _data_files(self) -> list[tuple[float, int, Path]]:
        """All cached data blocks as (last access, size in bytes, path)."""
        found = []
        for path in (self._folder / "data").glob("*/*"):
            with suppress(OSError):
                status = path.stat()
                found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
        return found
