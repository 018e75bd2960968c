"""The store suite against Ceph's object gateway, for whoever asks (COOPFS_TEST_CEPH=1)."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from ceph import CephCluster, NoCeph, ceph_cluster
from s3service import request
from store_suite import StoreRig, StoreSuite, name_of, put_new, sizes, some_bytes

from coopfs.errors import NotAStore, StoreDenied
from coopfs.store.base import Kind
from coopfs.store.cloud import CloudStore
from coopfs.store.open import open_store

if os.environ.get("COOPFS_TEST_CEPH") != "1":
    pytest.skip("CEPH IS TESTED only with COOPFS_TEST_CEPH=1", allow_module_level=True)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    try:
        with ceph_cluster(tmp_path_factory.mktemp("ceph")) as cluster:
            cluster.make_bucket("shared")
            yield cluster
    except NoCeph as exc:
        pytest.skip(f"{exc}: CEPH IS NOT TESTED")


@pytest.fixture
def address(ceph: CephCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in ceph.environ.items():
        monkeypatch.setenv(name, value)
    return f"s3://shared/test/{next(_numbers)}"


class TestCephStore(StoreSuite):
    @pytest.fixture
    def rig(self, ceph: CephCluster, address: str) -> StoreRig:
        def plant(kind: Kind, filename: str, data: bytes) -> None:
            folders = ["data", "data/ab"] if kind is Kind.DATA else [kind.value]
            for folder in folders:
                path = quote(f"/{address.removeprefix('s3://')}/{folder}/{filename}")
                assert request(ceph.host, "PUT", path, data) == 200

        return StoreRig(lambda: CloudStore(address, is_new=True), plant, address)


def test_a_missing_bucket_and_wrong_credentials_are_told_apart(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotAStore, match="there is no such bucket"):
        open_store("s3://no-such-bucket/prefix")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreDenied):
        open_store(address)
    with CloudStore(address, is_new=True) as store:
        with pytest.raises(StoreDenied, match="does not accept the credentials"):
            store.get_config()
        with pytest.raises(StoreDenied, match="does not accept the credentials"):
            put_new(store, b"x")


def test_an_osd_that_dies_is_outlasted(ceph: CephCluster, address: str) -> None:
    """Last in the module: what was in its memory does not come back."""
    objects = [some_bytes(200_000, seed) for seed in range(20)]
    with CloudStore(address, is_new=True) as store:
        for data in objects[:10]:
            put_new(store, data)
        ceph.kill_osd(0)
        for data in objects[10:]:
            put_new(store, data)
        assert sizes(store, Kind.DATA) == {name_of(data): 200_000 for data in objects}
        for data in objects:
            assert store.get(Kind.DATA, name_of(data)) == data
