"""Just before a snapshot is put: everything it relies on is in usable packs."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive_fixtures import Lab, lab, write

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, StoreUnavailable
from coopfs.ids import PackId, TreeId
from coopfs.ops import secure
from coopfs.ops.secure import secure_tree
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

__all__ = ["lab"]  # a fixture


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


def test_with_nothing_marked_one_listing_is_all_it_costs(lab: Lab, root: TreeId) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.requests.clear()
        secure_tree(archive, writer, root, archive.index.generation)
        assert store.requests == {("list", Kind.INDEX): 1}


def test_what_is_in_marked_packs_is_stored_anew_once(
    lab: Lab, root: TreeId, tmp_path: Path
) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        old = packs_of(archive)
        marking(archive, [old])
        secure_tree(archive, writer, root, archive.index.generation)
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
        secure_tree(archive, writer, root, archive.index.generation)
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
            secure_tree(archive, writer, root, archive.index.generation)


def test_a_store_that_is_away_is_an_error(lab: Lab, root: TreeId) -> None:
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.go_away()
        with pytest.raises(StoreUnavailable):
            secure_tree(archive, writer, root, archive.index.generation)


def test_a_machine_that_slept_meanwhile_looks_again(
    lab: Lab, root: TreeId, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((0.0, secure.FRESH_S + 1, secure.FRESH_S + 2, secure.FRESH_S + 3))
    fake = SimpleNamespace(clock_gettime=lambda _: next(clock), CLOCK_BOOTTIME=time.CLOCK_BOOTTIME)
    with lab.open() as (archive, store), writer_for(archive) as writer:
        store.requests.clear()
        monkeypatch.setattr(secure, "time", fake)
        secure_tree(archive, writer, root, archive.index.generation)
        assert store.requests["list", Kind.INDEX] == 2
