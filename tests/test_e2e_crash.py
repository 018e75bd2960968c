"""A snapshot killed at any moment: check accepts what is left, the next run completes."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checked import copy_host
from hosts import Host
from mounting import mounted, needs_fuse

ROOT = Path(__file__).parent.parent
FILE_LEN = 1_500_000  # bytes
FILES = 40  # 60 MB: five packs, and an index object or two before the end
PACK_MAX = 17 << 20  # bytes
DEADLINE_S = 60


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host whose archive has one snapshot of a source that has grown since."""
    base = tmp_path_factory.mktemp("crash")
    host = Host(base / "host")
    host.init(base / "store")
    rng = random.Random(5)
    for number in range(FILES):
        folder = base / "source" / f"folder{number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        if number == 1:
            host.ok("snapshot", base / "source", "--series", "s")
        (folder / f"file{number}").write_bytes(rng.randbytes(FILE_LEN))
        (folder / f"small{number}").write_bytes(rng.randbytes(100 * number))
    (base / "source" / "link").symlink_to("folder1/file1")
    os.link(base / "source" / "folder1" / "file1", base / "source" / "hard link")
    return base


@pytest.fixture
def source(pattern: Path) -> Path:
    return pattern / "source"


@pytest.fixture
def host(pattern: Path, tmp_path: Path) -> Host:
    """A copy that a test may wreck."""
    return copy_host(pattern, tmp_path)


def start(host: Host, program: list[object], *args: object, **more: Any) -> subprocess.Popen[str]:
    """Start a Python program as *host*, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *map(str, program), *map(str, args)],
        env={**os.environ, **host.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **more,
    )


def start_crashing(
    host: Host, source: Path, step: str, nth: int, name: str = "KILL"
) -> subprocess.Popen[str]:
    program = [ROOT / "tests" / "crashing.py", name, step, nth]
    return start(host, program, "snapshot", source, "--series", "s")


def start_snapshot(host: Host, source: Path) -> subprocess.Popen[str]:
    return start(host, ["-m", "coopfs.cli.main"], "snapshot", source, "--series", "s", "--json")


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"waited too long for: {what}"
        time.sleep(0.002)


def assert_nobody_is_left(run: subprocess.Popen[str]) -> None:
    """Whatever a killed run had started has to end by itself."""

    def is_gone() -> bool:
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until("the end of every process of the killed run", is_gone)


def stored_len(host: Host, kind: str = "data") -> int:
    """Return the bytes of whole objects; a run may be writing meanwhile."""
    total = 0
    for path in (host.base.parent / "store" / kind).rglob("*"):
        try:
            if len(path.name) == 64:
                total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def snapshots_of(host: Host) -> list[dict[str, Any]]:
    lines = host.ok("snapshots", "--json").lines()
    return [line for line in lines if line["type"] == "snapshot"]


@pytest.fixture(scope="module")
def steps(pattern: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """How often each step comes in an undisturbed run."""
    host = copy_host(pattern, tmp_path_factory.mktemp("counting"))
    run = start_crashing(host, pattern / "source", "none", 0)
    out, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, err
    counts: dict[str, int] = json.loads(out.splitlines()[-1])
    assert counts["put:data:after"] >= 4
    assert counts["put:index:after"] >= 2
    assert counts["put:snapshots:after"] == 1
    return counts


@pytest.fixture(scope="module")
def undisturbed_len(pattern: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes of packs in the store after an undisturbed second snapshot."""
    host = copy_host(pattern, tmp_path_factory.mktemp("undisturbed"))
    host.ok("snapshot", pattern / "source", "--series", "s")
    return stored_len(host)


def assert_next_run_completes(host: Host, source: Path, undisturbed_len: int) -> dict[str, Any]:
    """Check, take the snapshot, check again, compare; return the second run's summary."""
    left = host.ok("check", "--read-data")
    assert "all is well" in left.out, left.out + left.err
    before = snapshots_of(host)
    summary: dict[str, Any] = host.ok("snapshot", source, "--series", "s", "--json").lines()[-1]
    assert "all is well" in host.ok("check", "--read-data").out
    after = snapshots_of(host)
    assert [s["id"] for s in after[:-1]] == [s["id"] for s in before]
    assert after[-1]["state"] == "complete"
    assert after[-1]["previous"] == [before[-1]["id"]]
    # What was in flight may be there twice: two packs, and what they leave half full.
    assert stored_len(host) <= undisturbed_len + 3 * PACK_MAX
    assert_restored_equal(host, source)
    return summary


