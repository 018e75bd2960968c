"""The same archive in a second store: verbatim, resumable, whole at every moment."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from archive_fixtures import Lab, keep_above_still, write
from hosts import Host, everything_below

from coopfs.errors import StoreFull
from coopfs.ops.mirror import apply_mirror, open_mirror, plan_mirror
from coopfs.ops.progress import NoProgress
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """An archive with two snapshots, each with a pack of data of its own."""
    keep_above_still(monkeypatch)
    lab = Lab(tmp_path).init()
    for number in range(2):
        write(lab.source / f"file{number}", random.Random(number).randbytes(300_000))
        lab.take()
    return lab


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "copy"


def objects_below(store: Path) -> dict[str, bytes]:
    """Return the objects in a folder, without what only its own host knows."""
    return everything_below(store)


def copy(lab: Lab, other: Path, *args: object) -> str:
    return lab.host.ok("copy", "--to", other, *args).out


def test_every_object_is_copied_byte_for_byte_and_once(lab: Lab, other: Path) -> None:
    other.parent.mkdir()
    said = copy(lab, other)
    assert "2 new snapshots, 0 there already" in said
    assert objects_below(other) == objects_below(lab.store_path)
    again = copy(lab, other)
    assert "0 new snapshots, 2 there already; sent 0 B in 0 objects" in again


def test_a_published_key_and_what_is_no_object_are_not_copied(lab: Lab, other: Path) -> None:
    write(lab.store_path / "keys" / ("ab" * 32), b"wrapped")
    write(lab.store_path / "locks" / ("cd" * 32), b"restic's")
    copy(lab, other)
    assert not any(name.startswith(("keys/", "locks/")) for name in objects_below(other))


def test_only_what_is_new_is_sent(lab: Lab, other: Path) -> None:
    copy(lab, other)
    write(lab.source / "file2", random.Random(2).randbytes(300_000))
    lab.take()
    (summary,) = lab.host.ok("copy", "--to", other, "--json").lines()
    assert (summary["snapshots"], summary["packs"]) == (1, 2)  # one of data, one of trees
    assert summary["bytes"] < 800_000
    assert objects_below(other) == objects_below(lab.store_path)


def test_a_dry_run_changes_nothing_and_says_the_same(lab: Lab, other: Path) -> None:
    (planned,) = lab.host.ok("copy", "--to", other, "-n", "--json").lines()
    assert not other.exists()
    (done,) = lab.host.ok("copy", "--to", other, "--json").lines()
    for key in ("snapshots", "packs", "objects", "bytes"):
        assert planned[key] == done[key] > 0
    assert "would send 0 snapshots" in copy(lab, other, "--dry-run")


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS])
def test_killed_anywhere_nothing_dangles_and_nothing_is_sent_twice(
    lab: Lab, other: Path, kind: Kind
) -> None:
    with lab.open() as (archive, _), open_mirror(archive, str(other)) as inner:
        target = FaultyStore(inner)
        target.crash("put", kind, nth=2)
        with pytest.raises(SimulatedCrash):
            apply_mirror(archive, target, plan_mirror(archive, target), NoProgress())
        there = {k: {info.name for info in inner.list(k)} for k in Kind}
        known = {bytes(p.pack_id) for p in archive.index.packs()}
        if there[Kind.INDEX]:  # nothing names a pack that is not there
            assert known <= there[Kind.DATA]
        if there[Kind.SNAPSHOTS]:
            assert archive.index.known_objects() <= there[Kind.INDEX]
    with lab.open() as (archive, _), open_mirror(archive, str(other)) as inner:
        counted = FaultyStore(inner)
        apply_mirror(archive, counted, plan_mirror(archive, counted), NoProgress())
        before = sum(len(names) for names in there.values())
        total = sum(len(list(inner.list(k))) for k in Kind)
        assert sum(counted.requests["put", k] for k in Kind) == total - before
    assert objects_below(other) == objects_below(lab.store_path)


def test_a_copy_is_read_by_its_address_and_by_its_name(lab: Lab, other: Path) -> None:
    copy(lab, other)
    lab.host.ok("store", "add", "disk", other)
    ids = [line["id"] for line in lab.host.ok("snapshots", "--json").lines()[:-1]]
    (lab.store_path).rename(lab.base / "burnt")
    for name in (other, "disk"):
        listed = lab.host.ok("snapshots", "--store", name, "--json").lines()[:-1]
        assert [line["id"] for line in listed] == ids
    back = lab.base / "back"
    lab.host.ok("restore", f"latest:{lab.source}", "--target", back, COOPFS_STORE="disk")
    assert everything_below(back) == everything_below(lab.source)
    lab.host.ok("check", "--read-data", "--store", "disk")
    lab.host.ok("audit", "--store", "disk")


def test_a_copy_that_is_behind_says_so_and_is_no_rollback(lab: Lab, other: Path) -> None:
    copy(lab, other)
    lab.take()
    ran = lab.host.ok("snapshots", "--store", other)
    assert "the copy is behind: it has number 2 of anna/main, not 3" in ran.err
    assert "warning" not in lab.host.ok("snapshots").err


def test_a_copy_put_back_to_an_older_state_is_a_rollback(lab: Lab, other: Path) -> None:
    copy(lab, other)
    lab.host.ok("snapshots", "--store", other)
    newest = lab.host.ok("snapshots", "--json").lines()[1]["id"]
    (other / "snapshots" / newest).unlink()
    ran = lab.host.run("snapshots", "--store", other)
    assert ran.code == 1
    assert "no longer shows snapshot" in ran.err


def test_a_copy_is_not_written_by_other_commands(lab: Lab, other: Path) -> None:
    copy(lab, other)
    before = objects_below(other)
    for args in (
        ("snapshot", "/etc/hostname"),
        ("forget", "--keep-last", "1"),
        ("prune",),
        ("tag", "latest", "--add", "x"),
        ("repair",),
    ):
        assert lab.host.run(*args, "--store", other).code == 2, args
    assert objects_below(other) == before


def test_damage_in_the_copy_is_mended_by_the_next_run(lab: Lab, other: Path) -> None:
    copy(lab, other)
    gone, short, rotten, *_ = sorted((other / "data").rglob("*/*"))
    gone.unlink()
    for pack in (short, rotten):
        pack.chmod(0o600)
    short.write_bytes(short.read_bytes()[:-100])
    data = bytearray(rotten.read_bytes())
    data[len(data) // 3] ^= 1
    rotten.write_bytes(data)
    assert lab.host.run("check", "--read-data", "--store", other).code == 1
    (summary,) = lab.host.ok("copy", "--to", other, "--json").lines()
    assert summary["packs"] == 3
    assert objects_below(other) == objects_below(lab.store_path)
    lab.host.ok("check", "--read-data", "--store", other)


def test_damage_where_the_archive_is_does_not_spread(lab: Lab, other: Path) -> None:
    packs = sorted((lab.store_path / "data").rglob("*/*"))
    packs[0].unlink()
    packs[1].chmod(0o600)
    packs[1].write_bytes(b"x" + packs[1].read_bytes()[1:])
    ran = lab.host.run("copy", "--to", other)
    assert ran.code == 1
    assert "INCOMPLETE: 2 packs could not be copied" in ran.out
    assert {p.name for p in (other / "data").rglob("*/*")} == {p.name for p in packs[2:]}


def test_the_archive_is_mended_out_of_its_copy(lab: Lab, other: Path) -> None:
    copy(lab, other)
    whole = objects_below(lab.store_path)
    gone = max((lab.store_path / "data").rglob("*/*"), key=lambda path: path.stat().st_size)
    gone.unlink()
    assert lab.host.run("check").code == 1
    lab.host.ok("copy", "--store", other, "--to", lab.store_path)
    assert objects_below(lab.store_path) == whole
    lab.host.ok("check", "--read-data")


def test_a_full_disk_is_told_and_the_next_run_goes_on(lab: Lab, other: Path) -> None:
    with lab.open() as (archive, _), open_mirror(archive, str(other)) as inner:
        target = FaultyStore(inner)
        target.fail("put", Kind.DATA, skip=1, error=StoreFull("no room"))
        with pytest.raises(StoreFull):
            apply_mirror(archive, target, plan_mirror(archive, target), NoProgress())
        assert list(inner.list(Kind.INDEX)) == []
    copy(lab, other)
    assert objects_below(other) == objects_below(lab.store_path)


def test_bad_targets_are_refused(lab: Lab, other: Path) -> None:
    host = lab.host
    assert host.run("copy", "--to", lab.store_path).code == 2
    ran = host.run("copy", "--to", "nobody")
    assert (ran.code, "./nobody" in ran.err) == (2, True)
    (other.parent).mkdir()
    stranger = Host(lab.base / "stranger", "eve")
    stranger.init(other)
    ran = host.run("copy", "--to", other)
    assert ran.code == 12
    assert "whose key is not on this host" in ran.err
    write(lab.base / "full" / "letter", "dear")
    assert host.run("copy", "--to", lab.base / "full").code == 10
    copied = lab.base / "copied"
    assert host.run("copy", "latest", "--to", copied).code == 2
    assert not copied.exists()


# --- deleting ---------------------------------------------------------------------


def forget_and_prune(lab: Lab) -> None:
    """Let the first snapshot go, and all that only it needs, at once."""
    shutil.rmtree(lab.source)
    write(lab.source / "other", random.Random(7).randbytes(300_000))
    lab.take()
    lab.host.ok("forget", "--keep-last", "1")
    for _ in range(2):
        lab.host.ok("prune", "--grace", "0s", "--max-unused", "0")


def test_what_was_let_go_leaves_the_copy_after_the_grace(lab: Lab, other: Path) -> None:
    copy(lab, other)
    forget_and_prune(lab)
    size = sum(map(len, objects_below(other).values()))
    said = copy(lab, other)  # keeps everything
    assert "deleted" not in said
    assert sum(map(len, objects_below(other).values())) > size
    planned = lab.host.ok("copy", "--to", other, "--delete", "-n", "--json").lines()[-1]
    first = lab.host.ok("copy", "--to", other, "--delete", "--json").lines()[-1]
    assert planned["waiting"] == first["waiting"]
    assert first["deleted"] == 0
    assert first["waiting"] > 4
    second = lab.host.ok("copy", "--to", other, "--delete", "--grace", "0s", "--json").lines()[-1]
    assert second["deleted_bytes"] == planned["waiting_bytes"]
    assert second["deleted"] == first["waiting"]
    assert second["deleted_bytes"] > 500_000
    mine, theirs = objects_below(lab.store_path), objects_below(other)
    assert {n: d for n, d in theirs.items() if not n.startswith("snapshots")} == {
        n: d for n, d in mine.items() if not n.startswith("snapshots")
    }
    listed = lab.host.ok("snapshots", "--store", other, "--json").lines()
    assert len(listed) == 2
    lab.host.ok("check", "--read-data", "--store", other)


def test_an_archive_that_was_put_back_does_not_empty_its_copy(lab: Lab, other: Path) -> None:
    copy(lab, other)
    whole = objects_below(other)
    newest = lab.host.ok("snapshots", "--json").lines()[1]["id"]
    shutil.copytree(lab.store_path, lab.base / "as it was")
    (lab.store_path / "snapshots" / newest).unlink()
    shutil.rmtree(lab.host.dirs.state)  # a machine that has never seen the newest
    ran = lab.host.run("copy", "--to", other, "--delete", "--grace", "0s")
    assert ran.code == 1
    assert f"snapshot {newest[:8]} (number 2 of anna/main" in ran.err
    assert objects_below(other) == whole
    assert "was that put back to an older copy?" in lab.host.ok("copy", "--to", other).err
    lab.host.ok("copy", "--store", other, "--to", lab.store_path)
    assert objects_below(lab.store_path) == whole


def test_nothing_is_deleted_when_the_archive_cannot_be_read(lab: Lab, other: Path) -> None:
    copy(lab, other)
    forget_and_prune(lab)
    copy(lab, other)
    whole = objects_below(other)
    shutil.rmtree(lab.store_path / "index")
    (lab.store_path / "index").mkdir()
    shutil.rmtree(lab.host.dirs.state)
    ran = lab.host.run("copy", "--to", other, "--delete", "--grace", "0s")
    assert ran.code == 1
    assert objects_below(other) == whole


def test_deleting_needs_the_admin_key(lab: Lab, other: Path) -> None:
    copy(lab, other)
    (lab.host.dirs.archive_config("default") / "admin.key").unlink()
    ran = lab.host.run("copy", "--to", other, "--delete")
    assert (ran.code, "deleting in a copy needs the admin key" in ran.err) == (12, True)


# --- moving there -----------------------------------------------------------------


def test_moving_to_an_older_copy_is_refused_and_then_told_for_as_long_as_it_is_so(
    lab: Lab, other: Path
) -> None:
    copy(lab, other)
    write(lab.source / "newer", random.Random(9).randbytes(50_000))
    lab.take()
    shutil.rmtree(lab.store_path)
    ran = lab.host.run("store", "move", other)
    assert ran.code == 1
    assert "it lacks 2 of 6 packs" in ran.err
    assert "1 of 5 snapshots and records" in ran.err
    assert lab.host.ok("store", "list", "--json").lines()[0]["store"] == str(lab.store_path)
    ran = lab.host.ok("store", "move", other, "--incomplete")
    assert "no longer shows snapshot" in ran.err
    assert f"is in {other} now: 2 snapshots" in ran.out
    ran = lab.host.run("snapshots")
    assert (ran.code, "no longer shows snapshot" in ran.err) == (1, True)
    lab.host.ok("repair", "--accept-rollback")
    assert len(lab.host.ok("snapshots", "--json").lines()) == 3
    lab.take()
    lab.host.ok("check", "--read-data")


def test_moving_away_and_back_keeps_everything(lab: Lab, other: Path) -> None:
    copy(lab, other)
    lab.host.ok("store", "move", other)
    lab.take()
    ran = lab.host.run("store", "move", lab.store_path)
    assert ran.code == 1
    lab.host.ok("copy", "--to", lab.store_path)
    lab.host.ok("store", "move", lab.store_path)
    assert len(lab.host.ok("snapshots", "--json").lines()) == 4
    lab.host.ok("check", "--read-data")
