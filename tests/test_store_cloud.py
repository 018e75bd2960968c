"""Stores in buckets, against a real distributed object store and a proxy that fails."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import obstore
import pytest
from flaky_proxy import Answer, FlakyProxy, flaky_proxy
from s3service import request
from seaweed import COPIES, READER_KEY, READER_SECRET, VOLUME_SERVERS, SeaweedCluster
from store_suite import StoreRig, StoreSuite, in_threads, name_of, put_new, sizes, some_bytes

from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from coopfs.store.base import CONFIG_LEN_MAX, Kind
from coopfs.store.bucket import Bucket
from coopfs.store.cloud import CloudStore
from coopfs.store.local import LocalStore
from coopfs.store.open import absolute_address, create_store, open_store
from coopfs.store.retry import TIMEOUT_VARIABLE

_numbers = itertools.count()


@pytest.fixture
def address(seaweed: SeaweedCluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a place in the bucket where nothing is."""
    for name, value in seaweed.environ.items():
        monkeypatch.setenv(name, value)
    return f"s3://shared/test/{next(_numbers)}"


@pytest.fixture
def store(address: str) -> Iterator[CloudStore]:
    with CloudStore(address, is_new=True) as store:
        yield store


@pytest.fixture
def proxy(seaweed: SeaweedCluster) -> Iterator[FlakyProxy]:
    with flaky_proxy(seaweed.host) as proxy:
        yield proxy


