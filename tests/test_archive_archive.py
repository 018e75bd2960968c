"""An opened archive: what a refresh takes in, refuses and remembers."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from archive_fixtures import (
    Lab,
    content_of,
    entry_below,
    lab,
    no_race,
    opened,
    take,
    write,
)
from checked import no_passphrase

from coopfs.archive.archive import Archive
from coopfs.archive.kept_config import KEPT_CONFIG
from coopfs.archive.keyring import load_keyring
from coopfs.archive.settings import load_settings
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.state import FILE_NAME
from coopfs.errors import (
    CoopfsError,
    DataError,
    NotAStore,
    Rollback,
    SignatureInvalid,
    StoreUnavailable,
    WrongKey,
)
from coopfs.format.body import seal_body
from coopfs.format.config import encode_config
from coopfs.format.index import IndexObject, encode_index
from coopfs.format.keys import Role, SigningKey, writer_id_of
from coopfs.format.records import (
    Enrolment,
    ForgetRecord,
    encode_enrolment,
    encode_forget,
)
from coopfs.format.snapshot import SnapshotFacts, encode_snapshot
from coopfs.ids import ObjectId, SnapshotId
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore
from coopfs.store.open import open_store

__all__ = ["lab", "no_race"]  # fixtures
STRANGER = SigningKey(b"s" * 32)


def put(archive: Archive, kind: Kind, role: Role, body: bytes, signer: SigningKey) -> ObjectId:
    """Put a signed object, whoever signs it."""
    sealed = seal_body(archive.keys, signer, role, archive.config.archive_id, body, os.urandom(32))
    archive.store.put(kind, sealed.object_id, sealed.data)
    return sealed.object_id


def admin_of(archive: Archive) -> SigningKey:
    admin = archive.ring.admin()
    assert admin is not None
    return admin


def writer_of(archive: Archive) -> SigningKey:
    writer = archive.ring.writer()
    assert writer is not None
    return writer


def garbage(size: int = 500) -> tuple[bytes, bytes]:
    data = os.urandom(size)
    return hashlib.sha256(data).digest(), data


def forge(
    archive: Archive, facts: SnapshotFacts, signer: SigningKey, **changes: object
) -> ObjectId:
    body = encode_snapshot(replace(facts, **changes))  # type: ignore[arg-type]
    return put(archive, Kind.SNAPSHOTS, Role.SNAPSHOT, body, signer)


def ids(snapshots: list[Snapshot]) -> list[SnapshotId]:
    return [snapshot.snapshot_id for snapshot in snapshots]


@pytest.fixture
def taken(lab: Lab) -> Lab:
    write(lab.source / "f", os.urandom(5000))
    lab.take()
    return lab


# --- opening -------------------------------------------------------------------------


def test_a_store_without_an_archive_is_named_as_such(taken: Lab) -> None:
    settings = load_settings(taken.host.dirs, None)
    with taken.open() as (archive, store):
        store.replace_config(None)
        with pytest.raises(NotAStore, match="holds no archive"):
            Archive.open(taken.host.dirs, settings, archive.ring, store)


def test_another_archive_is_not_taken_for_this_one(taken: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path, "other")
    other.store_path = tmp_path / "other-store"
    other.init()
    config = (other.store_path / "config").read_bytes()
    settings = load_settings(taken.host.dirs, None)
    with taken.open() as (archive, store):
        store.replace_config(config)
        with pytest.raises(WrongKey, match="not made with this key"):
            Archive.open(taken.host.dirs, settings, archive.ring, store)
        store.mend()
        wrong = replace(settings, archive_id=type(settings.archive_id)(bytes(16)))
        with pytest.raises(WrongKey, match="as configured"):
            Archive.open(taken.host.dirs, wrong, archive.ring, store)


def test_a_store_that_is_away_is_said_to_be(taken: Lab) -> None:
    settings = load_settings(taken.host.dirs, None)
    with taken.open() as (archive, store):
        store.go_away()
        with pytest.raises(StoreUnavailable):
            Archive.open(taken.host.dirs, settings, archive.ring, store)
        with pytest.raises(StoreUnavailable):
            archive.refresh()
        assert len(archive.snapshots()) == 1  # as last seen


@contextmanager
def remote(lab: Lab, *, may_be_away: bool = False, is_away: bool = False) -> Iterator[Archive]:
    """Open the archive as if its store were at a partner's."""
    settings = load_settings(lab.host.dirs, None)
    ring = load_keyring(lab.host.dirs, settings, no_passphrase)
    store = FaultyStore(open_store(settings.store))
    store.is_local = False
    if is_away:
        store.go_away()
    with Archive.open(lab.host.dirs, settings, ring, store, may_be_away=may_be_away) as archive:
        yield archive


