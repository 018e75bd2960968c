"""After a host was hacked: what it made is told apart, and everybody else's archive heals."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import Lab, lab, no_race, take, write
from checked import check, put_under_false_id, unreadable
from hosts import everything_below
from mounting import mounted, needs_fuse, wait_until
from pruning import expect_all_readable, forget, key_of, prune

from coopfs.archive.archive import Archive
from coopfs.errors import UsageError, WrongKey
from coopfs.format import encoding
from coopfs.format.body import open_body, seal_body
from coopfs.format.index import IndexedPack, IndexObject, decode_index, encode_index
from coopfs.format.keys import Role
from coopfs.format.pack import decode_directory
from coopfs.ops import secure
from coopfs.ops.distrust import apply_distrust, find_writer, plan_distrust
from coopfs.ops.needs import PruneRefused
from coopfs.ops.progress import NoProgress
from coopfs.store.base import Kind

__all__ = ["lab", "no_race"]  # fixtures

SHARED_LEN = 8000  # bytes; less than the chunker's minimum, so one chunk


class Two:
    """Anna has the admin key; Bob is hacked. Both have the same file."""

    def __init__(self, lab: Lab) -> None:
        self.anna = lab
        self.bob = lab.second_host()
        self.bob.source = lab.base / "bobs"
        self.shared = os.urandom(SHARED_LEN)
        write(self.bob.source / "shared", self.shared)
        write(self.anna.source / "shared", self.shared)
        write(self.anna.source / "own", os.urandom(5000))

    def distrust(self, *args: str) -> Any:
        return self.anna.host.ok("--json", "repair", "--distrust", "bob", *args).lines()[-1]

    def shown(self, lab: Lab) -> list[tuple[str, int, bool]]:
        lines = lab.host.ok("snapshots", "--json").lines()
        return [(s["host"], s["number"], s["is_distrusted"]) for s in lines if "number" in s]


@pytest.fixture
def two(lab: Lab) -> Two:
    """Bob's snapshot first, then Anna's, which relies on a chunk of his."""
    two = Two(lab)
    two.bob.take()
    report = two.anna.take()
    assert report.facts.counts.new < SHARED_LEN  # she did not send it again
    return two


def plan(archive: Archive, name: str = "bob", *, is_distrusted: bool = True) -> Any:
    writer = find_writer(archive, name)
    return plan_distrust(archive, writer, is_distrusted=is_distrusted, progress=NoProgress())


def relying(lab: Lab) -> tuple[int, int]:
    """Return how many snapshots of others rely on how many bytes of Bob's packs."""
    with lab.open() as (archive, _):
        reliance = plan(archive).reliance
        return len(reliance.snapshots), reliance.length


def test_what_others_relied_on_is_sent_again_by_their_next_run(two: Two, no_race: None) -> None:
    before = everything_below(two.anna.store_path)
    planned = two.distrust("--dry-run")
    assert everything_below(two.anna.store_path) == before
    assert two.shown(two.anna)[0][2] is False
    assert (len(planned["relying_snapshots"]), planned["relied_chunks"]) == (1, 1)
    assert planned["relied_len"] == SHARED_LEN
    done = two.distrust()
    assert {**planned, "is_dry_run": False} == done
    # Every host knows it from the store, and none relies on his packs any more.
    carol = two.anna.second_host("carol")
    for who in (two.anna, two.bob, carol):
        assert two.shown(who) == [("bob", 1, True), ("anna", 1, False)]
    assert expect_all_readable(carol) == 2
    again = two.anna.take()
    assert SHARED_LEN <= again.facts.counts.new < SHARED_LEN + 5000
    assert again.facts.counts.read == SHARED_LEN  # her own file was not read again
    assert relying(two.anna) == (0, 0)
    last = two.anna.take()
    assert last.facts.counts.new == 0
    assert expect_all_readable(two.anna) == 4


