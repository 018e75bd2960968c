"""The reader on a real archive: exact bytes, shared fetches, other copies, no wrong byte."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from checked import opened
from hosts import Host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.errors import DataError, StoreUnavailable
from coopfs.format.tree import Entry
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.memory import Trimmer
from coopfs.view.reader import OpenFile, Reader


@dataclass
class Library:
    """An archive, and what its files hold."""

    archive: Archive
    store: FaultyStore
    folder: Path

    def entry(self, name: str) -> Entry:
        snapshot = self.archive.snapshots()[-1]
        return entry_at(self.archive, snapshot, str(self.folder / name).encode())

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


class NoTrimmer(Trimmer):
    """Leaves this process's memory and collector alone."""

    def __init__(self) -> None:
        pass

    def note_fetched(self, blocks: int) -> None:
        pass


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host whose snapshot has files of many sizes, one with holes."""
    base = tmp_path_factory.mktemp("reader")
    folder = base / "source"
    folder.mkdir()
    rng = random.Random(3)
    (folder / "large").write_bytes(rng.randbytes(7_000_000))
    (folder / "inline").write_bytes(b"short")
    (folder / "empty").write_bytes(b"")
    with (folder / "holes").open("wb") as file:
        for offset in (500_000, 2_500_000, 2_700_000):
            file.seek(offset)
            file.write(rng.randbytes(100_000))
        file.truncate(4_000_000)
    for number in range(300):
        (folder / f"small {number:03}").write_bytes(rng.randbytes(20_000))
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", folder, "--series", "s")
    return host


@pytest.fixture
def library(host: Host) -> Iterator[Library]:
    with opened(host) as (archive, store):
        archive.refresh()
        yield Library(archive, store, host.base / "source")


@asynccontextmanager
async def reading(library: Library) -> AsyncIterator[tuple[Reader, Fetcher]]:
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(library.archive, nursery, NoTrimmer())
        yield Reader(library.archive, fetcher, Decoders(library.archive, nursery)), fetcher
        nursery.cancel_scope.cancel()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.sampled_from(["large", "inline", "empty", "holes", "small 007"]),
    st.lists(st.tuples(st.integers(0, 7_200_000), st.integers(0, 1 << 20)), max_size=8),
)
def test_any_reads_of_any_file_are_exact(
    library: Library, name: str, reads: list[tuple[int, int]]
) -> None:
    content = library.content(name)

    async def run() -> None:
        async with reading(library) as (reader, _):
            file = OpenFile(1, library.entry(name))
            for offset, size in reads:
                found = bytes(await reader.read(file, offset, size))
                assert found == content[offset : offset + size]

    trio.run(run)


async def test_a_file_read_in_order_is_fetched_ahead_and_each_block_once(
    library: Library,
) -> None:
    async with reading(library) as (reader, fetcher):
        file = OpenFile(1, library.entry("large"))
        found = b""
        while len(found) < 7_000_000:
            found += bytes(await reader.read(file, len(found), 1 << 17))
        assert found == library.content("large")
        assert fetcher.fetched_ahead >= fetcher.fetched - 2
    blocks = library.store.requests["get", "data"]
    assert fetcher.fetched <= 9  # 7 MB in blocks of about 1 MiB
    assert blocks <= fetcher.fetched + 3  # and the nodes of trees


async def test_readers_of_one_block_share_its_fetch(library: Library) -> None:
    entry = library.entry("small 100")
    library.archive.blocks.forget_memory()
    before = library.store.requests["get", "data"]
    found = []
    async with reading(library) as (reader, fetcher):

        async def read() -> None:
            found.append(bytes(await reader.read(OpenFile(1, entry), 0, 20_000)))

        async with trio.open_nursery() as readers:
            for _ in range(20):
                readers.start_soon(read)
        assert fetcher.fetched == 1
    assert found == [library.content("small 100")] * 20
    assert library.store.requests["get", "data"] == before + 1


async def test_what_is_in_memory_is_answered_without_a_checkpoint(library: Library) -> None:
    async with reading(library) as (reader, _):
        file = OpenFile(1, library.entry("small 001"))
        await reader.read(file, 0, 20_000)
        with trio.CancelScope() as scope:
            scope.cancel()  # any checkpoint would end the block here
            assert bytes(await reader.read(file, 0, 20_000)) == library.content("small 001")
        assert not scope.cancelled_caught


async def test_files_opened_in_order_have_those_that_follow_fetched(library: Library) -> None:
    snapshot = library.archive.snapshots()[-1]
    folder = entry_at(library.archive, snapshot, str(library.folder).encode())
    assert folder.tree is not None
    entries = tuple(library.archive.iter_entries(folder.tree))
    places = [p for p, entry in enumerate(entries) if entry.name.startswith(b"small")]
    last = entries[places[60]].spans
    assert last is not None
    assert last[0].chunk_id is not None
    block_no = library.archive.index.first_location(last[0].chunk_id).block_no
    async with reading(library) as (reader, fetcher):
        library.archive.blocks.forget_memory()
        for place in places[:2]:
            reader.opened(5, place, entries, 0)
        assert fetcher.fetched_ahead > 0
        fetched = fetcher.fetched
        await fetcher.blocks([block_no])
        assert fetcher.fetched == fetched  # it was on its way already


async def test_files_opened_here_and_there_fetch_nothing_ahead(library: Library) -> None:
    snapshot = library.archive.snapshots()[-1]
    folder = entry_at(library.archive, snapshot, str(library.folder).encode())
    assert folder.tree is not None
    entries = tuple(library.archive.iter_entries(folder.tree))
    async with reading(library) as (reader, fetcher):
        library.archive.blocks.forget_memory()
        for place in (200, 50, 120, 10):
            reader.opened(5, place, entries, 0)
        assert fetcher.fetched == 0


def damage_every_data_block_of(library: Library, entry: Entry) -> None:
    for span in library.archive.iter_spans(entry):
        if span.chunk_id is not None:
            location = library.archive.index.first_location(span.chunk_id)
            info = library.archive.index.block(location.block_no)
            pack = library.archive.index.pack(info.pack_no)
            library.store.flip(Kind.DATA, pack.pack_id, info.offset + info.sealed_len // 2)
            return


async def test_a_damaged_block_is_an_error_and_other_files_are_not_hurt(
    library: Library,
) -> None:
    entry = library.entry("large")
    other = library.entry("small 050")
    library.archive.blocks.forget_memory()
    damage_every_data_block_of(library, entry)
    async with reading(library) as (reader, _):
        with pytest.raises(DataError, match="chunk"):
            await reader.read(OpenFile(1, entry), 0, 4096)
        assert bytes(await reader.read(OpenFile(2, other), 0, 20_000)) == library.content(
            "small 050"
        )
        library.store.mend()
        assert (
            bytes(await reader.read(OpenFile(1, entry), 0, 4096)) == library.content("large")[:4096]
        )


async def test_a_span_of_another_length_than_its_chunk_is_refused(library: Library) -> None:
    entry = library.entry("small 002")
    assert entry.spans is not None
    longer = entry._replace(size=20_001, spans=(entry.spans[0]._replace(length=20_001),))
    shorter = entry._replace(size=100, spans=(entry.spans[0]._replace(length=100),))
    async with reading(library) as (reader, _):
        for lie in (longer, shorter):
            with pytest.raises(DataError, match="span says"):
                await reader.read(OpenFile(1, lie), 0, 50)


async def test_a_partner_that_is_away_is_an_error_at_once(library: Library) -> None:
    entry = library.entry("large")
    library.archive.blocks.forget_memory()
    library.store.go_away()
    async with reading(library) as (reader, _):
        with trio.fail_after(20), pytest.raises(StoreUnavailable):
            await reader.read(OpenFile(1, entry), 3_000_000, 4096)
        library.store.mend()
        found = bytes(await reader.read(OpenFile(1, entry), 3_000_000, 4096))
        assert found == library.content("large")[3_000_000:3_004_096]


async def test_neighbours_come_with_one_request_from_a_remote_store(library: Library) -> None:
    library.store.is_local = False
    entry = library.entry("large")
    library.archive.blocks.forget_memory()
    before = library.store.requests["get", "data"]
    async with reading(library) as (reader, fetcher):
        found = bytes(await reader.read(OpenFile(1, entry), 0, 4 << 20))
        assert found == library.content("large")[: 4 << 20]
        assert fetcher.fetched >= 4
        assert library.store.requests["get", "data"] - before < fetcher.fetched


async def test_a_damaged_block_fails_only_the_reads_that_need_it(library: Library) -> None:
    library.archive.blocks.forget_memory()
    entry = library.entry("large")
    spans = [span for span in library.archive.iter_spans(entry) if span.chunk_id is not None]
    chunk_id = spans[len(spans) // 2].chunk_id
    assert chunk_id is not None
    location = library.archive.index.first_location(chunk_id)
    info = library.archive.index.block(location.block_no)
    pack = library.archive.index.pack(info.pack_no)
    library.store.flip(Kind.DATA, pack.pack_id, info.offset + info.sealed_len // 2)
    content = library.content("large")
    async with reading(library) as (reader, _):
        file = OpenFile(1, entry)
        failed = 0
        for offset in range(0, len(content), 1 << 17):
            try:
                data = bytes(await reader.read(file, offset, 1 << 17))
                assert data == content[offset : offset + (1 << 17)]
            except DataError:
                failed += 1
        assert 1 <= failed <= 20
    library.store.mend()
