"""Chunks on their way in: dedup, bounded work, what is left after a failure."""

from __future__ import annotations

import os
import random
import threading

import pytest
from archive_fixtures import Lab, lab

from coopfs.archive import writer as writer_module
from coopfs.archive.archive import Archive
from coopfs.archive.dry_writer import DryRunWriter
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import ChunkMissing, CoopfsError, StoreFull, StoreUnavailable
from coopfs.store.base import Kind
from coopfs.store.faulty import SimulatedCrash

__all__ = ["lab"]  # a fixture


def writer_for(archive: Archive, kind: type[ArchiveWriter] = ArchiveWriter) -> ArchiveWriter:
    signer = archive.ring.writer()
    assert signer is not None
    return kind(archive, signer)


def leftovers(archive: Archive) -> tuple[int, int]:
    """How many packs and nodes wait in the local state for the next run."""
    count = [
        archive.state.connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608  # names of our own
        for table in ("unindexed_packs", "unsent_nodes")
    ]
    return count[0], count[1]


def test_what_was_saved_is_read_back_after_a_flush_and_not_before(lab: Lab) -> None:
    contents = [
        b"",
        b"x",
        b"y" * 1000,
        os.urandom(100_000),
        os.urandom(3_000_000),
        b"z" * 5_000_000,
    ]
    contents.remove(b"")  # no file has an empty chunk
    with lab.open() as (archive, _), writer_for(archive) as writer:
        ids = [writer.save_chunk(content) for content in contents]
        assert all(writer.has(chunk_id) for chunk_id in ids)
        with pytest.raises(ChunkMissing):
            archive.load_chunk(ids[0])
        writer.flush()
        assert writer.pending_count == writer.unflushed_len == 0
        assert [archive.load_chunk(chunk_id) for chunk_id in ids] == contents
    with lab.second_host().open() as (archive, _):
        assert [archive.load_chunk(chunk_id) for chunk_id in ids] == contents


def test_a_view_is_stored_as_it_was_when_it_was_saved(lab: Lab) -> None:
    data = os.urandom(500_000)
    with lab.open() as (archive, _), writer_for(archive) as writer:
        view = memoryview(data)
        pieces = [(at, view[at : at + 50_000]) for at in range(0, 500_000, 50_000)]
        ids = {at: writer.save_chunk(piece) for at, piece in pieces}
        writer.flush()
        for at, chunk_id in ids.items():
            assert archive.load_chunk(chunk_id) == data[at : at + 50_000]


def test_a_chunk_is_stored_once_whoever_saves_it_and_when(lab: Lab) -> None:
    content = os.urandom(50_000)
    with lab.open() as (archive, store), writer_for(archive) as writer:
        assert writer.save_chunk(content) == writer.save_chunk(memoryview(content))
        assert writer.new_len == 50_000
        writer.flush()
        writer.save_chunk(content)
        store.requests.clear()
        writer.flush()
        assert store.requests["put", Kind.DATA] == store.requests["put", Kind.INDEX] == 0
    with lab.second_host().open() as (archive, _), writer_for(archive) as writer:
        writer.save_chunk(content)
        assert writer.new_len == 0


def test_packs_are_of_a_good_size_and_carry_one_role(lab: Lab) -> None:
    rng = random.Random(1)
    with lab.open() as (archive, _), writer_for(archive) as writer:
        for _number in range(400):
            writer.save_chunk(rng.randbytes(100_000))
            writer.save_tree_node(rng.randbytes(3000))
        writer.flush()
        packs = list(archive.index.packs())
        assert [pack.is_meta for pack in packs].count(True) == 1
        data = sorted(pack.size for pack in packs if not pack.is_meta)
        assert 3 <= len(data) <= 5
        assert all(12 << 20 <= size <= 20 << 20 for size in data[1:])


def test_index_objects_are_split_before_they_grow_too_large(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "INDEX_CHUNKS", 100)
    rng = random.Random(1)
    with lab.open() as (archive, store), writer_for(archive) as writer:
        ids = [writer.save_chunk(rng.randbytes(250_000)) for _ in range(250)]
        store.requests.clear()
        writer.flush()
        assert store.requests["put", Kind.INDEX] >= 3
        assert leftovers(archive) == (0, 0)
    with lab.second_host().open() as (archive, _):
        assert all(archive.index.has(chunk_id) for chunk_id in ids)


def test_the_index_is_put_only_after_every_pack(lab: Lab) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        order: list[Kind] = []
        put, lock = store.put, threading.Lock()

        def putting(kind: Kind, name: bytes, data: object) -> None:
            put(kind, name, data)  # type: ignore[arg-type]
            with lock:
                order.append(kind)

        store.put = putting  # type: ignore[method-assign]
        for _ in range(300):
            writer.save_chunk(os.urandom(100_000))
        writer.save_tree_node(b"node")
        writer.flush()
        assert order.count(Kind.INDEX) == 1
        assert order[-1] is Kind.INDEX
        assert len(order) >= 4


