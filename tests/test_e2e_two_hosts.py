"""Two hosts, one archive: they share what is stored, and neither can speak for the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from checked import check, make_source, names, opened, put_under_false_id, unreadable
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.writer import ArchiveWriter
from coopfs.format.body import SealedBody, open_body, seal_body
from coopfs.format.index import IndexObject, decode_index, encode_index
from coopfs.format.keys import Role, SigningKey, writer_id_of
from coopfs.format.records import (
    Amendment,
    Enrolment,
    ForgetRecord,
    encode_amendment,
    encode_enrolment,
    encode_forget,
)
from coopfs.format.snapshot import SnapshotFacts, encode_snapshot
from coopfs.ops.check_findings import Subject
from coopfs.store.base import Kind


class TwoHosts:
    """Anna, who made the archive, and Bob, whom she enrolled."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self.anna = Host(base / "anna", "anna")
        self.bob = Host(base / "bob", "bob")
        self.anna.init(self.store, "--recovery-kit", base / "kit")
        (base / "sheet").write_text((base / "kit").read_text().split("\f")[0])
        asked = self.bob.ok(
            *("--json", "writer", "request", self.store, "--host", "bob"),
            *("--no-passphrase", "--recovery-kit", base / "sheet"),
        )
        self.code = asked.lines()[0]["code"]

    def enrol(self) -> None:
        self.anna.ok("writer", "enrol", self.code)


@pytest.fixture
def two(tmp_path: Path) -> TwoHosts:
    """Both hosts, Bob enrolled, a source for each with the same content."""
    two = TwoHosts(tmp_path)
    two.enrol()
    make_source(tmp_path / "annas")
    make_source(tmp_path / "bobs")
    return two


def snapshot(host: Host, source: Path) -> dict[str, object]:
    """Take a snapshot and return its summary."""
    summary: dict[str, object] = host.ok("snapshot", source, "--json").lines()[-1]
    return summary


def listed(host: Host) -> list[tuple[str, str, int]]:
    lines = host.ok("snapshots", "--json").lines()
    return [(s["host"], s["series"], s["number"]) for s in lines if s["type"] == "snapshot"]


# --- sharing ---------------------------------------------------------------------


def test_what_one_host_has_stored_the_other_does_not_send_again(two: TwoHosts) -> None:
    first = snapshot(two.anna, two.base / "annas")
    second = snapshot(two.bob, two.base / "bobs")
    assert first["size"] == second["size"]
    assert int(str(first["new"])) > 9_000_000
    assert int(str(second["new"])) < 20_000  # trees only: names and times differ
    assert "all is well" in two.anna.ok("check", "--read-data").out
    assert "all is well" in two.bob.ok("check", "--read-data").out


def test_both_hosts_see_both_series_and_the_same_fingerprint(two: TwoHosts) -> None:
    snapshot(two.anna, two.base / "annas")
    snapshot(two.bob, two.base / "bobs")
    expected = [("anna", "annas", 1), ("bob", "bobs", 1)]
    assert listed(two.anna) == expected
    assert listed(two.bob) == expected
    prints = [h.ok("snapshots", "--json").lines()[-1]["fingerprint"] for h in (two.anna, two.bob)]
    assert prints[0] == prints[1]


def test_both_hosts_can_write_at_once(two: TwoHosts) -> None:
    make_source(two.base / "other", seed=7)
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "coopfs.cli.main", "snapshot", source, "--series", "s"],
            env={**os.environ, **host.environ},
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.DEVNULL,
        )
        for host, source in ((two.anna, two.base / "annas"), (two.bob, two.base / "other"))
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert listed(two.anna) == listed(two.bob)
    assert len(listed(two.anna)) == 2
    assert "all is well" in two.anna.ok("check", "--read-data").out


def test_a_host_that_is_not_enrolled_yet_can_read_but_not_write(tmp_path: Path) -> None:
    two = TwoHosts(tmp_path)
    make_source(tmp_path / "annas")
    snapshot(two.anna, tmp_path / "annas")
    assert listed(two.bob) == [("anna", "annas", 1)]
    ran = two.bob.run("snapshot", tmp_path / "annas")
    assert ran.code == 12
    assert "not enrolled" in ran.err
    assert listed(two.anna) == [("anna", "annas", 1)]


# --- forging ------------------------------------------------------------------------


Forge = Callable[[Archive, SnapshotFacts], tuple[Kind, SealedBody]]


