"""Runs that do not come to their end, packs that cannot be relied on: what the next run does."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive_fixtures import (
    ROOT_ONLY,
    Lab,
    archived_picture,
    entry_below,
    lab,
    no_race,
    real_picture,
    take,
    write,
)

from coopfs.archive.archive import Archive
from coopfs.errors import DataError, Interrupted, StoreError, StoreFull, StoreUnavailable
from coopfs.format.body import seal_body
from coopfs.format.index import IndexObject, encode_index
from coopfs.format.keys import Role, writer_id_of
from coopfs.format.snapshot import State
from coopfs.ids import ObjectId, PackId
from coopfs.ops.content import Content, ContentReader
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash

__all__ = ["lab", "no_race"]  # fixtures


class Reading:
    """Counts the bytes of every file that is read."""

    def __init__(self) -> None:
        self.length = 0
        self.files = 0

    def reset(self) -> None:
        self.length = self.files = 0


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    counted = Reading()
    read_file = ContentReader.read_file

    def counting(self: ContentReader, fd: int, size: int, allocated: int) -> Content:
        content = read_file(self, fd, size, allocated)
        counted.length += content.read_len
        counted.files += 1
        return content

    monkeypatch.setattr(ContentReader, "read_file", counting)
    return counted


@pytest.fixture
def many_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a checkpoint whenever something has been saved."""
    monkeypatch.setattr("coopfs.ops.snapshot.CHECKPOINT_CHUNKS", 1)


def fill(folder: Path, count: int, size: int, seed: int = 1) -> None:
    """Write *count* files of *size* random bytes into *folder*."""
    rng = random.Random(seed)
    for number in range(count):
        write(folder / f"f{number:03}", rng.randbytes(size))


def stop_after(calls: int) -> Callable[[], bool]:
    """Return an is_stopped() that says so from the given call on."""
    left = [calls]

    def is_stopped() -> bool:
        left[0] -= 1
        return left[0] < 0

    return is_stopped


def data_put(store: FaultyStore) -> int:
    return store.bytes_put[Kind.DATA]


# --- interrupted in good order -------------------------------------------------------