def test_what_was_seen_of_a_partners_archive_can_be_browsed_while_it_is_away(taken: Lab) -> None:
    settings = load_settings(taken.host.dirs, None)
    (taken.host.dirs.archive_state(settings.archive_id) / KEPT_CONFIG).unlink()
    with pytest.raises(StoreUnavailable), remote(taken, may_be_away=True, is_away=True):
        pass  # never opened before: there is nothing to show
    with remote(taken) as archive:
        archive.refresh()
        root = archive.snapshots()[0].facts.root
        assert archive.away == ""
        archive.fetch_metadata()
    with remote(taken, may_be_away=True, is_away=True) as archive:
        assert archive.away
        assert [entry.name for entry in archive.iter_entries(root)]
        file = entry_below(archive, root, taken.source / "f")
        assert file.size == 5000
        with pytest.raises(StoreUnavailable):
            content_of(archive, file)  # only names are kept in advance
        with pytest.raises(StoreUnavailable):
            archive.refresh()
    with pytest.raises(StoreUnavailable), remote(taken, is_away=True):
        pass  # whoever writes or verifies needs the partner


def test_a_snapshot_keeps_its_own_names_here(taken: Lab) -> None:
    write(taken.source / "sub" / "g", os.urandom(3000))
    with remote(taken) as archive:
        archive.refresh()
        report = take(archive, taken.source)
    with remote(taken, may_be_away=True, is_away=True) as archive:
        assert entry_below(archive, report.facts.root, taken.source / "sub" / "g").size == 3000


def test_a_config_kept_here_that_was_altered_is_refused(taken: Lab) -> None:
    with remote(taken) as archive:
        kept = archive.state_folder / KEPT_CONFIG
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    with pytest.raises((WrongKey, DataError)), remote(taken, may_be_away=True, is_away=True):
        pass
    with remote(taken):  # and the store's own takes its place
        pass
    with remote(taken, may_be_away=True, is_away=True):
        pass


def test_a_hacked_host_cannot_make_itself_the_admin(taken: Lab) -> None:
    with taken.open() as (archive, _):
        forged = replace(archive.config, admin_public_key=STRANGER.public_key)
        config = encode_config(archive.keys, forged)
    path = taken.store_path / "config"
    real = path.read_bytes()
    path.unlink()
    path.write_bytes(config)
    with pytest.raises(SignatureInvalid, match="admin key is another"), taken.open():
        pass
    with pytest.raises(SignatureInvalid), remote(taken, may_be_away=True):
        pass
    copied = taken.host.run("--store", str(taken.store_path), "snapshots")
    assert (copied.code, "has replaced the config" in copied.err) == (1, True)
    path.write_bytes(real)
    with taken.open() as (archive, _):
        assert len(archive.snapshots()) == 1


def test_what_is_known_is_not_read_again(taken: Lab) -> None:
    with taken.open() as (_, store):
        assert store.requests["get", Kind.SNAPSHOTS] == store.requests["get", Kind.INDEX] == 0


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_damaged_or_missing_index_is_rebuilt_from_the_store(
    taken: Lab, no_race: None, content: bytes
) -> None:
    with taken.open() as (archive, _):
        state = archive.state_folder / FILE_NAME
        snapshots = archive.snapshots()
    for path in state.parent.glob(f"{FILE_NAME}-*"):
        path.unlink()
    if content:
        state.write_bytes(content)
    else:
        state.unlink()
    with taken.open() as (archive, _):
        assert archive.snapshots() == snapshots
        report = take(archive, taken.source)
    assert (report.facts.counts.new, report.facts.counts.read) == (0, 5000)
    assert report.facts.number == 2


