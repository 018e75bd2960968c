"""The store suite for gs:// against a double of Google Cloud Storage (tests/gcsservice.py).

A double of our own, not Google's service and no emulator by others: what it shows is that
what obstore sends for us is what Google's reference asks for, and what we make of answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from gcsservice import PAGE_LEN, GoogleService, google_service
from hosts import Host, everything_below
from store_suite import StoreRig, StoreSuite, name_of, put_new, sizes, some_bytes

from coopfs.errors import NotAStore, StoreDenied
from coopfs.store.base import Kind
from coopfs.store.cloud import CloudStore
from coopfs.store.open import create_store, open_store

_numbers = itertools.count()


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleService]:
    with google_service(tmp_path_factory.mktemp("google")) as service:
        yield service
    assert service.strange == []


@pytest.fixture
def address(google: GoogleService, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GOOGLE_BASE_URL", google.endpoint)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google.account_file))
    return f"gs://shared/test/{next(_numbers)}"


@pytest.fixture
def store(address: str) -> Iterator[CloudStore]:
    with CloudStore(address, is_new=True) as store:
        yield store


class TestStoreAgainstADoubleOfGoogle(StoreSuite):
    @pytest.fixture
    def rig(self, google: GoogleService, address: str) -> StoreRig:
        def plant(kind: Kind, filename: str, data: bytes) -> None:
            prefix = address.removeprefix("gs://shared/")
            with google.lock:
                for folder in ["data", "data/ab"] if kind is Kind.DATA else [kind.value]:
                    google.buckets["shared"][f"{prefix}/{folder}/{filename}"] = data

        return StoreRig(lambda: CloudStore(address, is_new=True), plant, address)


def test_every_upload_is_refused_by_the_service_where_the_name_is_taken(
    google: GoogleService, store: CloudStore
) -> None:
    before = len(google.conditions)
    name = put_new(store, b"first")
    store.put(Kind.DATA, name, b"first")
    store.put_config(b"config")
    assert google.conditions[before:] == ["0", "0", "0"]
    assert store.get(Kind.DATA, name) == b"first"


def test_a_listing_of_several_pages_is_whole(google: GoogleService, store: CloudStore) -> None:
    names = {put_new(store, some_bytes(10, seed)) for seed in range(2 * PAGE_LEN + 1)}
    assert sizes(store, Kind.DATA).keys() == names


def test_a_missing_bucket_a_missing_store_and_a_missing_object_are_told_apart(
    address: str, store: CloudStore
) -> None:
    for call in (open_store, create_store):
        with pytest.raises(NotAStore, match="there is no such bucket"):
            call("gs://no-such-bucket/prefix")
    with pytest.raises(NotAStore, match='expected an object "config", found nothing'):
        open_store(address)
    with pytest.raises(NotAStore), CloudStore("gs://no-such-bucket/x", is_new=True) as missing:
        missing.size(Kind.DATA, name_of(b"x"))


def test_another_key_than_the_accounts_is_denied(
    google: GoogleService, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = tmp_path / "forged.json"
    google.write_account(forged, rsa.generate_private_key(65537, 2048))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(forged))
    with pytest.raises(StoreDenied, match="does not accept the credentials"):
        open_store(address)
    with CloudStore(address, is_new=True) as store, pytest.raises(StoreDenied):
        put_new(store, b"x")


def test_who_may_only_read_can_read_and_is_denied_the_rest(
    google: GoogleService, store: CloudStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, b"readable")
    monkeypatch.setattr(google, "is_reader", True)
    with pytest.raises(StoreDenied, match="does not allow it"):
        put_new(store, b"more")
    with pytest.raises(StoreDenied, match="does not allow it"):
        store.delete(Kind.DATA, name)
    assert store.get(Kind.DATA, name) == b"readable"


def test_an_archive_is_made_written_checked_and_restored(address: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(some_bytes(3 << 20))
    (source / "small").write_text("small")
    host = Host(tmp_path)
    host.ok("init", address, "--no-passphrase", "--host", host.name)
    host.ok("snapshot", source, "--series", "s")
    assert host.ok("check", "--read-data", "--json").lines()[-1]["is_whole"]
    host.ok("restore", f"latest:{source}", "--target", tmp_path / "back")
    back = tmp_path / "back"
    assert (
        everything_below(source).items()
        <= {Path(name).name: data for name, data in everything_below(back).items()}.items()
    )
