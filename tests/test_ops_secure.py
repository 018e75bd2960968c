"""Just before a snapshot is put: everything it relies on is in usable packs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, write
from clocks import Clocks, clocks

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, StoreUnavailable
from coopfs.ids import PackId, TreeId
from coopfs.ops import secure
from coopfs.ops.secure import secure_tree
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

__all__ = ["clocks", "lab"]  # fixtures


@pytest.fixture
def root(lab: Lab) -> TreeId:
    write(lab.source / "inline", "x")
    write(lab.source / "a" / "chunk", os.urandom(60_000))
    write(lab.source / "a" / "same", (lab.source / "a" / "chunk").read_bytes())
    write(lab.source / "long", random.Random(1).randbytes(4_000_000))
    for number in range(1500):  # a folder of several nodes
        (lab.source / f"{number}").touch()
    return lab.take().facts.root


def writer_for(archive: Archive) -> ArchiveWriter:
    signer = archive.ring.writer()
    assert signer is not None
    return ArchiveWriter(archive, signer)


def marking(archive: Archive, times: list[list[PackId]]) -> None:
    """Have each further refresh of the index find more packs marked."""
    refresh = archive.refresh_index

    def refreshing() -> None:
        for pack_id in times.pop(0) if times else ():
            archive.index.mark_lost(pack_id, "marked, says a test")
        refresh()

    archive.refresh_index = refreshing  # type: ignore[method-assign]


def packs_of(archive: Archive) -> list[PackId]:
    return [pack.pack_id for pack in archive.index.packs()]


def test_with_nothing_marked_one_listing_of_each_is_all_it_costs(lab: Lab, root: TreeId) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.requests.clear()
        secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)
        assert store.requests == {("list", Kind.SNAPSHOTS): 1, ("list", Kind.INDEX): 1}


def test_what_is_in_marked_packs_is_stored_anew_once(
    lab: Lab, root: TreeId, tmp_path: Path
) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        old = packs_of(archive)
        marking(archive, [old])
        secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)
        assert 4_060_000 < writer.new_len < 4_400_000
        for pack_id in old:
            store.inner.delete(Kind.DATA, pack_id)
        expect_readable(archive, store, root)


def expect_readable(archive: Archive, store: FaultyStore, root: TreeId) -> None:
    """Everything below *root* can be read from usable packs."""
    archive.blocks.forget_memory()
    archive._nodes.clear()
    pending = [root]
    while pending:
        for entry in archive.iter_entries(pending.pop()):
            if entry.tree is not None:
                pending.append(entry.tree)
            for span in archive.iter_spans(entry):
                if span.chunk_id is not None:
                    assert archive.index.has(span.chunk_id)
                    archive.load_chunk(span.chunk_id)


def test_marks_that_come_while_it_stores_anew_are_seen_too(lab: Lab, root: TreeId) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        first = packs_of(archive)
        marking(archive, [first[:1], first[1:]])
        secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)
        for pack_id in first:
            store.inner.delete(Kind.DATA, pack_id)
        expect_readable(archive, store, root)


def test_what_has_left_the_store_already_is_an_error_that_says_to_run_again(
    lab: Lab, root: TreeId
) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        old = packs_of(archive)
        marking(archive, [old])
        for pack_id in old:
            store.lose(Kind.DATA, pack_id)
        archive.blocks.forget_memory()
        with pytest.raises(DataError, match="run it again"):
            secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)


def test_a_store_that_is_away_is_an_error(lab: Lab, root: TreeId) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.go_away()
        with pytest.raises(StoreUnavailable):
            secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)


def test_a_machine_that_slept_meanwhile_looks_again(
    lab: Lab, root: TreeId, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        refresh = archive.refresh_index

        def sleeping() -> None:
            refresh()
            if store.requests["list", Kind.INDEX] == 1:
                clocks.pass_(secure.FRESH_S)

        monkeypatch.setattr(archive, "refresh_index", sleeping)
        store.requests.clear()
        read_s = secure_tree(archive, writer, root, archive.index.generation, archive.index_read_s)
        assert store.requests["list", Kind.INDEX] == 2
        assert read_s == clocks.boottime_s


def test_a_long_run_lists_the_packs_and_stores_anew_what_is_gone(
    lab: Lab, root: TreeId, clocks: Clocks
) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        meta = [pack.pack_id for pack in archive.index.packs() if pack.is_meta]
        archive.load_chunk(root)
        for pack_id in meta:
            store.inner.delete(Kind.DATA, pack_id)
        # Short runs do not pay for a listing: what they rely on was there when they began.
        begun_s = archive.index_read_s
        secure_tree(archive, writer, root, archive.index.generation, begun_s)
        assert store.requests["list", Kind.DATA] == 0
        clocks.pass_(secure.FRESH_S)
        generation = archive.index.generation
        secure_tree(archive, writer, root, generation, begun_s)  # its nodes are in memory
        assert store.requests["list", Kind.DATA] == 2
        assert set(archive.index.lost()) == set(meta)
        expect_readable(archive, store, root)
        for pack in archive.index.packs():
            if pack.is_meta and pack.pack_id not in meta:
                store.inner.delete(Kind.DATA, pack.pack_id)
        archive.blocks.forget_memory()
        with pytest.raises(DataError, match="run it again"):
            secure_tree(archive, writer, root, generation, begun_s)
