"""Prune frees what nobody needs, keeps what somebody does, and breaks at no point."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, no_race, take, write
from checked import check, put_under_false_id
from clocks import Clocks, clocks
from pruning import (
    DAY_S,
    GRACE_S,
    expect_all_readable,
    forget,
    grow,
    key_of,
    packs_in_store,
    prune,
    take_two,
)

from coopfs.archive import sightings
from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import CoopfsError, DataError, StoreDenied, StoreError, WrongKey
from coopfs.format.keys import Role
from coopfs.format.sealing import HEADER_LEN
from coopfs.ids import ObjectId, PackId
from coopfs.ops import prune as prune_module
from coopfs.ops import prune_index, secure
from coopfs.ops.needs import PruneRefused
from coopfs.ops.progress import NoProgress
from coopfs.ops.prune import PruneRequest, prune_archive
from coopfs.ops.snapshot import _Run
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash

__all__ = ["clocks", "lab", "no_race"]  # fixtures


@pytest.fixture
def taken(lab: Lab, clocks: Clocks) -> Lab:
    """Six snapshots, each with something of its own; old enough to be marked."""
    for number in range(6):
        grow(lab, number)
        lab.take()
    make_old(lab)
    return lab


def make_old(lab: Lab) -> None:
    """Have all index objects be of days ago, as far as this host knows."""
    with lab.open() as (archive, _):
        archive.state.connection.execute("UPDATE index_objects SET time_ns = time_ns - 2e14")


# --- what it does ------------------------------------------------------------------


def test_nothing_to_free_changes_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        before = packs_in_store(archive)
        totals = prune(archive)
        assert (totals.marked_packs, totals.deleted_packs, totals.waiting_packs) == (0, 0, 0)
        assert totals.snapshots == 6
        assert store.requests["put", Kind.INDEX] == store.requests["put", Kind.DATA] == 0
        assert packs_in_store(archive) == before


def test_marks_come_first_and_deletion_after_the_grace(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        before = packs_in_store(archive)
        totals = prune(archive)
        assert totals.marked_packs > 5
        assert packs_in_store(archive) >= before
        assert (totals.deleted_packs, totals.waiting_packs) == (0, totals.marked_packs)
        assert totals.wait_s == GRACE_S
        clocks.pass_(GRACE_S - 1)
        assert prune(archive).deleted_packs == 0
        clocks.pass_(1)
        again = prune(archive)
        assert again.deleted_packs == totals.marked_packs
        assert again.deleted_len == totals.marked_len > 800_000
        left = packs_in_store(archive)
        assert {p.pack_id for p in archive.index.packs()} == left
    assert expect_all_readable(taken) == 1
    assert expect_all_readable(taken.second_host()) == 1
    with taken.open() as (archive, _):
        checked = check(archive, 1.0)
        assert (checked.findings, checked.totals.unneeded_chunks) == ([], 0)


def test_what_is_young_is_left_alone_for_a_day(lab: Lab, clocks: Clocks) -> None:
    for number in range(3):
        grow(lab, number)
        lab.take()
    with lab.open() as (archive, _):
        forget(archive)
        totals = prune(archive)
        assert (totals.marked_packs, totals.young_packs > 2) == (0, True)
    make_old(lab)
    with lab.open() as (archive, _):
        assert prune(archive).marked_packs == totals.young_packs


def test_a_dry_run_says_it_all_and_needs_no_key(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, store):
        forget(archive)
        request = PruneRequest(repack_below=1.0, is_dry_run=True)
        store.requests.clear()
        planned = prune_archive(archive, request, None, NoProgress(), print)
        assert not {kind for operation, kind in store.requests if operation in ("put", "delete")}
        done = prune(archive, max_unused=0.05)
        assert planned.marked_packs == done.marked_packs > 0
        assert planned.marked_len == done.marked_len
        clocks.pass_(GRACE_S)
        planned = prune_archive(archive, request, None, NoProgress(), print)
        assert planned.deleted_packs == done.marked_packs
        assert prune(archive, max_unused=0.05).deleted_len == planned.deleted_len


@pytest.mark.parametrize("unused", [0.0, 2.0, None])
def test_partly_needed_packs_are_moved_as_far_as_asked(
    lab: Lab, clocks: Clocks, unused: float | None
) -> None:
    rng = random.Random(1)
    for number in range(40):
        write(lab.source / f"file{number}", rng.randbytes(100_000))
    lab.take()
    for number in range(0, 40, 2):
        (lab.source / f"file{number}").unlink()
    lab.take()
    with lab.open() as (archive, _):
        forget(archive)
        totals = prune(archive, 0, max_unused=unused)
        size = sum(info.size for info in archive.store.list(Kind.DATA))
        if unused == 0.0:
            assert totals.repacked_packs >= 1
            assert totals.move_len > 1_900_000
            assert totals.copied.plain_len == 2_000_000
            assert size < 2_300_000
        else:
            assert totals.copied.chunks == 0
            assert size > 4_000_000
    assert expect_all_readable(lab) == 1
    lab.expect_archived(lab.take())


def test_pruning_again_and_again_moves_nothing_again(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, _):
        forget(archive, 2)
        prune(archive, 0)
        for _ in range(2):
            clocks.pass_(DAY_S)
            totals = prune(archive, 0)
            assert totals.copied.stored_len == 0
            assert totals.marked_packs == totals.deleted_packs == totals.waiting_packs == 0


def test_packs_in_no_index_go_once_they_were_there_for_long(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, store):
        stray = write_stray(archive)
        assert prune(archive).young_packs == 1
        clocks.pass_(DAY_S)
        assert prune(archive).marked_packs == 1
        clocks.pass_(GRACE_S)
        assert prune(archive).deleted_packs == 1
        assert stray not in packs_in_store(archive)
        assert isinstance(store, FaultyStore)
    assert expect_all_readable(taken) == 6


def write_stray(archive: Archive) -> bytes:
    """Put a pack that no index object names, as an interrupted run does."""
    import hashlib

    data = os.urandom(65_536)
    name = hashlib.sha256(data).digest()
    archive.store.put(Kind.DATA, name, data)
    return name


def test_another_key_prunes_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        writer = archive.ring.writer()
        with pytest.raises(WrongKey, match="pruning needs the admin key"):
            prune_archive(archive, PruneRequest(), writer, NoProgress(), print)
        assert store.requests["put", Kind.INDEX] == 0


# --- the index -----------------------------------------------------------------------


def test_many_index_objects_become_few(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 4)
    bob = taken.second_host()
    with bob.open():
        pass
    with taken.open() as (archive, _):
        before = taken.objects(Kind.INDEX)
        assert len(before) >= 6
        totals = prune(archive)
        assert (totals.index_written, totals.index_deleted) == (1, 0)
        (new,) = taken.objects(Kind.INDEX) - before
        clocks.pass_(GRACE_S)
        assert prune(archive).index_deleted == len(before)
        assert taken.objects(Kind.INDEX) == {new}
        assert prune(archive).index_written == 0
    assert expect_all_readable(taken) == expect_all_readable(bob) == 6
    assert expect_all_readable(taken.second_host("carol")) == 6


def test_marks_stay_for_ever_through_all_rewriting(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 1)
    with taken.open() as (archive, _):
        forget(archive)
        gone = packs_in_store(archive)
        prune(archive, 0)
        gone -= packs_in_store(archive)
        for number in range(10, 13):
            grow(taken, number)
            taken.take()
            archive.refresh()
            prune(archive, 0)
    with taken.second_host().open() as (archive, _):
        assert archive.index.marked() >= gone


def test_a_store_without_the_right_to_delete(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, store):
        forget(archive)
        store.fail("delete", error=StoreDenied("append only"), times=10**6)
        for _ in range(3):
            totals = prune(archive, 0)
            assert totals.deleted_packs == totals.index_deleted == 0
            assert totals.denial == "append only"
        # What is replaced and cannot be deleted is skipped, by new readers too.
        assert check(archive).damages == []
        store.mend()
        assert prune(archive, 0).deleted_packs > 5
        clocks.pass_(DAY_S)
    assert expect_all_readable(taken.second_host()) == 1
    with taken.open() as (archive, _):
        assert check(archive, 1.0).findings == []


def test_check_takes_marked_packs_that_are_gone_for_no_damage(
    taken: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_module, "groups_to_rewrite", lambda objects: [])
    with taken.open() as (archive, _):
        forget(archive)
        assert prune(archive, 0).deleted_packs > 5
        checked = check(archive)
        assert checked.damages == []
        assert archive.index.lost() == {}


# --- several at once -------------------------------------------------------------------


def test_a_writer_that_relies_on_what_is_being_marked_stores_it_anew(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, no_race: None
) -> None:
    # Bob finds Anna's old file and takes it for stored; then Anna lets it go and prunes.
    old = (taken.source / "file5").read_bytes()
    bob = taken.second_host()
    (bob.base / "bobs").mkdir()
    write(bob.base / "bobs" / "mine", old)
    for number in range(6, 9):
        grow(taken, number)
        taken.take()
    make_old(taken)
    secured = _Run._secure

    def meanwhile(run: _Run, root: object) -> float:
        monkeypatch.setattr(_Run, "_secure", secured)
        with taken.open() as (archive, _):
            forget(archive)
            assert prune(archive).marked_packs > 0
        return secured(run, root)  # type: ignore[arg-type]

    monkeypatch.setattr(_Run, "_secure", meanwhile)
    report = bob.take(bob.base / "bobs")
    assert report.facts.counts.new > 200_000
    clocks.pass_(GRACE_S)
    with taken.open() as (archive, _):
        assert prune(archive).deleted_packs > 0
    assert expect_all_readable(taken) == 2


@pytest.mark.parametrize("moment", ["before the look", "after the look", "in the put"])
def test_a_writer_suspended_for_longer_than_the_grace_that_then_commits(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, moment: str, no_race: None
) -> None:
    bob = taken.second_host()
    (bob.base / "bobs").mkdir()
    write(bob.base / "bobs" / "mine", (taken.source / "file5").read_bytes())
    write(bob.base / "bobs" / "own", os.urandom(300_000))
    for number in range(6, 9):
        grow(taken, number)
        taken.take()
    make_old(taken)
    suspended = []

    def suspend() -> None:
        """All of forget, prune, the grace, and prune again, while Bob's process stands still."""
        if suspended:
            return
        suspended.append(1)
        with taken.open() as (archive, _):
            forget(archive)
            clocks.pass_(DAY_S)
            assert prune(archive).marked_packs > 0
            clocks.pass_(GRACE_S)
            assert prune(archive).deleted_packs > 0

    with bob.open() as (archive, store):
        secured, put = _Run._secure, store.put
        if moment == "before the look":

            def securing(run: _Run, root: object) -> float:
                suspend()
                return secured(run, root)  # type: ignore[arg-type]

            monkeypatch.setattr(_Run, "_secure", securing)
        elif moment == "after the look":

            def securing(run: _Run, root: object) -> float:
                read_s = secured(run, root)  # type: ignore[arg-type]
                suspend()
                return read_s

            monkeypatch.setattr(_Run, "_secure", securing)
        else:

            def putting(kind: Kind, name: bytes, data: bytes) -> None:
                if kind is Kind.SNAPSHOTS:
                    suspend()
                put(kind, name, data)

            monkeypatch.setattr(store, "put", putting)
        with pytest.raises(DataError, match="run it again"):
            take(archive, bob.base / "bobs")
        assert suspended
    lab_count = 1 + (moment == "in the put")  # there it was too late to hold it back
    with taken.open() as (archive, _):
        assert len(archive.snapshots()) == lab_count
    # The next run reads what has left the store from its source, and that heals both.
    bob.expect_archived(bob.take(bob.base / "bobs"), bob.base / "bobs")
    assert expect_all_readable(taken) == lab_count + 1


