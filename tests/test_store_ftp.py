from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ftpservers import PyftpdlibServer, VsftpdServer
from store_suite import StoreRig, StoreSuite

from coopfs.store.base import Kind
from coopfs.store.ftp import create_ftp_store, ftp_store


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")


@pytest.fixture(scope="module")
def vsftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsftpdServer]:
    with VsftpdServer(tmp_path_factory.mktemp("vsftpd")) as server:
        yield server


@pytest.fixture(scope="module")
def plain() -> Iterator[PyftpdlibServer]:
    with PyftpdlibServer() as server:
        yield server


def make_rig(root: Path, address: str) -> StoreRig:
    create_ftp_store(address).close()

    def plant(kind: Kind, filename: str, data: bytes) -> None:
        folders = [root / kind]
        if kind is Kind.DATA:
            folders += [path for path in folders[0].iterdir() if path.is_dir()]
        for folder in folders:
            (folder / filename).write_bytes(data)

    return StoreRig(lambda: ftp_store(address), plant, address)


class TestFtpsStore(StoreSuite):
    """Over TLS, without MLSD."""

    @pytest.fixture
    def rig(self, tmp_path: Path, vsftpd: VsftpdServer) -> StoreRig:
        return make_rig(tmp_path / "store", vsftpd.address(tmp_path / "store"))


class TestFtpStore(StoreSuite):
    """In the clear, with MLSD."""

    @pytest.fixture
    def rig(self, tmp_path: Path, plain: PyftpdlibServer) -> StoreRig:
        return make_rig(tmp_path / "store", plain.address(tmp_path / "store"))
