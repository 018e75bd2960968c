"""What every store must do, whatever it is made of.

A store's own test module subclasses :class:`StoreSuite` and gives it a ``rig``
fixture; the suite then runs against that store.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coopfs.bandwidth import BURST_S, Schedule
from coopfs.errors import ObjectCorrupt, ObjectNotFound, StoreError
from coopfs.store.base import GET_LEN_MAX, KINDS, Kind, Piece, Store
from coopfs.store.line import Line, Rates

THREADS = 8
MANY_OBJECTS = 100  # more than any store keeps open at once


@dataclass(frozen=True, slots=True)
class StoreRig:
    """How the suite gets at the store under test, which is new and has no config."""

    open: Callable[[], Store]  # another client of the same store; the suite closes it
    # Puts a file of that name and content where a listing of the kind comes by; None: no way.
    plant: Callable[[Kind, str, bytes], object] | None
    address: str | None  # for open_store() in another process; None: none reaches it


def name_of(data: bytes) -> bytes:
    """Return the name of the object with these bytes."""
    return hashlib.sha256(data).digest()


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes that look random and are the same each time."""
    return random.Random(f"{size} {seed}").randbytes(size)


def put_new(store: Store, data: bytes, kind: Kind = Kind.DATA) -> bytes:
    """Put *data* and return its name."""
    store.put(kind, name_of(data), data)
    return name_of(data)


def sizes(store: Store, kind: Kind) -> dict[bytes, int]:
    """Return what a listing shows, having seen that it shows nothing twice."""
    found = list(store.list(kind))
    assert len({item.name for item in found}) == len(found)
    return {bytes(item.name): item.size for item in found}


def in_threads(work: Callable[[int], object], numbers: Iterable[int]) -> None:
    """Call *work* with every number, from several threads that start at the same time."""
    start = threading.Barrier(THREADS)

    def run(mine: list[int]) -> None:
        start.wait(30)
        for number in mine:
            work(number)

    numbers = list(numbers)
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(run, numbers[i::THREADS]) for i in range(THREADS)]:
            done.result(timeout=120)


# Puts objects of 4 MiB, each known by its first byte, until it is killed.
_ENDLESS_WRITER = """
import hashlib, sys
from coopfs.store.base import Kind
from coopfs.store.open import open_store
with open_store(sys.argv[1]) as store:
    for number in range(100):
        data = bytes([number]) * (4 << 20)
        store.put(Kind.DATA, hashlib.sha256(data).digest(), [data[:1000], data[1000:]])
        print("done", flush=True)
"""


