"""A store in a folder of the local file system.

    config  data/<first byte>/<name>  index/<name>  snapshots/<name>  keys/<name>  locks/

The layout of restic's repositories, so that a stock rest-server or rclone can serve
the folder.  Owns the translation of OSError: none leaves this module.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from coopfs import durable
from coopfs.errors import (
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from coopfs.oserrors import free_bytes, store_error
from coopfs.store.base import (
    CONFIG,
    CONFIG_LEN_MAX,
    Kind,
    ObjectInfo,
    Payload,
    Store,
    not_found,
    object_hex,
    object_label,
    parse_object_name,
    pieces_of,
    range_len,
    size_conflict,
    truncated,
)
from coopfs.store.folders import make_folders, names_in, refuse_what_is_there
from coopfs.store.openfiles import OpenFiles

OPEN_FILES_MAX: Final = 64  # packs of 16 MiB: a working set of 1 GiB, and far below ulimit -n

_FAN_OUT = re.compile(r"[0-9a-f]{2}")


class LocalStore(Store):
    """See :class:`Store`.  Folders are made 0700 and objects 0600."""

    is_local = True
    is_durable = True

    def __init__(
        self, path: str | os.PathLike[str], *, address: str | None = None, is_new: bool = False
    ) -> None:
        """Open the store in the folder *path*; only :meth:`create` passes *is_new*.

        A folder without a config but with snapshots is opened too: whoever has the
        key can mend it.  Opening reads one folder and writes nothing.

        Raises:
            NotAStore: no folder there, or something else is in it.
            StoreDenied, StoreUnavailable: it cannot be looked at.
        """
        self.address = os.fspath(path) if address is None else address
        self._root = _absolute(path)
        self._files = OpenFiles(OPEN_FILES_MAX)
        self._is_closed = False
        self._folder_lock = threading.Lock()
        self._ready_folders: set[str] = set()  # durable, swept; guarded by _folder_lock
        self._identity = (0, 0)  # device and inode of the root
        with self._translated(CONFIG):
            self._identity = self._look_at_root(is_new)

    @classmethod
    def create(cls, path: str | os.PathLike[str], *, address: str | None = None) -> Self:
        """Make the folders of a new store in *path* and open it; the config is put later.

        An existing folder must be empty, or hold what an interrupted create() left.

        Raises:
            StoreError: there is a store already.
            NotAStore: the folder holds something else.
            StoreDenied, StoreFull, StoreUnavailable: it cannot be made.
        """
        root = _absolute(path)
        try:
            refuse_what_is_there(root)
            make_folders(root)
        except OSError as exc:
            raise store_error(exc, root, os.path.dirname(root)) from exc
        return cls(path, address=address, is_new=True)

    # --- objects ----------------------------------------------------------------

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.get`."""
        path, label = self._path(kind, name), object_label(kind, name)
        with self._translated(label):
            for is_last_try in (False, True):
                try:
                    with self._files.reading(path) as fd:
                        status = os.fstat(fd)
                        # No name left: deleted since it was opened, by whomever.  Opened
                        # just now it is there, whatever an odd file system counts.
                        if status.st_nlink or is_last_try:
                            return _read_range(fd, status, label, offset, length)
                except OSError as exc:
                    if exc.errno != errno.ESTALE or is_last_try:
                        raise
                self._files.forget(path)
        raise AssertionError("unreachable: the last try returns or raises")

    def file_of(self, kind: Kind, name: bytes) -> str:
        """See :meth:`Store.file_of`."""
        return self._path(kind, name)

    def size(self, kind: Kind, name: bytes) -> int:
        """See :meth:`Store.size`."""
        label = object_label(kind, name)
        with self._translated(label):
            return _file_size(os.lstat(self._path(kind, name)), label)

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """See :meth:`Store.put`."""
        self._put(self._path(kind, name), object_label(kind, name), pieces_of(data))

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`."""
        top = os.path.join(self._root, kind)
        with self._translated(f"{kind}/"):
            if kind is not Kind.DATA:
                yield from self._list_folder(top)
                return
            for fan_out in self._fan_out_folders(top):
                for found in self._list_folder(os.path.join(top, fan_out)):
                    # In another folder get() would not find it: it is a stranger.
                    if found.name[0] == int(fan_out, 16):
                        yield found

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        path = self._path(kind, name)
        with self._translated(object_label(kind, name)):
            os.unlink(path)
        self._files.forget(path)

    # --- config and the rest ------------------------------------------------------

    def get_config(self) -> bytes:
        """See :meth:`Store.get_config`."""
        path = os.path.join(self._root, CONFIG)
        with self._translated(CONFIG), OpenFiles(0).reading(path) as fd:
            status = os.fstat(fd)
            if _file_size(status, CONFIG) > CONFIG_LEN_MAX:
                raise ObjectCorrupt(
                    f"config of {self.address}: {status.st_size} bytes, expected at most "
                    f"{CONFIG_LEN_MAX}: not written by coopfs"
                )
            return _read_range(fd, status, CONFIG, 0, None)

    def put_config(self, data: bytes) -> None:
        """See :meth:`Store.put_config`."""
        path = os.path.join(self._root, CONFIG)
        refusal = StoreError(
            f"config of {self.address}: another one is there; it is never replaced: "
            f"choose another folder for a new archive"
        )
        try:
            self._put(path, CONFIG, pieces_of(data))
        except ObjectCorrupt as exc:  # another length
            raise refusal from exc
        if self.get_config() != data:
            raise refusal

    def free_bytes(self) -> int | None:
        """See :meth:`Store.free_bytes`."""
        with self._translated("free space"):
            return free_bytes(self._root)

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self._is_closed = True
        self._files.close()

    # --- within -------------------------------------------------------------------

    def _path(self, kind: Kind, name: bytes) -> str:
        digits = object_hex(name)
        if kind is Kind.DATA:
            return f"{self._root}/data/{digits[:2]}/{digits}"
        return f"{self._root}/{kind}/{digits}"

    def _put(self, path: str, label: str, pieces: Sequence[memoryview]) -> None:
        try:
            with self._translated(label):
                self._put_once(path, label, pieces)
        except ObjectNotFound as exc:  # there when we began, gone when it was looked at
            raise StoreUnavailable(
                f"{label}: was deleted by somebody while it was being put; put it again"
            ) from exc

    def _put_once(self, path: str, label: str, pieces: Sequence[memoryview]) -> None:
        folder, size = os.path.dirname(path), sum(map(len, pieces))
        self._make_ready(folder)
        try:
            is_new = not os.path.lexists(path) and durable.write_new(path, pieces)
        except FileNotFoundError:
            # The folder is gone since it was made ready, or the whole store is.
            with self._folder_lock:
                self._ready_folders.discard(folder)
            self._make_ready(folder)
            is_new = durable.write_new(path, pieces)
        if not is_new:
            found = _file_size(os.lstat(path), label)
            if found != size:
                raise size_conflict(label, found, size)
            # Perhaps put by a run that was killed before its last step, or copied here by
            # the user: done means durable all the same.
            durable.sync_file(path)
        durable.sync_folder(folder)

    def _make_ready(self, folder: str) -> None:
        """See to it that *folder* exists durably, and is rid of old temporaries.

        Once per folder and process.  Under the lock, or a second thread would find the
        folder, put into it and return before the folder itself is durable.
        """
        with self._folder_lock:
            if folder in self._ready_folders:
                return
            if not self._is_present():
                raise self._gone()
            missing: list[str] = []
            parent = folder
            while parent != self._root:
                missing.append(parent)
                parent = os.path.dirname(parent)
            # mkdir one by one, never makedirs: where a mount has just vanished the root
            # must not be made anew on the disk beneath.
            for path in reversed(missing):
                with suppress(FileExistsError):
                    os.mkdir(path, durable.FOLDER_MODE)
                durable.sync_folder(os.path.dirname(path))
            durable.sweep_temporaries(folder)
            self._ready_folders.add(folder)

    def _fan_out_folders(self, top: str) -> Sequence[str]:
        try:
            with os.scandir(top) as entries:
                return sorted(e.name for e in entries if _FAN_OUT.fullmatch(e.name) and e.is_dir())
        except FileNotFoundError:
            if self._is_present():
                return ()
            raise

    def _list_folder(self, folder: str) -> Iterator[ObjectInfo]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = parse_object_name(entry.name)
                    if name is None or not entry.is_file(follow_symlinks=False):
                        continue
                    with suppress(FileNotFoundError):  # deleted meanwhile
                        yield ObjectInfo(name, entry.stat(follow_symlinks=False).st_size)
        except FileNotFoundError:  # empty folders are easily lost in copying
            if not self._is_present():
                raise

    def _look_at_root(self, is_new: bool) -> tuple[int, int]:
        try:
            status = os.stat(self._root)
        except (FileNotFoundError, NotADirectoryError):
            raise NotAStore(
                f"{self.address}: there is no such folder; is its disk mounted? "
                f'A new store is made by "coopfs init"'
            ) from None
        if not stat.S_ISDIR(status.st_mode):
            raise NotAStore(f"{self.address}: not a folder, so not a store")
        self._identity = (status.st_dev, status.st_ino)
        if not is_new and not os.path.lexists(os.path.join(self._root, CONFIG)):
            has_snapshots = any(self._list_folder(os.path.join(self._root, Kind.SNAPSHOTS)))
            if not has_snapshots:
                raise NotAStore(
                    f'{self.address}: not a store: expected a file "config", found '
                    f'{names_in(self._root)}; a new store is made by "coopfs init"'
                )
        return self._identity

    def _is_present(self) -> bool:
        """Tell whether the store's folder is still the one that was opened.

        The config decides first: after a remount the device number may be another.
        """
        if os.path.lexists(os.path.join(self._root, CONFIG)):
            return True
        try:
            status = os.stat(self._root)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def _gone(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.address}: the store's folder is gone; is its disk still mounted?"
        )

    @contextmanager
    def _translated(self, label: str) -> Iterator[None]:
        """Turn an OSError within into the error of coopfs that says what it means."""
        if self._is_closed:
            raise StoreUnavailable(f"{label}: the store {self.address} has been closed")
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as exc:
            if not self._is_present():
                raise self._gone() from exc
            raise not_found(label) from exc
        except OSError as exc:
            raise store_error(exc, f"{label} in {self.address}", self._root) from exc


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UsageError(f"not the path of a folder: {text!r}")
    return os.path.abspath(text)


def _file_size(status: os.stat_result, label: str) -> int:
    if not stat.S_ISREG(status.st_mode):
        raise ObjectCorrupt(
            f"{label}: not a plain file in the store (mode {status.st_mode:o}); "
            f'remove what is there and run "coopfs check"'
        )
    return status.st_size


def _read_range(
    fd: int, status: os.stat_result, label: str, offset: int, length: int | None
) -> bytes:
    wanted = range_len(label, _file_size(status, label), offset, length)
    found = os.pread(fd, wanted, offset)
    if len(found) == wanted:
        return found
    # A signal, or a file system that answers in parts; or the file was cut just now.
    parts = [found]
    done = len(found)
    while found and done < wanted:
        found = os.pread(fd, wanted - done, offset + done)
        parts.append(found)
        done += len(found)
    if done < wanted:
        raise truncated(label, offset, wanted, offset + done)
    return b"".join(parts)
