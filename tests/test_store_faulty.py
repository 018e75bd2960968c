from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_suite import StoreRig, StoreSuite, name_of, put_new, sizes, some_bytes

from coopfs.errors import (
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash
from coopfs.store.local import LocalStore


class TestFaultyStoreWithoutFaults(StoreSuite):
    is_over_a_line = False

    @pytest.fixture
    def rig(self, tmp_path: Path) -> StoreRig:
        root = tmp_path / "store"
        LocalStore.create(root).close()

        def plant(kind: Kind, filename: str, data: bytes) -> None:
            (root / kind / filename).write_bytes(data)

        return StoreRig(
            lambda: FaultyStore(LocalStore(root, is_new=True), is_local=False), plant, str(root)
        )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FaultyStore]:
    with FaultyStore(LocalStore.create(tmp_path / "store")) as store:
        yield store


def test_a_lost_object_is_nowhere_until_it_is_put_again(store: FaultyStore) -> None:
    name = put_new(store, b"lost and found")
    store.lose(Kind.DATA, name)
    for call in (store.get, store.size, store.delete):
        with pytest.raises(ObjectNotFound):
            call(Kind.DATA, name)
    assert sizes(store, Kind.DATA) == {}
    put_new(store, b"lost and found")
    assert store.get(Kind.DATA, name) == b"lost and found"
    assert sizes(store, Kind.DATA) == {name: 14}


def test_flipped_bits_change_exactly_one_byte(store: FaultyStore) -> None:
    name = put_new(store, b"\x00" * 100)
    store.flip(Kind.DATA, name, 50, mask=0x81)
    assert store.get(Kind.DATA, name) == b"\x00" * 50 + b"\x81" + b"\x00" * 49
    assert store.get(Kind.DATA, name, 49, 3) == b"\x00\x81\x00"
    store.flip(Kind.DATA, name, -1)
    assert store.get(Kind.DATA, name, 99) == b"\x01"
    put_new(store, b"\x00" * 100)  # the name is taken: what is there stays, rotten as it is
    assert store.get(Kind.DATA, name, 50, 1) == b"\x81"
    assert store.inner.get(Kind.DATA, name) == b"\x00" * 100


def test_a_truncated_object_is_short_everywhere_and_refuses_ranges(store: FaultyStore) -> None:
    data = some_bytes(100)
    name = put_new(store, data)
    store.truncate(Kind.DATA, name, 40)
    assert store.get(Kind.DATA, name) == data[:40]
    assert store.size(Kind.DATA, name) == 40
    assert sizes(store, Kind.DATA) == {name: 40}
    with pytest.raises(ObjectCorrupt, match="truncated"):
        store.get(Kind.DATA, name, 30, 20)
    with pytest.raises(ObjectCorrupt, match="40 bytes"):
        store.put(Kind.DATA, name, data)


def test_an_invented_object_is_listed_read_and_deleted(store: FaultyStore) -> None:
    store.replace(Kind.SNAPSHOTS, name_of(b"x"), b"not what its name says")
    assert sizes(store, Kind.SNAPSHOTS) == {name_of(b"x"): 22}
    assert store.get(Kind.SNAPSHOTS, name_of(b"x"), 0, 3) == b"not"
    store.delete(Kind.SNAPSHOTS, name_of(b"x"))
    assert sizes(store, Kind.SNAPSHOTS) == {}


def test_the_config_can_be_torn_or_missing(store: FaultyStore) -> None:
    store.put_config(b"whole config")
    store.replace_config(b"whole")
    assert store.get_config() == b"whole"
    with pytest.raises(StoreError, match="never replaced"):
        store.put_config(b"whole config")
    store.replace_config(None)
    with pytest.raises(ObjectNotFound):
        store.get_config()
    store.put_config(b"whole config")
    assert store.get_config() == b"whole config"


def test_a_request_fails_as_often_as_told(store: FaultyStore) -> None:
    name = put_new(store, b"data")
    store.fail("get", Kind.DATA, times=2, skip=1)
    assert store.get(Kind.DATA, name) == b"data"
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.get(Kind.DATA, name)
    assert store.get(Kind.DATA, name) == b"data"
    store.fail("delete", error=StoreDenied("append-only"))
    with pytest.raises(StoreDenied, match="append-only"):
        store.delete(Kind.DATA, name)


def test_a_failure_hits_only_the_kind_it_is_for(store: FaultyStore) -> None:
    store.fail("put", Kind.INDEX)
    name = put_new(store, b"pack", Kind.DATA)
    with pytest.raises(StoreUnavailable):
        put_new(store, b"index", Kind.INDEX)
    assert sizes(store, Kind.DATA) == {name: 4}
    assert sizes(store, Kind.INDEX) == {}


def test_a_lost_answer_means_it_was_done_all_the_same(store: FaultyStore) -> None:
    store.fail("put", Kind.DATA, when="after")
    with pytest.raises(StoreUnavailable):
        put_new(store, b"done")
    assert store.inner.get(Kind.DATA, name_of(b"done")) == b"done"
    put_new(store, b"done")


