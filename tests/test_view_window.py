"""Large files read in order: decoded by processes into a ring, and exact whatever happens."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
from checked import opened
from hosts import Host
from test_view_reader import Library, NoTrimmer

from coopfs.archive.decoder_process import Part
from coopfs.archive.index_rows import BlockInfo
from coopfs.errors import ChunkMissing, DataError, ObjectNotFound
from coopfs.store.base import Kind
from coopfs.view import decoders as decoders_module
from coopfs.view import reader as reader_module
from coopfs.view import window as window_module
from coopfs.view.decoders import Decoders, Job, Ring
from coopfs.view.fetcher import Fetcher
from coopfs.view.layout import HOLE, Stretch
from coopfs.view.reader import OpenFile, Reader
from coopfs.view.window import Window

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one core: NO PROCESSES DECODE FOR A MOUNT HERE"
)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host whose snapshot has large files: of noise, text, holes and repeated parts."""
    base = tmp_path_factory.mktemp("window")
    folder = base / "source"
    folder.mkdir()
    rng = random.Random(5)
    words = [rng.randbytes(6).hex() for _ in range(2000)]
    text = " ".join(rng.choices(words, k=2_000_000)).encode()
    noise = rng.randbytes(20 * MIB)
    (folder / "noise").write_bytes(noise)
    (folder / "text").write_bytes(text)
    pieces = [text[at : at + 700_000] for at in range(0, 12 * MIB, 700_000)]
    rng.shuffle(pieces)
    (folder / "mixed").write_bytes(b"".join([*pieces, noise[: 9 * MIB], *pieces[::-1]]))
    with (folder / "holes").open("wb") as file:
        for at in (0, 3 * MIB, 9 * MIB + 77, 21 * MIB):
            file.seek(at)
            file.write(noise[at // 7 : at // 7 + 2_500_000])
        file.truncate(28 * MIB + 5)
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", folder, "--series", "s")
    return host


FILES = ["noise", "text", "mixed", "holes"]


@pytest.fixture
def library(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setattr(reader_module, "PROCESSES_FOR", MIB)
    with opened(host) as (archive, store):
        archive.refresh()
        monkeypatch.setattr(store, "file_of", store.inner.file_of)
        yield Library(archive, store, host.base / "source")


@asynccontextmanager
async def reading(
    library: Library, *, is_ready: bool = True
) -> AsyncIterator[tuple[Reader, Decoders, Fetcher]]:
    """A reader whose processes, unless told otherwise, have started."""
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(library.archive, nursery, NoTrimmer())
        decoders = Decoders(library.archive, nursery)
        if is_ready:
            await until(decoders.prepare)
        yield Reader(library.archive, fetcher, decoders), decoders, fetcher
        nursery.cancel_scope.cancel()


def is_working(decoders: Decoders) -> bool:
    return any(process.jobs for process in decoders._processes)


async def read_all(reader: Reader, file: OpenFile, size: int = MIB) -> bytes:
    found = bytearray()
    while data := bytes(await reader.read(file, len(found), size)):
        found += data
    return bytes(found)


@pytest.mark.parametrize("size", [MIB, 128 << 10, 1_000_003])
@pytest.mark.parametrize("name", FILES)
async def test_a_file_read_in_order_is_decoded_by_processes_and_exact(
    library: Library, name: str, size: int
) -> None:
    async with reading(library) as (reader, decoders, fetcher):
        file = OpenFile(1, library.entry(name))
        found = bytearray()
        while data := bytes(await reader.read(file, len(found), size)):
            found += data
            # Whoever is faster than the processes is served by threads.
            await until(lambda: not decoders.is_busy and not is_working(decoders))
        assert found == library.content(name)
        assert decoders.decoded > 4
        assert fetcher.fetched < decoders.decoded
        reader.closed(file)


async def test_files_are_exact_before_the_processes_have_started(library: Library) -> None:
    async with reading(library, is_ready=False) as (reader, _, _):
        for name in FILES:
            assert await read_all(reader, OpenFile(1, library.entry(name))) == library.content(name)


@pytest.mark.parametrize("name", FILES)
async def test_requests_of_the_kernel_that_overtake_each_other_are_exact(
    library: Library, name: str
) -> None:
    content = library.content(name)
    rng = random.Random(7)
    async with reading(library) as (reader, _, _):
        file = OpenFile(1, library.entry(name))
        under_way = trio.Semaphore(6)

        async def ask(offset: int) -> None:
            # The answer is sent before anybody else runs, as pyfuse3 does.
            assert bytes(await reader.read(file, offset, MIB)) == content[offset : offset + MIB]
            under_way.release()

        async with trio.open_nursery() as asking:
            offsets = list(range(0, len(content), MIB))
            for start in range(0, len(offsets), 3):
                group = offsets[start : start + 3]
                rng.shuffle(group)
                for offset in group:
                    await under_way.acquire()
                    asking.start_soon(ask, offset)


async def test_jumps_and_returns_are_exact(library: Library) -> None:
    rng = random.Random(11)
    async with reading(library) as (reader, _, _):
        for name in FILES:
            content = library.content(name)
            file = OpenFile(1, library.entry(name))
            for _ in range(12):
                offset = rng.randrange(len(content))
                for _ in range(rng.randrange(1, 9)):
                    data = bytes(await reader.read(file, offset, 700_001))
                    assert data == content[offset : offset + 700_001]
                    offset += len(data)


async def test_more_readers_than_rings_are_all_served(library: Library) -> None:
    async with reading(library) as (reader, _, _):
        found: dict[int, bytes] = {}

        async def read(number: int) -> None:
            file = OpenFile(number, library.entry(FILES[number % len(FILES)]))
            found[number] = await read_all(reader, file)
            reader.closed(file)

        async with trio.open_nursery() as readers:
            for number in range(decoders_module.RINGS + 3):
                readers.start_soon(read, number)
        for number, data in found.items():
            assert data == library.content(FILES[number % len(FILES)])


@contextmanager
def damaged(path: Path, fault: str, offset: int) -> Iterator[None]:
    """A file that is flipped at *offset*, truncated there, or gone."""
    whole = path.read_bytes()
    hurt = bytearray(whole)
    hurt[offset] ^= 1
    path.chmod(0o600)
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(hurt if fault == "flipped" else whole[:offset])
    try:
        yield
    finally:
        path.write_bytes(whole)


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # processes set no events
            await trio.sleep(0.001)


@pytest.mark.parametrize("fault", ["flipped", "truncated", "gone"])
async def test_damage_fails_only_the_reads_that_need_it(library: Library, fault: str) -> None:
    entry, content = library.entry("noise"), library.content("noise")
    spans = [span for span in library.archive.iter_spans(entry) if span.chunk_id is not None]
    chunk_id = spans[len(spans) // 2].chunk_id
    assert chunk_id is not None
    info = library.archive.index.block(library.archive.index.first_location(chunk_id).block_no)
    pack = library.archive.index.pack(info.pack_no)
    path = Path(library.store.inner.file_of(Kind.DATA, pack.pack_id) or "/nonexistent")
    with damaged(path, fault, info.offset + info.sealed_len // 2):
        failed = set()
        async with reading(library) as (reader, decoders, _):
            file = OpenFile(1, entry)
            for offset in range(0, len(content), MIB):
                try:
                    data = bytes(await reader.read(file, offset, MIB))
                except (DataError, ObjectNotFound):
                    failed.add(offset // MIB)
                else:
                    assert data == content[offset : offset + MIB]
            assert decoders.decoded
    start = sum(span.length for span in spans[: len(spans) // 2])
    assert start // MIB in failed
    assert len(failed) <= (3 if fault == "flipped" else 18)  # a block; a pack of 16 MiB


async def test_a_process_that_dies_costs_nothing_but_time(
    library: Library, caplog: pytest.LogCaptureFixture
) -> None:
    content = library.content("mixed")
    async with reading(library) as (reader, decoders, _):
        file = OpenFile(1, library.entry("mixed"))
        found = bytearray()
        while data := bytes(await reader.read(file, len(found), MIB)):
            found += data
            if len(found) == 8 * MIB:
                decoders._processes[0].decoder._child.process.kill()
        assert found == content
        assert not decoders.prepare()
        assert await read_all(reader, OpenFile(1, library.entry("noise")))
    assert "has died" in caplog.text


async def test_a_machine_without_room_for_processes_reads_all_the_same(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> int:
        raise OSError(23, "Too many open files in system")

    monkeypatch.setattr(os, "memfd_create", fail)
    async with reading(library, is_ready=False) as (reader, decoders, _):
        data = await read_all(reader, OpenFile(1, library.entry("text")))
        assert data == library.content("text")
        assert not decoders.decoded


async def test_processes_end_when_nobody_needs_them_and_come_back(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoders_module, "IDLE_S", 0.2)
    async with reading(library, is_ready=False) as (reader, decoders, _):
        for is_closed in (True, False):  # one that is left open does not keep them
            await until(decoders.prepare)
            children = [one.decoder._child.process for one in decoders._processes]
            file = OpenFile(1, library.entry("noise"))
            assert await read_all(reader, file) == library.content("noise")
            if is_closed:
                reader.closed(file)
            await until(lambda: not decoders._processes)
            for child in children:
                await until(lambda child=child: child.poll() is not None)


async def test_processes_that_stand_still_hold_nobody_up(library: Library) -> None:
    entry = library.entry("noise")
    numbers = [
        library.archive.index.first_location(span.chunk_id).block_no
        for span in library.archive.iter_spans(entry)
        if span.chunk_id is not None
    ]
    async with reading(library) as (_, decoders, _):
        ring = decoders.take_ring(Window.__new__(Window))
        assert ring is not None
        children = [one.decoder._child.process for one in decoders._processes]
        for child in children:
            child.send_signal(signal.SIGSTOP)
        jobs = [decoders.decode(ring, block_no, [Part(0, 0, 1)]) for block_no in numbers]
        assert any(jobs)
        assert not all(jobs), "more was sent than a pipe holds"
        for child in children:
            child.send_signal(signal.SIGCONT)
        for job in filter(None, jobs):
            await decoders.wait_for(job)
            assert job.is_good
        assert decoders.decode(ring, numbers[0], [Part(0, 0, 1)])


async def test_blocks_that_leave_the_index_meanwhile_cost_no_read(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = library.archive.index
    found = index.block
    calls = 0

    def block(block_no: int) -> BlockInfo:
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            raise ChunkMissing("a block has left the index meanwhile; try again")
        return found(block_no)

    async with reading(library) as (reader, decoders, _):
        for name in ("mixed", "noise"):
            file = OpenFile(1, library.entry(name))
            whole = bytearray()
            with monkeypatch.context() as patch:
                patch.setattr(
                    decoders._archive, "index", SimpleNamespace(block=block, pack=index.pack)
                )
                while data := bytes(await reader.read(file, len(whole), MIB)):
                    whole += data
            assert whole == library.content(name)
            assert file.is_for_threads
        assert calls >= 7


async def test_rings_whose_owners_left_early_are_to_be_had_again(library: Library) -> None:
    async with reading(library) as (reader, decoders, _):
        for number in range(decoders_module.RINGS):
            file = OpenFile(number, library.entry("noise"))
            for offset in range(0, 16 * MIB, MIB):
                await reader.read(file, offset, MIB)
                if file.ring is not None:  # with blocks under way
                    break
            assert file.ring is not None
            reader.closed(file)
        await until(decoders.prepare)


async def test_a_reader_that_paused_gets_a_ring_again(library: Library) -> None:
    content = library.content("noise")
    rings: list[Window] = []
    async with reading(library) as (reader, _, _):
        file = OpenFile(1, library.entry("noise"))
        for offset in range(0, len(content), MIB):
            assert bytes(await reader.read(file, offset, MIB)) == content[offset : offset + MIB]
            if file.ring is not None and file.ring not in rings:
                rings.append(file.ring)
                if len(rings) == 1:
                    file.ring.close()  # as when it was left alone
        assert len(rings) > 1
        assert not file.is_for_threads


# --- the ring by itself, against a model --------------------------------------------------


class SlowDecoders:
    """Does what it is asked for when it is told to, in any order."""

    def __init__(self, room: memoryview, content: bytes) -> None:
        self.room = room
        self.content = content
        self.block_starts: dict[int, int] = {}  # where blocks begin in the file
        self.asked: list[tuple[Job, int, list[Part]]] = []

    def decode(self, ring: Ring, block_no: int, parts: list[Part]) -> Job:
        job = Job()
        self.asked.append((job, block_no, parts))
        return job

    def do(self, place: int) -> None:
        job, block_no, parts = self.asked.pop(place % len(self.asked))
        start = self.block_starts[block_no]
        for part in parts:
            at = start + part.offset
            self.room[part.start : part.start + part.length] = self.content[at : at + part.length]
        job.is_done = job.is_good = True

    async def wait_for(self, job: Job) -> None:
        await trio.lowlevel.checkpoint()
        while not job.is_done:
            await trio.lowlevel.checkpoint()

    def take_ring(self, owner: object) -> Ring:
        return Ring(0, self.room)

    def give_back(self, ring: Ring, jobs: list[Job]) -> None:
        pass


@pytest.mark.parametrize("seed", range(60))
def test_what_is_read_is_never_what_has_been_replaced(seed: int) -> None:
    rng = random.Random(seed)
    ring_len, kept, size = 64, 16, 500
    content = bytes(rng.randrange(1, 256) for _ in range(size))
    holes = bytearray(content)

    async def run(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(window_module, "RING_LEN", ring_len)
        patch.setattr(window_module, "KEPT", kept)
        room = memoryview(bytearray(ring_len))
        decoders = SlowDecoders(room, content)
        fake: Any = decoders
        window = Window(fake, 0)
        position, blocks, answered = 0, 0, 0

        async def read(offset: int, end: int) -> None:
            nonlocal answered
            with window.reading(offset):
                for _ in range(rng.randrange(3)):
                    await trio.lowlevel.checkpoint()
                if not window.holds(offset, end):
                    return
                found = await window.read(offset, end)
                assert found is not None
                assert bytes(found) == holes[offset:end]
                answered += 1

        def extend() -> None:
            nonlocal blocks
            end = min(window.goal + rng.randrange(1, 24), size)
            if end > window.limit(position):
                return
            stretches = []
            at = window.goal
            while at < end:
                length = min(rng.randrange(1, 12), end - at)
                if rng.random() < 0.2:
                    stretches.append(Stretch(HOLE, 0, length))
                    holes[at : at + length] = bytes(length)
                else:
                    blocks += 1
                    offset = rng.randrange(5)
                    decoders.block_starts[blocks] = at - offset
                    stretches.append(Stretch(blocks, offset, length))
                at += length
            assert window.ask(stretches, end)

        async with trio.open_nursery() as nursery:
            while position < size:
                extend()
                if decoders.asked and rng.random() < 0.7:
                    decoders.do(rng.randrange(100))
                if window.goal > position and rng.random() < 0.6:
                    offset = max(position - rng.randrange(6), window.start, 0)
                    end = min(offset + rng.randrange(1, 20), window.goal)
                    nursery.start_soon(read, offset, end)
                    position = max(position, end)
                elif rng.random() < 0.2:  # answered in another way
                    position = min(position + rng.randrange(30), window.goal)
                await trio.lowlevel.checkpoint()
            while decoders.asked:
                decoders.do(0)
        assert answered

    with pytest.MonkeyPatch.context() as patch:
        trio.run(run, patch)


async def test_a_read_under_way_gets_nothing_from_a_ring_that_was_given_back() -> None:
    room = memoryview(bytearray(window_module.RING_LEN))
    decoders = SlowDecoders(room, bytes(100))
    decoders.block_starts[1] = 0
    fake: Any = decoders
    window = Window(fake, 0)
    assert window.ask([Stretch(1, 0, 100)], 100)
    found: list[object] = []

    async def read() -> None:
        found.append(await window.read(0, 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        window.close()
        decoders.do(0)
    assert found == [None]