def sealed(archive: Archive, role: Role, body: bytes, signer: SigningKey) -> SealedBody:
    return seal_body(archive.keys, signer, role, archive.config.archive_id, body, os.urandom(32))


def own_key(archive: Archive) -> SigningKey:
    signer = archive.ring.writer()
    assert signer is not None
    return signer


def in_annas_name_with_bobs_key(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    """Bob names himself as the writer, but Anna's host."""
    signer = own_key(archive)
    body = encode_snapshot(replace(facts, writer_id=signer.writer_id))
    return Kind.SNAPSHOTS, sealed(archive, Role.SNAPSHOT, body, signer)


def with_annas_writer_id(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    """Bob names Anna as the writer, but cannot sign for her."""
    return Kind.SNAPSHOTS, sealed(archive, Role.SNAPSHOT, encode_snapshot(facts), own_key(archive))


def with_a_key_nobody_enrolled(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    signer = SigningKey(b"\x17" * 32)
    body = encode_snapshot(replace(facts, writer_id=signer.writer_id))
    return Kind.SNAPSHOTS, sealed(archive, Role.SNAPSHOT, body, signer)


def an_enrolment_by_bob(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    """Bob enrols a key of his own for Anna's host."""
    key = SigningKey(b"\x18" * 32)
    record = Enrolment(key.writer_id, key.public_key, facts.host, time.time_ns())
    return Kind.SNAPSHOTS, sealed(
        archive, Role.ENROLMENT, encode_enrolment(record), own_key(archive)
    )


def a_forget_record_by_bob(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    ids = tuple(s.snapshot_id for s in archive.snapshots() if s.facts.host == facts.host)
    body = encode_forget(ForgetRecord(ids, time.time_ns()))
    return Kind.SNAPSHOTS, sealed(archive, Role.FORGET, body, own_key(archive))


def an_amendment_in_annas_name(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    ids = tuple(s.snapshot_id for s in archive.snapshots())
    record = Amendment(ids, (), (), False, "nothing to see", None, facts.writer_id, 0)
    return Kind.SNAPSHOTS, sealed(
        archive, Role.AMENDMENT, encode_amendment(record), own_key(archive)
    )


def marks_on_all_packs(archive: Archive, facts: SnapshotFacts) -> tuple[Kind, SealedBody]:
    signer = own_key(archive)
    marked = tuple(pack.pack_id for pack in archive.index.packs())
    body = encode_index(IndexObject((), marked, (), signer.writer_id, 0))
    return Kind.INDEX, sealed(archive, Role.INDEX, body, signer)


def a_replacement_for_all_index_objects(
    archive: Archive, facts: SnapshotFacts
) -> tuple[Kind, SealedBody]:
    signer = own_key(archive)
    replaced = tuple(archive.index.known_objects())
    body = encode_index(IndexObject((), (), replaced, signer.writer_id, 0))
    return Kind.INDEX, sealed(archive, Role.INDEX, body, signer)


def an_index_object_in_the_admins_name(
    archive: Archive, facts: SnapshotFacts
) -> tuple[Kind, SealedBody]:
    admin_id = writer_id_of(archive.config.admin_public_key)
    marked = tuple(pack.pack_id for pack in archive.index.packs())
    body = encode_index(IndexObject((), marked, (), admin_id, 0))
    return Kind.INDEX, sealed(archive, Role.INDEX, body, own_key(archive))


def annas_newest(archive: Archive) -> Snapshot:
    return [s for s in archive.snapshots() if s.facts.host == "anna"][-1]


@pytest.mark.parametrize(
    "forge",
    [
        in_annas_name_with_bobs_key,
        with_annas_writer_id,
        with_a_key_nobody_enrolled,
        an_enrolment_by_bob,
        a_forget_record_by_bob,
        an_amendment_in_annas_name,
        marks_on_all_packs,
        a_replacement_for_all_index_objects,
        an_index_object_in_the_admins_name,
    ],
)
def test_what_a_hacked_host_forges_does_not_count_and_is_reported(
    two: TwoHosts, forge: Forge
) -> None:
    snapshot(two.anna, two.base / "annas")
    snapshot(two.bob, two.base / "bobs")
    before = listed(two.anna)
    with opened(two.bob) as (archive, store):
        archive.refresh()
        assert archive.ring.admin() is None  # the enrolled host never gets it
        newest = annas_newest(archive)
        facts = replace(
            newest.facts,
            number=newest.facts.number + 1,
            previous=(newest.snapshot_id,),
            root=archive.snapshots()[-1].facts.root,
        )
        kind, forged = forge(archive, facts)
        store.inner.put(kind, forged.object_id, forged.data)
    for host in (two.anna, two.bob):
        ran = host.ok("snapshots", "--json")
        assert f"{kind}/{forged.object_id.hex()[:16]}" in ran.err
        assert listed(host) == before
        with opened(host) as (archive, _):
            checked = check(archive, 1.0)
        expected = Subject.SNAPSHOT if kind is Kind.SNAPSHOTS else Subject.INDEX
        assert checked.subjects == [expected]
        assert checked.hurt == []
        assert host.run("check").code == 1
    # Work goes on: nothing is marked, replaced or taken away.
    again = snapshot(two.anna, two.base / "annas")
    assert int(str(again["new"])) < 2000  # the folders above the source
    assert listed(two.bob)[-1] == ("anna", "annas", 2)


def test_a_snapshot_deleted_under_a_forged_record_is_an_omission(two: TwoHosts) -> None:
    snapshot(two.anna, two.base / "annas")
    with opened(two.bob) as (archive, store):
        archive.refresh()
        newest = annas_newest(archive)
        kind, forged = a_forget_record_by_bob(archive, newest.facts)
        store.inner.put(kind, forged.object_id, forged.data)
        store.inner.delete(Kind.SNAPSHOTS, newest.snapshot_id)
    for host in (two.anna, two.bob):
        ran = host.run("snapshots")
        assert ran.code == 1
        assert "no longer shows snapshot" in ran.err
        with opened(host) as (archive, _):
            assert newest.snapshot_id in [f.object_id for f in check(archive).damages]


def test_a_pack_signed_by_a_stranger_is_reported(two: TwoHosts) -> None:
    snapshot(two.anna, two.base / "annas")
    with opened(two.bob) as (archive, store):
        archive.refresh()
        before = set(names(store, Kind.INDEX))
        with ArchiveWriter(archive, SigningKey(b"\x19" * 32)) as writer:
            writer.save_chunk(b"from a stranger" * 1000)
            writer.flush()
        (name,) = set(names(store, Kind.INDEX)) - before
        opened_body = open_body(
            archive.keys, store.inner.get(Kind.INDEX, name), (Role.INDEX,), "index"
        )
        content = decode_index(opened_body.body, "index")
        store.inner.delete(Kind.INDEX, name)  # that one is the stranger's too
        signer = own_key(archive)
        body = encode_index(replace(content, writer_id=signer.writer_id))
        forged = sealed(archive, Role.INDEX, body, signer)
        store.inner.put(Kind.INDEX, forged.object_id, forged.data)
    with opened(two.anna) as (archive, _):
        (finding,) = check(archive).damages
    assert finding.subject is Subject.PACK
    assert finding.object_id == content.packs[0].pack_id
    assert "not enrolled" in finding.message


def test_a_poisoned_chunk_is_found_told_apart_and_stored_anew(two: TwoHosts) -> None:
    content = b"what Anna has and Bob knows" * 50
    (two.base / "annas" / "known").write_bytes(content)
    path = os.fsencode(two.base / "annas" / "known")
    with opened(two.bob) as (archive, _):
        archive.refresh()
        # Bob knows what Anna is about to store, and claims to have it.
        false = put_under_false_id(archive, archive.keys.chunk_id(content), b"0" * len(content))
    snapshot(two.anna, two.base / "annas")
    with opened(two.anna) as (archive, _):
        archive.refresh()
        # Never wrong bytes: what does not match its id is an error.
        assert unreadable(archive, archive.snapshots()[-1]) == {path}
        checked = check(archive, 1.0)
        bob_id = next(w.writer_id for w in archive.objects.writers().values() if w.host == "bob")
    assert [h.path for h in checked.hurt] == [path]
    (damage,) = checked.damages
    assert damage.object_id == false
    assert f"writer {bob_id.hex()[:8]} stored it so; do not trust" in damage.message
    # From now on Anna does not rely on that pack, so her next snapshot heals both.
    snapshot(two.anna, two.base / "annas")
    with opened(two.anna) as (archive, _):
        archive.refresh()
        assert check(archive, 1.0).hurt == []
        for taken in archive.snapshots():
            assert unreadable(archive, taken) == set()
