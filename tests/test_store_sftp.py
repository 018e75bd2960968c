from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sshservers import SshServer
from store_suite import StoreRig, StoreSuite

from coopfs.store.base import Kind
from coopfs.store.sftp import create_sftp_store, sftp_store
from coopfs.store.sshchild import COMMAND_VARIABLE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Yield a running server."""
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def command(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, server.command)
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")


class TestSftpStore(StoreSuite):
    @pytest.fixture
    def rig(self, tmp_path: Path, server: SshServer) -> StoreRig:
        root = tmp_path / "store"
        address = server.address(root)
        create_sftp_store(address).close()

        def plant(kind: Kind, filename: str, data: bytes) -> None:
            folders = [root / kind]
            if kind is Kind.DATA:
                folders += [path for path in folders[0].iterdir() if path.is_dir()]
            for folder in folders:
                (folder / filename).write_bytes(data)

        return StoreRig(lambda: sftp_store(address), plant, address)