def test_the_lists_say_so(two: Two) -> None:
    two.distrust()
    host = two.anna.host
    rows = host.ok("writer", "list").out.splitlines()
    assert [("DISTRUSTED since" in row) for row in rows[1:]] == [False, True]
    assert [w["is_distrusted"] for w in host.ok("writer", "list", "--json").lines()] == [
        False,
        True,
    ]
    assert "complete, DISTRUSTED" in host.ok("snapshots").out
    assert "complete, DISTRUSTED" in host.ok("snapshots", "--long").out
    assert host.ok("stats", "--json").lines()[0]["distrusted"] == 1
    assert "1 of them are by distrusted writers" in host.ok("stats").out
    checked = host.ok("check", "--json").lines()
    assert any("is distrusted since" in line.get("message", "") for line in checked)
    assert "is distrusted already" in host.ok("repair", "--distrust", "bob").out


@needs_fuse
def test_a_running_mount_says_so(lab: Lab) -> None:
    two = Two(lab)
    write(two.bob.source / "mine", b"first" * 100)
    two.bob.take()
    with mounted(two.anna.host, lab.base / "mnt") as mount:
        (first,) = (mount.path / "by-host/bob/main").glob("2*")
        assert os.getxattr(first, "user.coopfs.distrusted") == b"no"
        two.distrust()
        status = mount.path / ".coopfs/status"

        def is_seen() -> bool:
            list(mount.path.iterdir())
            return "snapshots of distrusted writers: 1\n" in status.read_text()

        wait_until(is_seen, "the mount to see that Bob is distrusted")
        assert os.getxattr(first, "user.coopfs.distrusted") == b"yes"
        below = two.bob.source.relative_to("/")
        assert (first / below / "mine").read_bytes() == b"first" * 100


def test_a_poisoned_chunk_is_found_named_and_healed(lab: Lab, no_race: None) -> None:
    two = Two(lab)
    with two.bob.open() as (archive, _):
        # He knows what Anna is about to store, and claims to have it.
        put_under_false_id(archive, archive.keys.chunk_id(two.shared), bytes(SHARED_LEN))
        bob_id = archive.ring.writer_id
    two.anna.take()
    ran = two.anna.host.run("check", "--read-data")
    assert ran.code == 1
    assert f"writer {bob_id.hex()[:8]} stored it so; do not trust that writer" in ran.err
    assert "shared" in ran.out
    two.distrust()
    two.anna.take()
    for undo in ((), ("--undo",)):
        # Also while both packs count and the poisoned one comes first: readers try the next.
        if undo:
            two.distrust(*undo)
        with two.anna.open() as (archive, _):
            if undo:
                archive.index.mark_found(archive.index.lost())  # as if no check had been run
            first, other = archive.index.locate(archive.keys.chunk_id(two.shared))
            assert (first.block_no < other.block_no) is bool(undo)
            for snapshot in archive.snapshots():
                assert unreadable(archive, snapshot) == set()
            assert check(archive, 1.0).hurt == []


def test_a_listing_in_another_ones_name_is_told_apart(lab: Lab, no_race: None) -> None:
    two = Two(lab)
    with two.bob.open() as (archive, store):
        chunk_id = archive.keys.chunk_id(two.shared)
        anna_id = next(w.writer_id for w in archive.objects.writers().values() if w.host == "anna")
        before = {info.name for info in store.list(Kind.INDEX)}
        put_under_false_id(archive, chunk_id, bytes(SHARED_LEN))
        (name,) = {info.name for info in store.list(Kind.INDEX)} - before
        relist_as(archive, name, anna_id)
    two.anna.take()
    with two.anna.open() as (archive, _):
        place = archive.index.first_location(chunk_id)
        pack = archive.index.pack(archive.index.block(place.block_no).pack_no)
        assert pack.writer_id == anna_id  # so says Bob
        assert archive.index.has(chunk_id)
        apply_distrust(archive, plan(archive), key_of(archive))
        assert not archive.index.has(chunk_id)
    assert two.anna.take().facts.counts.new >= SHARED_LEN
    with two.anna.open() as (archive, _):
        assert unreadable(archive, archive.snapshots()[-1]) == set()


