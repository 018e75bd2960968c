"""What nobody who writes to the archive has made is taken away; what may be real stays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, write
from hosts import everything_below
from pruning import expect_all_readable

from coopfs.archive.archive import Archive
from coopfs.errors import StoreDenied
from coopfs.format.body import seal_body
from coopfs.format.keys import ArchiveKeys, Role, SigningKey
from coopfs.format.records import ForgetRecord, encode_forget
from coopfs.format.snapshot import encode_snapshot
from coopfs.ops.progress import NoProgress
from coopfs.ops.repair import repair_archive
from coopfs.store.base import Kind

__all__ = ["lab"]  # a fixture

STRANGER = SigningKey(b"\x23" * 32)


@pytest.fixture
def taken(lab: Lab) -> Lab:
    write(lab.source / "file", os.urandom(50_000))
    lab.take()
    lab.take()
    return lab


def sealed(archive: Archive, role: Role, body: bytes, signer: SigningKey) -> bytes:
    archive_id = archive.config.archive_id
    return seal_body(archive.keys, signer, role, archive_id, body, os.urandom(32)).data


def a_snapshot(archive: Archive) -> bytes:
    """Return a real one's bytes."""
    return archive.store.get(Kind.SNAPSHOTS, archive.snapshots()[0].snapshot_id)


def noise(archive: Archive) -> bytes:
    return os.urandom(5000)


def nothing(archive: Archive) -> bytes:
    return b""


def of_another_archive(archive: Archive) -> bytes:
    keys = ArchiveKeys.derive(bytes(32))
    return seal_body(keys, STRANGER, Role.SNAPSHOT, archive.config.archive_id, b"", bytes(32)).data


def with_a_copied_header(archive: Archive) -> bytes:
    return a_snapshot(archive)[:-1] + b"?"


def a_pack(archive: Archive) -> bytes:
    return archive.store.get(Kind.DATA, next(iter(archive.index.packs())).pack_id)


def a_snapshot_by_a_stranger(archive: Archive) -> bytes:
    facts = replace(archive.snapshots()[0].facts, writer_id=STRANGER.writer_id)
    return sealed(archive, Role.SNAPSHOT, encode_snapshot(facts), STRANGER)


def a_snapshot_forged(archive: Archive) -> bytes:
    body = encode_snapshot(archive.snapshots()[0].facts)
    return sealed(archive, Role.SNAPSHOT, body, STRANGER)


def a_forged_forget_record(archive: Archive) -> bytes:
    body = encode_forget(ForgetRecord((archive.snapshots()[0].snapshot_id,), 0))
    return sealed(archive, Role.FORGET, body, STRANGER)


def a_malformed_snapshot(archive: Archive) -> bytes:
    signer = archive.ring.writer()
    assert signer is not None
    return sealed(archive, Role.SNAPSHOT, b"\x80", signer)


Make = Callable[[Archive], bytes]


def put(lab: Lab, make: Make, name: bytes | None = None) -> bytes:
    with lab.open() as (archive, _):
        data = make(archive)
    name = hashlib.sha256(data).digest() if name is None else name
    (lab.store_path / "snapshots" / name.hex()).write_bytes(data)
    return name


CERTAIN = [
    noise,
    nothing,
    of_another_archive,
    with_a_copied_header,
    a_pack,
    a_snapshot_by_a_stranger,
    a_snapshot_forged,
    a_forged_forget_record,
    a_malformed_snapshot,
]


