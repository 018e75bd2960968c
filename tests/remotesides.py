"""What keeps a folder for us over SFTP or FTP in tests, and how each of them goes wrong."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import fakessh
import pytest
from ftpservers import ControlLine, PyftpdlibServer, VsftpdServer
from servers import free_port
from slowline import SlowLine
from sshservers import SshServer

from coopfs.store.base import Kind, Store
from coopfs.store.open import open_store
from coopfs.store.sshchild import COMMAND_VARIABLE


def object_path(root: Path, kind: Kind, name: bytes) -> Path:
    """Return where the object lies in the store's folder."""
    return root / kind / (name.hex()[:2] if kind is Kind.DATA else "") / name.hex()


def others_in(root: Path) -> set[str]:
    """Return every file below *root* that is not a whole object or the config."""
    return {
        path.name
        for path in root.rglob("*")
        if path.is_file() and len(path.name) != 64 and path.name != "config"
    }


def plant(root: Path, kind: Kind, filename: str, data: bytes) -> None:
    """Put a file where listings of *kind* come by, as :class:`StoreRig` has it."""
    folders = [root / kind]
    if kind is Kind.DATA:
        folders += [path for path in folders[0].iterdir() if path.is_dir()]
    for folder in folders:
        (folder / filename).write_bytes(data)


class Side(ABC):
    """A running server, and servers like it with one thing wrong."""

    nobody: str  # what is said where no server is, as a pattern

    @abstractmethod
    def address(self, root: Path) -> str:
        """Return the address of the store in the folder *root*."""

    @abstractmethod
    def nowhere(self) -> list[str]:
        """Return addresses at which nobody is."""

    @abstractmethod
    def read_only(self, root: Path) -> AbstractContextManager[Store]:
        """Open the store through a server that lets nobody write."""

    @abstractmethod
    def losing(self, root: Path) -> AbstractContextManager[Store]:
        """Open it so that the answer to the next object's arrival is lost."""

    @abstractmethod
    def cutting(self, root: Path) -> AbstractContextManager[Store]:
        """Open it so that listings end too early."""

    @abstractmethod
    def silent(self, root: Path) -> AbstractContextManager[Store]:
        """Open it at a server that says nothing any more."""


class SftpSide(Side):
    """OpenSSH's."""

    nobody = "ssh said: ssh:"

    def __init__(self, server: SshServer, base: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv(COMMAND_VARIABLE, server.command)
        self._server, self._base, self._patch = server, base, patch

    def address(self, root: Path) -> str:
        return self._server.address(root)

    def nowhere(self) -> list[str]:
        return [self._server.address("/x", free_port()), "sftp://no-such-host.invalid/x"]

    @contextmanager
    def read_only(self, root: Path) -> Iterator[Store]:
        with SshServer(self._base / "ssh", sftp="internal-sftp -R") as server:
            self._patch.setenv(COMMAND_VARIABLE, server.command)
            with open_store(server.address(root)) as store:
                yield store

    @contextmanager
    def _with(self, fault: str, root: Path, once: Path | None = None) -> Iterator[Store]:
        self._patch.setenv(COMMAND_VARIABLE, fakessh.command(fault, once=once))
        with open_store(f"sftp://anna@partner.example{root}") as store:
            yield store

    @contextmanager
    def losing(self, root: Path) -> Iterator[Store]:
        with self._with("lost-name", root, self._base / "once") as store:
            yield store

    @contextmanager
    def cutting(self, root: Path) -> Iterator[Store]:
        with self._with("cut-listing", root) as store:
            yield store

    @contextmanager
    def silent(self, root: Path) -> Iterator[Store]:
        with (
            SlowLine(self._server.port) as line,
            open_store(self._server.address(root, line.port)) as store,
        ):
            store.get_config()
            line.delay_s = 60.0
            yield store


class FtpSide(Side):
    """Pyftpdlib: in the clear, with MLSD."""

    nobody = r"127\.0\.0\.1|no-such-host"

    def __init__(self, server: PyftpdlibServer) -> None:
        self._server = server

    def address(self, root: Path) -> str:
        return self._server.address(root)

    def nowhere(self) -> list[str]:
        return [f"ftp://127.0.0.1:{free_port()}/x", "ftp://no-such-host.invalid/x"]

    @contextmanager
    def read_only(self, root: Path) -> Iterator[Store]:
        with PyftpdlibServer(rights="elr") as server, open_store(server.address(root)) as store:
            yield store

    @contextmanager
    def losing(self, root: Path) -> Iterator[Store]:
        with (
            ControlLine(self._server.port) as line,
            open_store(self._server.address(root, line.port)) as store,
        ):
            store.get_config()
            line.lose = "RNTO"
            yield store
            assert line.cuts == 1

    @contextmanager
    def cutting(self, root: Path) -> Iterator[Store]:
        with (
            ControlLine(self._server.port) as line,
            open_store(self._server.address(root, line.port)) as store,
        ):
            store.get_config()
            line.replies["MLSD"] = "426 Connection closed; transfer aborted."
            yield store

    @contextmanager
    def silent(self, root: Path) -> Iterator[Store]:
        with PyftpdlibServer() as server, open_store(server.address(root)) as store:
            store.get_config()
            server.pause()
            yield store


class FtpsSide(FtpSide):
    """Vsftpd: over TLS, without MLSD; its faults are those of any FTP server."""

    def __init__(self, server: VsftpdServer, plain: PyftpdlibServer, base: Path) -> None:
        super().__init__(plain)
        self._vsftpd, self._base = server, base

    def address(self, root: Path) -> str:
        return self._vsftpd.address(root)

    @contextmanager
    def read_only(self, root: Path) -> Iterator[Store]:
        with (
            VsftpdServer(self._base / "read-only", "write_enable=NO") as server,
            open_store(server.address(root)) as store,
        ):
            yield store