@pytest.fixture
def proxied(
    address: str, proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudStore]:
    """The store behind the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    with CloudStore(address, is_new=True) as store:
        yield store


def plant(seaweed: SeaweedCluster, address: str, key: str, data: bytes) -> None:
    """Put an object below obstore and its checks of keys."""
    path = quote(f"/{address.removeprefix('s3://')}/{key}")
    assert request(seaweed.host, "PUT", path, data) == 200


class TestCloudStore(StoreSuite):
    @pytest.fixture
    def rig(self, seaweed: SeaweedCluster, address: str) -> StoreRig:
        def put_stranger(kind: Kind, filename: str, data: bytes) -> None:
            folders = ["data", "data/ab"] if kind is Kind.DATA else [kind.value]
            for folder in folders:
                plant(seaweed, address, f"{folder}/{filename}", data)

        return StoreRig(lambda: CloudStore(address, is_new=True), put_stranger, address)


# --- the place --------------------------------------------------------------------


def test_keys_are_restics_so_that_a_copied_bucket_is_a_store_in_a_folder(
    store: CloudStore, tmp_path: Path
) -> None:
    store.put_config(b"config")
    names = {kind: put_new(store, some_bytes(5000), kind) for kind in Kind}
    digits = names[Kind.DATA].hex()
    bucket = obstore.store.S3Store("shared", client_options={"allow_http": True})
    prefix = store.address.removeprefix("s3://shared/")
    keys = [found["path"] for page in obstore.list(bucket, prefix) for found in page]
    assert sorted(key.removeprefix(f"{prefix}/") for key in keys) == sorted(
        ["config", f"data/{digits[:2]}/{digits}"]
        + [f"{kind}/{digits}" for kind in Kind if kind is not Kind.DATA]
    )
    for key in keys:
        path = tmp_path / key.removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(obstore.get(bucket, key).bytes()))
    with LocalStore(tmp_path) as local:
        for kind, name in names.items():
            assert local.get(kind, name) == some_bytes(5000)


def test_a_store_is_created_and_then_opened_by_its_address(address: str) -> None:
    with create_store(address) as store:
        assert not store.is_local
        assert store.free_bytes() is None
        store.put_config(b"config")
    with open_store(address) as store:
        assert store.address == address
        assert store.get_config() == b"config"
    assert absolute_address(address) == address
    with pytest.raises(StoreError, match="holds a store already"):
        create_store(address)


def test_a_place_without_a_store_is_not_one(seaweed: SeaweedCluster, address: str) -> None:
    with pytest.raises(NotAStore, match='expected an object "config", found nothing'):
        open_store(address)
    plant(seaweed, address, "photos/cat.jpg", b"cat")
    with pytest.raises(NotAStore, match=r"found 'photos/cat\.jpg'"):
        open_store(address)
    with pytest.raises(NotAStore, match=r"not empty.*photos/cat\.jpg"):
        create_store(address)


def test_a_store_that_lost_its_config_can_be_opened_by_its_snapshots(store: CloudStore) -> None:
    name = put_new(store, b"snapshot", Kind.SNAPSHOTS)
    with open_store(store.address) as other:
        assert other.get(Kind.SNAPSHOTS, name) == b"snapshot"


def test_empty_folders_of_a_web_page_are_no_hindrance(
    seaweed: SeaweedCluster, address: str
) -> None:
    for folder in ("", "data/", "index/"):
        plant(seaweed, address, folder, b"")
    with create_store(address) as store:
        store.put_config(b"config")
        name = put_new(store, b"pack")
        assert sizes(store, Kind.DATA) == {name: 4}


def test_an_endless_config_is_refused(seaweed: SeaweedCluster, store: CloudStore) -> None:
    plant(seaweed, store.address, "config", b"x" * (CONFIG_LEN_MAX + 1))
    with pytest.raises(ObjectCorrupt, match=f"{CONFIG_LEN_MAX + 1} bytes, expected at most"):
        store.get_config()
    with pytest.raises(ObjectCorrupt):
        store.put_config(b"config")


# --- who and where ----------------------------------------------------------------


def every_call(store: CloudStore) -> list[Callable[[], object]]:
    name = name_of(b"x")
    return [
        lambda: store.get(Kind.DATA, name),
        lambda: store.get(Kind.DATA, name, 1, 1),
        lambda: store.size(Kind.DATA, name),
        lambda: store.put(Kind.DATA, name, b"x"),
        lambda: store.delete(Kind.DATA, name),
        lambda: list(store.list(Kind.DATA)),
        store.get_config,
        lambda: store.put_config(b"config"),
    ]


def test_a_missing_bucket_is_said_by_every_call(address: str) -> None:
    missing = "s3://no-such-bucket/prefix"
    for call in (open_store, create_store):
        with pytest.raises(NotAStore, match="there is no such bucket"):
            call(missing)
    with CloudStore(missing, is_new=True) as store:
        for call in every_call(store):
            with pytest.raises(NotAStore, match="there is no such bucket"):
                call()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_ACCESS_KEY_ID", "nobody")],
)
def test_wrong_credentials_are_denied_at_once_and_not_shown(
    address: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    for opened in (open_store, create_store):
        with pytest.raises(StoreDenied, match="does not accept the credentials"):
            opened(address)
    with CloudStore(address, is_new=True) as store:
        for call in every_call(store):
            with pytest.raises(StoreDenied) as caught:
                call()
            assert "only-for-tests" not in str(caught.value)
            assert "hunter2" not in str(caught.value)
        with pytest.raises(StoreDenied, match="does not accept the credentials"):
            store.get_config()


def test_who_may_only_read_can_read_and_is_denied_the_rest(
    store: CloudStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_config(b"config")
    name = put_new(store, b"readable")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", READER_SECRET)
    with open_store(store.address) as reader:
        assert reader.get(Kind.DATA, name) == b"readable"
        assert sizes(reader, Kind.DATA) == {name: 8}
        with pytest.raises(StoreDenied, match="does not allow it"):
            put_new(reader, b"more")
        with pytest.raises(StoreDenied, match="does not allow it"):
            reader.delete(Kind.DATA, name)
    assert store.get(Kind.DATA, name) == b"readable"


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("http://127.0.0.1:1", "refuses connections"),
        ("http://no-such-host.invalid:1", "host is not known"),
    ],
)
def test_an_endpoint_out_of_reach_says_why_and_opens_all_the_same(
    endpoint: str, message: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0")
    with open_store(address) as store:
        for call in every_call(store):
            with pytest.raises(StoreUnavailable, match=message):
                call()
    with pytest.raises(StoreUnavailable, match=message):
        create_store(address)


def test_a_store_out_of_reach_when_opened_is_looked_at_once_it_is_there(
    seaweed: SeaweedCluster, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0")
    with flaky_proxy(seaweed.host) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.fail("HEAD", Answer(503))
        with open_store(address) as store, pytest.raises(NotAStore):
            list(store.list(Kind.DATA))


def test_the_missing_library_is_named_with_the_way_to_install_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.delitem(sys.modules, "coopfs.store.bucket", raising=False)
    for call in (open_store, create_store):
        with pytest.raises(UsageError, match=r'pip install "coopfs\[cloud\]"'):
            call(address)
    assert absolute_address(address) == address


def test_unusable_surroundings_are_a_usage_error(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        open_store(f"{address}?ca={tmp_path}/absent.pem")
    (tmp_path / "not.pem").write_text("no certificate")
    with pytest.raises(UsageError, match="as the environment is set"):
        open_store(f"{address}?ca={tmp_path}/not.pem")
    for variable in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(variable)
    with pytest.raises(UsageError, match="Account must be specified"):
        open_store("az://container/prefix")


# --- a service that fails -----------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Answer(503, "SlowDown"), Answer(500, "InternalError"), Answer(429), "cut", "lose"],
    ids=str,
)
def test_what_passes_is_outlasted_by_every_call(
    proxied: CloudStore, proxy: FlakyProxy, fault: Answer
) -> None:
    kept, goes = put_new(proxied, b"stays"), put_new(proxied, b"goes")
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        proxy.fail(method, fault, times=2)
    name = put_new(proxied, b"new")
    assert proxied.get(Kind.DATA, name) == b"new"
    assert proxied.size(Kind.DATA, kept) == 5
    proxied.delete(Kind.DATA, goes)
    proxy.fail("GET", fault, times=2)
    assert sizes(proxied, Kind.DATA) == {kept: 5, name: 3}
    proxied.put_config(b"config")
    assert proxied.get_config() == b"config"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Answer(503, "SlowDown"), "asks for a pause: HTTP 503 SlowDown told to . fail"),
        (Answer(500, "InternalError"), "the service failed"),
        ("cut", "connection"),
    ],
    ids=str,
)
def test_what_does_not_pass_is_reported_when_the_budget_is_spent(
    proxied: CloudStore,
    proxy: FlakyProxy,
    fault: Answer,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, "0.5")
    for method in ("GET", "HEAD", "PUT"):
        proxy.fail(method, fault, times=10_000)
    with CloudStore(proxied.address, is_new=True) as store:
        for call in (store.get_config, lambda: put_new(store, b"x")):
            with pytest.raises(StoreUnavailable, match=message):
                call()


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        (Answer(507), StoreFull, "no room left"),
        (Answer(403, "QuotaExceeded"), StoreFull, "no room left"),
        (Answer(403, "RequestTimeTooSkewed"), StoreDenied, "set the clock right"),
        (Answer(400, "AuthorizationHeaderMalformed"), StoreError, "region="),
        (Answer(418), StoreError, "refused: HTTP 418"),
    ],
    ids=str,
)
def test_what_stays_is_told_apart_and_not_repeated(
    proxied: CloudStore,
    proxy: FlakyProxy,
    answer: Answer,
    expected: type[CoopfsError],
    message: str,
) -> None:
    tries = 4 if answer.status >= 500 else 1  # obstore repeats whatever is 5xx
    proxy.fail("PUT", answer, times=tries)
    with pytest.raises(expected, match=message) as caught:
        put_new(proxied, b"not now")
    assert type(caught.value) is expected
    assert proxy.count("PUT") == tries
    put_new(proxied, b"not now")


def test_an_upload_whose_answer_was_lost_is_recognised_as_done(
    proxied: CloudStore, proxy: FlakyProxy
) -> None:
    proxy.fail("PUT", "lose")
    name = put_new(proxied, some_bytes(1 << 20))
    assert proxy.count("PUT") == 2
    assert sizes(proxied, Kind.DATA) == {name: 1 << 20}
    proxy.fail("PUT", "lose")
    proxied.put_config(b"config")
    assert proxied.get_config() == b"config"


def test_an_answer_cut_in_the_middle_is_completed(proxied: CloudStore, proxy: FlakyProxy) -> None:
    data = some_bytes(3 << 20)
    name = put_new(proxied, data)
    proxy.fail("GET", "half", times=2)
    assert proxied.get(Kind.DATA, name) == data
    proxy.fail("GET", "half")
    assert proxied.get(Kind.DATA, name, 1000, 1 << 20) == data[1000 : 1000 + (1 << 20)]


def test_a_long_listing_goes_on_where_it_was_cut_off(
    proxied: CloudStore, proxy: FlakyProxy
) -> None:
    objects = [some_bytes(10, seed) for seed in range(1100)]  # more than a page has
    in_threads(lambda number: put_new(proxied, objects[number], Kind.INDEX), range(1100))
    before = proxy.count("GET")
    proxy.fail("GET", "cut", times=6, skip=1)  # more than obstore repeats by itself
    assert sizes(proxied, Kind.INDEX) == {name_of(data): 10 for data in objects}
    assert proxy.count("GET") == before + 2 + 6


@pytest.mark.parametrize("answer", [Answer(501, "NotImplemented"), Answer(400, "If-None-Match")])
def test_a_service_without_conditional_puts_is_asked_first(
    proxied: CloudStore, proxy: FlakyProxy, answer: Answer
) -> None:
    proxy.refused_headers = {"if-none-match": answer}
    name = put_new(proxied, b"first")
    with pytest.raises(ObjectCorrupt, match="5 bytes under this name where 6 belong"):
        proxied.put(Kind.DATA, name, b"second")
    before = proxy.count("PUT")
    proxied.put(Kind.DATA, name, b"first")
    assert proxied.get(Kind.DATA, name) == b"first"
    assert proxy.count("PUT") == before
    put_new(proxied, b"another")
    assert proxy.count("PUT") == before + 1  # what it cannot do is not tried again
    proxied.put_config(b"config")
    with pytest.raises(StoreError, match="another one is there"):
        proxied.put_config(b"CONFIG")


def test_a_service_told_to_be_without_conditional_puts_is_sent_none(
    proxied: CloudStore, proxy: FlakyProxy
) -> None:
    proxy.refused_headers = {"if-none-match": Answer(400)}
    with CloudStore(f"{proxied.address}?conditional=no", is_new=True) as store:
        name = put_new(store, b"first")
        with pytest.raises(ObjectCorrupt):
            store.put(Kind.DATA, name, b"second")
        assert store.get(Kind.DATA, name) == b"first"


def test_a_service_that_ignores_conditions_still_never_loses_a_config(
    store: CloudStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Bucket.put

    def heedless(
        bucket: Bucket, key: str, label: str, pieces: Sequence[memoryview], *, is_conditional: bool
    ) -> bool:
        return put(bucket, key, label, pieces, is_conditional=False)

    monkeypatch.setattr(Bucket, "put", heedless)
    store.put_config(b"config")
    with pytest.raises(StoreError, match="another one is there"):
        store.put_config(b"CONFIG")
    assert store.get_config() == b"config"


def test_a_name_that_vanishes_while_it_is_put_is_put_again(
    proxied: CloudStore, proxy: FlakyProxy
) -> None:
    proxy.fail("PUT", Answer(412, "PreconditionFailed"))
    name = put_new(proxied, b"not there, whatever it said")
    assert proxied.get(Kind.DATA, name) == b"not there, whatever it said"


# --- a cluster that loses a server --------------------------------------------------


def test_a_volume_server_killed_in_the_middle_loses_nothing(
    seaweed: SeaweedCluster, store: CloudStore
) -> None:
    """Writers and readers at work while it dies: all carry on, and every byte is right."""
    objects = [some_bytes(1 << 20, seed) for seed in range(48)]
    names = [name_of(data) for data in objects]
    begun = [put_new(store, data) for data in objects[:16]]
    victim = max(range(VOLUME_SERVERS), key=seaweed.bytes_at)
    assert seaweed.bytes_at(victim) > 1 << 20
    is_half_done, is_dead = threading.Event(), threading.Event()

    def write(number: int) -> None:
        if number == 32:
            is_half_done.set()
        put_new(store, objects[number])

    def read(rounds: int) -> int:
        for number in range(rounds):
            name = begun[number % len(begun)]
            assert store.get(Kind.DATA, name, 5, 70_000) == objects[number % 16][5:70_005]
            if number == 40:
                is_half_done.set()
                assert is_dead.wait(60)
        return rounds

    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(read, 120)
        writing = [pool.submit(write, number) for number in range(16, 48)]
        assert is_half_done.wait(60)
        seaweed.kill_volume_server(victim)
        is_dead.set()
        for done in writing:
            done.result(timeout=120)
        assert reading.result(timeout=120) == 120
    try:
        seaweed.wait_for_volume_servers(VOLUME_SERVERS - 1)
        assert COPIES == "002"  # or nothing of this would say anything
        assert sizes(store, Kind.DATA) == dict.fromkeys(names, 1 << 20)
        for name, data in zip(names, objects, strict=True):
            assert store.get(Kind.DATA, name) == data
        put_new(store, b"after it")
    finally:
        seaweed.start_volume_server(victim)
        seaweed.wait_for_volume_servers(VOLUME_SERVERS)


def test_a_deleted_object_stays_deleted_for_readers_of_ranges(store: CloudStore) -> None:
    name = put_new(store, some_bytes(1000))
    store.delete(Kind.DATA, name)
    for length in (0, 10, None):
        with pytest.raises(ObjectNotFound):
            store.get(Kind.DATA, name, 10, length)
