"""Blocks on their way out: shared fetches, coalesced requests, nothing unverified."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from archive_fixtures import Lab, opened

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import ChunkCorrupt, ChunkMissing, DataError, ObjectNotFound, StoreUnavailable
from coopfs.format.body import seal_body
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role
from coopfs.format.pack import BlockDraft, build_pack
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

CHUNK_LEN = 100_000
DEADLINE_S = 30


def chunks(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(CHUNK_LEN) for _ in range(count)]


def save(archive: Archive, contents: list[bytes]) -> list[bytes]:
    """Store chunks; return their ids."""
    signer = archive.ring.writer()
    assert signer is not None
    with ArchiveWriter(archive, signer) as writer:
        ids: list[bytes] = [writer.save_chunk(content) for content in contents]
        writer.flush()
    return ids


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, list[bytes], list[bytes]]:
    """An archive with five blocks in one pack; the chunks and their ids."""
    lab = Lab(tmp_path_factory.mktemp("blocks")).init()
    contents = chunks(50)
    with lab.open() as (archive, _):
        return lab, contents, save(archive, contents)


Opened = tuple[Archive, FaultyStore]


@pytest.fixture
def remote(stocked: tuple[Lab, list[bytes], list[bytes]], tmp_path: Path) -> Iterator[Opened]:
    """The archive on a store that is not local, with nothing cached."""
    lab = stocked[0]
    with opened(lab.host, is_local=False) as (archive, store):
        from coopfs.archive.blocks import BlockReader
        from coopfs.archive.cache import BlockCache

        cache = BlockCache(tmp_path / "cache")
        archive.blocks = BlockReader(archive.index, archive.keys, store, cache)
        store.requests.clear()
        yield archive, store


@pytest.fixture
def contents(stocked: tuple[Lab, list[bytes], list[bytes]]) -> list[bytes]:
    return stocked[1]


@pytest.fixture
def ids(stocked: tuple[Lab, list[bytes], list[bytes]]) -> list[bytes]:
    return stocked[2]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.001)


def gets(store: FaultyStore) -> int:
    return store.requests["get", Kind.DATA]


def block_nos(archive: Archive) -> list[int]:
    (pack,) = archive.index.packs()
    return [block.block_no for block in archive.index.blocks_of(pack.pack_no)]


def test_a_block_is_fetched_once_for_all_its_chunks(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    assert [archive.load_chunk(i) for i in ids] == contents
    assert gets(store) == len(block_nos(archive)) == 5


def test_readers_of_a_block_at_once_share_one_fetch(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    store.gate = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(archive.load_chunk, ids[n % 5]) for n in range(16)]
        wait_for(lambda: gets(store) == 1)
        store.gate.set()
        assert [job.result() for job in jobs] == [contents[n % 5] for n in range(16)]
    assert gets(store) == 1


def test_a_failed_fetch_fails_for_all_who_wait_and_is_tried_again_later(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    store.gate = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(archive.load_chunk, ids[0]) for _ in range(4)]
        wait_for(lambda: gets(store) == 1)
        store.go_away()
        store.gate.set()
        assert all(isinstance(job.exception(), StoreUnavailable) for job in jobs)
    store.come_back()
    assert archive.load_chunk(ids[0]) == contents[0]


def test_neighbours_come_with_one_request_in_any_mixture_of_known_and_new(
    remote: Opened, contents: list[bytes]
) -> None:
    archive, store = remote
    numbers = block_nos(archive)
    blocks = archive.blocks.load_run(numbers)
    assert gets(store) == 1
    assert b"".join(block.data for block in blocks) == b"".join(contents)
    archive.blocks.forget_memory()
    # From the disk cache, with no request; twice the same is fine.
    again = archive.blocks.load_run([numbers[3], numbers[0], numbers[3]])
    assert [b.data for b in again] == [blocks[n].data for n in (3, 0, 3)]
    assert gets(store) == 1


def test_less_can_be_kept_from_some_moment_on(remote: Opened, contents: list[bytes]) -> None:
    archive, _ = remote
    numbers = block_nos(archive)
    archive.blocks.load_run(numbers)
    assert archive.blocks.peek(numbers[0]) is not None
    archive.blocks.forget_memory(1)
    archive.blocks.load_run(numbers)
    assert [n for n in numbers if archive.blocks.peek(n) is not None] == [numbers[-1]]


def test_a_run_is_limited_in_size(
    remote: Opened, contents: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, store = remote
    monkeypatch.setattr("coopfs.archive.blocks.RUN_LEN_MAX", 2_500_000)
    blocks = archive.blocks.load_run(block_nos(archive))
    assert b"".join(block.data for block in blocks) == b"".join(contents)
    assert gets(store) == 3  # of two, two and one


def test_one_damaged_block_of_a_run_hurts_nobody_who_waits_for_another(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    numbers = block_nos(archive)
    (pack,) = archive.index.packs()
    store.flip(Kind.DATA, pack.pack_id, archive.index.block(numbers[1]).offset + 5)
    store.gate = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        run = pool.submit(archive.blocks.load_run, numbers)
        wait_for(lambda: gets(store) == 1)
        started = threading.Barrier(5)

        def read(chunk_id: bytes) -> bytes:
            started.wait()
            return archive.load_chunk(chunk_id)

        places = [archive.index.locate(i)[0].block_no for i in ids]
        chosen = [places.index(number) for number in numbers]
        jobs = [pool.submit(read, ids[place]) for place in chosen]
        store.gate.set()
        assert isinstance(run.exception(), DataError)
        for number, place, job in zip(numbers, chosen, jobs, strict=True):
            if number == numbers[1]:
                assert isinstance(job.exception(), ChunkCorrupt)
            else:
                assert job.result() == contents[place]


def test_of_a_truncated_pack_everything_before_the_end_is_read(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    numbers = block_nos(archive)
    (pack,) = archive.index.packs()
    store.truncate(Kind.DATA, pack.pack_id, archive.index.block(numbers[3]).offset + 10)
    with pytest.raises(DataError):
        archive.blocks.load_run(numbers)
    for chunk_id, content in zip(ids, contents, strict=True):
        if archive.index.locate(chunk_id)[0].block_no in numbers[:3]:
            assert archive.load_chunk(chunk_id) == content
        else:
            with pytest.raises(ChunkCorrupt, match="check --read-data"):
                archive.load_chunk(chunk_id)


def test_a_pack_that_is_gone_is_an_error_that_says_so(remote: Opened, ids: list[bytes]) -> None:
    archive, store = remote
    (pack,) = archive.index.packs()
    store.lose(Kind.DATA, pack.pack_id)
    with pytest.raises(ObjectNotFound):
        archive.blocks.load_run(block_nos(archive))
    with pytest.raises(ChunkCorrupt, match="check"):
        archive.load_chunk(ids[0])
    store.mend()
    assert len(archive.load_chunk(ids[0])) == CHUNK_LEN


@pytest.mark.parametrize("where", ["start", "middle", "tag"])
def test_a_flipped_bit_never_gets_out(remote: Opened, ids: list[bytes], where: str) -> None:
    archive, store = remote
    (pack,) = archive.index.packs()
    info = archive.index.block(archive.index.locate(ids[0])[0].block_no)
    offset = {"start": 0, "middle": info.sealed_len // 2, "tag": info.sealed_len - 1}[where]
    store.flip(Kind.DATA, pack.pack_id, info.offset + offset)
    with pytest.raises(ChunkCorrupt):
        archive.load_chunk(ids[0])


def test_blocks_exchanged_within_a_pack_do_not_open(remote: Opened, ids: list[bytes]) -> None:
    archive, store = remote
    (pack,) = archive.index.packs()
    one, two = (archive.index.block(n) for n in block_nos(archive)[:2])
    data = bytearray(store.inner.get(Kind.DATA, pack.pack_id))
    length = min(one.sealed_len, two.sealed_len)
    first = bytes(data[one.offset : one.offset + length])
    data[one.offset : one.offset + length] = data[two.offset : two.offset + length]
    data[two.offset : two.offset + length] = first
    store.replace(Kind.DATA, pack.pack_id, bytes(data))
    with pytest.raises(ChunkCorrupt):
        archive.load_chunk(ids[0])


def test_memory_is_bounded_and_what_was_used_last_stays(
    stocked: tuple[Lab, list[bytes], list[bytes]], ids: list[bytes]
) -> None:
    with opened(stocked[0].host, memory_len=2_500_000) as (archive, store):
        store.requests.clear()
        numbers = block_nos(archive)
        for number in (*numbers[:2], numbers[0], numbers[2]):
            archive.blocks.load(number)
        assert gets(store) == 3
        assert archive.blocks.peek(numbers[0]) is not None
        assert archive.blocks.peek(numbers[1]) is None
        assert sum(archive.blocks.peek(n) is not None for n in numbers) == 2


# --- the disk cache ------------------------------------------------------------------


def test_what_was_read_once_needs_no_partner_again(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    for chunk_id in ids:
        archive.load_chunk(chunk_id)
    archive.blocks.forget_memory()
    store.go_away()
    assert all(archive.blocks.is_cached(number) for number in block_nos(archive))
    assert [archive.load_chunk(i) for i in ids] == contents


def test_without_the_partner_only_what_is_not_cached_fails(
    remote: Opened, contents: list[bytes], ids: list[bytes]
) -> None:
    archive, store = remote
    archive.load_chunk(ids[0])
    store.go_away()
    assert archive.load_chunk(ids[0]) == contents[0]
    assert not archive.blocks.is_cached(block_nos(archive)[4])
    with pytest.raises(StoreUnavailable):
        archive.load_chunk(ids[49])


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_cache_file_is_fetched_again_and_mended(
    remote: Opened, contents: list[bytes], ids: list[bytes], tmp_path: Path, damage: str
) -> None:
    archive, store = remote
    archive.blocks.load_run(block_nos(archive))
    for path in (tmp_path / "cache").rglob("*-*"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"flip": bytes(data), "truncate": bytes(data[:99]), "empty": b""}[damage])
    archive.blocks.forget_memory()
    store.requests.clear()
    assert [archive.load_chunk(i) for i in ids] == contents
    assert gets(store) == 5
    archive.blocks.forget_memory()
    store.go_away()
    assert [archive.load_chunk(i) for i in ids] == contents


def test_a_local_store_needs_no_cache(
    stocked: tuple[Lab, list[bytes], list[bytes]], ids: list[bytes]
) -> None:
    lab = stocked[0]
    with lab.open() as (archive, _):
        archive.load_chunk(ids[0])
        assert archive.blocks.is_cached(block_nos(archive)[4])
    assert not [p for p in lab.host.dirs.cache.rglob("*") if p.is_file()]


# --- a writer that lies -----------------------------------------------------------------


def put_pack(archive: Archive, drafts: list[BlockDraft]) -> IndexedPack:
    signer = archive.ring.writer()
    assert signer is not None
    built = build_pack(archive.keys, signer, Role.DATA, drafts, os.urandom(32))
    archive.store.put(Kind.DATA, built.pack_id, built.data)
    indexed = IndexedPack(built.pack_id, len(built.data), built.header, built.directory)
    content = IndexObject((indexed,), (), (), signer.writer_id, 0)
    sealed = seal_body(
        archive.keys, signer, Role.INDEX, archive.config.archive_id, encode_index(content),
        os.urandom(32),
    )  # fmt: skip
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)
    archive.refresh_index()
    return indexed


def test_a_chunk_stored_under_anothers_id_is_never_returned(tmp_path: Path) -> None:
    lab = Lab(tmp_path).init()
    with lab.open() as (archive, _):
        true, false, honest = b"true content", b"fals content", b"beside it"
        chunk_id = archive.keys.chunk_id(true)
        honest_id = archive.keys.chunk_id(honest)
        chunks = ((bytes(chunk_id), len(false)), (bytes(honest_id), len(honest)))
        put_pack(archive, [BlockDraft(0, false + honest, len(false + honest), chunks)])
        with pytest.raises(ChunkCorrupt, match="stored other content"):
            archive.load_chunk(chunk_id)
        assert archive.load_chunk(honest_id) == honest
        # Another location, wherever it comes in the order, is used instead.
        put_pack(archive, [BlockDraft(0, true, len(true), ((bytes(chunk_id), len(true)),))])
        assert len(archive.index.locate(chunk_id)) == 2
        assert archive.load_chunk(chunk_id) == true
        archive.blocks.forget_memory()
        assert archive.load_chunk(chunk_id) == true


def test_content_that_looks_like_a_tree_is_not_one(tmp_path: Path) -> None:
    lab = Lab(tmp_path).init()
    with lab.open() as (archive, _):
        node = b"\x82\x00\x00\x01\x90"  # an empty tree node
        (chunk_id,) = save(archive, [node])
        with pytest.raises(DataError, match="stored as something else"):
            archive.load_tree_node(chunk_id)  # type: ignore[arg-type]
        with pytest.raises(ChunkMissing):
            archive.load_tree_node(archive.keys.tree_id(node))