def relist_as(archive: Archive, name: bytes, writer_id: bytes) -> None:
    """Put the pack of an index object into another one that says it is *writer_id*'s."""
    data = archive.store.get(Kind.INDEX, name)
    content = decode_index(open_body(archive.keys, data, (Role.INDEX,), "index").body, "index")
    (pack,) = content.packs
    directory = pack.directory
    fields = encoding.decode(directory.body, "directory")
    (key,) = [key for key, value in fields.items() if value == directory.writer_id]
    body = encoding.encode({**fields, key: writer_id})
    archive.store.delete(Kind.INDEX, name)
    put_listing(archive, replace(pack, directory=decode_directory(body, directory.signature, "")))


def put_listing(archive: Archive, pack: IndexedPack) -> None:
    """Put an index object of this host that says so of *pack*."""
    signer = archive.ring.writer()
    assert signer is not None
    body = encode_index(IndexObject((pack,), (), (), signer.writer_id, 0))
    archive_id = archive.config.archive_id
    sealed = seal_body(archive.keys, signer, Role.INDEX, archive_id, body, os.urandom(32))
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)


def test_what_it_says_of_others_packs_is_believed_by_no_check(two: Two) -> None:
    with two.bob.open() as (archive, store):
        for info in store.list(Kind.INDEX):
            data = archive.store.get(Kind.INDEX, info.name)
            opened = open_body(archive.keys, data, (Role.INDEX,), "index")
            content = decode_index(opened.body, "index")
            for pack in content.packs if content.writer_id != archive.ring.writer_id else ():
                put_listing(archive, replace(pack, size=pack.size + 4096))
    with two.anna.open() as (archive, _):
        assert check(archive, 1.0).damages
        apply_distrust(archive, plan(archive), key_of(archive))
        checked = check(archive, 1.0)
        assert (checked.damages, checked.hurt) == ([], [])
        assert any("by a writer that is distrusted" in f.message for f in checked.findings)
        assert archive.index.lost() == {}


# --- while somebody writes, and before a prune --------------------------------------------


def distrust_at_the_first_question(two: Two) -> Iterator[bool]:
    """Have the run of another host go on only after Bob was distrusted."""
    two.distrust()
    while True:
        yield False


def test_the_writer_itself_is_told_at_the_end_of_its_run(two: Two) -> None:
    write(two.bob.source / "more", os.urandom(100_000))
    questions = distrust_at_the_first_question(two)
    with two.bob.open() as (archive, _), pytest.raises(WrongKey, match="is distrusted since"):
        take(archive, two.bob.source, is_stopped=lambda: next(questions))
    assert two.shown(two.anna) == [("bob", 1, True), ("anna", 1, False)]
    ran = two.bob.host.run("snapshot", two.bob.source)
    assert ran.code == 12
    assert "writer request" in ran.err and "--again" in ran.err