# --- snapshots that do not count -----------------------------------------------------------


def test_garbage_is_warned_about_at_every_refresh_and_harms_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        before = archive.snapshots()
        for kind in (Kind.SNAPSHOTS, Kind.INDEX):
            name, data = garbage()
            store.inner.put(kind, name, data)
            short, data = garbage(10)
            store.inner.put(kind, short, data)
        for _ in range(2):
            archive.refresh()
            assert archive.snapshots() == before
            assert len(archive.warnings) == 4
            assert name.hex()[:16] in " ".join(archive.warnings)


def test_an_object_of_another_role_or_place_does_not_count(taken: Lab) -> None:
    with taken.open() as (archive, _):
        before = archive.snapshots()
        body = encode_index(IndexObject((), (), (), writer_of(archive).writer_id, time.time_ns()))
        put(archive, Kind.SNAPSHOTS, Role.INDEX, body, writer_of(archive))
        put(
            archive, Kind.INDEX, Role.SNAPSHOT, encode_snapshot(before[0].facts), writer_of(archive)
        )
        archive.refresh()
        assert archive.snapshots() == before
        assert len(archive.warnings) == 2


def test_a_snapshot_of_a_writer_nobody_enrolled_does_not_count(taken: Lab) -> None:
    with taken.open() as (archive, _):
        (real,) = archive.snapshots()
        forge(archive, real.facts, STRANGER, number=9, writer_id=STRANGER.writer_id)
        archive.refresh()
        assert archive.snapshots() == [real]
        assert "is not enrolled" in archive.warnings[0]
        # Nor does one that claims to be an enrolled writer's.
        forge(archive, real.facts, STRANGER, number=10)
        archive.refresh()
        assert archive.snapshots() == [real]
        assert any("signature" in warning for warning in archive.warnings)
        assert archive.heads.get("anna", "main").number == 1  # type: ignore[union-attr]


def test_an_enrolled_writer_cannot_speak_for_another_host(taken: Lab) -> None:
    bob = taken.second_host()
    with bob.open() as (archive, _):
        (real,) = archive.snapshots()
        signer = writer_of(archive)
        forge(archive, real.facts, signer, number=2, writer_id=signer.writer_id)
        archive.refresh()
        assert archive.snapshots() == [real]
        assert "enrolled for host bob" in archive.warnings[0]


def test_an_enrolment_that_is_not_the_admins_does_not_count(taken: Lab) -> None:
    with taken.open() as (archive, _):
        (real,) = archive.snapshots()
        record = Enrolment(STRANGER.writer_id, STRANGER.public_key, "anna", 0)
        put(archive, Kind.SNAPSHOTS, Role.ENROLMENT, encode_enrolment(record), writer_of(archive))
        put(archive, Kind.SNAPSHOTS, Role.ENROLMENT, encode_enrolment(record), STRANGER)
        claim = {"number": 2, "previous": (real.snapshot_id,), "writer_id": STRANGER.writer_id}
        forge(archive, real.facts, STRANGER, **claim)
        archive.refresh()
        assert archive.snapshots() == [real]
        assert STRANGER.writer_id not in archive.objects.writers()
        assert len(archive.warnings) == 3
        # The admin's does, and then the snapshot counts too.
        put(archive, Kind.SNAPSHOTS, Role.ENROLMENT, encode_enrolment(record), admin_of(archive))
        archive.refresh()
        assert len(archive.snapshots()) == 2
        assert len(archive.warnings) == 2


def test_a_snapshot_shown_under_anothers_name_does_not_count(taken: Lab) -> None:
    second = taken.take()
    assert second.snapshot is not None
    with opened(taken.second_host("bob").host, refresh=False) as (archive, store):
        (first_id,) = second.facts.previous
        old = store.inner.get(Kind.SNAPSHOTS, first_id)
        store.replace(Kind.SNAPSHOTS, second.snapshot.snapshot_id, old)
        archive.refresh()
        assert ids(archive.snapshots()) == [first_id]
        assert "damaged or exchanged" in " ".join(archive.warnings)
        store.mend()
        archive.refresh()
        assert len(archive.snapshots()) == 2
        assert archive.warnings == []


