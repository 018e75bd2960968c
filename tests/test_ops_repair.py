"""Repair makes a lost index again from the packs, and touches nothing sound."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, no_race, write
from checked import check, unreadable
from hosts import Host, everything_below
from pruning import expect_all_readable, forget, key_of, packs_in_store, prune

from coopfs.archive.archive import Archive
from coopfs.errors import FormatUnsupported, StoreDenied, WrongKey
from coopfs.format.keys import Role, SigningKey
from coopfs.ops.check_findings import HurtFile
from coopfs.ops.needs import PruneRefused
from coopfs.ops.progress import NoProgress
from coopfs.ops.repair import RepairReport, repair_archive
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash

__all__ = ["lab", "no_race"]  # fixtures


@pytest.fixture
def taken(lab: Lab) -> Lab:
    """Three snapshots, an index object each."""
    rng = random.Random(1)
    for number in range(3):
        for part in range(4):
            write(lab.source / f"file{number}-{part}", rng.randbytes(50_000))
        lab.take()
    return lab


def repair(
    archive: Archive,
    admin: SigningKey | None = None,
    *,
    dry: bool = False,
    hurt: list[HurtFile] | None = None,
) -> RepairReport:
    key = None if dry else admin or key_of(archive)
    told: list[HurtFile] = [] if hurt is None else hurt
    report = repair_archive(
        archive, key, is_dry_run=dry, progress=NoProgress(), on_hurt=told.append
    )
    assert report.hurt == len(told)
    assert hurt is not None or not told
    return report


def places(hurt: list[HurtFile]) -> set[tuple[bytes, bytes, int]]:
    return {(h.snapshot.snapshot_id, h.path, h.lost_len) for h in hurt}


def damage(store: FaultyStore, kind: Kind, name: bytes) -> None:
    """Have the object really be damaged, for everybody."""
    data = bytearray(store.inner.get(kind, name))
    data[100] ^= 1
    path = Path(store.address) / kind / name.hex()
    path.chmod(0o600)
    path.write_bytes(data)


def test_an_archive_in_order_is_left_as_it_is(taken: Lab) -> None:
    before = everything_below(taken.store_path)
    with taken.open() as (archive, _):
        report = repair(archive)
    assert report.is_needless
    assert report.index_objects == 3
    assert everything_below(taken.store_path) == before


@pytest.mark.parametrize("how", ["damaged", "deleted"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_lost_index_is_made_again(taken: Lab, how: str, count: int) -> None:
    with taken.open() as (archive, store):
        names = sorted(archive.index.known_objects())[:count]
        packs = {pack.pack_id for pack in archive.index.packs()}
        for name in names:
            if how == "damaged":
                damage(store, Kind.INDEX, name)
            else:
                store.inner.delete(Kind.INDEX, name)
        admin = key_of(archive)
    bob = taken.second_host()
    with bob.open(refresh=False) as (archive, store):
        before = everything_below(taken.store_path)
        planned = repair(archive, dry=True)
        assert everything_below(taken.store_path) == before
        report = repair(archive, admin)
        assert planned.recovered == report.recovered
        assert (
            set(planned.bad_index)
            == set(report.bad_index)
            == (set(names) if how == "damaged" else set())
        )
        assert len(report.recovered) >= 2 * count
        assert {pack.pack_id for pack in archive.index.packs()} == packs
        assert repair(archive, admin).is_needless
    assert expect_all_readable(bob) == expect_all_readable(taken) == 3
    assert expect_all_readable(taken.second_host("carol")) == 3
    with taken.open() as (archive, _):
        checked = check(archive, 1.0)
        assert (checked.findings, checked.totals.unindexed_packs) == ([], 0)


def test_where_it_cannot_delete_what_is_replaced_is_ignored(taken: Lab) -> None:
    with taken.open() as (archive, store):
        name = sorted(archive.index.known_objects())[0]
        damage(store, Kind.INDEX, name)
        store.fail("delete", error=StoreDenied("append only"), times=10**6)
        assert repair(archive).denial == "append only"
        assert repair(archive).is_needless
        forget(archive)
    with taken.second_host().open() as (archive, _):
        assert archive.warnings == []


def test_a_pack_that_is_gone_leaves_the_index_and_comes_back(taken: Lab, no_race: None) -> None:
    with taken.open() as (archive, store):
        pack = next(p for p in archive.index.packs() if not p.is_meta)
        data = store.inner.get(Kind.DATA, pack.pack_id)
        store.inner.delete(Kind.DATA, pack.pack_id)
        planned: list[HurtFile] = []
        hurt: list[HurtFile] = []
        assert repair(archive, dry=True, hurt=planned).missing == [pack.pack_id]
        report = repair(archive, hurt=hurt)
        assert report.missing == [pack.pack_id]
        assert pack.pack_id not in {p.pack_id for p in archive.index.packs()}
        checked = check(archive)
        assert len(checked.hurt) == 4 * 3  # its files, in every snapshot
        assert places(checked.hurt) == places(hurt) == places(planned)
        store.inner.put(Kind.DATA, pack.pack_id, data)
        assert repair(archive).recovered == [pack.pack_id]
        assert check(archive, 1.0).damages == []
    assert expect_all_readable(taken) == 3


def test_files_are_named_whose_packs_went_with_the_index(taken: Lab) -> None:
    with taken.open() as (archive, store):
        content = archive.read_index_object(sorted(archive.index.known_objects())[0])
        gone = [pack for pack in content.packs if pack.header.role is not Role.META]
        for name in sorted(archive.index.known_objects()):
            damage(store, Kind.INDEX, name)
        for pack in gone:
            store.inner.delete(Kind.DATA, pack.pack_id)
        before = everything_below(taken.store_path)
        planned: list[HurtFile] = []
        assert repair(archive, dry=True, hurt=planned).recovered
        assert everything_below(taken.store_path) == before
        assert not list(archive.state_folder.glob("repair-*"))
        hurt: list[HurtFile] = []
        repair(archive, hurt=hurt)
        assert len(hurt) in (4, 8, 12)
        assert places(hurt) == places(planned) == places(check(archive).hurt)
        for snapshot in archive.snapshots():
            paths = {h.path for h in hurt if h.snapshot == snapshot}
            assert unreadable(archive, snapshot) == paths


def test_what_was_had_back_from_a_trash_is_found_again_though_it_is_marked(taken: Lab) -> None:
    with taken.open() as (archive, store):
        packs = {i.name: store.inner.get(Kind.DATA, i.name) for i in store.inner.list(Kind.DATA)}
        old = {
            s.snapshot_id: store.inner.get(Kind.SNAPSHOTS, s.snapshot_id)
            for s in archive.snapshots()
        }
        (taken.source / "file0-0").unlink()
        forget(archive)
    taken.take()
    with taken.open() as (archive, store):
        forget(archive)
        prune(archive, 0)
        prune(archive, 0)
        assert len(packs_in_store(archive) & packs.keys()) < len(packs)
        for name, data in packs.items():
            store.inner.put(Kind.DATA, name, data)
        for name, data in old.items():
            store.inner.put(Kind.SNAPSHOTS, name, data)
        with pytest.raises(PruneRefused):
            prune(archive, 0)
        assert repair(archive).recovered
        for snapshot in archive.snapshots():
            assert unreadable(archive, snapshot) == set()
        prune(archive, 0)
        prune(archive, 0)
    assert expect_all_readable(taken) == 4


def test_marked_packs_and_strangers_are_not_recovered(taken: Lab) -> None:
    with taken.open() as (archive, store):
        forget(archive)
        prune(archive, 0)
        for name in sorted(archive.index.known_objects()):
            damage(store, Kind.INDEX, name)
        import hashlib

        junk = os.urandom(5000)
        store.inner.put(Kind.DATA, hashlib.sha256(junk).digest(), junk)
        report = repair(archive)
        assert list(report.unreadable) == [hashlib.sha256(junk).digest()]
        assert report.recovered
    with taken.second_host().open() as (archive, _):
        assert archive.warnings == []
    assert expect_all_readable(taken) == 1


def test_a_newer_version_is_not_damage(taken: Lab) -> None:
    with taken.open() as (archive, store):
        name = sorted(archive.index.known_objects())[0]
        before = everything_below(taken.store_path)

        def newer(object_id: bytes) -> object:
            if object_id == name:
                raise FormatUnsupported("made by a newer version")
            return read(object_id)

        read = archive.read_index_object
        archive.read_index_object = newer  # type: ignore[method-assign,assignment]
        with pytest.raises(FormatUnsupported):
            repair(archive)
        assert everything_below(taken.store_path) == before
        assert isinstance(store, FaultyStore)


def test_another_key_repairs_nothing(taken: Lab) -> None:
    with taken.open() as (archive, _), pytest.raises(WrongKey, match="repairing needs"):
        repair(archive, SigningKey(bytes(32)))


@pytest.mark.parametrize("operation", ["put", "delete"])
def test_killed_anywhere_the_next_goes_on(taken: Lab, operation: str) -> None:
    with taken.open() as (archive, store):
        names = sorted(archive.index.known_objects())[:2]
        for name in names:
            damage(store, Kind.INDEX, name)
        for when in ("before", "after"):
            store.crash(operation, when=when)  # type: ignore[arg-type]
            with pytest.raises(SimulatedCrash):
                repair(archive)
            store.mend()
        repair(archive)
        assert repair(archive).is_needless
        assert not set(names) & taken.objects(Kind.INDEX)
    assert expect_all_readable(taken) == 3
    assert expect_all_readable(taken.second_host()) == 3


def test_the_command(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store")
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    host.ok("snapshot", tmp_path / "file")
    assert "nothing to repair: 1 index object in order" in host.ok("repair").out
    (index,) = (tmp_path / "store" / "index").iterdir()
    index.unlink()
    said = host.ok("repair", "--dry-run").out
    assert "2 packs in no index" in said and "would be put into it again" in said
    assert host.ok("repair", "--json").lines()[-1]["chunks"] >= 4
    assert "all is well" in host.ok("check", "--read-data").out
    assert host.run("repair", "extra").code == 2
