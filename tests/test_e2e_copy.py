"""Copies whose process is killed with -9: the next one goes on from what is there."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest
from hosts import Host
from mounting import command, wait_until

PACK_LEN = 16 << 20


@pytest.mark.parametrize(
    "is_other_archive",
    [
        pytest.param(False, id="store"),
        pytest.param(
            True,
            id="archive",
            marks=pytest.mark.skipif(
                not os.environ.get("COOPFS_TEST_SOAK"), reason="COOPFS_TEST_SOAK is not set"
            ),
        ),
    ],
)
def test_a_killed_copy_sends_nothing_again(tmp_path: Path, is_other_archive: bool) -> None:
    host = Host(tmp_path / "anna", "anna")
    store, other = tmp_path / "store", tmp_path / "other"
    host.init(store, "--archive", "first")
    if is_other_archive:
        host.init(other, "--archive", "second")
    host.environ["COOPFS_ARCHIVE"] = "first"
    source = tmp_path / "source"
    source.mkdir()
    for number in range(5):
        (source / f"file{number}").write_bytes(random.Random(number).randbytes(PACK_LEN))
    host.ok("snapshot", source)

    process = command(host, "copy", "--to", other)
    # Of packs that are just being put nobody knows yet whether they are there: two threads do.
    packs = 3 if is_other_archive else 1
    wait_until(lambda: len(list(other.glob("data/*/[0-9a-f]*"))) >= packs, "packs in the copy")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL  # else it was too quick for this test
    there = {path.name: path.stat().st_size for path in other.glob("data/*/[0-9a-f]*")}
    assert sum(there.values()) < 5 * PACK_LEN
    assert not list(other.glob("snapshots/*")) or is_other_archive

    summary = host.ok("copy", "--to", other, "--json").lines()[-1]
    now = {path.name: path.stat().st_size for path in other.glob("data/*/[0-9a-f]*")}
    assert there.items() <= now.items()
    twice = sum(now.values()) - sum(path.stat().st_size for path in store.glob("data/*/[0-9a-f]*"))
    assert twice <= (2.2 * PACK_LEN if is_other_archive else 0)
    if not is_other_archive:
        assert summary["bytes"] < sum(now.values()) - sum(there.values()) + PACK_LEN
    host.ok(
        "restore",
        f"latest:{source}",
        "--target",
        tmp_path / "back",
        *_where(other, is_other_archive),
    )
    for path in source.iterdir():
        assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def _where(other: Path, is_other_archive: bool) -> tuple[object, ...]:
    return ("--archive", "second") if is_other_archive else ("--store", other)