def test_an_error_of_the_store_reaches_the_one_who_saves(lab: Lab) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.fill_after(0)
        with pytest.raises(StoreFull):  # well before the flush: work is bounded
            for _ in range(5000):
                writer.save_chunk(os.urandom(100_000))


def test_what_was_stored_before_a_failure_is_adopted_and_the_rest_is_sent(lab: Lab) -> None:
    rng = random.Random(1)
    contents = [rng.randbytes(100_000) for _ in range(300)]
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.fail("put", Kind.DATA, skip=1, times=5)
        with pytest.raises(StoreUnavailable):
            for content in contents:
                writer.save_chunk(content)
            node = writer.save_tree_node(b"node")
            writer.flush()
        node = writer.save_tree_node(b"node")
        writer.salvage()
        durable = [c for c in contents if writer.is_durable(archive.keys.chunk_id(c))]
        assert 100 < len(durable) < 200
        late = writer.save_tree_node(b"made after the failure")
        assert writer.unsent_node(late) == b"made after the failure"
        writer.keep_unsent()
        assert leftovers(archive) == (1, 2)
    with lab.open() as (archive, store), writer_for(archive) as writer:
        assert leftovers(archive) == (0, 0)
        assert archive.load_chunk(node) == b"node"
        assert archive.load_chunk(late) == b"made after the failure"
        for content in contents:
            writer.save_chunk(content)
        assert writer.new_len == 100_000 * (300 - len(durable)) + 26
        writer.flush()
        assert all(archive.load_chunk(archive.keys.chunk_id(c)) == c for c in contents)


def test_a_crash_before_the_index_leaves_packs_that_are_adopted(lab: Lab) -> None:
    content = os.urandom(100_000)
    with lab.open() as (archive, store), writer_for(archive) as writer:
        chunk_id = writer.save_chunk(content)
        store.crash("put", Kind.INDEX)
        with pytest.raises(SimulatedCrash):
            writer.flush()
        assert leftovers(archive) == (1, 0)
    with lab.open() as (archive, store):
        with writer_for(archive, DryRunWriter):
            assert leftovers(archive) == (1, 0)  # left to the next real run
        with writer_for(archive):
            assert archive.load_chunk(chunk_id) == content
        assert store.requests["put", Kind.DATA] == 0


def test_packs_that_are_not_whole_in_the_store_are_not_adopted(lab: Lab) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        chunk_id = writer.save_chunk(os.urandom(100_000))
        store.crash("put", Kind.INDEX)
        with pytest.raises(SimulatedCrash):
            writer.flush()
        (info,) = store.inner.list(Kind.DATA)
    with lab.open() as (archive, store):
        store.truncate(Kind.DATA, info.name, 100)
        with writer_for(archive):
            assert not archive.index.has(chunk_id)
        assert leftovers(archive) == (0, 0)


def test_a_dry_run_counts_each_chunk_once_and_keeps_nothing(lab: Lab) -> None:
    with lab.open() as (archive, store), writer_for(archive, DryRunWriter) as writer:
        for _ in range(2):
            writer.save_chunk(b"x" * 1000)
            writer.save_tree_node(b"n" * 500)
            writer.save_span_node(b"s" * 50)
            writer.flush()
        assert writer.new_len == 1550
        assert writer.stored_len == writer.pending_count == 0
        assert writer.unsent_node(archive.keys.tree_id(b"n" * 500)) is None
        assert not [key for key in store.requests if key[0] == "put"]


def test_a_very_large_node_is_stored_too(lab: Lab) -> None:
    # A folder's entry may carry 8 MiB of extended attributes.
    node = os.urandom(9 << 20)
    with lab.open() as (archive, _), writer_for(archive) as writer:
        node_id = writer.save_tree_node(node)
        writer.save_tree_node(b"small")
        writer.flush()
        assert archive.load_chunk(node_id) == node


def test_a_packing_process_that_dies_is_an_error_and_the_next_run_goes_on(lab: Lab) -> None:
    contents = [os.urandom(100_000) for _ in range(100)]
    with (
        lab.open() as (archive, _),
        pytest.raises(CoopfsError, match="ended"),
        writer_for(archive) as writer,
    ):
        for content in contents:
            writer.save_chunk(content)
        packer = writer._packer
        assert packer is not None
        packer._child.process.kill()
        writer.flush()
    with lab.open() as (archive, _), writer_for(archive) as writer:
        for content in contents:
            writer.save_chunk(content)
        writer.flush()
        assert archive.load_chunk(archive.keys.chunk_id(contents[99])) == contents[99]
