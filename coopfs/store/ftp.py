"""A store in a folder behind an FTP server, with TLS (``ftps://``) or without.

Addresses: :mod:`coopfs.store.ftpaddress`.  Owns what is made of what FTP
lacks: a file gets its name when it is whole, by RNTO, which on most servers replaces, so
the name is looked at before; nothing can be made durable; nobody tells how much room is
left.  A range costs a data connection, unless it goes on where the last one ended.
"""

from __future__ import annotations

import posixpath
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from coopfs.errors import (
    CoopfsError,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from coopfs.store.base import GET_LEN_MAX, created, parse_object_name, range_len
from coopfs.store.ftpaddress import FtpAddress, parse_ftp_address
from coopfs.store.ftpconnection import Refused
from coopfs.store.ftplisting import parse_mlsd, parse_nlst
from coopfs.store.ftppool import CONNECTIONS_MAX, FtpLine, FtpPool
from coopfs.store.http import Trust, pin_trust, public_trust
from coopfs.store.remotefiles import FileInfo, RemoteFiles
from coopfs.store.remotefolder import RemoteFolderStore

_OFFSET_MAX: Final = 1 << 62  # no file is larger; a server may not take a larger number
# Bytes of a range from which on the next one probably follows it: who reads less jumps about.
_PARKED_LEN_MIN: Final = 64 << 10


class FtpFiles(RemoteFiles):
    """See :class:`RemoteFiles`."""

    is_durable = False

    def __init__(self, address: FtpAddress) -> None:
        """Connect when first used (ConfigError: ``ca=`` names no certificates)."""
        self._address = address
        trust: Trust | None = None
        if address.has_tls:
            pin = address.pin
            trust = (
                public_trust(address.ca_file, ssl.SSLContext)
                if pin is None
                else pin_trust(pin, ssl.SSLContext)
            )
        self._pool = FtpPool(address, trust)

    def close(self) -> None:
        """See :meth:`RemoteFiles.close`."""
        self._pool.close()

    # --- reading ----------------------------------------------------------------------

    def read(self, path: str, label: str, offset: int, length: int | None) -> bytes:
        """See :meth:`RemoteFiles.read`."""
        with self._pool.lend(label, path, offset) as line:
            size = None
            if not length or length > GET_LEN_MAX or offset > _OFFSET_MAX:
                size, length = self._range(line, path, label, offset, length)
                if not length:
                    return b""
            data = self._begin(line, path, label, offset, length)
            buffer = bytearray(length)
            if line.connection.receive_into(data, memoryview(buffer), self.line.down) == length:
                line.position += length
                if line.position == size or length < _PARKED_LEN_MIN:
                    line.halt()  # nothing is left that could be read next, or nobody will
                return bytes(buffer)
            line.halt()
            self._range(line, path, label, offset, length)
            raise StoreUnavailable(f"{label} at {self._address.where}: the transfer was cut off")

    def _range(
        self, line: FtpLine, path: str, label: str, offset: int, length: int | None
    ) -> tuple[int, int]:
        """Return the size of *path* and the length of the range, which must lie within."""
        line.halt()
        size = line.connection.size(line.absolute(path))
        if size is None:
            raise FileNotFoundError(path)
        return size, range_len(label, size, offset, length)

    def _begin(
        self, line: FtpLine, path: str, label: str, offset: int, length: int
    ) -> socket.socket:
        """Return the connection that receives *path* from *offset* on."""
        if line.data is not None and (line.path, line.position) == (path, offset):
            return line.data
        line.halt()
        try:
            return line.receive("RETR", path, offset)
        except Refused as exc:
            self._range(line, path, label, offset, length)
            raise _denied(line, exc, label) from exc

    def look(self, path: str) -> FileInfo | None:
        """See :meth:`RemoteFiles.look`."""
        name = posixpath.basename(path)
        with self._pool.lend(path) as line:
            size = line.connection.size(line.absolute(path))
            if size is not None:
                return FileInfo(name, size, is_file=True)
            is_folder = _is_folder(line, path)
            return FileInfo(name, 0, is_file=False, is_folder=True) if is_folder else None

    def is_folder(self, path: str) -> bool:
        """See :meth:`RemoteFiles.is_folder`."""
        with self._pool.lend(path) as line:
            return _is_folder(line, path)

    def list_folders(self, paths: Sequence[str]) -> Sequence[list[FileInfo] | None]:
        """See :meth:`RemoteFiles.list_folders`; several at once."""
        if len(paths) == 1:
            return [self._list(paths[0])]
        with ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="ftp list") as pool:
            return [*pool.map(self._list, paths)]

    def _list(self, path: str) -> list[FileInfo] | None:
        with self._pool.lend(path) as line:
            verb = "MLSD" if line.connection.has_mlst else "NLST"
            try:
                data = line.receive(verb, path)
                listing = line.connection.receive_all(data)
                line.finish()
            except Refused as exc:
                line.halt()
                # Some say so of an empty folder.
                if exc.code in (450, 501, 550):
                    return [] if _is_folder(line, path) else None
                raise
            if verb == "MLSD":
                return parse_mlsd(listing)
            names = parse_nlst(listing)
            if not names and not _is_folder(line, path):
                return None  # vsftpd shows nothing, and succeeds, where nothing is
            return [info for name in names if (info := _sized(line, path, name))]

    def free_bytes(self, path: str) -> int | None:
        """See :meth:`RemoteFiles.free_bytes`: FTP cannot tell."""
        return None

    # --- writing ----------------------------------------------------------------------

    def write_new(
        self, temporary: str, path: str, pieces: Sequence[memoryview], *, new_folder: str | None
    ) -> FileInfo | None:
        """See :meth:`RemoteFiles.write_new`."""
        label = posixpath.basename(path)
        with self._pool.lend(label) as line:
            connection, target = line.connection, line.absolute(path)
            aside = line.absolute(temporary)
            found = connection.size(target)
            if found is not None:
                return FileInfo(label, found, is_file=True)
            if new_folder is not None:
                with suppress(Refused):  # it is there, most likely
                    connection.command("MKD", line.absolute(new_folder))
            self._store(line, temporary, pieces, label)
            try:
                # Only a look tells whether all of it arrived: what a broken line did not
                # bring is missing, and the server is content.
                wanted, arrived = sum(map(len, pieces)), connection.size(aside)
                if arrived != wanted:
                    raise StoreUnavailable(
                        f"{label} at {self._address.where}: {wanted} bytes were sent and "
                        f"{arrived or 0} arrived"
                    )
                connection.command("RNFR", aside)
                connection.command("RNTO", target)
            except Refused as exc:
                with suppress(Refused):
                    connection.command("DELE", aside)
                found = connection.size(target)
                if found is not None:  # somebody was faster, and this server replaces nothing
                    return FileInfo(label, found, is_file=True)
                raise connection.refusal(exc, label) from exc
        return None

    def _store(
        self, line: FtpLine, temporary: str, pieces: Sequence[memoryview], label: str
    ) -> None:
        connection, aside = line.connection, line.absolute(temporary)
        try:
            connection.send(aside, pieces, self.line.up)
        except Refused as exc:
            if connection.size(aside) is not None:  # it was begun, so the disk is in the way
                with suppress(Refused):
                    connection.command("DELE", aside)
                raise StoreFull(
                    f"{label} at {self._address.where}: no room left, a quota is full or the disk "
                    f"fails (the server said {exc.said!r}); make room or raise the quota, then "
                    f"run it again: what was stored is kept"
                ) from exc
            if not _is_folder(line, posixpath.dirname(temporary)):
                raise FileNotFoundError(temporary) from exc
            raise _denied(line, exc, label) from exc

    def sync(self, path: str) -> None:
        """See :meth:`RemoteFiles.sync`: FTP cannot."""

    def delete(self, path: str) -> None:
        """See :meth:`RemoteFiles.delete`."""
        label = posixpath.basename(path)
        with self._pool.lend(label) as line:
            try:
                line.connection.command("DELE", line.absolute(path))
            except Refused as exc:
                if line.connection.size(line.absolute(path)) is None:
                    raise FileNotFoundError(path) from exc
                raise _denied(line, exc, label) from exc
        self._pool.forget_transfers(path)

    def make_folder(self, path: str) -> None:
        """See :meth:`RemoteFiles.make_folder`."""
        with self._pool.lend(path) as line:
            try:
                line.connection.command("MKD", line.absolute(path))
            except Refused as exc:
                if _is_folder(line, path):
                    return
                parent = posixpath.dirname(line.absolute(path))
                if not _is_folder(line, parent):
                    raise FileNotFoundError(path) from exc
                raise _denied(line, exc, path) from exc


