"""What a listing of snapshots and records means."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, take, write

from coopfs.archive.archive import Archive
from coopfs.errors import Rollback
from coopfs.format.body import seal_body
from coopfs.format.keys import Role, SigningKey
from coopfs.format.records import Amendment, ForgetRecord, encode_amendment, encode_forget
from coopfs.format.snapshot import encode_snapshot
from coopfs.ids import SnapshotId
from coopfs.store.base import Kind

__all__ = ["lab"]  # a fixture


def put(archive: Archive, role: Role, body: bytes, signer: SigningKey | None) -> SnapshotId:
    assert signer is not None
    sealed = seal_body(archive.keys, signer, role, archive.config.archive_id, body, os.urandom(32))
    archive.store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)
    return SnapshotId(sealed.object_id)


def put_next(archive: Archive, number: int, previous: tuple[SnapshotId, ...]) -> SnapshotId:
    """Put a snapshot of this host that continues *previous*."""
    first = archive.snapshots()[0].facts
    facts = replace(first, number=number, previous=previous, time_ns=first.time_ns + number)
    return put(archive, Role.SNAPSHOT, encode_snapshot(facts), archive.ring.writer())


@pytest.fixture
def taken(lab: Lab) -> Lab:
    write(lab.source / "f", "x")
    lab.take()
    return lab


def head_of(archive: Archive) -> int:
    head = archive.heads.get("anna", "main")
    assert head is not None
    return head.number


def test_a_fork_is_joined_by_the_snapshot_that_names_both_ends(taken: Lab) -> None:
    with taken.open() as (archive, _):
        first = archive.snapshots()[0].snapshot_id
        one, two = put_next(archive, 2, (first,)), put_next(archive, 2, (first,))
        put_next(archive, 3, (one, two))
        archive.refresh()
        assert archive.warnings == []
        assert head_of(archive) == 3


def test_a_long_chain_is_followed_to_the_known_head(taken: Lab) -> None:
    with taken.open() as (archive, _):
        last = archive.snapshots()[0].snapshot_id
        for number in range(2, 40):
            last = put_next(archive, number, (last,))
        archive.refresh()
        assert head_of(archive) == 39
        assert [s.facts.number for s in archive.snapshots()] == list(range(1, 40))


def test_a_stray_snapshot_hides_no_rollback_of_the_real_ones(taken: Lab) -> None:
    with taken.open() as (archive, store):
        first = archive.snapshots()[0].snapshot_id
        put_next(archive, 99, ())
        second = put_next(archive, 2, (first,))
        archive.refresh()
        assert head_of(archive) == 2
        store.lose(Kind.SNAPSHOTS, second)
        with pytest.raises(Rollback, match="number 2"):
            archive.refresh()


def test_a_chain_that_leads_nowhere_is_not_followed_for_ever(taken: Lab) -> None:
    with taken.open() as (archive, _):
        put_next(archive, 5, (SnapshotId(bytes(32)),))
        archive.refresh()
        assert head_of(archive) == 1
        (stray, gap) = archive.warnings
        assert "does not continue" in stray
        assert "is based, is not there" in gap


def test_amendments_come_oldest_first_and_only_from_enrolled_writers(taken: Lab) -> None:
    stranger = SigningKey(b"s" * 32)
    with taken.open() as (archive, _):
        snapshot_id = archive.snapshots()[0].snapshot_id
        signer = archive.ring.writer()
        assert signer is not None
        for time_ns in (20, 10):
            record = Amendment(
                (snapshot_id,), (f"at {time_ns}",), (), None, None, None, signer.writer_id, time_ns
            )
            put(archive, Role.AMENDMENT, encode_amendment(record), signer)
            put(archive, Role.AMENDMENT, encode_amendment(record), stranger)
        archive.refresh()
        assert [r.add_tags for r in archive.objects.amendments()] == [("at 10",), ("at 20",)]
        assert len(archive.warnings) == 2


def test_forget_records_add_up(taken: Lab) -> None:
    with taken.open() as (archive, _):
        ids = [SnapshotId(bytes([n]) * 32) for n in range(3)]
        for chosen in (ids[:1], ids[1:]):
            record = ForgetRecord(tuple(chosen), 0)
            put(archive, Role.FORGET, encode_forget(record), archive.ring.admin())
        archive.refresh()
        assert archive.objects.forgotten() == set(ids)


def test_a_snapshot_that_has_left_the_store_is_missed_though_it_is_not_the_newest(
    taken: Lab,
) -> None:
    second = taken.take()
    assert second.snapshot is not None
    (first_id,) = second.facts.previous
    with taken.open() as (archive, store):
        store.inner.delete(Kind.SNAPSHOTS, first_id)  # not the head
        with pytest.raises(Rollback, match="number 1"):
            archive.refresh()
        # What is known stays, for whoever is looking.
        both = [first_id, second.snapshot.snapshot_id]
        assert [s.snapshot_id for s in archive.snapshots()] == both


def test_own_snapshots_count_at_once(lab: Lab, tmp_path: Path) -> None:
    write(lab.source / "f", "x")
    with lab.open() as (archive, store):
        report = take(archive, lab.source)
        store.requests.clear()
        assert [s.facts for s in archive.snapshots()] == [report.facts]
        assert head_of(archive) == 1
        assert not store.requests


def test_an_enrolment_that_the_store_hides_counts_all_the_same(taken: Lab) -> None:
    bob = taken.second_host()
    bob.take()
    with taken.open() as (archive, store):
        writers = archive.objects.writers()
        for name, role in archive.objects.roles().items():
            if role is Role.ENROLMENT:
                store.lose(Kind.SNAPSHOTS, name)
        archive.refresh()
        assert archive.objects.writers() == writers
        assert len(archive.snapshots()) == 2
        assert len(archive.warnings) == 2
        assert all("no longer shows this enrolment record" in w for w in archive.warnings)


def test_a_forget_record_counts_until_another_one_repeats_it(taken: Lab) -> None:
    ids = tuple(SnapshotId(bytes([n]) * 32) for n in range(3))
    with taken.open() as (archive, store):
        admin = archive.ring.admin()
        name = put(archive, Role.FORGET, encode_forget(ForgetRecord(ids[:2], 1)), admin)
        archive.refresh()
        store.inner.delete(Kind.SNAPSHOTS, name)
        archive.refresh()
        assert "no longer shows this forget record" in archive.warnings[0]
        assert archive.objects.forgotten() == set(ids[:2])
        put(archive, Role.FORGET, encode_forget(ForgetRecord(ids, 2)), admin)
        archive.refresh()
        assert archive.warnings == []
        assert len(archive.objects.forget_records()) == 1
