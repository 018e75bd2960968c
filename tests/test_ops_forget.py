"""Letting go: the record first, then the objects; who may, and what a crash leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, write

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import DataError, ObjectCorrupt, Rollback, StoreDenied, StoreFull, WrongKey
from coopfs.format.keys import SigningKey
from coopfs.ops.amend import Change, amend_snapshots
from coopfs.ops.forget import RECORDS_KEPT, apply_forget
from coopfs.ops.forget_plan import KeepRules, Verdict, plan_forget, plan_named
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash, When

__all__ = ["lab"]  # a fixture


@pytest.fixture
def taken(lab: Lab) -> Lab:
    """Five snapshots of one series."""
    for number in range(5):
        write(lab.source / "file", f"{number}")
        lab.take()
    return lab


def key_of(archive: Archive) -> SigningKey:
    admin = archive.ring.admin()
    assert admin is not None
    return admin


def keep_last(archive: Archive, number: int) -> list[Verdict]:
    return plan_forget(archive.snapshots(), KeepRules(last=number), time.time_ns())


def numbers(snapshots: list[Snapshot]) -> list[int]:
    return sorted(snapshot.facts.number for snapshot in snapshots)


def test_what_no_rule_keeps_is_gone_for_everybody(taken: Lab) -> None:
    bob = taken.second_host()
    with taken.open() as (archive, store), bob.open() as (bobs, _):
        result = apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert (len(result.gone), result.deleted, result.denial) == (3, 3, "")
        assert numbers(archive.snapshots()) == [4, 5]
        assert archive.objects.forgotten() == set(result.gone)
        bobs.refresh()
        assert numbers(bobs.snapshots()) == [4, 5]
        assert bobs.warnings == archive.warnings == []
        assert not {info.name for info in store.list(Kind.SNAPSHOTS)} & set(result.gone)


def test_records_are_cumulative_and_old_ones_go(taken: Lab) -> None:
    with taken.open() as (archive, _):
        gone = set()
        for number in range(RECORDS_KEPT + 3):
            write(taken.source / "file", f"more {number}")
            taken.take()
            archive.refresh()
            result = apply_forget(archive, keep_last(archive, 2), key_of(archive))
            gone |= set(result.gone)
            newest = max(
                archive.objects.forget_records().values(), key=lambda r: len(r.snapshot_ids)
            )
            assert set(newest.snapshot_ids) == gone
        assert len(archive.objects.forget_records()) == RECORDS_KEPT + 1


def test_nothing_to_let_go_puts_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        store.requests.clear()
        result = apply_forget(archive, keep_last(archive, 9), key_of(archive))
        assert result.gone == ()
        assert not store.requests


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("deletions", [0, 1])
def test_a_crash_at_any_point_leaves_either_all_or_a_record(
    taken: Lab, when: When, deletions: int
) -> None:
    with taken.open() as (archive, store):
        verdicts = keep_last(archive, 2)
        store.crash("delete", Kind.SNAPSHOTS, nth=deletions + 1, when=when)
        with pytest.raises(SimulatedCrash):
            apply_forget(archive, verdicts, key_of(archive))
    with taken.second_host().open() as (bobs, _):
        bobs.refresh()
        assert bobs.warnings == []
        assert numbers(bobs.snapshots())[-2:] == [4, 5]
    with taken.open() as (archive, store):  # and the same command goes on
        result = apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert result.denial == ""
        assert numbers(archive.snapshots()) == [4, 5]
        assert len(archive.objects.forgotten()) == 3


def test_a_record_that_cannot_be_put_lets_nothing_go(taken: Lab) -> None:
    with taken.open() as (archive, store):
        store.fill_after(0)
        with pytest.raises(StoreFull):
            apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert store.requests["delete", Kind.SNAPSHOTS] == 0
        archive.refresh()
        assert len(archive.snapshots()) == 5


def test_where_put_does_not_promise_durability_the_record_is_read_back(taken: Lab) -> None:
    with taken.open() as (archive, store):
        store.is_durable = False
        put = store.put

        def losing(kind: Kind, name: bytes, data: bytes) -> None:
            put(kind, name, data)
            store.flip(kind, name, -1)

        store.put = losing
        with pytest.raises(ObjectCorrupt, match="nothing was deleted"):
            apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert store.requests["delete", Kind.SNAPSHOTS] == 0


def test_a_store_that_does_not_let_us_delete_is_told_from_a_failure(taken: Lab) -> None:
    with taken.open() as (archive, store):
        denial = StoreDenied("append only")
        store.fail("delete", error=denial, times=10**6)
        result = apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert (result.deleted, result.left, result.denial) == (0, 3, "append only")
        # What is there is still a snapshot: nothing it needs may be pruned.
        assert len(archive.snapshots()) == 5
        store.mend()
        result = apply_forget(archive, keep_last(archive, 2), key_of(archive))
        assert result.deleted == 3
        assert len(archive.objects.forget_records()) == 1


def test_another_key_lets_nothing_go(taken: Lab) -> None:
    with taken.open() as (archive, store):
        writer = archive.ring.writer()
        assert writer is not None
        for key in (writer, SigningKey(bytes(32))):
            with pytest.raises(WrongKey, match="forgetting needs the admin key"):
                apply_forget(archive, keep_last(archive, 2), key)
        assert store.requests["put", Kind.SNAPSHOTS] == 0


def test_an_object_that_cannot_be_read_may_be_a_hold(taken: Lab) -> None:
    with taken.open() as (archive, _store):
        held = archive.snapshots()[0]
        amend_snapshots(archive, [held], Change(is_held=True), key_of(archive))
        ((name, _),) = archive.objects.named_amendments()
        assert not any(not v.is_kept for v in keep_last(archive, 2) if v.snapshot.is_held)
    with taken.second_host().open(refresh=False) as (bobs, bobs_store):
        bobs_store.flip(Kind.SNAPSHOTS, name, 100)
        bobs.refresh()
        with pytest.raises(DataError, match="nothing was let go"):
            apply_forget(bobs, keep_last(bobs, 2), key_of(archive))
        assert bobs_store.requests["put", Kind.SNAPSHOTS] == 0


def test_a_store_that_hides_a_hold_gains_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        held = archive.snapshots()[0]
        amend_snapshots(archive, [held], Change(is_held=True), key_of(archive))
        ((name, _),) = archive.objects.named_amendments()
        store.inner.delete(Kind.SNAPSHOTS, name)
        for _ in range(2):
            archive.refresh()
            assert archive.snapshots()[0].is_held
            assert "no longer shows this amendment" in archive.warnings[0]


def test_amendments_of_what_is_gone_go_too(taken: Lab) -> None:
    with taken.open() as (archive, _):
        first, *_rest, last = archive.snapshots()
        for about in ([first], [first, last]):
            amend_snapshots(archive, about, Change(add_tags=(f"t{len(about)}",)), key_of(archive))
        apply_forget(archive, keep_last(archive, 1), key_of(archive))
        ((_, record),) = archive.objects.named_amendments()
        assert record.snapshot_ids == (first.snapshot_id, last.snapshot_id)
        assert archive.warnings == []


def test_a_machine_that_slept_through_it_follows_the_chain_across_what_is_gone(taken: Lab) -> None:
    bob = taken.second_host()
    with bob.open() as (bobs, _):
        bobs.refresh()  # knows number 5
    for number in range(5):
        write(taken.source / "file", f"later {number}")
        taken.take()
    with taken.open() as (archive, _):
        apply_forget(archive, keep_last(archive, 1), key_of(archive))
    with bob.open() as (bobs, _):
        bobs.refresh()
        assert bobs.warnings == []
        (head,) = bobs.heads.all()
        assert head.number == 10


def test_the_newest_by_name_may_go_and_the_series_goes_on(taken: Lab) -> None:
    with taken.open() as (archive, _):
        newest = archive.snapshots()[-1]
        apply_forget(archive, plan_named([newest]), key_of(archive))
        assert numbers(archive.snapshots()) == [1, 2, 3, 4]
    write(taken.source / "file", "after")
    report = taken.take()
    assert report.facts.number == 6
    assert report.facts.previous == (newest.snapshot_id,)
    with taken.second_host().open() as (bobs, _):
        bobs.refresh()
        assert bobs.warnings == []


def test_one_that_is_deleted_without_a_record_is_still_an_omission(taken: Lab) -> None:
    with taken.open() as (archive, store):
        apply_forget(archive, keep_last(archive, 2), key_of(archive))
        store.inner.delete(Kind.SNAPSHOTS, archive.snapshots()[-1].snapshot_id)
        with pytest.raises(Rollback):
            archive.refresh()


def test_letting_go_between_listing_and_reading_is_no_rollback(
    taken: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bob = taken.second_host()
    with bob.open() as (bobs, _):
        bobs.refresh()
    with taken.open() as (archive, _), bob.open(refresh=False) as (bobs, store):
        listed = bobs.objects._listed
        newest = archive.snapshots()[-1]
        calls = []

        def listing() -> set[object]:
            calls.append(1)
            found = set(listed())
            if len(calls) == 1:
                apply_forget(archive, plan_named([newest]), key_of(archive))
            elif len(calls) == 2:  # sees the deletion, not yet the record: stores list in parts
                found = {n for n in found if n not in archive.objects.forget_records()}
            return found

        monkeypatch.setattr(bobs.objects, "_listed", listing)
        store.lose(Kind.SNAPSHOTS, newest.snapshot_id)
        bobs.refresh()
        bobs.refresh()
        assert numbers(bobs.snapshots()) == [1, 2, 3, 4]
        assert isinstance(store, FaultyStore)