# --- rollback -------------------------------------------------------------------------------


def test_a_store_that_no_longer_shows_the_newest_snapshot_is_refused(taken: Lab) -> None:
    second = taken.take()
    assert second.snapshot is not None
    with taken.open() as (archive, store):
        store.lose(Kind.SNAPSHOTS, second.snapshot.snapshot_id)
        for _ in range(2):  # and stays refused
            with pytest.raises(Rollback, match=r"number 2 \(\w+\) of anna/main, taken"):
                archive.refresh()
        store.mend()
        archive.refresh()
        assert len(archive.snapshots()) == 2


def test_the_heads_outlive_the_local_state(taken: Lab) -> None:
    second = taken.take()
    assert second.snapshot is not None
    with taken.open() as (archive, _):
        folder = archive.state_folder
    for path in folder.glob(f"{FILE_NAME}*"):
        path.unlink()
    with opened(taken.host, refresh=False) as (archive, store):
        store.lose(Kind.SNAPSHOTS, second.snapshot.snapshot_id)
        with pytest.raises(Rollback):
            archive.refresh()


def test_a_listing_that_missed_it_once_is_asked_for_again(taken: Lab) -> None:
    with taken.open() as (archive, store):
        listed = archive.objects._listed
        calls = []

        def miss_once() -> set[ObjectId]:
            calls.append(1)
            return listed() if len(calls) > 1 else set()

        archive.objects._listed = miss_once  # type: ignore[method-assign]
        archive.refresh()
        assert len(calls) == 2
        assert len(archive.snapshots()) == 1
        assert store.requests["get", Kind.SNAPSHOTS] == 0


def test_a_snapshot_that_a_forget_record_names_may_be_gone(taken: Lab) -> None:
    second = taken.take()
    assert second.snapshot is not None
    gone = second.snapshot.snapshot_id
    with taken.open() as (archive, store):
        store.inner.delete(Kind.SNAPSHOTS, gone)
        body = encode_forget(ForgetRecord((gone,), time.time_ns()))
        put(archive, Kind.SNAPSHOTS, Role.FORGET, body, writer_of(archive))
        with pytest.raises(Rollback):  # only the admin's word counts
            archive.refresh()
        put(archive, Kind.SNAPSHOTS, Role.FORGET, body, admin_of(archive))
        archive.refresh()
        assert len(archive.snapshots()) == 1
    third = taken.take()
    assert third.facts.number == 3
    assert third.facts.previous == (gone,)


def test_a_higher_number_counts_only_when_it_continues_what_is_known(taken: Lab) -> None:
    with taken.open() as (archive, _):
        (first,) = archive.snapshots()
        forge(archive, first.facts, writer_of(archive), number=50, previous=())
        archive.refresh()
        assert "does not continue number 1" in archive.warnings[0]
        assert archive.heads.get("anna", "main").number == 1  # type: ignore[union-attr]
        forge(archive, first.facts, writer_of(archive), number=2, previous=(first.snapshot_id,))
        archive.refresh()
        head = archive.heads.get("anna", "main")
        assert head is not None and head.number == 2


# --- the index -------------------------------------------------------------------------------


def test_an_index_object_of_a_stranger_brings_nothing_in(taken: Lab) -> None:
    with taken.open() as (archive, _):
        packs = list(archive.index.packs())
        content = IndexObject((), (), (), STRANGER.writer_id, 0)
        put(archive, Kind.INDEX, Role.INDEX, encode_index(content), STRANGER)
        claimed = replace(content, writer_id=writer_of(archive).writer_id)
        put(archive, Kind.INDEX, Role.INDEX, encode_index(claimed), STRANGER)
        archive.refresh()
        assert len(archive.warnings) == 2
        assert list(archive.index.packs()) == packs


