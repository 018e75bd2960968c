"""Files of another machine: what a protocol must be able to do to carry a store.

Implemented by :mod:`coopfs.store.sftp` and :mod:`coopfs.store.ftp`; used by
:mod:`coopfs.store.remotefolder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from coopfs.errors import ObjectCorrupt
from coopfs.store.line import FREE_LINE, Line


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One entry of a folder at the other side."""

    name: str  # without its folder
    size: int  # bytes
    is_file: bool
    is_folder: bool = False
    mtime_s: int | None = None


def plain_size(found: FileInfo, label: str) -> int:
    """Return the size of a plain file; anything else is ObjectCorrupt."""
    if not found.is_file:
        raise ObjectCorrupt(
            f'{label}: not a plain file in the store; remove what is there and run "coopfs check"'
        )
    return found.size


class RemoteFiles(ABC):
    """Files of another machine; blocking, thread-safe, nothing repeated.

    A path that is not there is a FileNotFoundError; all else is an error of coopfs.
    Connections are made when they are needed and made anew when they broke.
    """

    is_durable: bool  # True: what write_new() made survives a power cut
    line: Line = FREE_LINE  # at whose pace content moves

    @abstractmethod
    def read(self, path: str, label: str, offset: int, length: int | None) -> bytes:
        """Return a range as :meth:`Store.get` does."""

    @abstractmethod
    def look(self, path: str) -> FileInfo | None:
        """Return what *path* is, no symlink followed; None: nothing is there."""

    @abstractmethod
    def is_folder(self, path: str) -> bool:
        """Tell whether *path* is, or leads to, a folder."""

    @abstractmethod
    def write_new(
        self, temporary: str, path: str, pieces: Sequence[memoryview], *, new_folder: str | None
    ) -> FileInfo | None:
        """Make *path* by way of *temporary*, whole or not at all; never replace.

        Return what is there already, or None when it was made.  *new_folder*, if given,
        is the folder of both and may have to be made.  The temporary may stay only where
        StoreUnavailable is raised.

        Raises:
            FileNotFoundError: no such folder, nor the one above it.
            StoreFull, StoreDenied, StoreUnavailable, StoreError.
        """

    @abstractmethod
    def sync(self, path: str) -> None:
        """Make the content of *path* durable if that can be done."""

    @abstractmethod
    def list_folders(self, paths: Sequence[str]) -> Sequence[list[FileInfo] | None]:
        """Return the whole listing of each folder; None: there is no such folder."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the file *path*."""

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make a folder, or leave what is there; FileNotFoundError: none above it."""

    @abstractmethod
    def free_bytes(self, path: str) -> int | None:
        """Return as :meth:`Store.free_bytes`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of all connections; whoever waits gets StoreUnavailable."""