def _is_folder(line: FtpLine, path: str) -> bool:
    try:
        line.connection.command("CWD", line.absolute(path))
    except Refused:
        return False
    return True


def _sized(line: FtpLine, folder: str, name: str) -> FileInfo | None:
    """Return what NLST's *name* is: only an object's name is worth a look."""
    if parse_object_name(name) is None:
        return FileInfo(name, 0, is_file=False)
    size = line.connection.size(line.absolute(f"{folder}/{name}"))
    return None if size is None else FileInfo(name, size, is_file=True)


def _denied(line: FtpLine, exc: Refused, label: str) -> CoopfsError:
    """Return the error for something that is there and was refused all the same."""
    meant = line.connection.refusal(exc, label)
    if type(meant) is StoreError:
        return StoreDenied(f"{meant}; check the rights of the store's folder there")
    return meant


def ftp_store(address: str) -> RemoteFolderStore:
    """Return the store at *address*, which is connected to when it is first used.

    Raises:
        UsageError: it is no ftp address.
        ConfigError: the certificates it names cannot be used.
    """
    parsed = parse_ftp_address(address)
    return RemoteFolderStore(parsed.shown, FtpFiles(parsed), parsed.path)


def create_ftp_store(address: str) -> RemoteFolderStore:
    """Make a new store at *address*; see ``RemoteFolderStore.create``."""
    return created(ftp_store(address))