@pytest.mark.parametrize("what", ["marked", "replaces"])
def test_only_the_admin_may_mark_packs_and_replace_objects(taken: Lab, what: str) -> None:
    with taken.open() as (archive, _):
        packs = tuple(pack.pack_id for pack in archive.index.packs())
        objects = tuple(archive.index.known_objects())
        claim = IndexObject(
            (),
            packs if what == "marked" else (),
            objects if what == "replaces" else (),
            writer_of(archive).writer_id,
            0,
        )
        put(archive, Kind.INDEX, Role.INDEX, encode_index(claim), writer_of(archive))
        # Nor does it help to say it is the admin's.
        admin_id = writer_id_of(archive.config.admin_public_key)
        forged = encode_index(replace(claim, writer_id=admin_id))
        put(archive, Kind.INDEX, Role.INDEX, forged, writer_of(archive))
        archive.refresh()
        assert len(archive.warnings) == 2
        assert archive.index.is_whole
        assert tuple(p.pack_id for p in archive.index.packs()) == packs
        put(archive, Kind.INDEX, Role.INDEX, forged, admin_of(archive))
        archive.refresh()
        assert not (archive.index.is_whole and list(archive.index.packs()))


def test_objects_a_prune_replaces_while_they_are_read_are_listed_again(taken: Lab) -> None:
    bob = taken.second_host()
    with taken.open() as (archive, _):
        content = [archive.read_index_object(name) for name in archive.index.known_objects()]
        old = tuple(archive.index.known_objects())
        admin_id = writer_id_of(archive.config.admin_public_key)
        packs = tuple(pack for each in content for pack in each.packs)
        with opened(bob.host, refresh=False) as (late, store):
            get = store.get
            replaced = []

            def vanish(kind: Kind, name: bytes, *place: int) -> bytes:
                if kind is Kind.INDEX and not replaced:
                    replaced.append(1)
                    merged = encode_index(IndexObject(packs, (), old, admin_id, 0))
                    put(archive, Kind.INDEX, Role.INDEX, merged, admin_of(archive))
                    for each in old:
                        archive.store.delete(Kind.INDEX, each)
                return get(kind, name, *place)

            store.get = vanish  # type: ignore[method-assign]
            late.refresh()
            assert {p.pack_id for p in late.index.packs()} == {p.pack_id for p in packs}
            assert late.warnings == []


def test_two_processes_refresh_at_once_and_agree(taken: Lab) -> None:
    for number in range(6):
        write(taken.source / str(number), os.urandom(3000))
        taken.take()
    with taken.open() as (archive, _):
        expected = archive.snapshots(), {p.pack_id for p in archive.index.packs()}
        folder = archive.state_folder
    for path in folder.glob(f"{FILE_NAME}*"):
        path.unlink()
    found: list[object] = []
    start = threading.Barrier(4)

    def refresh() -> None:
        with opened(taken.host, refresh=False) as (archive, _):
            start.wait()
            for _ in range(3):
                archive.refresh()
            found.append((archive.snapshots(), {p.pack_id for p in archive.index.packs()}))

    threads = [threading.Thread(target=refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


def test_a_refresh_beside_a_running_snapshot_takes_nothing_from_it(
    taken: Lab, no_race: None
) -> None:
    with taken.open() as (mount, store):
        listing = store.list
        done = []

        def list_late(kind: Kind) -> object:
            found = list(listing(kind))
            if not done:  # a snapshot ends between the mount's listing and its look
                done.append(1)
                write(taken.source / "new", os.urandom(4000))
                taken.take()
            return iter(found)

        store.list = list_late  # type: ignore[method-assign,assignment]
        try:
            mount.refresh()
        except CoopfsError as exc:
            pytest.fail(str(exc))
    again = taken.take()
    assert again.facts.counts.new == 0
    assert again.facts.number == 3


def test_reading_a_tree_that_is_not_there_is_damage_not_a_crash(taken: Lab) -> None:
    with taken.open() as (archive, store):
        (snapshot,) = archive.snapshots()
        for info in list(store.inner.list(Kind.DATA)):
            store.lose(Kind.DATA, info.name)
        with pytest.raises(DataError, match="check"):
            list(archive.iter_entries(snapshot.facts.root))