def test_after_an_interruption_nothing_done_is_read_or_sent_again(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    for number in range(10):
        fill(lab.source / f"d{number}", 8, 60_000, seed=number)
    total = 10 * 8 * 60_000
    with lab.open() as (archive, store):
        with pytest.raises(Interrupted):
            take(archive, lab.source, is_stopped=stop_after(60))
        first, sent = reading.length, data_put(store)
    assert 0 < first < total
    reading.reset()
    with lab.open() as (archive, store):
        report = take(archive, lab.source)
        sent += data_put(store)
    assert first + reading.length == total
    assert sent < total * 1.1 + (1 << 20)
    lab.expect_archived(report)
    reading.reset()
    lab.expect_archived(lab.take())
    assert reading.length == 0


def test_an_interruption_within_a_long_file_reads_only_that_one_again(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    fill(lab.source, 5, 100_000)
    write(lab.source / "long", random.Random(7).randbytes(30_000_000))
    fill(lab.source / "z", 5, 100_000, seed=2)
    # The long file is read in pieces of 8 MiB; each asks.
    asked = []

    def is_stopped() -> bool:
        asked.append(reading.files)
        return asked.count(5) > 3

    with lab.open() as (archive, store):
        with pytest.raises(Interrupted):
            take(archive, lab.source, is_stopped=is_stopped)
        sent = data_put(store)
    assert reading.files == 5
    reading.reset()
    with lab.open() as (archive, store):
        lab.expect_archived(take(archive, lab.source))
        sent += data_put(store)
    assert reading.length == 30_500_000
    assert sent < 31_000_000 * 1.1


def test_a_checkpoint_within_a_long_file_makes_what_was_stored_count(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.snapshot.CHECKPOINT_CHUNKS", 100)
    write(lab.source / "long", random.Random(7).randbytes(30_000_000))
    with lab.open() as (archive, store):
        store.requests.clear()
        report = take(archive, lab.source)
        assert store.requests["put", Kind.INDEX] >= 3
    lab.expect_archived(report)


def test_a_folder_deleted_after_an_interruption_does_not_come_back(lab: Lab, no_race: None) -> None:
    write(lab.source / "a", "x" * 1000)
    fill(lab.source / "big", 100, 1000)
    with lab.open() as (archive, _), pytest.raises(Interrupted):
        # Between files is asked once a folder, and then at every 64th file.
        take(archive, lab.source, is_stopped=stop_after(5))
    for file in (lab.source / "big").iterdir():
        file.unlink()
    (lab.source / "big").rmdir()
    lab.expect_archived(lab.take())


def test_an_interruption_forgets_nothing_that_was_known_unchanged(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    fill(lab.source, 300, 1000)
    lab.take()
    reading.reset()
    write(lab.source / "f000", "changed")
    with lab.open() as (archive, _), pytest.raises(Interrupted):
        take(archive, lab.source, is_stopped=stop_after(4))
    lab.expect_archived(lab.take())
    assert reading.files == 1  # once, though there were two runs


def test_checkpoints_change_nothing_in_the_tree(
    lab: Lab, no_race: None, many_checkpoints: None
) -> None:
    for number in range(5):
        fill(lab.source / f"d{number}" / "deep", 70, 300, seed=number)
        fill(lab.source / f"d{number}", 70, 2000, seed=number + 10)
    os.link(lab.source / "d0" / "f000", lab.source / "d4" / "link")
    with lab.open() as (archive, store):
        cut = take(archive, lab.source, series="cut")
        assert store.requests["put", Kind.INDEX] > 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coopfs.ops.snapshot.CHECKPOINT_CHUNKS", 1 << 30)
        whole = lab.take(series="whole")
    assert cut.facts.root == whole.facts.root
    lab.expect_archived(cut)
    # With a parent, too: a changed file makes a checkpoint in the midst of unchanged ones.
    write(lab.source / "d2" / "f030", "changed")
    write(lab.source / "d3" / "deep" / "f064", "changed too")
    cut, whole = lab.take(series="cut"), lab.take(series="whole")
    assert cut.facts.counts.read == whole.facts.counts.read == 18
    assert cut.facts.root == whole.facts.root
    lab.expect_archived(cut)


def test_the_tree_of_an_interrupted_and_continued_run_is_that_of_a_whole_one(
    lab: Lab, no_race: None
) -> None:
    for number in range(5):
        fill(lab.source / f"d{number}", 70, 2000, seed=number)
    for calls in (3, 5, 7, 9):
        with lab.open() as (archive, _), pytest.raises(Interrupted):
            take(archive, lab.source, series="cut", is_stopped=stop_after(calls))
    assert lab.take(series="cut").facts.root == lab.take(series="whole").facts.root


# --- partial snapshots ---------------------------------------------------------------------


@pytest.fixture
def hours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass whenever a run looks at the clock."""
    clock = iter(range(0, 10**9, 3600))
    fake = SimpleNamespace(
        monotonic=lambda: next(clock), time_ns=time.time_ns, localtime=time.localtime
    )
    monkeypatch.setattr("coopfs.ops.snapshot.time", fake)


def test_a_long_run_commits_partial_snapshots_that_the_next_one_continues(
    lab: Lab, no_race: None, hours_pass: None, reading: Reading
) -> None:
    single = write(lab.base / "0single", "one")
    for number in range(4):
        fill(lab.source / f"d{number}", 5, 2000, seed=number)
    with lab.open() as (archive, _):
        with pytest.raises(Interrupted):
            take(archive, single, lab.source, partial_interval_s=7200, is_stopped=stop_after(9))
        archive.refresh()
        partial = archive.snapshots()
    assert partial
    assert {s.facts.state for s in partial} == {State.PARTIAL}
    assert [s.facts.number for s in partial] == list(range(1, len(partial) + 1))
    read = reading.length
    report = lab.take(single, lab.source)
    assert reading.length == 40_003 > read
    assert report.facts.state is State.COMPLETE
    assert report.facts.previous == (partial[-1].snapshot_id,)
    lab.expect_archived(report)
    real = real_picture(lab.source).entries
    with lab.open() as (archive, _):
        seen = 0
        for snapshot in partial:
            base = entry_below(archive, snapshot.facts.root, lab.base)
            assert base.tree is not None
            found = archived_picture(archive, base.tree).entries
            files = {n: e for n, e in found.items() if e.digest}
            assert len(files) >= seen  # each holds what the one before did
            seen = len(files)
            for name, entry in files.items():
                if name != b"0single":
                    assert entry == real[name.removeprefix(b"source/")]
        assert 5 < seen < 21


def test_no_partial_snapshot_is_made_when_none_is_wanted(lab: Lab, hours_pass: None) -> None:
    fill(lab.source, 5, 100)
    lab.take(partial_interval_s=0)
    with lab.open() as (archive, _):
        assert [s.facts.state for s in archive.snapshots()] == [State.COMPLETE]


# --- a store that fails ----------------------------------------------------------------------


def test_a_full_store_leaves_what_was_stored_and_the_next_run_goes_on_from_there(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    for number in range(8):
        fill(lab.source / f"d{number}", 10, 700_000, seed=number)  # each a span tree or many spans
    total = 8 * 10 * 700_000
    with lab.open() as (archive, store):
        store.fill_after(45_000_000)
        with pytest.raises(StoreFull):
            take(archive, lab.source)
        stored = sum(info.size for info in store.inner.list(Kind.DATA))
    assert stored > 30_000_000
    reading.reset()
    with lab.open() as (archive, store):
        report = take(archive, lab.source)
        assert data_put(store) < total - stored + (2 << 20)
    # All but what was in the packs that did not fit is known, file by file; at each of their
    # ends (there may be two such packs, with a stored one between) a file lies in two packs.
    assert reading.length <= total - stored + 4 * 700_000
    lab.expect_archived(report)
    reading.reset()
    lab.expect_archived(lab.take())
    assert reading.length == 0


def test_a_full_store_in_a_flat_folder_of_long_files_loses_only_the_last_ones(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    fill(lab.source, 12, 4_000_000)  # span trees
    write(lab.source / "f005", "small")
    with lab.open() as (archive, store):
        store.fill_after(36_000_000)
        with pytest.raises(StoreFull):
            take(archive, lab.source)
        stored = sum(info.size for info in store.inner.list(Kind.DATA))
    assert stored > 15_000_000
    reading.reset()
    report = lab.take()
    assert reading.length <= 44_000_000 - stored + 4 * 4_000_000
    lab.expect_archived(report)


def test_a_dry_run_after_a_failure_works(lab: Lab, no_race: None) -> None:
    fill(lab.source / "d", 10, 3_000_000)
    write(lab.source / "e" / "x", "x" * 1000)
    with lab.open() as (archive, store):
        store.fill_after(20_000_000)
        with pytest.raises(StoreFull):
            take(archive, lab.source)
    write(lab.source / "e" / "x", "y" * 1000)
    assert lab.take(is_dry_run=True).facts.counts.size == 30_001_000
    lab.expect_archived(lab.take())


@pytest.mark.parametrize("kind", [Kind.INDEX, Kind.SNAPSHOTS])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_store_that_goes_away_at_the_commit_costs_no_reading_and_no_sending(
    lab: Lab, no_race: None, reading: Reading, kind: Kind, when: str
) -> None:
    fill(lab.source, 20, 60_000)
    with lab.open() as (archive, store):
        store.fail("put", kind, when=when)  # type: ignore[arg-type]
        with pytest.raises(StoreUnavailable):
            take(archive, lab.source)
    reading.reset()
    with lab.open() as (archive, store):
        report = take(archive, lab.source)
        assert data_put(store) < 100_000
    assert reading.length == 0
    # A snapshot whose put was only not answered exists, and is continued.
    was_there = kind is Kind.SNAPSHOTS and when == "after"
    assert report.facts.number == (2 if was_there else 1)
    lab.expect_archived(report)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_at_any_put_leaves_nothing_that_the_next_run_sends_twice(
    lab: Lab, no_race: None, nth: int, when: str, many_checkpoints: None
) -> None:
    fill(lab.source / "a", 70, 3000)
    fill(lab.source / "b", 70, 3000, seed=2)
    with lab.open() as (archive, store):
        store.crash("put", nth=nth, when=when)  # type: ignore[arg-type]
        with pytest.raises(SimulatedCrash):
            take(archive, lab.source)
    report = lab.take()
    lab.expect_archived(report)
    held: dict[bytes, int] = {}
    with lab.open() as (archive, _):
        for pack in archive.index.packs():
            for block in archive.index.blocks_of(pack.pack_no):
                for chunk_id in block.chunk_ids:
                    held[chunk_id] = held.get(chunk_id, 0) + 1
    if when == "before":
        assert set(held.values()) == {1}


def test_a_failing_compression_or_read_error_is_no_silent_success(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab.source, 3, 1000)
    with lab.open() as (archive, store):
        store.fail("list", Kind.INDEX, skip=0)
        with pytest.raises(StoreError):
            take(archive, lab.source)  # secure_tree could not look
        store.mend()
        archive.refresh()
        assert archive.snapshots() == []
    lab.expect_archived(lab.take())


@ROOT_ONLY
def test_a_store_on_a_small_disk_fills_up_and_is_continued_when_it_has_grown(
    tmp_path: Path, no_race: None, reading: Reading
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted_tmpfs(disk, "45m"):
        lab = Lab(tmp_path)
        lab.store_path = disk / "store"
        lab.init()
        for number in range(6):
            fill(lab.source / f"d{number}", 10, 1_000_000, seed=number)
        with pytest.raises(StoreFull, match=r"data/|index/|snapshots/"):
            lab.take()
        leftovers = [p for p in lab.store_path.rglob("*") if ".tmp" in p.name]
        assert leftovers == []
        reading.reset()
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        lab.expect_archived(lab.take())
        assert 0 < reading.length < 50_000_000


class mounted_tmpfs:
    """A small file system of its own on a folder."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def __enter__(self) -> None:
        """Nothing more."""

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)


@ROOT_ONLY
def test_other_file_systems_are_left_out_on_request(lab: Lab, no_race: None) -> None:
    write(lab.source / "here", "x")
    below = lab.source / "mnt" / "disk"
    below.mkdir(parents=True)
    with mounted_tmpfs(below, "1m"):
        write(below / "other", "y")
        below.chmod(0o750)
        report = lab.take(rules={"one_file_system": True})
        with lab.open() as (archive, _):
            entry = entry_below(archive, report.facts.root, below)
            assert entry.tree is not None
            assert list(archive.iter_entries(entry.tree)) == []
            assert entry.mode == 0o750
        lab.expect_archived(lab.take(series="all"))
        # A source that is a mount point itself is entered.
        lab.expect_archived(lab.take(below, rules={"one_file_system": True}), below)
    lab.expect_archived(lab.take(rules={"one_file_system": True}))


# --- packs that may not be relied on ---------------------------------------------------------


def packs_of(archive: Archive, *, is_meta: bool | None = None) -> list[PackId]:
    return [p.pack_id for p in archive.index.packs() if is_meta in (None, p.is_meta)]


def put_index(archive: Archive, content: IndexObject) -> ObjectId:
    """Put an index object signed with the admin key."""
    admin = archive.ring.admin()
    assert admin is not None
    sealed = seal_body(
        archive.keys,
        admin,
        Role.INDEX,
        archive.config.archive_id,
        encode_index(content),
        os.urandom(32),
    )
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)
    return sealed.object_id


def mark(archive: Archive, *pack_ids: PackId) -> None:
    """Do what a prune does first."""
    admin_id = writer_id_of(archive.config.admin_public_key)
    put_index(archive, IndexObject((), pack_ids, (), admin_id, time.time_ns()))


@pytest.mark.parametrize("is_meta", [True, False, None])
def test_what_lies_in_a_lost_pack_is_sent_again_although_nothing_changed(
    lab: Lab, no_race: None, is_meta: bool | None
) -> None:
    fill(lab.source / "a", 5, 60_000)
    write(lab.source / "long", random.Random(5).randbytes(4_000_000))
    write(lab.source / "a" / "inline", "x")
    single = write(lab.base / "single", "y" * 5000)
    lab.take(lab.source, single)
    with lab.open() as (archive, store):
        gone = packs_of(archive, is_meta=is_meta)
        for pack_id in gone:
            archive.index.mark_lost(pack_id, "gone, says a test")
            store.inner.delete(Kind.DATA, pack_id)
        archive.blocks.forget_memory()
        archive._nodes.clear()
        report = take(archive, lab.source, single)
        assert report.facts.counts.new > 4_000
    lab.expect_archived(report)
    assert not lab.objects(Kind.DATA) & set(gone)
    again = lab.take(lab.source, single)
    assert (again.facts.counts.read, again.facts.counts.new) == (0, 0)


def test_a_pack_that_was_found_again_is_relied_on_again(lab: Lab, no_race: None) -> None:
    fill(lab.source, 5, 60_000)
    lab.take()
    with lab.open() as (archive, _):
        for pack_id in packs_of(archive):
            archive.index.mark_lost(pack_id, "for a while")
        archive.index.mark_found(packs_of(archive))
        report = take(archive, lab.source)
    assert (report.facts.counts.read, report.facts.counts.new) == (0, 0)


def test_packs_a_prune_has_marked_are_not_relied_on(lab: Lab, no_race: None) -> None:
    fill(lab.source, 5, 60_000)
    lab.take()
    with lab.open() as (archive, store):
        marked = packs_of(archive)
        mark(archive, *marked)
        archive.refresh()
        report = take(archive, lab.source)
        assert report.facts.counts.new > 300_000
        for pack_id in marked:  # the grace is over
            store.inner.delete(Kind.DATA, pack_id)
    lab.expect_archived(report)


@pytest.mark.parametrize("is_meta", [True, False, None])
def test_packs_marked_while_a_run_goes_on_are_stored_anew_before_its_commit(
    lab: Lab, no_race: None, is_meta: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab.source / "a", 5, 60_000)
    write(lab.source / "long", random.Random(5).randbytes(4_000_000))
    lab.take()
    write(lab.source / "new", "n" * 1000)
    with lab.open() as (archive, store):
        marked = packs_of(archive, is_meta=is_meta)
        refresh = Archive.refresh_index
        looks = []

        def refreshing(self: Archive) -> None:
            if not looks:
                with lab.open(refresh=False) as (other, _):
                    mark(other, *marked)  # another host does that
            looks.append(1)
            refresh(self)

        with monkeypatch.context() as patch:
            patch.setattr(Archive, "refresh_index", refreshing)
            report = take(archive, lab.source)
        assert len(looks) == 2  # looked again after storing anew
        for pack_id in marked:
            store.inner.delete(Kind.DATA, pack_id)
    lab.expect_archived(report)
    again = lab.take()
    assert again.facts.counts.new == 0
    lab.expect_archived(again)


def test_a_mark_another_process_has_taken_in_counts_here_too(lab: Lab, no_race: None) -> None:
    fill(lab.source, 5, 60_000)
    lab.take()
    with lab.open() as (archive, _):
        marked = packs_of(archive)
        with lab.open(refresh=False) as (mount, _):  # shares the local state
            mark(mount, *marked)
            mount.refresh()
        report = take(archive, lab.source)
        assert report.facts.counts.new > 300_000
        assert all(not archive.index.is_usable(p.pack_no) for p in archive.index.packs()
                   if p.pack_id in marked)  # fmt: skip


def test_witnesses_of_what_was_not_walked_are_not_believed_once_packs_have_left(
    lab: Lab, no_race: None
) -> None:
    a, b = lab.source / "a", lab.source / "b"
    fill(a / "inner", 3, 60_000)
    fill(b / "inner", 3, 60_000, seed=2)
    with lab.open() as (archive, _):
        take(archive, a)
        kept = [(p, archive.index.blocks_of(p.pack_no)) for p in archive.index.packs()]
        objects = archive.index.known_objects()
        assert kept
    lab.take(a, b)
    with lab.open() as (archive, store):
        # A prune: what only the second snapshot needed goes.
        gone = [p for p in packs_of(archive) if p not in {k.pack_id for k, _ in kept}]
        late = archive.index.known_objects() - objects
        assert gone and late
        admin_id = writer_id_of(archive.config.admin_public_key)
        put_index(archive, IndexObject((), (), tuple(late), admin_id, time.time_ns()))
        for name in late:
            store.inner.delete(Kind.INDEX, name)
        for pack_id in gone:
            store.inner.delete(Kind.DATA, pack_id)
    lab.take(a)
    report = lab.take(a, b)
    lab.expect_archived(report, a)
    lab.expect_archived(report, b)


def test_a_damaged_tree_of_an_unchanged_folder_is_stored_anew(lab: Lab, no_race: None) -> None:
    for number in range(4):
        fill(lab.source / f"d{number}", 5, 3000, seed=number)
    lab.take()
    (pack_path,) = [
        path
        for path in (lab.store_path / "data").rglob("*")
        if path.is_file() and is_meta_pack(lab, path)
    ]
    damaged = bytearray(pack_path.read_bytes())
    damaged[300] ^= 1
    pack_path.chmod(0o600)
    pack_path.write_bytes(damaged)
    write(lab.source / "d2" / "f000", "changed")
    try:
        report = lab.take()
    except DataError as exc:
        assert "run it again" in str(exc)
        report = lab.take()
    lab.expect_archived(report)


def is_meta_pack(lab: Lab, path: Path) -> bool:
    with lab.open(refresh=False) as (archive, _):
        return bytes.fromhex(path.name) in packs_of(archive, is_meta=True)


# --- other processes ------------------------------------------------------------------------------


def test_what_another_run_could_not_send_is_not_forgotten_by_this_one(
    lab: Lab, no_race: None, reading: Reading
) -> None:
    fill(lab.source / "one", 5, 60_000)
    fill(lab.source / "two", 5, 60_000, seed=2)
    with lab.open() as (first, _), lab.open() as (second, store):
        from coopfs.archive.writer import ArchiveWriter

        signer = first.ring.writer()
        assert signer is not None
        with ArchiveWriter(first, signer) as beside:  # a run of another series, going on
            beside.save_chunk(b"x" * 5000)
            store.fail("put", Kind.INDEX)
            with pytest.raises(StoreUnavailable):
                take(second, lab.source)
            beside.flush()
    reading.reset()
    report = lab.take()
    assert reading.length == 0
    lab.expect_archived(report)


def test_the_packs_of_a_killed_run_are_adopted_by_any_series(
    lab: Lab, no_race: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lab.source, 20, 60_000)
    with lab.open() as (archive, store):
        store.crash("put", Kind.INDEX)
        with pytest.raises(SimulatedCrash):
            take(archive, lab.source)
    with lab.open() as (archive, store):
        take(archive, lab.source, series="other")
        assert data_put(store) < 200_000
    held = lab.objects(Kind.DATA)
    with lab.open() as (archive, _):
        assert set(packs_of(archive)) == held  # none is left without an index object


def test_a_pack_that_never_arrived_is_not_adopted(lab: Lab, no_race: None) -> None:
    fill(lab.source, 20, 60_000)
    with lab.open() as (archive, store):
        store.crash("put", Kind.INDEX)
        with pytest.raises(SimulatedCrash):
            take(archive, lab.source)
        for info in list(store.inner.list(Kind.DATA)):
            store.inner.delete(Kind.DATA, info.name)
    lab.expect_archived(lab.take())
