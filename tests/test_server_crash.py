"""A depot killed before any single step of what it does: nothing lost, nothing half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import depot_crashing as crash
import pytest
from depots import DAY_NS, Clocks, Lab, name_of, names, paths_below, put, read, sums

from coopfs.errors import ObjectNotFound
from coopfs.objects import KINDS

TESTS = Path(__file__).parent
Check = Callable[[Lab], None]


def sweep(operation: str, folder: Path) -> tuple[list[Lab], list[str]]:
    """Return one lab, opened again, for every step the operation was killed before."""
    run = subprocess.run(
        [sys.executable, TESTS / "depot_crashing.py", operation, folder],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    roots = sorted(folder.iterdir(), key=lambda path: int(path.name))
    assert operation == "start" or len(roots) == len(answer["calls"]) + 1
    return [Lab(root, clocks=Clocks(**answer["clocks"])) for root in roots], answer["calls"]


def assert_sound(lab: Lab) -> None:
    """What holds for every depot that was opened again, whatever had happened."""
    for kind in KINDS:
        for listed in lab.depot.list(kind):
            if listed.name != name_of(crash.ROTTEN):
                assert name_of(read(lab.depot, kind, listed.name)) == listed.name
    assert list((lab.folder / "incoming").iterdir()) == []
    assert [p.name for p in (lab.folder / "objects").iterdir() if p.name.startswith(".")] == []
    # The sums, against what a walk finds.
    usage = lab.depot.usage()
    objects = paths_below(lab.folder / "objects")
    trash = paths_below(lab.folder / "trash")
    assert usage.used == sum(path.stat().st_size for path in objects)
    assert usage.objects == len([path for path in objects if path.name != "config"])
    assert (usage.trash_objects, usage.trash_used) == (
        (len(trash), sum(path.stat().st_size for path in trash))
    )
    assert usage.reserved == 0


def trashed(lab: Lab) -> list[str]:
    return [found.name for found in lab.depot.trash()]


def is_stored(lab: Lab, data: bytes) -> bool:
    try:
        return lab.depot.size("data", name_of(data)) == len(data)
    except ObjectNotFound:
        return False


def is_trashed(lab: Lab, data: bytes) -> bool:
    copies = [found for found in lab.depot.trash() if found.name == name_of(data)]
    assert all(found.size == len(data) for found in copies)
    return bool(copies)


def assert_untouched(lab: Lab, *but: bytes) -> None:
    """All that the operation has no business with is as it was."""
    for data in (crash.KEPT, crash.ROTTEN):
        assert data in but or (is_stored(lab, data) and not is_trashed(lab, data))
    for data in (crash.EXPIRED, crash.TRASHED):
        assert data in but or (is_trashed(lab, data) and not is_stored(lab, data))
    assert names(lab.depot, "index") == [name_of(crash.INDEX)]


def test_a_put(tmp_path: Path) -> None:
    labs, calls = sweep("put", tmp_path)
    assert [call for call in calls if call != "write"] == (
        ["open", "fsync", "link", "fsync", "unlink"]
    )
    assert calls.count("write") >= 3
    for place, lab in enumerate(labs):
        assert_sound(lab)
        assert_untouched(lab)
        assert is_stored(lab, crash.BIG) == (place > calls.index("link"))
        put(lab.depot, crash.BIG)
        assert read(lab.depot, "data", name_of(crash.BIG)) == crash.BIG
        assert sums(lab.depot) == sums(lab.restart())


def test_a_put_of_what_is_in_the_trash(tmp_path: Path) -> None:
    labs, calls = sweep("restore", tmp_path)
    for place, lab in enumerate(labs):
        assert_sound(lab)
        assert_untouched(lab, crash.EXPIRED)
        assert is_stored(lab, crash.EXPIRED) == (place > calls.index("link"))
        assert is_stored(lab, crash.EXPIRED) or is_trashed(lab, crash.EXPIRED)
        put(lab.depot, crash.EXPIRED)
        lab.depot.empty_trash()
        assert read(lab.depot, "data", name_of(crash.EXPIRED)) == crash.EXPIRED
        assert sums(lab.depot) == sums(lab.restart())


def test_a_delete(tmp_path: Path) -> None:
    labs, calls = sweep("delete", tmp_path)
    assert calls[-3:] == ["link", "fsync", "unlink"]
    for place, lab in enumerate(labs):
        assert_sound(lab)
        assert_untouched(lab, crash.KEPT)
        is_done = place == len(calls)
        assert (is_stored(lab, crash.KEPT), is_trashed(lab, crash.KEPT)) == (not is_done, is_done)
        if not is_done:
            lab.depot.delete("data", name_of(crash.KEPT))
        lab.depot.undelete([name_of(crash.KEPT)])
        assert read(lab.depot, "data", name_of(crash.KEPT)) == crash.KEPT
        assert sums(lab.depot) == sums(lab.restart())


def test_an_undelete(tmp_path: Path) -> None:
    labs, calls = sweep("undelete", tmp_path)
    # Two folders of objects; in each all names, one fsync, and only then the trash's go.
    assert calls == ["link", "fsync", "unlink"] * 2
    for place, lab in enumerate(labs):
        assert_sound(lab)
        assert_untouched(lab, crash.EXPIRED, crash.TRASHED)
        for data in (crash.EXPIRED, crash.TRASHED):
            assert is_stored(lab, data) != is_trashed(lab, data)
        lab.depot.undelete()
        for data in (crash.EXPIRED, crash.TRASHED):
            assert read(lab.depot, "data", name_of(data)) == data
        assert trashed(lab) == []
        assert sums(lab.depot) == sums(lab.restart())
        assert place <= len(calls)


def test_emptying_the_trash(tmp_path: Path) -> None:
    labs, calls = sweep("empty", tmp_path)
    assert calls == ["unlink"]
    for place, lab in enumerate(labs):
        assert_sound(lab)
        assert_untouched(lab, crash.EXPIRED)
        assert not is_stored(lab, crash.EXPIRED)
        assert is_trashed(lab, crash.EXPIRED) == (place == 0)
        assert lab.depot.empty_trash().objects == 1 - place
        assert trashed(lab) == [name_of(crash.TRASHED)]
        assert sums(lab.depot) == sums(lab.restart())


def test_moving_a_damaged_object_aside(tmp_path: Path) -> None:
    labs, calls = sweep("scrub", tmp_path)
    assert "link" in calls
    for lab in labs:
        assert_sound(lab)
        assert_untouched(lab, crash.ROTTEN)
        lab.clocks.pass_(365 * DAY_NS)  # the next pass is due; a long way to have been off
        while not lab.depot.scrub_step().is_pass_done:
            pass
        assert [finding.name for finding in lab.depot.findings()] == [name_of(crash.ROTTEN)]
        assert not is_stored(lab, crash.ROTTEN)
        put(lab.depot, crash.ROTTEN)
        assert read(lab.depot, "data", name_of(crash.ROTTEN)) == crash.ROTTEN
        assert lab.depot.findings() == ()
        assert sums(lab.depot) == sums(lab.restart())


def test_putting_the_config(tmp_path: Path) -> None:
    labs, _ = sweep("config", tmp_path)
    for lab in labs:
        assert_sound(lab)
        assert_untouched(lab)
        lab.depot.put_config(crash.CONFIG)
        assert lab.depot.get_config() == crash.CONFIG
        assert sums(lab.depot) == sums(lab.restart())


def test_confirming_the_clock(tmp_path: Path) -> None:
    labs, _ = sweep("jump", tmp_path)
    for lab in labs:
        lab.clocks.jump(400 * DAY_NS)
        assert_sound(lab)
        assert_untouched(lab)
        jump = lab.depot.clock.jump()
        assert jump is None or not jump.is_state_lost
        lab.depot.confirm_clock()
        assert lab.depot.empty_trash().objects == 1  # the one that was due before the jump
        assert trashed(lab) == [name_of(crash.TRASHED)]


def test_the_first_start(tmp_path: Path) -> None:
    labs, calls = sweep("start", tmp_path)
    assert calls.count("mkdir") > 256
    for lab in labs:
        assert_sound(lab)
        assert read(lab.depot, "data", put(lab.depot, crash.BIG)) == crash.BIG
        assert lab.depot.empty_trash().jump is None


@pytest.mark.parametrize("operation", ["put", "delete", "undelete"])
def test_the_sweep_kills(operation: str, tmp_path: Path) -> None:
    """Were nobody killed, every test above would pass."""
    labs, calls = sweep(operation, tmp_path)
    finished = [(lab.root / "calls.json").exists() for lab in labs]

    assert finished == [False] * len(calls) + [True]