def test_a_prune_host_whose_clock_is_eight_days_ahead(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        marked = prune(archive).marked_packs
        clocks.wall_s += 8 * DAY_S  # set ahead, or read from a broken server
        assert prune(archive).deleted_packs == 0
        clocks.pass_(GRACE_S)
        assert prune(archive).deleted_packs == marked


def test_a_mark_made_by_a_clock_in_the_past_is_no_older_here(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        monkeypatch.setattr(prune_index.time, "time_ns", lambda: 1)
        prune(archive)
    other = Lab(taken.base, "carol")
    other.host.environ.update(taken.host.environ)
    carol = taken.second_host("carol2")
    with taken.open() as (archive, _):
        admin = key_of(archive)
    with carol.open() as (archive, _):
        totals = prune(archive, admin=admin)  # sees the mark for the first time
        assert (totals.deleted_packs, totals.waiting_packs > 5) == (0, True)
        clocks.pass_(GRACE_S)
        assert prune(archive, admin=admin).deleted_packs == totals.waiting_packs


def test_two_prunes_with_different_views(taken: Lab, clocks: Clocks) -> None:
    """One marks what it sees unneeded; the other sees a snapshot that needs it."""
    carol = taken.second_host("carol")
    with taken.open() as (archive, _):
        admin = key_of(archive)
        forget(archive)
    with taken.open() as (annas, _), carol.open() as (carols, _):
        # Carol's view stays behind: it has neither Anna's marks nor what comes after.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(carols, "refresh", lambda: None)
            patch.setattr(carols.objects, "refresh", lambda: None)
            first = prune(annas)
            assert first.marked_packs > 0
            # Another host's snapshot needs what both are about to mark or have marked.
            bob = taken.second_host("bob")
            write(bob.base / "bobs" / "again", (taken.source / "file4").read_bytes())
            bob.take(bob.base / "bobs")
            make_old(carol)
            prune(carols, admin=admin)
        for _ in range(2):
            clocks.pass_(GRACE_S)
            prune(annas)
            prune(carols, admin=admin)
    assert expect_all_readable(taken) == expect_all_readable(carol) == 2


def test_twins_marked_crosswise_survive(lab: Lab, clocks: Clocks) -> None:
    """Two hosts store the same at once; two prunes each keep the other's copy."""
    content = os.urandom(300_000)
    bob = lab.second_host()
    write(lab.source / "file", content)
    (bob.base / "bobs").mkdir()
    write(bob.base / "bobs" / "file", content)
    with bob.open() as (bobs, _), lab.open() as (annas, _):
        take(annas, lab.source)
        take(bobs, bob.base / "bobs")  # has not seen Anna's packs
        annas.refresh()
        data = [p.pack_id for p in annas.index.packs() if not p.is_meta]
        assert len(data) == 2
        prune_index.put_marks(annas, key_of(annas), data[:1])
        prune_index.put_marks(annas, key_of(annas), data[1:])
        prune(annas)
        clocks.pass_(GRACE_S)
        totals = prune(annas)
        assert totals.deleted_packs == 2
        assert totals.copied.chunks > 0
    assert expect_all_readable(lab) == 2


@pytest.mark.parametrize(("days", "with_partials"), [(2.0, True), (0.2, False)])
def test_a_first_full_that_takes_long_while_another_host_prunes(
    taken: Lab,
    clocks: Clocks,
    monkeypatch: pytest.MonkeyPatch,
    no_race: None,
    days: float,
    with_partials: bool,
) -> None:
    """Partial snapshots protect a run longer than the grace; what has none is stored anew."""
    bob = taken.second_host()
    for number in range(10):
        write(bob.base / "bobs" / f"folder{number}" / "file", os.urandom(100_000))
    between = _Run._between_files
    pruned = []

    def slowly(run: _Run) -> None:
        run._last_partial = -1e9  # so many days are more than a few hours
        between(run)
        run._checkpoint()  # as it is after every few hundred MB
        clocks.pass_(days * DAY_S)
        make_old(taken)
        with taken.open() as (archive, _):
            pruned.append(prune(archive))

    monkeypatch.setattr(_Run, "_between_files", slowly)
    with bob.open() as (archive, _):
        folders = sorted((bob.base / "bobs").iterdir())
        report = take(archive, *folders, partial_interval_s=int(with_partials))
    assert report.snapshot is not None
    marked = sum(totals.marked_packs for totals in pruned)
    if with_partials:
        assert clocks.boottime_s > GRACE_S
        assert marked == 0
        assert report.facts.counts.new < 1_100_000
    else:
        assert marked > 10
        assert report.facts.counts.new > 1_900_000
    for _ in range(2):
        clocks.pass_(GRACE_S)
        with taken.open() as (archive, _):
            prune(archive)
    assert expect_all_readable(taken) > 6


# --- who lies ----------------------------------------------------------------------------


def test_a_hacked_host_that_claims_to_have_everything_gets_nothing_deleted(
    taken: Lab, clocks: Clocks
) -> None:
    bob = taken.second_host()
    with bob.open() as (archive, _):
        packs = [p for p in archive.index.packs() if not p.is_meta]
        claimed = [
            c for p in packs for b in archive.index.blocks_of(p.pack_no) for c in b.chunk_ids
        ]
        false = {put_under_false_id(archive, c, b"0" * 1000) for c in claimed}
    # A host to whom Bob's listing came first: his twin is the one that counts.
    carol = taken.second_host("carol")
    with taken.open() as (archive, _):
        admin = key_of(archive)
    with carol.open() as (archive, store):
        archive.state.connection.execute(
            f"UPDATE packs SET pack_no = -pack_no WHERE pack_id IN ({','.join('?' * len(false))})",  # noqa: S608  # question marks
            list(false),
        )
        for table in ("blocks", "pack_listings"):
            archive.state.connection.execute(
                f"UPDATE {table} SET pack_no = -pack_no WHERE -pack_no IN"  # noqa: S608  # ours
                " (SELECT pack_no FROM packs)"
            )
        archive.index.reload()
        warnings: list[str] = []
        prune(archive, 0, admin=admin, warnings=warnings)
        assert any("not what its id says" in warning for warning in warnings)
        assert isinstance(store, FaultyStore)
    assert expect_all_readable(taken) == 6


def test_a_copy_in_the_disk_cache_is_none_in_the_store(lab: Lab, clocks: Clocks) -> None:
    write(lab.source / "file", os.urandom(8000))
    lab.take()
    with lab.open(is_local=False) as (archive, store):
        (pack,) = [pack for pack in archive.index.packs() if not pack.is_meta]
        (block,) = archive.index.blocks_of(pack.pack_no)
        content = archive.load_chunk(block.chunk_ids[0])  # cached now
        signer = archive.ring.writer()
        assert signer is not None
        with ArchiveWriter(archive, signer) as writer:  # as another host has it, that ran beside
            writer._append(writer._data, block.chunk_ids[0], content)
            writer.flush()
        twins = {p.pack_id for p in archive.index.packs() if not p.is_meta}
        assert len(twins) == 2
    make_old(lab)
    with lab.open(is_local=False) as (archive, store):
        store.flip(Kind.DATA, pack.pack_id, block.offset + 3)
        warnings: list[str] = []
        prune(archive, 0, warnings=warnings)
        assert any("is damaged or was altered" in warning for warning in warnings)
        assert archive.index.lost().keys() == {pack.pack_id}
        store.inner.delete(Kind.DATA, pack.pack_id)
    assert expect_all_readable(lab) == 1


def test_marks_by_a_writer_count_for_nothing(taken: Lab, clocks: Clocks) -> None:
    bob = taken.second_host()
    with bob.open() as (archive, _):
        writer = archive.ring.writer()
        assert writer is not None
        names = [pack.pack_id for pack in archive.index.packs()]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive.index, "add_object", lambda *_: None)
            prune_index.put_marks(archive, writer, names)
    with taken.open() as (archive, _):
        assert "only the admin key may do" in archive.warnings[0]
        assert archive.index.marked() == set()
        with pytest.raises(PruneRefused, match="nothing was pruned"):
            prune(archive, 0)


def test_what_a_host_lists_in_anothers_name_keeps_its_own_signature(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 2)
    bob = taken.second_host()
    with bob.open() as (archive, _):
        writer = archive.ring.writer()
        assert writer is not None
        known = sorted(archive.index.known_objects())[0]
        (pack, *_) = archive.read_index_object(known).packs
        forged = replace(pack, directory=replace(pack.directory, signature=bytes(64)))
        monkeypatch.setattr(archive.index, "add_object", lambda *_: None)
        false = prune_index.put_index_object(archive, writer, packs=[forged])
    with taken.open() as (archive, _):
        before = taken.objects(Kind.INDEX)
        assert prune(archive).index_written == 1
        (new,) = taken.objects(Kind.INDEX) - before
        replaced = set(archive.read_index_object(ObjectId(new)).replaces)
        assert replaced == before - {false}
    assert expect_all_readable(taken.second_host("carol")) == 6


# --- what cannot be read -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.SNAPSHOTS, Kind.INDEX])
def test_an_object_that_cannot_be_read_refuses(taken: Lab, kind: Kind) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        admin = key_of(archive)
        name = sorted(
            archive.index.known_objects()
            if kind is Kind.INDEX
            else [ObjectId(s.snapshot_id) for s in archive.snapshots()]
        )[0]
    with taken.second_host().open(refresh=False) as (archive, store):
        store.flip(kind, name, HEADER_LEN + 5)
        with pytest.raises(PruneRefused, match="nothing was pruned"):
            prune(archive, 0, admin=admin)
        assert store.requests["put", Kind.INDEX] == store.requests["delete", Kind.DATA] == 0


def test_a_tree_that_cannot_be_read_refuses_and_names_the_snapshot(taken: Lab) -> None:
    with taken.open() as (archive, store):
        newest = archive.snapshots()[-1]
        forget(archive)
        location = archive.index.locate(newest.facts.root)[0]
        block = archive.index.block(location.block_no)
        store.flip(Kind.DATA, archive.index.pack(block.pack_no).pack_id, block.offset + 3)
        archive.blocks.forget_memory()
        with pytest.raises(
            PruneRefused, match=f"snapshot {newest.snapshot_id.hex()[:8]} .* cannot"
        ) as refused:
            prune(archive, 0)
        assert f'"coopfs forget {newest.snapshot_id.hex()[:8]}"' in str(refused.value)
        assert store.requests["delete", Kind.DATA] == 0


def test_a_withheld_index_object_refuses(taken: Lab) -> None:
    with taken.open() as (archive, _):
        admin = key_of(archive)
        known = archive.index.known_objects()
    for name in known:
        with taken.second_host(f"host-{name.hex()[:6]}").open(refresh=False) as (archive, store):
            store.lose(Kind.INDEX, name)
            hide = store.list

            def listing(kind: Kind, name: bytes = name, hide: object = hide) -> object:
                return (i for i in hide(kind) if i.name != name)  # type: ignore[operator]

            store.list = listing  # type: ignore[method-assign,assignment]
            with pytest.raises(PruneRefused, match="no pack in the index holds it"):
                prune(archive, 0, admin=admin)
            assert store.requests["put", Kind.INDEX] == store.requests["delete", Kind.DATA] == 0


def test_a_withheld_snapshot_refuses(taken: Lab) -> None:
    bob = taken.second_host()
    with taken.open() as (archive, store):
        admin = key_of(archive)
        third = archive.snapshots()[2]
        store.inner.delete(Kind.SNAPSHOTS, third.snapshot_id)
    with bob.open() as (archive, store):
        with pytest.raises(PruneRefused, match="nobody with the admin key let it go"):
            prune(archive, 0, admin=admin)
        assert store.requests["delete", Kind.DATA] == 0


def test_a_newer_version_refuses(taken: Lab) -> None:
    with taken.open() as (archive, store):
        newest = archive.snapshots()[-1]
        data = bytearray(store.inner.get(Kind.SNAPSHOTS, newest.snapshot_id))
        assert data[9] == Role.SNAPSHOT
        admin = key_of(archive)
    with taken.second_host().open(refresh=False) as (archive, store):
        data[8] = 2  # the version, right after the magic
        store.replace(Kind.SNAPSHOTS, newest.snapshot_id, bytes(data))
        with pytest.raises(CoopfsError):
            prune(archive, 0, admin=admin)
        assert store.requests["delete", Kind.DATA] == 0


def test_a_needed_chunk_that_cannot_be_read_keeps_its_pack(lab: Lab, clocks: Clocks) -> None:
    take_two(lab)
    with lab.open() as (archive, store):
        forget(archive)
        (data,) = [pack for pack in archive.index.packs() if not pack.is_meta]
        block = archive.index.blocks_of(data.pack_no)[-1]
        store.flip(Kind.DATA, data.pack_id, block.offset + 100)
        warnings: list[str] = []
        totals = prune(archive, 0, warnings=warnings)
        assert data.pack_id in packs_in_store(archive)
        assert any("cannot be read" in warning for warning in warnings)
        assert data.pack_id not in archive.index.marked()
        assert totals.copied.chunks > 0  # what can be read was moved all the same
        store.mend()
        archive.blocks.forget_memory()
        prune(archive, 0)
        assert data.pack_id not in packs_in_store(archive)
    assert expect_all_readable(lab) == 1


# --- killed at any point -----------------------------------------------------------------


def partly(lab: Lab) -> None:
    """Make an archive of which much is to be moved and deleted."""
    rng = random.Random(1)
    for number in range(12):
        write(lab.source / f"file{number}", rng.randbytes(60_000))
    lab.take()
    for number in range(0, 12, 2):
        (lab.source / f"file{number}").unlink()
        lab.take()


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_killed_at_any_point_nothing_is_lost_and_the_next_goes_on(
    lab: Lab, clocks: Clocks, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 3)
    partly(lab)
    with lab.open() as (archive, _):
        forget(archive)
    for nth in range(1, 60):
        when = "before" if nth % 2 else "after"
        with lab.open() as (archive, store):
            store.crash(operation, nth=nth // 2 + 1, when=when)  # type: ignore[arg-type]
            try:
                prune(archive, 0)
            except (SimulatedCrash, StoreError):
                has_crashed = True
            else:
                has_crashed = store.has_crashed
        assert expect_all_readable(lab) == 1
        if not has_crashed:
            break
    else:
        pytest.fail("it never came to its end")
    assert nth > 2
    with lab.open() as (archive, _):
        prune(archive, 0)
        known = {pack.pack_id for pack in archive.index.packs()}
        clocks.pass_(DAY_S)
        prune(archive, 0)
        assert packs_in_store(archive) == known
        assert check(archive, 1.0).findings == []


def test_a_prune_that_takes_too_long_looks_again_before_it_deletes(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        prune(archive)
        clocks.pass_(GRACE_S)
        looks = []
        update = prune_module.Needs.update

        def slowly(needs: object) -> bool:
            looks.append(1)
            changed = update(needs)  # type: ignore[arg-type]
            if len(looks) < 3:
                clocks.pass_(secure.FRESH_S)
            return changed

        monkeypatch.setattr(prune_module.Needs, "update", slowly)
        assert prune(archive).deleted_packs > 0
        assert len(looks) == 3


def test_deleting_stops_when_what_was_seen_is_old(
    taken: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with taken.open() as (archive, store):
        forget(archive)
        marked = prune(archive).marked_packs
        clocks.pass_(GRACE_S)
        delete = store.delete

        def slowly(kind: Kind, name: bytes) -> None:
            delete(kind, name)
            clocks.pass_(secure.FRESH_S / 2)

        monkeypatch.setattr(store, "delete", slowly)
        totals = prune(archive)
        assert 2 <= totals.deleted_packs < marked
        assert totals.undeleted_packs == marked - totals.deleted_packs
        monkeypatch.setattr(store, "delete", delete)
        assert prune(archive).deleted_packs == totals.undeleted_packs
    assert expect_all_readable(taken) == 1


def test_the_local_state_may_be_lost_at_any_time(taken: Lab, clocks: Clocks) -> None:
    with taken.open() as (archive, _):
        forget(archive)
        marked = prune(archive).marked_packs
    for path in Path(taken.host.dirs.state).rglob("index.db*"):
        path.unlink()
    clocks.pass_(GRACE_S)
    with taken.open() as (archive, _):
        assert prune(archive).deleted_packs == 0  # the grace starts anew
        clocks.pass_(GRACE_S)
        assert prune(archive).deleted_packs == marked
    assert expect_all_readable(taken) == 1


def test_packs_and_clocks_are_of_the_module_that_counts() -> None:
    assert sightings.boottime_s() > 0
    assert PackId(bytes(32)) == bytes(32)