def test_what_is_certainly_nobodys_is_set_aside(taken: Lab) -> None:
    before = everything_below(taken.store_path / "snapshots").keys()
    put_all = {put(taken, make).hex() for make in CERTAIN}
    host = taken.host
    said = host.ok("snapshots").err
    assert all(name[:16] in said for name in put_all)
    ran = host.run("prune")
    assert (ran.code, '"coopfs repair" takes away' in ran.err) == (1, True)
    planned = everything_below(taken.store_path)
    said = host.ok("repair", "--dry-run").out
    assert f"{len(CERTAIN)} objects under snapshots/ that nobody needs would be set aside" in said
    assert everything_below(taken.store_path) == planned
    done = host.ok("repair", "--json").lines()[-1]
    assert set(done["set_aside"]) == put_all
    for name in put_all:
        assert hashlib.sha256((Path(done["copies"]) / name).read_bytes()).hexdigest() == name
    after = everything_below(taken.store_path / "snapshots").keys()
    assert len(after - before) == 1  # the record that says so
    assert not put_all & after
    for who in (taken, taken.second_host()):
        assert who.host.ok("snapshots").err == ""
    host.ok("prune")
    host.ok("forget", "--keep-last", 1)
    assert "nothing to repair" in host.ok("repair").out
    assert expect_all_readable(taken) == 1


@pytest.mark.parametrize("make", [a_snapshot_by_a_stranger, noise])
def test_one_is_enough_to_make_a_prune_refuse(taken: Lab, make: Make) -> None:
    put(taken, make)
    assert taken.host.run("prune").code == 1
    taken.host.ok("repair")
    taken.host.ok("prune")


def damaged(archive: Archive) -> bytes:
    return a_snapshot(archive)[:-100]


def of_a_newer_version(archive: Archive) -> bytes:
    data = a_snapshot(archive)
    return data[:8] + b"\x63" + data[9:]


def of_a_newer_role(archive: Archive) -> bytes:
    data = a_snapshot(archive)
    return data[:9] + b"\x63" + data[10:]


def test_what_may_be_real_stays_until_somebody_names_it(taken: Lab) -> None:
    real = {
        put(taken, damaged, b"\x42" * 32),
        put(taken, of_a_newer_version),
        put(taken, of_a_newer_role),
    }
    host = taken.host
    # One may be an enrolment: then whose writer is not enrolled is not certain either.
    stranger = put(taken, a_snapshot_by_a_stranger)
    junk = put(taken, noise)
    done = host.ok("repair", "--json").lines()[-1]
    assert list(done["set_aside"]) == [junk.hex()]
    assert set(done["doubtful"]) == {name.hex() for name in (*real, stranger)}
    assert host.run("prune").code == 1
    said = host.ok("repair").err
    for name in real:
        assert f'"coopfs repair --set-aside {name.hex()[:16]}"' in said
        assert host.run("repair", "--set-aside", name.hex()[:7]).code == 2
    for wrong in ("00" * 8, "x" * 16, ""):
        assert host.run("repair", "--set-aside", wrong).code == 2
    chosen = [arg for name in sorted(real) for arg in ("--set-aside", name.hex()[:16])]
    host.ok("repair", *chosen)
    host.ok("repair")  # now the stranger is certain
    assert not {*real, stranger} & taken.objects(Kind.SNAPSHOTS)
    host.ok("prune")
    assert host.ok("snapshots").err == ""


def test_where_it_cannot_delete_what_is_set_aside_is_passed_over(taken: Lab) -> None:
    name = put(taken, noise)
    with taken.open() as (archive, store):
        store.fail("delete", error=StoreDenied("append only"), times=10**6)
        report = repair_archive(
            archive, archive.ring.admin(), is_dry_run=False, progress=NoProgress()
        )
        assert report.denial == "append only"
    assert name in taken.objects(Kind.SNAPSHOTS)
    for who in (taken, taken.second_host()):
        assert who.host.ok("snapshots").err == ""
    taken.host.ok("prune")
    assert "nothing to repair" in taken.host.ok("repair").out


def test_without_the_admin_key_nothing_is_set_aside(taken: Lab) -> None:
    name = put(taken, noise)
    bob = taken.second_host()
    assert bob.host.run("repair").code == 12
    assert "would be set aside" in bob.host.ok("repair", "--dry-run").out
    assert name in taken.objects(Kind.SNAPSHOTS)
