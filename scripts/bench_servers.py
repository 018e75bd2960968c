"""The stores that `scripts/bench stores` measures, each with the server it needs.

The servers are those of the tests, started by the tests' own code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

from coopfs.errors import UsageError
from coopfs.store.open import absolute_address

TESTS = Path(__file__).resolve().parent.parent / "tests"


class Missing(Exception):
    """This kind of store cannot be started here; the message says what is missing."""


@contextmanager
def started(kind: str, folder: Path) -> Iterator[str]:
    """Start what *kind* needs, with its files below *folder*; yield a new store's address.

    Raises:
        Missing: the server's or the client's part is not there.
    """
    # Skipped is what the tests' starters raise where a program is missing.
    import pytest

    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    try:
        starter = _STARTERS[kind](folder)
        address = starter.__enter__()
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        raise Missing(str(exc).strip()) from exc
    except ModuleNotFoundError as exc:
        raise Missing(f"no module {exc.name}") from exc
    with _left(starter):
        try:
            absolute_address(address)
        except UsageError as exc:
            raise Missing(str(exc)) from exc
        yield address


@contextmanager
def _left(starter: AbstractContextManager[str]) -> Iterator[None]:
    """Leave *starter*, which has been entered, at the end."""
    try:
        yield
    finally:
        starter.__exit__(None, None, None)


def _module(name: str) -> Any:
    """Return a module of the tests."""
    return importlib.import_module(name)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _folder(folder: Path) -> Iterator[str]:
    yield str(folder / "store")


@contextmanager
def _rest_server(folder: Path) -> Iterator[str]:
    servers = _module("servers")
    port = servers.free_port()
    with servers.rest_server(folder, port):
        yield f"rest+http://127.0.0.1:{port}/store"


@contextmanager
def _rclone(folder: Path) -> Iterator[str]:
    servers = _module("servers")
    path = folder / "socket"
    # Debian's own, where it is older, knows no unix sockets.
    newest = os.pathsep.join([str(servers.TOOLS), os.environ["PATH"]])
    with _environment(PATH=newest), servers.rclone_server(folder / "store", str(path)):
        yield f"rest+http+unix://{path}:/"


@contextmanager
def _sftp(folder: Path) -> Iterator[str]:
    with (
        _module("sshservers").SshServer(folder / "ssh") as server,
        _environment(COOPFS_SSH_COMMAND=server.command),
    ):
        yield server.address(folder / "store")


@contextmanager
def _ftps(folder: Path) -> Iterator[str]:
    with _module("ftpservers").VsftpdServer(folder / "ftp") as server:
        yield server.address(folder / "ftp/store")


@contextmanager
def _coop(folder: Path) -> Iterator[str]:
    partners = _module("partners")
    server = partners.Partner(folder / "server", "server")
    client = partners.Partner(folder / "client", "client")
    with server.inviting() as code:
        client.accept(code)
    with server.serving(), client.as_environment():
        yield "coop://server"


@contextmanager
def _s3(folder: Path) -> Iterator[str]:
    seaweed = _module("seaweed")
    try:
        seaweed.find_weed()
    except seaweed.NoWeed as exc:
        raise Missing(str(exc)) from exc
    with seaweed.seaweed_cluster(folder) as cluster, _environment(**cluster.environ):
        cluster.make_bucket("bench")
        yield "s3://bench/store"


_STARTERS: Final[dict[str, Callable[[Path], AbstractContextManager[str]]]] = {
    "folder": _folder,
    "rest-server": _rest_server,
    "rclone": _rclone,
    "sftp": _sftp,
    "ftps": _ftps,
    "s3": _s3,
    "coop": _coop,
}

# What the table calls them.
KINDS: Final = {
    "folder": "folder",
    "rest-server": "rest-server, HTTP",
    "rclone": "rclone, unix socket",
    "sftp": "sftp, OpenSSH",
    "ftps": "ftps, vsftpd",
    "s3": "s3, SeaweedFS, three copies",
    "coop": "coop, coopfs serve",
}
