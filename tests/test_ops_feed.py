"""Blocks ahead: what is announced is there in order, fetched in few requests, in little memory."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from checked import names, opened
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.errors import ChunkCorrupt, ChunkMissing, DataError, StoreUnavailable
from coopfs.format.tree import Entry
from coopfs.ids import ChunkId
from coopfs.ops import feed as feed_module
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


def entry_of(archive: Archive, host: Host, name: str) -> Entry:
    return entry_at(archive, archive.snapshots()[-1], bytes(host.base / "source" / name))


def test_content_comes_back_in_order(archive: Archive, host: Host) -> None:
    with BlockFeed(archive) as feed:
        for name in ("long", "other"):
            pieces = read_content(archive, feed, entry_of(archive, host, name))
            assert b"".join(pieces) == (host.base / "source" / name).read_bytes()
        assert not feed.is_full


def test_neighbouring_blocks_come_with_one_request(
    archive: Archive, host: Host, store: FaultyStore
) -> None:
    entry = entry_of(archive, host, "long")
    spans = list(archive.iter_spans(entry))
    before = store.requests["get", Kind.DATA]
    with BlockFeed(archive) as feed:
        for _ in read_content(archive, feed, entry):
            pass
    # runs of 4 MiB, and one more where each of the packs ends
    blocks = {archive.index.first_location(s.chunk_id).block_no for s in spans if s.chunk_id}
    assert len(blocks) > 30
    assert store.requests["get", Kind.DATA] - before <= LONG_LEN // (4 << 20) + 6


def test_never_more_than_the_window_is_announced(
    archive: Archive, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "WINDOW_LEN", 5 << 20)
    with BlockFeed(archive) as feed:
        most = 0
        for _ in read_content(archive, feed, entry_of(archive, host, "long")):
            most = max(most, feed._held_len)
    assert 4 << 20 < most < 7 << 20  # the last block may reach beyond it


def test_nothing_stays_when_a_reader_stops_early(archive: Archive, host: Host) -> None:
    with BlockFeed(archive) as feed:
        content = read_content(archive, feed, entry_of(archive, host, "long"))
        next(content)
        content.close()  # type: ignore[attr-defined]  # a generator
        assert (feed._held, feed._held_len, feed._pending) == ({}, 0, [])
        assert b"".join(read_content(archive, feed, entry_of(archive, host, "other")))


def test_a_reader_left_behind_by_a_closed_feed_does_no_harm(archive: Archive, host: Host) -> None:
    with BlockFeed(archive) as feed:
        content = read_content(archive, feed, entry_of(archive, host, "long"))
        next(content)
    content.close()  # type: ignore[attr-defined]  # a generator


def test_damage_ends_the_content_where_it_is(
    archive: Archive, host: Host, store: FaultyStore
) -> None:
    whole = (host.base / "source" / "long").read_bytes()
    packs = names(store, Kind.DATA)
    for pack in packs:
        if store.size(Kind.DATA, pack) > 10 << 20:
            store.flip(Kind.DATA, pack, 9 << 20)
    got = b""
    with BlockFeed(archive) as feed, pytest.raises(ChunkCorrupt):
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
    archive: Archive, host: Host, store: FaultyStore
) -> None:
    entry = entry_of(archive, host, "long")
    spans = list(archive.iter_spans(entry))
    assert spans
    store.fail("get", Kind.DATA, times=1000)
    with BlockFeed(archive) as feed, pytest.raises(StoreUnavailable):
        list(read_content(archive, feed, entry))


def test_a_chunk_of_another_length_than_its_span_is_refused(archive: Archive, host: Host) -> None:
    entry = entry_of(archive, host, "other")
    first, *rest = archive.iter_spans(entry)
    wrong = (first._replace(length=first.length + 1), *rest)
    with BlockFeed(archive) as feed, pytest.raises(DataError, match="where the file says"):
        list(read_content(archive, feed, entry._replace(spans=wrong, span_root=None)))


def test_holes_are_zeros() -> None:
    assert b"".join(feed_module._zeros(2_500_000)) == bytes(2_500_000)
