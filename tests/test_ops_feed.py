"""Blocks ahead: what is announced is there in order, fetched in few requests, in little memory."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from checked import names, opened
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.child import SharedMemory
from coopfs.archive.decoder_process import DecoderProcess, InMemory, InPack, Part
from coopfs.archive.index_rows import BlockInfo, block_facts
from coopfs.archive.select import entry_at
from coopfs.errors import ChunkCorrupt, ChunkMissing, DataError, StoreUnavailable
from coopfs.format.tree import Entry
from coopfs.ids import ChunkId
from coopfs.ops import feed as feed_module
from coopfs.ops import slots as slots_module
from coopfs.ops.feed import BlockFeed, read_content
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

LONG_LEN = 40_000_000  # bytes: more than a window


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    base = tmp_path_factory.mktemp("feed")
    (base / "source").mkdir()
    (base / "source" / "long").write_bytes(random.Random(1).randbytes(LONG_LEN))
    (base / "source" / "other").write_bytes(random.Random(2).randbytes(3_000_000))
    numbers = random.Random(3)
    (base / "source" / "text").write_bytes(
        b"".join(b"%d\n" % numbers.randrange(1000) for _ in range(800_000))
    )
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def archive(host: Host) -> Iterator[Archive]:
    with opened(host) as (archive, _):
        archive.refresh()
        yield archive


@pytest.fixture
def store(archive: Archive) -> FaultyStore:
    assert isinstance(archive.store, FaultyStore)
    return archive.store


@pytest.fixture(params=["threads", "process"])
def feed(archive: Archive, request: pytest.FixtureRequest) -> Iterator[BlockFeed]:
    """A feed whose blocks are decoded here, and one that has a process for it."""
    expected_len = feed_module.PROCESS_LEN if request.param == "process" else 0
    with BlockFeed(archive, expected_len=expected_len) as feed:
        wait_until_ready(feed)
        yield feed


def wait_until_ready(feed: BlockFeed) -> None:
    if feed._slots is not None:
        wait_for_start(process_of(feed))


def wait_for_start(process: DecoderProcess) -> None:
    deadline = time.monotonic() + 60
    while not process.is_ready:
        assert time.monotonic() < deadline


@contextmanager
def decoding(archive: Archive, room: int) -> Iterator[tuple[DecoderProcess, memoryview]]:
    """A process that decodes, which may be starting yet, and *room* bytes shared with it."""
    with SharedMemory(room) as memory:
        process = DecoderProcess(archive.keys, memory)
    try:
        yield process, memory.view
    finally:
        process.close()


def process_of(feed: BlockFeed) -> DecoderProcess:
    assert feed._slots is not None
    assert feed._slots._process is not None
    return feed._slots._process


def joined(pieces: Iterable[memoryview | bytes]) -> bytes:
    """Copy each piece when it comes: it is valid until the next."""
    return b"".join(bytes(piece) for piece in pieces)


def entry_of(archive: Archive, host: Host, name: str) -> Entry:
    return entry_at(archive, archive.snapshots()[-1], bytes(host.base / "source" / name))


def test_content_comes_back_in_order(archive: Archive, host: Host, feed: BlockFeed) -> None:
    for name in ("long", "other", "long"):
        pieces = read_content(archive, feed, entry_of(archive, host, name))
        assert joined(pieces) == (host.base / "source" / name).read_bytes()
    assert not feed.is_full


def test_neighbouring_blocks_come_with_one_request(
    archive: Archive, host: Host, store: FaultyStore, feed: BlockFeed
) -> None:
    entry = entry_of(archive, host, "long")
    spans = list(archive.iter_spans(entry))
    before = store.requests["get", Kind.DATA]
    for _ in read_content(archive, feed, entry):
        pass
    # runs of 4 MiB, and one more where each of the packs ends
    blocks = {archive.index.first_location(s.chunk_id).block_no for s in spans if s.chunk_id}
    assert len(blocks) > 30
    assert store.requests["get", Kind.DATA] - before <= LONG_LEN // (4 << 20) + 6


def test_never_more_than_the_window_is_announced(
    archive: Archive, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "WINDOW_LEN_LOCAL", 5 << 20)
    with BlockFeed(archive) as feed:
        most = 0
        for _ in read_content(archive, feed, entry_of(archive, host, "long")):
            most = max(most, feed._held_len)
    assert 4 << 20 < most < 7 << 20  # the last block may reach beyond it


def test_nothing_stays_when_a_reader_stops_early(
    archive: Archive, host: Host, feed: BlockFeed
) -> None:
    for _ in range(4):
        content = read_content(archive, feed, entry_of(archive, host, "long"))
        next(content)
        content.close()  # type: ignore[attr-defined]  # a generator
        assert (feed._held, feed._held_len, feed._pending) == ({}, 0, [])
    whole = (host.base / "source" / "other").read_bytes()
    assert joined(read_content(archive, feed, entry_of(archive, host, "other"))) == whole
    whole = (host.base / "source" / "long").read_bytes()
    assert joined(read_content(archive, feed, entry_of(archive, host, "long"))) == whole


def test_a_reader_left_behind_by_a_closed_feed_does_no_harm(archive: Archive, host: Host) -> None:
    with BlockFeed(archive) as feed:
        content = read_content(archive, feed, entry_of(archive, host, "long"))
        next(content)
    content.close()  # type: ignore[attr-defined]  # a generator


def test_damage_ends_the_content_where_it_is(
    archive: Archive, host: Host, store: FaultyStore, feed: BlockFeed
) -> None:
    whole = (host.base / "source" / "long").read_bytes()
    packs = names(store, Kind.DATA)
    for pack in packs:
        if store.size(Kind.DATA, pack) > 10 << 20:
            store.flip(Kind.DATA, pack, 9 << 20)
    got = b""
    with pytest.raises(ChunkCorrupt):
        for piece in read_content(archive, feed, entry_of(archive, host, "long")):
            got += piece
    assert whole.startswith(got)
    assert 6 << 20 < len(got) < len(whole)


def test_an_unknown_chunk_fails_when_it_is_taken(archive: Archive) -> None:
    chunk_id = ChunkId(b"\1" * 32)
    with BlockFeed(archive) as feed:
        location = feed.announce(chunk_id)
        assert location is None
        with pytest.raises(ChunkMissing):
            feed.take(chunk_id, location)


def test_a_partner_who_is_away_is_not_taken_for_damage(
    archive: Archive, host: Host, store: FaultyStore, feed: BlockFeed
) -> None:
    entry = entry_of(archive, host, "long")
    spans = list(archive.iter_spans(entry))
    assert spans
    store.fail("get", Kind.DATA, times=1000)
    with pytest.raises(StoreUnavailable):
        list(read_content(archive, feed, entry))


def test_a_chunk_of_another_length_than_its_span_is_refused(archive: Archive, host: Host) -> None:
    entry = entry_of(archive, host, "other")
    first, *rest = archive.iter_spans(entry)
    wrong = (first._replace(length=first.length + 1), *rest)
    with BlockFeed(archive) as feed, pytest.raises(DataError, match="where the file says"):
        list(read_content(archive, feed, entry._replace(spans=wrong, span_root=None)))


def test_holes_are_zeros() -> None:
    assert b"".join(feed_module._zeros(2_500_000)) == bytes(2_500_000)


# --- a process of its own -----------------------------------------------------------


def test_what_expects_much_is_decoded_by_the_process(archive: Archive, host: Host) -> None:
    with BlockFeed(archive, expected_len=feed_module.PROCESS_LEN) as feed:
        wait_until_ready(feed)
        for _ in read_content(archive, feed, entry_of(archive, host, "long")):
            pass
        process = process_of(feed)._child.process
    assert not any(info.plain_len > 500_000 for info in in_memory(archive))
    assert process.returncode is not None  # it is gone with the feed


def in_memory(archive: Archive) -> list[BlockInfo]:
    return [archive.index.block(block_no) for block_no in archive.blocks._memory]


def test_until_the_process_has_started_blocks_are_decoded_here(
    archive: Archive, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DecoderProcess, "is_ready", False)
    with BlockFeed(archive, expected_len=feed_module.PROCESS_LEN) as feed:
        whole = (host.base / "source" / "other").read_bytes()
        assert joined(read_content(archive, feed, entry_of(archive, host, "other"))) == whole


def test_a_process_that_dies_is_done_without(archive: Archive, host: Host) -> None:
    with BlockFeed(archive, expected_len=feed_module.PROCESS_LEN) as feed:
        wait_until_ready(feed)
        got = []
        for piece in read_content(archive, feed, entry_of(archive, host, "long")):
            got.append(bytes(piece))
            if len(got) == 100:
                process_of(feed)._child.process.kill()
        assert b"".join(got) == (host.base / "source" / "long").read_bytes()


def test_a_process_that_cannot_be_started_is_done_without(
    archive: Archive, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> int:
        raise OSError(23, "Too many open files in system")

    monkeypatch.setattr(os, "memfd_create", fail)
    with BlockFeed(archive, expected_len=feed_module.PROCESS_LEN) as feed:
        whole = (host.base / "source" / "other").read_bytes()
        assert joined(read_content(archive, feed, entry_of(archive, host, "other"))) == whole


def test_slots_are_given_back_and_the_latest_blocks_stay_in_them(
    archive: Archive, host: Host, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots_module, "SLOTS_LEN", 8 << 20)
    monkeypatch.setattr(feed_module, "WINDOW_LEN_LOCAL", 3 << 20)
    with BlockFeed(archive, expected_len=feed_module.PROCESS_LEN) as feed:
        wait_until_ready(feed)
        for name in ("long", "other"):
            for _ in read_content(archive, feed, entry_of(archive, host, name)):
                pass
        before = store.requests["get", Kind.DATA]
        whole = (host.base / "source" / "other").read_bytes()
        assert joined(read_content(archive, feed, entry_of(archive, host, "other"))) == whole
        assert store.requests["get", Kind.DATA] == before
        assert feed._slots is not None
        assert not feed._slots._unsent
        inlets = slots_module.INLETS_LEN // feed._slots._block_max
        assert len(feed._slots._free_inlets) == inlets
        assert set(feed._slots._used) == {held.slot for held in feed._slots._idle.values()}


def test_no_content_passes_that_is_not_what_its_id_says(
    archive: Archive, host: Host, tmp_path: Path
) -> None:
    entry = entry_of(archive, host, "other")
    span = next(iter(archive.iter_spans(entry)))
    assert span.chunk_id is not None
    info = archive.index.block(archive.index.first_location(span.chunk_id).block_no)
    lie = replace(info, chunk_ids=(ChunkId(b"\1" * 32), *info.chunk_ids[1:]))
    _, pack, sealed = next(archive.blocks.fetch_sealed([info.block_no]))
    length, room = len(sealed), 4 << 20
    whole, hurt = InMemory(0, length), InMemory(room, length)
    (tmp_path / "pack").write_bytes(bytes(7) + sealed)
    in_pack = InPack(bytes(tmp_path / "pack"), 7, length)
    truncated = InPack(bytes(tmp_path / "pack"), 8, length)
    absent = InPack(bytes(tmp_path / "absent"), 7, length)
    os.mkfifo(tmp_path / "fifo")
    fifo = InPack(bytes(tmp_path / "fifo"), 7, length)
    odd = InPack(bytes(tmp_path) + b"/p\xfcck", 7, length)
    os.link(in_pack.path, odd.path)
    with decoding(archive, 4 * room) as (process, shared):
        shared[:length] = sealed
        shared[room : room + length] = sealed
        shared[room + length - 1] ^= 1
        asked = [(whole, info), (whole, lie), (hurt, info), (in_pack, info), (in_pack, lie)]
        for job, (source, block) in enumerate(
            [*asked, (truncated, info), (absent, info), (fifo, info), (odd, info)]
        ):
            process.send(job, source, block_facts(block, pack), [Part(0, 2 * room, info.plain_len)])
        process.send(
            9, in_pack, block_facts(info, pack), [Part(9, 3 * room, 5), Part(1, 3 * room + 5, 2)]
        )
        wait_for_start(process)
        answers = [process.receive() for _ in range(10)]
    good, bad = frozenset[int](), frozenset({0})
    found = [good, bad, None, good, bad, None, None, None, good, good]
    assert answers == list(enumerate(found))
    plain = archive.blocks.load(info.block_no).data
    assert shared[3 * room : 3 * room + 7] == plain[9:14] + plain[1:3]


@pytest.mark.parametrize("name", ["other", "text"])
def test_of_a_block_only_the_chunks_that_are_wanted_are_verified(
    archive: Archive, host: Host, name: str
) -> None:
    entry = entry_of(archive, host, name)
    span = next(iter(archive.iter_spans(entry)))
    assert span.chunk_id is not None
    info = archive.index.block(archive.index.first_location(span.chunk_id).block_no)
    _, pack, sealed = next(archive.blocks.fetch_sealed([info.block_no]))
    plain = archive.blocks.load(info.block_no).data
    count, bounds = len(info.chunk_ids), info.chunk_offsets
    assert count > 8  # a few of them are less than half of it
    wrong = [ChunkId(bytes(32)) if place in (1, 4) else i for place, i in enumerate(info.chunk_ids)]
    facts = block_facts(replace(info, chunk_ids=tuple(wrong)), pack)
    target, length = 8 << 20, len(sealed)
    wanted = [  # where a part begins and ends; the bad chunks that it meets
        (bounds[2], bounds[4], set()),
        (bounds[2], bounds[4] + 1, {4}),
        (bounds[2] - 1, bounds[4], {1}),
        (bounds[1] + 5, bounds[1] + 6, {1}),
        (0, 1, set()),
        (bounds[-1] - 1, bounds[-1], set()),
        (0, bounds[-1], {1, 4}),
        (bounds[2], bounds[3], {1, 4}),  # it was decoded just now: what was found is known
    ]
    with decoding(archive, 16 << 20) as (process, shared):
        shared[:length] = sealed
        wait_for_start(process)
        for job, (start, end, bad) in enumerate(wanted):
            process.send(job, InMemory(0, length), facts, [Part(start, target, end - start)])
            decoded = process.receive()
            assert decoded is not None
            if job < 7 or info.codec:
                assert decoded.bad == {bounds[place] for place in bad}
            assert shared[target : target + end - start] == plain[start:end]