def test_away_means_nothing_is_answered(store: FaultyStore) -> None:
    name = put_new(store, b"data")
    store.go_away()
    with pytest.raises(StoreUnavailable):
        store.get(Kind.DATA, name)
    with pytest.raises(StoreUnavailable):
        list(store.list(Kind.DATA))
    with pytest.raises(StoreUnavailable):
        store.get_config()
    store.come_back()
    assert store.get(Kind.DATA, name) == b"data"


def test_a_full_store_takes_what_fits_and_nothing_more(store: FaultyStore) -> None:
    store.fill_after(100)
    put_new(store, some_bytes(60))
    with pytest.raises(StoreFull, match="40 bytes are free"):
        put_new(store, some_bytes(41))
    assert store.free_bytes() == 40
    put_new(store, some_bytes(60))  # there already: needs no room
    put_new(store, some_bytes(40))
    assert store.free_bytes() == 0
    assert sizes(store.inner, Kind.DATA).keys() == {name_of(some_bytes(n)) for n in (60, 40)}
    store.fill_after(None)
    put_new(store, some_bytes(1000))


def test_a_failed_put_takes_no_room(store: FaultyStore) -> None:
    name = put_new(store, b"four")
    store.fill_after(100)
    with pytest.raises(ObjectCorrupt):
        store.put(Kind.DATA, name, b"fives")
    with pytest.raises(ObjectNotFound):
        store.get(Kind.DATA, name_of(b"never"))
    store.lose(Kind.DATA, name)
    store.inner.close()
    with pytest.raises(StoreUnavailable):
        put_new(store, b"another")
    assert store.free_bytes() == 100


@pytest.mark.parametrize(("when", "survivors"), [("before", 1), ("after", 2)])
def test_a_crash_at_the_nth_put_ends_everything(
    store: FaultyStore, when: str, survivors: int
) -> None:
    store.crash("put", Kind.DATA, nth=2, when="before" if when == "before" else "after")
    put_new(store, b"index objects do not count", Kind.INDEX)
    first = put_new(store, b"first")
    with pytest.raises(SimulatedCrash):
        put_new(store, b"second")
    for _ in range(2):
        with pytest.raises(SimulatedCrash):
            store.get(Kind.DATA, first)
        with pytest.raises(SimulatedCrash):
            put_new(store, b"third")
    assert len(sizes(store.inner, Kind.DATA)) == survivors
    store.mend()
    assert store.get(Kind.DATA, first) == b"first"


def test_a_crash_is_caught_by_no_except_exception() -> None:
    assert not issubclass(SimulatedCrash, Exception)


def test_mending_shows_the_truth_again(store: FaultyStore) -> None:
    one, two = put_new(store, b"one"), put_new(store, b"two")
    store.lose(Kind.DATA, one)
    store.flip(Kind.DATA, two, 0)
    store.fail("get", times=5)
    store.go_away()
    store.mend()
    assert store.get(Kind.DATA, one) == b"one"
    assert store.get(Kind.DATA, two) == b"two"


def test_requests_and_bytes_are_counted_by_kind(store: FaultyStore) -> None:
    store.put_config(b"cfg")
    name = put_new(store, some_bytes(1000))
    put_new(store, some_bytes(10), Kind.INDEX)
    store.get(Kind.DATA, name, 100, 200)
    store.get(Kind.DATA, name)
    store.size(Kind.DATA, name)
    list(store.list(Kind.INDEX))
    with pytest.raises(ObjectNotFound):
        store.get(Kind.KEYS, name)
    assert store.requests == {
        ("put", "config"): 1,
        ("put", "data"): 1,
        ("put", "index"): 1,
        ("get", "data"): 2,
        ("get", "keys"): 1,
        ("size", "data"): 1,
        ("list", "index"): 1,
    }
    assert store.bytes_got == {"data": 1200}
    assert store.bytes_put == {"config": 3, "data": 1000, "index": 10}


def test_a_gate_holds_requests_until_it_opens(store: FaultyStore) -> None:
    name = put_new(store, b"behind the gate")
    store.gate = threading.Event()
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(store.get(Kind.DATA, name)))
    reader.start()
    reader.join(0.05)
    assert reader.is_alive()
    assert not got
    store.gate.set()
    reader.join(30)
    assert got == [b"behind the gate"]


def test_every_request_takes_as_much_longer_as_told(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    name = put_new(store, b"at once")
    store.delay_s = 0.03
    store.get(Kind.DATA, name)
    list(store.list(Kind.DATA))
    assert slept == [0.03, 0.03]


def test_it_can_pass_for_a_remote_store(tmp_path: Path) -> None:
    inner = LocalStore.create(tmp_path / "store")
    with FaultyStore(inner, is_local=False, is_durable=False) as store:
        assert (store.is_local, store.is_durable) == (False, False)
        assert (inner.is_local, inner.is_durable) == (True, True)