def start_writer(code: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python process with coopfs in reach, running *code*."""
    top = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(top), *sys.path])}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


class StoreSuite:
    """The tests.  Subclasses provide ``rig``."""

    is_over_a_line = True

    @pytest.fixture
    def rig(self) -> StoreRig:
        raise NotImplementedError("a subclass provides it")

    @pytest.fixture
    def store(self, rig: StoreRig) -> Iterator[Store]:
        with rig.open() as store:
            yield store

    # --- the line ------------------------------------------------------------------

    def test_bodies_move_at_the_pace_of_the_line(self, store: Store) -> None:
        if not self.is_over_a_line:
            pytest.skip("a store on this machine: there is no line to it")
        rate, data = Schedule.parse("5M"), some_bytes(250_000)
        store.put(Kind.KEYS, name_of(b""), b"")  # connected by now
        store.keep_to(Line(Rates(rate, rate)))
        for move in (
            lambda: store.put(Kind.DATA, name_of(data), [data[:70_000], data[70_000:]]),
            lambda: store.get(Kind.DATA, name_of(data)),
        ):
            begun = time.monotonic()
            assert move() in (None, data)
            # 0.4 s, of which a burst is free.  The machine may be slower, the line never faster.
            assert time.monotonic() - begun > 0.95 * (0.4 - BURST_S)

    # --- what was put comes back --------------------------------------------------

    @pytest.mark.parametrize("kind", list(Kind))
    @pytest.mark.parametrize("size", [0, 1, 4096, 100_001])
    def test_an_object_comes_back_whole(self, store: Store, kind: Kind, size: int) -> None:
        data = some_bytes(size)
        name = put_new(store, data, kind)
        assert store.get(kind, name) == data
        assert store.size(kind, name) == size
        assert sizes(store, kind) == {name: size}

    def test_pieces_are_put_as_one_object(self, store: Store) -> None:
        pieces = [some_bytes(size, seed=size) for size in (12, 0, 1 << 20, 1, 70_000)]
        whole = b"".join(pieces)
        views: list[Piece] = [
            memoryview(pieces[0]),
            *pieces[1:-1],
            memoryview(bytearray(pieces[-1])),
        ]
        store.put(Kind.DATA, name_of(whole), views)
        assert store.get(Kind.DATA, name_of(whole)) == whole

    def test_a_large_object_comes_back_whole(self, store: Store) -> None:
        data = some_bytes(20 << 20)
        name = put_new(store, data)
        assert store.get(Kind.DATA, name) == data
        assert store.get(Kind.DATA, name, (20 << 20) - 7, 7) == data[-7:]

    def test_another_client_sees_what_was_put(self, rig: StoreRig, store: Store) -> None:
        name = put_new(store, b"seen by all")
        with rig.open() as other:
            assert other.get(Kind.DATA, name) == b"seen by all"
            assert sizes(other, Kind.DATA) == {name: 11}

    def test_kinds_do_not_mix(self, store: Store) -> None:
        name = put_new(store, b"a pack", Kind.DATA)
        for kind in (Kind.INDEX, Kind.SNAPSHOTS, Kind.KEYS):
            assert sizes(store, kind) == {}
            with pytest.raises(ObjectNotFound):
                store.get(kind, name)

    # --- ranges -------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 0), (0, 1), (0, 1000), (0, None), (1, 998), (999, 1), (1000, 0), (1000, None), (7, 0)],
    )
    def test_a_range_is_exact(self, store: Store, offset: int, length: int | None) -> None:
        data = some_bytes(1000)
        name = put_new(store, data)
        expected = data[offset:] if length is None else data[offset : offset + length]
        assert store.get(Kind.DATA, name, offset, length) == expected

    @pytest.mark.parametrize(
        ("offset", "length"),
        [
            (0, 1001),
            (999, 2),
            (1000, 1),
            (1001, 0),
            (1001, None),
            (1 << 40, 5),
            (1 << 64, 1),
            (0, 1 << 62),
            (0, GET_LEN_MAX + 1),
        ],
    )
    def test_a_range_beyond_the_end_is_corrupt_and_never_short(
        self, store: Store, offset: int, length: int | None
    ) -> None:
        name = put_new(store, some_bytes(1000))
        with pytest.raises(ObjectCorrupt, match=f"{name.hex()}.*truncated.*1000 bytes"):
            store.get(Kind.DATA, name, offset, length)

    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
    )
    @given(
        size=st.sampled_from([0, 1, 255, 70_000]),
        offset=st.integers(0, 300) | st.integers(0, 80_000),
        length=st.none() | st.integers(0, 300) | st.integers(0, 80_000),
    )
    def test_any_range_is_exact_or_refused(
        self, store: Store, size: int, offset: int, length: int | None
    ) -> None:
        data = some_bytes(size)
        name = put_new(store, data)
        end = max(size, offset) if length is None else offset + length
        if offset <= size and end <= size:
            assert store.get(Kind.DATA, name, offset, length) == data[offset:end]
        else:
            with pytest.raises(ObjectCorrupt):
                store.get(Kind.DATA, name, offset, length)

    def test_an_empty_range_of_nothing_is_not_found(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound):
            store.get(Kind.DATA, name_of(b"never put"), 0, 0)

    def test_a_negative_range_is_the_callers_mistake(self, store: Store) -> None:
        name = put_new(store, b"12345")
        for offset, length in ((-1, 1), (0, -1), (-1, None)):
            with pytest.raises(ValueError, match="negative"):
                store.get(Kind.DATA, name, offset, length)

    # --- put once -------------------------------------------------------------------

    def test_the_same_object_again_is_done(self, store: Store) -> None:
        name = put_new(store, b"twice")
        store.put(Kind.DATA, name, b"twice")
        store.put(Kind.DATA, name, [b"tw", b"ice"])
        assert store.get(Kind.DATA, name) == b"twice"
        assert sizes(store, Kind.DATA) == {name: 5}

    @pytest.mark.parametrize("other", [b"", b"shor", b"longer than it was"])
    def test_another_size_under_a_taken_name_is_refused(self, store: Store, other: bytes) -> None:
        name = put_new(store, b"first")
        with pytest.raises(ObjectCorrupt, match=f"{name.hex()}.* 5 bytes.* {len(other)} "):
            store.put(Kind.DATA, name, other)
        assert store.get(Kind.DATA, name) == b"first"

    def test_many_threads_may_put_the_same_object(self, store: Store) -> None:
        objects = [some_bytes(50_000, seed) for seed in range(5)]
        in_threads(lambda number: put_new(store, objects[number % 5]), range(10 * THREADS))
        assert sizes(store, Kind.DATA) == {name_of(data): 50_000 for data in objects}
        for data in objects:
            assert store.get(Kind.DATA, name_of(data)) == data

    @pytest.mark.parametrize("name", [b"", b"x" * 31, b"x" * 33, b"config"])
    def test_a_name_that_is_none_is_the_callers_mistake(self, store: Store, name: bytes) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.get(Kind.DATA, name),
            lambda: store.put(Kind.DATA, name, b"x"),
            lambda: store.size(Kind.DATA, name),
            lambda: store.delete(Kind.DATA, name),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="32 bytes"):
                call()

    # --- what is not there -----------------------------------------------------------

    @pytest.mark.parametrize("kind", list(Kind))
    def test_an_absent_object_is_not_found(self, store: Store, kind: Kind) -> None:
        name = name_of(b"never put")
        calls: list[Callable[[], object]] = [
            lambda: store.get(kind, name),
            lambda: store.get(kind, name, 5, 5),
            lambda: store.size(kind, name),
            lambda: store.delete(kind, name),
        ]
        for call in calls:
            with pytest.raises(ObjectNotFound, match=f"{kind}/{name.hex()}"):
                call()
        assert sizes(store, kind) == {}

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_deleted_object_is_gone_even_if_just_read(self, store: Store, kind: Kind) -> None:
        kept, name = put_new(store, b"stays", kind), put_new(store, b"goes", kind)
        assert store.get(kind, name) == b"goes"
        store.delete(kind, name)
        for call in (store.get, store.size, store.delete):
            with pytest.raises(ObjectNotFound):
                call(kind, name)
        assert sizes(store, kind) == {kept: 5}

    def test_what_another_client_deletes_is_gone_here_too(
        self, rig: StoreRig, store: Store
    ) -> None:
        name = put_new(store, b"read, then deleted elsewhere")
        store.get(Kind.DATA, name)
        with rig.open() as other:
            other.delete(Kind.DATA, name)
        with pytest.raises(ObjectNotFound):
            store.get(Kind.DATA, name)

    def test_a_deleted_object_can_be_put_again(self, store: Store) -> None:
        name = put_new(store, b"back again")
        store.get(Kind.DATA, name)
        store.delete(Kind.DATA, name)
        put_new(store, b"back again")
        assert store.get(Kind.DATA, name) == b"back again"

    # --- listing ----------------------------------------------------------------------

    def test_a_listing_shows_every_object_with_its_size(self, store: Store) -> None:
        expected = {put_new(store, some_bytes(n, seed=n)): n for n in range(MANY_OBJECTS)}
        assert sizes(store, Kind.DATA) == expected

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_listing_leaves_strangers_out(self, rig: StoreRig, store: Store, kind: Kind) -> None:
        if rig.plant is None:
            pytest.skip("strangers cannot be planted in this store")
        name = put_new(store, b"an object", kind)
        digits = name.hex()
        strangers = [
            "README",
            ".tmp-1-0123456789abcdef",
            digits[:-1],
            digits + "0",
            digits + ".rest-server-temp123",
            digits.upper(),
            digits[:-1] + "g",
            "٠" * 64,  # digits to Python, not to us
        ]
        for stranger in strangers:
            rig.plant(kind, stranger, b"strange")
        assert sizes(store, kind) == {name: 9}

    def test_a_listing_during_puts_shows_only_whole_objects(
        self, rig: StoreRig, store: Store
    ) -> None:
        objects = [some_bytes(200_000, seed) for seed in range(4 * THREADS)]
        is_done = threading.Event()

        def watch() -> set[int]:
            seen: set[int] = set()
            with rig.open() as other:
                while True:
                    was_done = is_done.is_set()
                    seen.update(sizes(other, Kind.DATA).values())
                    if was_done:
                        return seen

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            try:
                in_threads(lambda number: put_new(store, objects[number]), range(len(objects)))
            finally:
                is_done.set()
            assert watching.result(timeout=60) == {200_000}

    # --- config -----------------------------------------------------------------------

    def test_no_config_is_not_found(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound, match="config"):
            store.get_config()

    def test_the_config_comes_back(self, rig: StoreRig, store: Store) -> None:
        store.put_config(b"version 1")
        assert store.get_config() == b"version 1"
        with rig.open() as other:
            assert other.get_config() == b"version 1"
        for kind in Kind:
            assert sizes(store, kind) == {}

    @pytest.mark.parametrize("other", [b"VERSION 1", b"", b"version 12"])
    def test_the_config_is_never_replaced(self, store: Store, other: bytes) -> None:
        store.put_config(b"version 1")
        store.put_config(b"version 1")
        with pytest.raises(StoreError, match="config"):
            store.put_config(other)
        assert store.get_config() == b"version 1"

    # --- threads ----------------------------------------------------------------------

    def test_many_threads_read_more_objects_than_are_kept_open(self, store: Store) -> None:
        objects = [some_bytes(3000, seed) for seed in range(MANY_OBJECTS)]
        names = [put_new(store, data) for data in objects]
        wrong: list[int] = []

        def read(number: int) -> None:
            rng = random.Random(number)
            for _ in range(100):
                which, offset = rng.randrange(MANY_OBJECTS), rng.randrange(3000)
                got = store.get(Kind.DATA, names[which], offset, min(500, 3000 - offset))
                if got != objects[which][offset : offset + 500]:
                    wrong.append(which)

        in_threads(read, range(4 * THREADS))
        assert not wrong

    def test_reading_while_deleting_gives_the_bytes_or_not_found(self, store: Store) -> None:
        objects = [some_bytes(2000, seed) for seed in range(20)]
        wrong: list[int] = []

        def work(number: int) -> None:
            data = objects[number % 20]
            put_new(store, data)
            with suppress(ObjectNotFound):
                if store.get(Kind.DATA, name_of(data), 10, 1000) != data[10:1010]:
                    wrong.append(number)
            with suppress(ObjectNotFound):
                store.delete(Kind.DATA, name_of(data))

        def work_and_retry(number: int) -> None:
            for _ in range(10):  # a put may find an object that is deleted under its eyes
                with suppress(StoreError):
                    return work(number)
            raise AssertionError("never succeeded")

        in_threads(work_and_retry, range(50 * THREADS))
        assert not wrong
        for kind in Kind:
            for data in objects:
                with suppress(ObjectNotFound):
                    store.delete(kind, name_of(data))
            assert sizes(store, kind) == {}

    # --- killed ----------------------------------------------------------------------

    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_writer_killed_in_the_middle_leaves_no_half_object(
        self, rig: StoreRig, store: Store, after: int
    ) -> None:
        if rig.address is None:
            pytest.skip("no other process can reach this store")
        store.put_config(b"so that it is a store")
        with start_writer(_ENDLESS_WRITER, rig.address) as writer:
            assert writer.stdout is not None
            try:
                for _ in range(after + 1):
                    assert writer.stdout.readline() == b"done\n"
            finally:
                writer.kill()  # it has begun the next one, most likely
        found = sizes(store, Kind.DATA)
        assert len(found) > after
        for name in found:
            data = store.get(Kind.DATA, name)
            assert len(data) == 4 << 20
            assert name_of(data) == name
        # And whoever comes next can complete what was cut off.
        for number in range(after + 4):
            put_new(store, bytes([number]) * (4 << 20))
        assert len(sizes(store, Kind.DATA)) >= after + 4

    # --- the rest ----------------------------------------------------------------------

    def test_free_bytes_is_a_number_or_unknown(self, store: Store) -> None:
        free = store.free_bytes()
        assert free is None or free > 0

    def test_a_closed_store_refuses_and_may_be_closed_again(self, store: Store) -> None:
        name = put_new(store, b"closed soon")
        store.get(Kind.DATA, name)
        store.close()
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.get(Kind.DATA, name),
            lambda: store.put(Kind.DATA, name, b"closed soon"),
            lambda: list(store.list(Kind.DATA)),
            store.get_config,
        ]
        for call in calls:
            with pytest.raises(StoreError):
                call()

    def test_it_says_what_it_is(self, store: Store) -> None:
        assert store.address
        assert isinstance(store.is_local, bool)
        assert isinstance(store.is_durable, bool)
        assert {*Kind} < {*KINDS}
