"""A store in a folder of another machine, whatever protocol reaches its files.

    config  data/<first byte>/<name>  index/<name>  snapshots/<name>  keys/<name>  locks/

The layout of :mod:`coopfs.store.local`.  Owns what is the same for SFTP and FTP: paths,
retries, what a missing file means, what temporaries are left; :class:`RemoteFiles` is
what each protocol implements.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from coopfs.durable import TEMPORARY_AGE_MAX_S, TEMPORARY_PREFIX
from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    StoreError,
    StoreUnavailable,
)
from coopfs.store.base import (
    CONFIG,
    CONFIG_LEN_MAX,
    KINDS,
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
)
from coopfs.store.line import Line
from coopfs.store.remotefiles import FileInfo, RemoteFiles, plain_size
from coopfs.store.retry import Retrier

LISTED_AT_ONCE: Final = 32  # folders; a server keeps that many open for us
_LEFTOVERS_MAX: Final = 1000  # temporaries remembered
_NAMES_SHOWN: Final = 5  # in a message about a folder that is not a store
_FAN_OUT = re.compile(r"[0-9a-f]{2}")


class RemoteFolderStore(Store):
    """See :class:`Store`; nothing is connected to before it is first needed."""

    is_local = False

    def __init__(self, address: str, files: RemoteFiles, root: str) -> None:
        """Use the folder *root* of *files*; *address* is shown, without secrets.

        Raises:
            UsageError: the environment asks for an impossible patience.
        """
        self.address = address
        self._files = files
        self._root = root
        self._retrier = Retrier()
        self._is_closed = False
        self._was_seen = False  # the root was there
        self._has_config = False  # the config was there
        self._lock = threading.Lock()  # guards the next two
        self._ready_folders: set[str] = set()
        self._leftovers: set[str] = set()  # temporaries to delete when something is written

    @property
    def is_durable(self) -> bool:  # type: ignore[override]  # known once connected
        """Whether the other side makes files durable on request."""
        return self._retrier.read(self.address, lambda: self._files.is_durable)

    def keep_to(self, line: Line) -> None:
        """See :meth:`Store.keep_to`."""
        self._files.line = line

    # --- objects --------------------------------------------------------------------

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        """See :meth:`Store.get`."""
        path, label = self._path(kind, name), object_label(kind, name)
        range_len(label, 1 << 80, min(offset, 0), min(length or 0, 0))  # negative ones
        if kind is Kind.DATA:
            self._files.line.reading()

        def read() -> bytes:
            with self._translated(label):
                return self._files.read(path, label, offset, length)

        return self._retrier.read(label, read)

    def size(self, kind: Kind, name: bytes) -> int:
        """See :meth:`Store.size`."""
        path, label = self._path(kind, name), object_label(kind, name)

        def look() -> int:
            with self._translated(label):
                found = self._files.look(path)
                if found is None:
                    raise FileNotFoundError(path)
                return plain_size(found, label)

        return self._retrier.read(label, look)

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        """See :meth:`Store.put`."""
        self._put(self._path(kind, name), object_label(kind, name), pieces_of(data))

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        """See :meth:`Store.list`."""
        top = self._join(kind)
        (found,) = self._listings([top])
        if kind is not Kind.DATA:
            yield from _objects(found)
            return
        fan_outs = [f.name for f in found if not f.is_file and _FAN_OUT.fullmatch(f.name)]
        for first in range(0, len(fan_outs), LISTED_AT_ONCE):
            batch = fan_outs[first : first + LISTED_AT_ONCE]
            listings = self._listings([f"{top}/{fan_out}" for fan_out in batch])
            for fan_out, files in zip(batch, listings, strict=True):
                # In another folder get() would not find it: it is a stranger.
                yield from (o for o in _objects(files) if o.name[0] == int(fan_out, 16))

    def delete(self, kind: Kind, name: bytes) -> None:
        """See :meth:`Store.delete`."""
        path, label = self._path(kind, name), object_label(kind, name)
        tries = 0

        def delete() -> None:
            nonlocal tries
            tries += 1
            with self._translated(label):
                try:
                    self._files.delete(path)
                except FileNotFoundError:
                    # After a lost answer it is most likely we who deleted it.
                    if tries == 1 or not self._is_present():
                        raise
                self._sweep()

        self._retrier.write(label, delete)

    # --- config and the rest ----------------------------------------------------------

    def get_config(self) -> bytes:
        """See :meth:`Store.get_config`."""
        path = self._join(CONFIG)

        def read() -> bytes:
            with self._translated(CONFIG):
                found = self._files.look(path)
                if found is None:
                    raise FileNotFoundError(path)
                if plain_size(found, CONFIG) > CONFIG_LEN_MAX:
                    raise ObjectCorrupt(
                        f"config of {self.address}: {found.size} bytes, expected at most "
                        f"{CONFIG_LEN_MAX}: not written by coopfs"
                    )
                data = self._files.read(path, CONFIG, 0, found.size)
                self._has_config = True
                return data

        return self._retrier.read(CONFIG, read)

    def put_config(self, data: bytes) -> None:
        """See :meth:`Store.put_config`."""
        refusal = StoreError(
            f"config of {self.address}: another one is there; it is never replaced: "
            f"choose another folder for a new archive"
        )
        try:
            self._put(self._join(CONFIG), CONFIG, pieces_of(data))
        except ObjectCorrupt as exc:  # another length
            raise refusal from exc
        if self.get_config() != data:
            raise refusal

    def free_bytes(self) -> int | None:
        """See :meth:`Store.free_bytes`."""

        def ask() -> int | None:
            with self._translated("free space"):
                return self._files.free_bytes(self._root)

        return self._retrier.read("free space", ask)

    def close(self) -> None:
        """See :meth:`Store.close`."""
        self._is_closed = True
        self._files.line.close()
        self._retrier.close()
        self._files.close()

    def create(self) -> None:
        """Make the folders of a new store.

        An existing folder must be empty, or hold what an interrupted create() left.

        Raises:
            StoreError: there is a store already.
            NotAStore: the folder holds something else.
            StoreDenied, StoreFull, StoreUnavailable: it cannot be made.
        """

        def make() -> None:
            with self._translated(self.address):
                self._refuse_what_is_there()
                self._make_with_parents(self._root)
                for kind in KINDS:
                    self._files.make_folder(self._join(kind))
                self._was_seen = True

        self._retrier.write(self.address, make)

    # --- within -----------------------------------------------------------------------

    def _join(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _path(self, kind: Kind, name: bytes) -> str:
        digits = object_hex(name)
        fan_out = f"{digits[:2]}/" if kind is Kind.DATA else ""
        return self._join(f"{kind}/{fan_out}{digits}")

    def _put(self, path: str, label: str, pieces: Sequence[memoryview]) -> None:
        size = sum(map(len, pieces))

        def put() -> None:
            with self._translated(label):
                self._sweep()
                found = self._write_new(path, pieces)
                if found is None:
                    return
                if plain_size(found, label) != size:
                    raise size_conflict(label, found.size, size)
                try:
                    # Perhaps put by a run that was killed before its last step, or copied
                    # there by the user: done means durable all the same.
                    self._files.sync(path)
                except FileNotFoundError as exc:
                    raise StoreUnavailable(
                        f"{label}: was deleted by somebody while it was being put; put it again"
                    ) from exc

        self._retrier.write(label, put)

    def _write_new(self, path: str, pieces: Sequence[memoryview]) -> FileInfo | None:
        folder = os.path.dirname(path)
        temporary = f"{folder}/{TEMPORARY_PREFIX}{os.urandom(12).hex()}"
        with self._lock:
            is_ready = folder in self._ready_folders or folder == self._root
        new_folder = None if is_ready else folder
        try:
            try:
                found = self._files.write_new(temporary, path, pieces, new_folder=new_folder)
            except FileNotFoundError:
                # The folder is gone since it was made ready, or its kind's is, or all is.
                if not self._is_present():
                    raise
                self._make_with_parents(folder)
                found = self._files.write_new(temporary, path, pieces, new_folder=None)
        except StoreUnavailable:
            self._remember_leftovers([temporary])
            raise
        with self._lock:
            self._ready_folders.add(folder)
        return found

    def _make_with_parents(self, path: str) -> None:
        try:
            self._files.make_folder(path)
        except FileNotFoundError:
            parent = os.path.dirname(path)
            # Where a disk there has just been unmounted, the root must not be made anew
            # beneath: whoever comes here has seen that it is present, or is create().
            if parent in ("", path):
                raise
            self._make_with_parents(parent)
            self._files.make_folder(path)

    def _refuse_what_is_there(self) -> None:
        (found,) = self._files.list_folders([self._root])
        if found is None:
            if self._files.look(self._root) is not None:
                raise NotAStore(f"{self.address}: not a folder, so no store can be made in it")
            return
        names = {file.name for file in found}
        if CONFIG in names:
            raise StoreError(
                f"{self.address}: holds a store already; choose another folder, or use the "
                f"archive in it"
            )
        strangers = {name for name in names if not name.startswith(TEMPORARY_PREFIX)}
        # A fresh file system has its own folder for what fsck finds.
        if strangers - {*KINDS, "lost+found"}:
            raise NotAStore(
                f"{self.address}: not empty, so no store is made in it: found "
                f"{_shown(sorted(strangers))}; choose an empty or a new folder"
            )
        for kind in Kind:
            if next(self.list(kind), None) is not None:
                raise NotAStore(
                    f"{self.address}: has objects in {kind}/ but no config: a damaged store? "
                    f"Choose an empty or a new folder"
                )

    def _listings(self, folders: Sequence[str]) -> Sequence[Sequence[FileInfo]]:
        """Return the whole listing of each folder, empty for one that is not there."""

        def ask() -> Sequence[Sequence[FileInfo]]:
            with self._translated(folders[0]):
                found = self._files.list_folders(folders)
                # Empty folders are easily lost in copying.
                if any(files is None for files in found) and not self._is_present():
                    raise FileNotFoundError(folders[0])
                return [files or [] for files in found]

        listings = self._retrier.read(folders[0], ask)
        oldest_s = time.time() - TEMPORARY_AGE_MAX_S
        for folder, files in zip(folders, listings, strict=True):
            self._remember_leftovers(
                f"{folder}/{file.name}"
                for file in files
                if file.name.startswith(TEMPORARY_PREFIX) and "/" not in file.name
                if file.mtime_s is not None and file.mtime_s < oldest_s
            )
        return listings

    def _remember_leftovers(self, paths: Sequence[str] | Iterator[str]) -> None:
        with self._lock:
            for path in paths:
                if len(self._leftovers) < _LEFTOVERS_MAX:
                    self._leftovers.add(path)

    def _sweep(self) -> None:
        """Delete what broken uploads left: our own, and others' once they are a day old."""
        if not self._leftovers:
            return
        with self._lock:
            paths, self._leftovers = self._leftovers, set()
        for path in paths:
            try:
                self._files.delete(path)
            except StoreUnavailable:
                self._remember_leftovers([path])
                raise
            except (FileNotFoundError, CoopfsError):
                continue  # not ours to remove, or somebody else was faster

    def _is_present(self) -> bool:
        """Tell whether the store's folder is there, and still the one that was seen."""
        if self._has_config:
            return self._files.look(self._join(CONFIG)) is not None
        return self._files.is_folder(self._root)

    @contextmanager
    def _translated(self, label: str) -> Iterator[None]:
        """Turn a FileNotFoundError within into the error that says what it means."""
        if self._is_closed:
            raise StoreUnavailable(f"{label}: the store {self.address} has been closed")
        try:
            yield
        except FileNotFoundError as exc:
            if self._is_present():
                self._was_seen = True
                raise not_found(label) from exc
            if not self._was_seen:
                raise NotAStore(
                    f"{self.address}: there is no such folder there; "
                    f'a new store is made by "coopfs init"'
                ) from exc
            raise StoreUnavailable(
                f"{self.address}: the store's folder is gone; is its disk still mounted there?"
            ) from exc
        self._was_seen = True


def _objects(files: Sequence[FileInfo]) -> Iterator[ObjectInfo]:
    for file in files:
        name = parse_object_name(file.name)
        if name is not None and file.is_file:
            yield ObjectInfo(name, file.size)


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(ascii(name) for name in names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"
