"""Restore drills: what comes back is compared, comes from the store, and is kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import Lab, keep_above_still, write

from coopfs.errors import StoreUnavailable, UsageError
from coopfs.ops.drill import DrillRequest, DrillResult, past_drills, run_drill
from coopfs.ops.progress import NoProgress
from coopfs.store.base import Kind


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Two snapshots of files of different sizes, in folders, and what is no file."""
    keep_above_still(monkeypatch)
    lab = Lab(tmp_path).init()
    rng = random.Random(1)
    for number in range(12):
        write(lab.source / f"folder{number % 3}" / f"file{number}", rng.randbytes(50_000))
    write(lab.source / "tiny", b"in the tree")
    (lab.source / "link").symlink_to("tiny")
    lab.take()
    write(lab.source / "large", rng.randbytes(3_000_000))
    lab.take()
    return lab


def drill(lab: Lab, archive: Any, **options: Any) -> tuple[DrillResult, list[str]]:
    scratch = lab.base / "scratch"
    scratch.mkdir(exist_ok=True)
    result, files = run_drill(archive, DrillRequest(scratch, **options), NoProgress())
    assert list(scratch.iterdir()) == []
    return result, [f"{file.path.decode()}: {file.problem}" for file in files if file.problem]


def test_files_come_back_and_all_of_it_is_extrapolated(taken: Lab) -> None:
    with taken.open(is_uncached=True) as (archive, _):
        result, problems = drill(taken, archive, files=10, seed=1)
        newest = archive.snapshots()[-1]
        assert past_drills(archive.state_folder) == [result]
    assert problems == []
    assert (result.files, result.bad_files, result.is_passed) == (10, 0, True)
    assert result.newest == newest.snapshot_id.hex()
    assert (result.newest_files, result.newest_len) == (14, 3_600_011)
    assert result.full_s is not None and result.full_s > 0
    # What random bytes take in the store is about what they are; so the rate carries over.
    rate = result.fetched_len / result.duration_s
    assert result.full_s == pytest.approx(3_600_011 / rate, rel=0.2)


def test_every_byte_comes_from_the_store_whatever_is_cached(taken: Lab) -> None:
    with taken.open(is_local=False) as (archive, store):  # fills the disk cache
        for pack in archive.index.packs():
            archive.blocks.fetch_ahead(archive.index.blocks_of(pack.pack_no), pack)
    with taken.open(is_local=False) as (archive, store):
        got = store.bytes_got["data"]
        archive.load_chunk(archive.index.blocks_of(1)[0].chunk_ids[0])
        assert store.bytes_got["data"] == got  # the cache answers
    with taken.open(is_local=False, is_uncached=True) as (archive, store):
        result, problems = drill(taken, archive, files=14, seed=2)
        assert problems == []
        assert result.fetched_len > 0
        assert store.bytes_got["data"] > result.fetched_len  # and the trees


def test_what_is_damaged_only_in_the_store_is_found(taken: Lab) -> None:
    with taken.open(is_local=False) as (archive, _):
        for pack in archive.index.packs():
            archive.blocks.fetch_ahead(archive.index.blocks_of(pack.pack_no), pack)
    with taken.open(is_local=False, is_uncached=True) as (archive, store):
        for pack in archive.index.packs():
            if not pack.is_meta:
                for block in archive.index.blocks_of(pack.pack_no):
                    store.flip(Kind.DATA, pack.pack_id, block.offset + 5)
        result, problems = drill(taken, archive, files=8, seed=3)
    assert not result.is_passed
    assert result.bad_files == len(problems) >= 7  # one may lie in the tree
    assert all("/file" in problem or "/large" in problem for problem in problems)


def test_a_list_of_files_that_cannot_be_read_is_a_failure_too(taken: Lab) -> None:
    with taken.open(is_uncached=True) as (archive, store):
        for pack in archive.index.packs():
            if pack.is_meta:
                store.lose(Kind.DATA, pack.pack_id)
        result, problems = drill(taken, archive, files=3)
    assert (result.files, result.bad_files) == (0, 3)
    assert all(problem.startswith("/: the folder's list") for problem in problems)


def test_a_file_that_came_back_otherwise_is_found(
    taken: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coopfs.ops import drill as module

    def restore_wrongly(archive: Any, snapshot: Any, request: Any) -> Any:
        report = real(archive, snapshot, request)
        for path in Path(request.target.decode()).iterdir():
            path.write_bytes(b"x" + path.read_bytes()[1:])
        return report

    real = module.restore
    monkeypatch.setattr(module, "restore", restore_wrongly)
    with taken.open(is_uncached=True) as (archive, _):
        result, problems = drill(taken, archive, files=5, seed=1)
    assert (result.files, result.bad_files) == (0, 5)
    assert all("its content differs" in problem for problem in problems)


def test_large_files_are_passed_over_and_a_seed_repeats(taken: Lab) -> None:
    with taken.open(is_uncached=True) as (archive, _):
        first, _ = drill(taken, archive, files=200, max_len=700_000, seed=4)
        again, _ = drill(taken, archive, files=200, max_len=700_000, seed=4)
        assert first.too_large >= 1  # the large one
        assert (first.files, first.size) == (again.files, again.size)
        assert first.size <= 700_000
        with pytest.raises(UsageError, match="--bytes"):
            drill(taken, archive, files=1, max_len=5, seed=4)


def test_nothing_to_restore_is_said(lab_of_nothing: Lab) -> None:
    nothing = lab_of_nothing
    with nothing.open() as (archive, _), pytest.raises(UsageError, match="no such snapshot"):
        drill(nothing, archive)
    (nothing.source / "empty").mkdir()
    nothing.take()
    with nothing.open() as (archive, _), pytest.raises(UsageError, match="hold no files"):
        drill(nothing, archive)


@pytest.fixture
def lab_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    keep_above_still(monkeypatch)
    return Lab(tmp_path).init()


def test_a_store_that_is_away_shows_nothing(taken: Lab) -> None:
    with taken.open(is_uncached=True) as (archive, store):
        store.fail("get", Kind.DATA, skip=1)
        with pytest.raises(StoreUnavailable):
            drill(taken, archive, files=14)
        assert past_drills(archive.state_folder) == []


def test_the_command_and_stats(taken: Lab) -> None:
    host = taken.host
    assert "drills" not in host.ok("stats").out
    said = host.ok("drill", "--files", "5", "--scratch", taken.base).out
    assert "5 files of" in said
    assert "all of the newest snapshot (14 files, 3.6 MB) would take " in said
    *files, summary = host.ok("drill", "--files", "3", "--seed", "7", "--json").lines()
    assert [file["problem"] for file in files] == [None] * 3
    assert (summary["type"], summary["files"], summary["is_passed"]) == ("summary", 3, True)
    for pack in (taken.store_path / "data").rglob("*/*"):
        if pack.stat().st_size > 500_000:
            pack.unlink()
    ran = host.run("drill", "--files", "12")
    assert (ran.code, "FAILED" in ran.out) == (1, True)
    assert "main/" in ran.err
    assert "2 before it, all passed" in host.ok("stats").out
    kept = host.ok("stats", "--json").lines()[0]["drills"]
    assert [item["is_passed"] for item in kept] == [True, True, False]
    assert sorted(taken.base.iterdir()) == sorted(
        taken.base / name for name in ("anna", "source", "store")
    )


def test_bad_usage(taken: Lab) -> None:
    for args, code in (
        (("--files", "0"), 2),
        (("--bytes", "much"), 2),
        (("--host", "nobody"), 2),
        (("--scratch", "/nowhere"), 1),
    ):
        assert taken.host.run("drill", *args).code == code, args