def assert_restored_equal(host: Host, source: Path) -> None:
    target = host.base.parent / "restored"
    shutil.rmtree(target, ignore_errors=True)
    host.ok("restore", f"latest:{source}", "--target", target)
    compared = subprocess.run(
        ["diff", "-r", "--no-dereference", source, target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (compared.returncode, compared.stdout) == (0, "")
    shutil.rmtree(target)


# --- at every step of the commit order -------------------------------------------


def places(step: str, *shares: float) -> Iterator[tuple[str, float]]:
    return ((step, share) for share in shares)


@pytest.mark.parametrize(
    ("step", "share"),
    [
        *places("open", 0, 0.5, 1),
        *places("put:data:before", 0, 0.5, 1),
        *places("put:data:after", 0, 0.5, 1),
        *places("put:index:before", 0, 1),
        *places("put:index:after", 0, 1),
        *places("put:snapshots:before", 0),
        *places("put:snapshots:after", 0),
        # How often data/ is synced depends on the packs' names: the end may not come.
        *places("fsync:data", 0, 0.3, 0.6),
        *places("fsync:index", 0, 1),
        *places("fsync:snapshots", 0, 1),
        *places("fsync:local", 0, 1),
        *places("commit:before", 0, 0.3, 0.7, 1),
        *places("commit:after", 0, 0.3, 0.7, 1),
    ],
)
def test_a_snapshot_killed_at_a_step_leaves_what_the_next_run_completes(
    host: Host,
    source: Path,
    steps: dict[str, int],
    undisturbed_len: int,
    step: str,
    share: float,
) -> None:
    nth = 1 + round((steps[step] - 1) * share)
    run = start_crashing(host, source, step, nth)
    _, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == -signal.SIGKILL, err
    assert_nobody_is_left(run)
    # The snapshot object is the one commit point.
    is_committed = step == "put:snapshots:after"
    if step.startswith("put:"):
        assert len(snapshots_of(host)) == 1 + is_committed
    summary = assert_next_run_completes(host, source, undisturbed_len)
    if (step == "put:index:after" and nth > 1) or step.startswith("put:snapshots"):
        assert summary["read"] < FILES * FILE_LEN


# --- at any moment --------------------------------------------------------------------


def test_a_snapshot_killed_again_and_again_completes_in_the_end(
    host: Host, source: Path, undisturbed_len: int
) -> None:
    rng = random.Random(11)
    for _ in range(5):
        enough = stored_len(host) + rng.randrange(0, 20 << 20)
        run = start_snapshot(host, source)
        wait_until(
            "enough in the store",
            lambda run=run, enough=enough: (  # type: ignore[misc]  # defaults bind the loop's values
                run.poll() is not None or stored_len(host) >= enough
            ),
        )
        run.kill()
        run.communicate(timeout=DEADLINE_S)
        assert_nobody_is_left(run)
        assert "all is well" in host.ok("check", "--read-data").out
    # Each kill costs what was in flight, no more.
    assert_next_run_completes(host, source, undisturbed_len + 5 * 2 * PACK_MAX)


@needs_fuse
def test_what_is_mounted_after_two_kills_equals_the_source(
    host: Host, source: Path, steps: dict[str, int], tmp_path: Path
) -> None:
    for step in ("put:index:after", "put:data:before"):
        run = start_crashing(host, source, step, 2)
        _, err = run.communicate(timeout=DEADLINE_S)
        assert run.returncode == -signal.SIGKILL, err
    host.ok("snapshot", source, "--series", "s")
    with mounted(host, tmp_path / "mount") as mount:
        shown = Path(f"{mount.path}/by-host/{host.name}/s/latest{source}")
        options = ["-aHAX", "--checksum", "--dry-run", "--itemize-changes", "--delete"]
        compared = subprocess.run(
            ["rsync", *options, f"{source}/", f"{shown}/"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (compared.returncode, compared.stdout, compared.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["INT", "TERM"])
@pytest.mark.parametrize("share", [0.1, 0.9])
def test_an_interrupted_snapshot_exits_130_and_the_next_run_goes_on(
    host: Host,
    source: Path,
    steps: dict[str, int],
    undisturbed_len: int,
    name: str,
    share: float,
) -> None:
    run = start_crashing(host, source, "open", round(steps["open"] * share), name)
    _, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert_nobody_is_left(run)
    assert len(snapshots_of(host)) == 1
    summary = assert_next_run_completes(host, source, undisturbed_len)
    # Nothing that was read before is read again.
    left = FILES * FILE_LEN * (1 - share)
    assert summary["read"] < left + 2 * FILE_LEN


# --- while it runs, and without its memory --------------------------------------------


def test_a_check_while_a_snapshot_runs_finds_nothing_wrong(host: Host, source: Path) -> None:
    run = start_snapshot(host, source)
    checks = 0
    while run.poll() is None:
        ran = host.ok("check")
        assert "all is well" in ran.out
        checks += 1
    _, err = run.communicate(timeout=DEADLINE_S)
    assert run.returncode == 0, err
    assert checks > 0
    assert "all is well" in host.ok("check", "--read-data").out


def test_a_host_that_lost_its_local_state_goes_on_without_sending_again(
    host: Host, source: Path
) -> None:
    host.ok("snapshot", source, "--series", "s")
    before = stored_len(host)
    shutil.rmtree(host.dirs.state)
    shutil.rmtree(host.dirs.cache, ignore_errors=True)
    summary = host.ok("snapshot", source, "--series", "s", "--json").lines()[-1]
    assert summary["number"] == 3
    assert summary["read"] >= FILES * FILE_LEN
    assert stored_len(host) - before < 1 << 20
    assert snapshots_of(host)[-1]["previous"] == [snapshots_of(host)[-2]["id"]]
    assert "all is well" in host.ok("check", "--read-data").out
    assert_restored_equal(host, source)


def test_a_local_state_put_back_to_an_older_copy_does_no_harm(
    host: Host, source: Path, tmp_path: Path
) -> None:
    shutil.copytree(host.dirs.state, tmp_path / "older")
    host.ok("snapshot", source, "--series", "s")
    shutil.rmtree(host.dirs.state)
    (tmp_path / "older").rename(host.dirs.state)
    summary = host.ok("snapshot", source, "--series", "s", "--json").lines()[-1]
    assert summary["number"] == 3
    assert summary["new"] < 1 << 20
    assert [s["number"] for s in snapshots_of(host)] == [1, 2, 3]
    assert "all is well" in host.ok("check", "--read-data").out
    assert_restored_equal(host, source)


def test_a_damaged_local_state_is_made_anew(host: Host, source: Path) -> None:
    (database,) = host.dirs.state.rglob("index.db")
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    database.write_bytes(b"no database at all" * 1000)
    host.ok("snapshot", source, "--series", "s")
    assert "all is well" in host.ok("check", "--read-data").out
    assert_restored_equal(host, source)


# --- the store is full ---------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "coopfs-test", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_a_full_store_fails_clearly_and_the_next_run_goes_on(
    tmp_path: Path, small_disk: Path, source: Path
) -> None:
    host = Host(tmp_path / "own")
    host.init(small_disk / "store")
    ran = host.run("snapshot", source, "--series", "s")
    assert ran.code == 1
    assert "full" in ran.err or "no room" in ran.err or "No space" in ran.err, ran.err
    packs = sorted((small_disk / "store" / "data").rglob("?" * 64))
    assert packs
    assert "all is well" in host.ok("check", "--read-data").out
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    summary = host.ok("snapshot", source, "--series", "s", "--json").lines()[-1]
    assert summary["read"] < FILES * FILE_LEN
    assert summary["stored"] < (FILES * FILE_LEN) - sum(p.stat().st_size for p in packs) + PACK_MAX
    assert "all is well" in host.ok("check", "--read-data").out
    assert all(pack.exists() for pack in packs)