def test_what_a_hacked_writer_puts_all_the_same_does_not_count(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(two.bob.source / "more", os.urandom(500_000))
    with monkeypatch.context() as hacked:
        hacked.setattr(secure, "check_trusted", lambda archive: None)
        questions = distrust_at_the_first_question(two)
        with two.bob.open() as (archive, _):
            report = take(archive, two.bob.source, is_stopped=lambda: next(questions))
    assert report.snapshot is not None
    name = report.snapshot.snapshot_id
    host = two.anna.host
    ran = host.ok("snapshots", "--json")
    assert "1 snapshot by writer" in ran.err and "do not count" in ran.err
    assert two.shown(two.anna) == [("bob", 1, True), ("anna", 1, False)]
    assert "snapshot number 2 of bob/main" in host.ok("repair", "--dry-run").err
    assert name in two.anna.objects(Kind.SNAPSHOTS)
    done = host.ok("repair", "--json").lines()[-1]
    assert list(done["set_aside"]) == [name.hex()]
    assert name not in two.anna.objects(Kind.SNAPSHOTS)
    assert (Path(done["copies"]) / name.hex()).stat().st_size > 0
    # Neither its end nor its going is an omission, and what only it needed goes.
    for who in (two.anna, two.bob, two.anna.second_host("carol")):
        assert who.host.ok("snapshots").err == ""
    with two.anna.open() as (archive, _):
        assert prune(archive, 0).deleted_len > 400_000
    assert expect_all_readable(two.anna) == 2


def test_a_run_that_goes_on_meanwhile_relies_on_none_of_it(two: Two) -> None:
    carol = two.anna.second_host("carol")
    carol.source = two.anna.base / "carols"
    write(carol.source / "shared", two.shared)
    stored: list[int] = []
    questions = distrust_at_the_first_question(two)
    with carol.open() as (archive, _):
        report = take(archive, carol.source, is_stopped=lambda: next(questions))
        stored.append(report.facts.counts.new)
        chosen = plan(archive).reliance.snapshots
    assert stored[0] >= SHARED_LEN  # stored anew before it was committed
    assert "carol" not in {snapshot.facts.host for snapshot in chosen}


@pytest.mark.parametrize("is_before_the_next_run", [True, False])
def test_a_prune_after_it_loses_nothing(
    two: Two, no_race: None, *, is_before_the_next_run: bool
) -> None:
    two.distrust()
    if not is_before_the_next_run:
        two.anna.take()
    with two.anna.open() as (archive, _):
        prune(archive, 0)
        prune(archive, 0)
    assert expect_all_readable(two.anna.second_host("carol")) >= 2
    two.anna.take()
    two.anna.take()
    assert relying(two.anna) == (0, 0)
    with two.anna.open() as (archive, _):
        (bobs,) = [s for s in archive.snapshots() if s.is_distrusted]
        two.anna.host.ok("forget", bobs.snapshot_id.hex())
        forget(archive)
        prune(archive, 0)
        assert not archive.index.packs_by([find_writer(archive, "bob").writer_id])
    assert expect_all_readable(two.anna) == 1


def test_a_snapshot_of_it_that_cannot_be_read_can_be_let_go(two: Two) -> None:
    with two.bob.open() as (archive, store):
        (bobs,) = [s for s in archive.snapshots() if s.facts.host == "bob"]
        place = archive.index.first_location(bobs.facts.root)
        pack = archive.index.pack(archive.index.block(place.block_no).pack_no)
        store.inner.delete(Kind.DATA, pack.pack_id)
    two.distrust()
    with two.anna.open() as (archive, _):
        digits = bobs.snapshot_id.hex()[:8]
        with pytest.raises(PruneRefused, match=f"coopfs forget {digits}"):
            prune(archive, 0)
        two.anna.host.ok("forget", digits)
        prune(archive, 0)
    assert two.shown(two.anna) == [("anna", 1, False)]


# --- and on -----------------------------------------------------------------------------------


def test_taken_back_it_counts_again(two: Two) -> None:
    two.distrust()
    assert two.distrust("--undo")["is_distrusted"] is False
    assert two.shown(two.bob) == [("bob", 1, False), ("anna", 1, False)]
    two.bob.take()
    with two.anna.open() as (archive, _):
        assert archive.index.is_whole
    assert "is trusted already" in two.anna.host.ok("repair", "--distrust", "bob", "--undo").out
    # Distrusted again, the one that came meanwhile is among those that are shown.
    two.distrust()
    assert two.shown(two.anna)[-1] == ("bob", 2, True)


def test_the_host_comes_back_with_a_key_of_its_own(two: Two, no_race: None) -> None:
    two.distrust()
    host = two.bob.host
    shutil.rmtree(host.dirs.config)
    sheets = two.anna.host.ok("--json", "key", "export").lines()[0]
    asked = host.ok(
        *("--json", "writer", "request", two.anna.store_path, "--host", "bob", "--no-passphrase"),
        stdin=sheets["archive_key_words"],
    )
    two.anna.host.ok("writer", "enrol", asked.lines()[0]["code"])
    report = two.bob.take()
    assert report.facts.number == 2
    assert report.facts.counts.new >= SHARED_LEN  # nothing of the old key's is relied on
    for who in (two.anna, two.bob):
        assert two.shown(who) == [("bob", 1, True), ("anna", 1, False), ("bob", 2, False)]
        assert who.host.ok("snapshots").err == ""
    # Two of a host: which one is meant has to be said now.
    with two.anna.open() as (archive, _):
        with pytest.raises(UsageError, match="could be any of the writers"):
            find_writer(archive, "bob")
        prune(archive, 0)


def test_a_store_that_hides_the_record_deceives_nobody_who_has_seen_it(two: Two) -> None:
    before = two.anna.objects(Kind.SNAPSHOTS)
    two.distrust()
    (record,) = two.anna.objects(Kind.SNAPSHOTS) - before
    (two.anna.store_path / "snapshots" / record.hex()).unlink()
    ran = two.anna.host.ok("snapshots", "--json")
    assert "no longer shows this distrust record" in ran.err
    assert two.shown(two.anna)[0] == ("bob", 1, True)


def test_only_the_admin_distrusts_and_only_whom_there_is(two: Two) -> None:
    ran = two.bob.host.run("repair", "--distrust", "anna")
    assert ran.code == 12
    assert "admin key" in ran.err
    for name in ("carol", "ab", "zz" * 8, ""):
        ran = two.anna.host.run("repair", "--distrust", name)
        assert (ran.code, "no writer of that id or host" in ran.err) == (2, True)
    with two.anna.open() as (archive, _):
        writer = find_writer(archive, "bob")
        assert find_writer(archive, writer.writer_id.hex()[:8]) == writer
    assert two.anna.host.run("repair", "--undo").code == 2
    assert two.anna.host.run("repair", "--distrust", "bob", "--accept-rollback").code == 2
    assert two.shown(two.anna)[0] == ("bob", 1, False)


def test_trees_of_packs_that_a_prune_deleted_leave_the_disk_cache(lab: Lab) -> None:
    for number in range(3):
        write(lab.source / f"file{number}", os.urandom(1000))
        lab.take()

    def cached() -> set[str]:
        return {path.name[:64] for path in lab.host.dirs.cache.rglob("meta/*/*")}

    with lab.open(is_local=False) as (archive, _):
        archive.fetch_metadata()
        before = cached()
        assert before == {p.pack_id.hex() for p in archive.index.packs() if p.is_meta}
        assert len(before) == 3
        forget(archive)
        prune(archive, 0)
        prune(archive, 0)
        here = {p.pack_id.hex() for p in archive.index.packs() if p.is_meta}
        assert not before <= here
        assert cached() <= here
        assert unreadable(archive, archive.snapshots()[-1]) == set()


def test_a_copy_into_another_archive_leaves_its_snapshots_out(two: Two) -> None:
    host, other = two.anna.host, two.anna.base / "other"
    two.distrust()
    bobs = host.ok("snapshots", "--json").lines()[0]["id"]
    host.init(other, "--archive", "second")
    here = {"COOPFS_ARCHIVE": "default"}
    done = host.ok("copy", "--to", other, "--json", **here).lines()[-1]
    assert (done["distrusted"], done["snapshots"]) == (1, 1)
    host.ok("copy", "--to", other, bobs, **here)
    shown = host.ok("--archive", "second", "snapshots", "--json").lines()
    assert [line["host"] for line in shown[:-1]] == ["bob", "anna"]
