"""The benchmark's arithmetic and its checks: no tool may be fast by being wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_in_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in [name for name in sys.modules if name.startswith("bench_")]:
        del sys.modules[name]


def bench_with(samples: dict[str, dict[str, list[float]]]):
    from bench_rows import Bench, Input
    from bench_tools import Borg, Coopfs, Restic

    nowhere = Path("/nowhere")
    tools = [Coopfs("coopfs"), Restic("restic"), Borg("borg")]
    source = Input(nowhere, nowhere, nowhere, nowhere)
    return Bench(nowhere, source, tools, set(samples), samples=samples)


def line_of(bench, title: str) -> list[str]:
    from bench_table import screen_table

    (line,) = [line for line in screen_table(bench).splitlines() if line.startswith(title)]
    return line.removeprefix(title).split()


def test_time_is_compared_with_the_faster_peer_by_medians() -> None:
    times = {"coopfs": [9.0, 2.0, 1.0], "restic": [10.0, 10.0, 1.0], "borg": [30.0, 5.0, 40.0]}
    bench = bench_with({"tree-first": times})
    cells = line_of(bench, "first snapshot of the tree")
    assert cells == ["2", "s", "10", "s", "30", "s", "5.00", "≥", "2.50"]


def test_rate_is_compared_with_the_faster_peer() -> None:
    bench = bench_with({"cat-tar": {"coopfs": [900.0], "restic": [200.0], "borg": [450.0]}})
    cells = line_of(bench, "mount: cat of the tar, fresh mount")
    assert cells[-3:] == ["2.00", "≥", "2.00"]


def test_memory_is_the_highest_of_all_rounds() -> None:
    bench = bench_with({"snapshot-memory": {"coopfs": [120.0, 290.0, 130.0]}})
    assert line_of(bench, "memory: snapshot")[:2] == ["290", "MB"]


def test_no_ratio_is_claimed_without_a_peer() -> None:
    bench = bench_with({"tree-first": {"coopfs": [2.0]}})
    assert line_of(bench, "first snapshot of the tree") == ["2", "s", "≥", "2.50"]


def test_command_that_fails_is_not_measured() -> None:
    from bench_measure import BenchError, run

    with pytest.raises(BenchError, match="exit code 3\nwhy"):
        run(["sh", "-c", "echo why >&2; exit 3"], {"PATH": "/usr/bin:/bin"})


def test_peak_memory_is_that_of_the_process_and_its_children_together() -> None:
    from bench_measure import run

    # The child ends once its parent's watcher can have seen both: after 0.1 s and a bit.
    hold = "import time; held = bytearray(64 << 20); time.sleep(0.8)"
    nested = (
        "import subprocess, sys; held = bytearray(48 << 20);"
        f"subprocess.run([sys.executable, '-c', {hold!r}])"
    )
    measured = run([sys.executable, "-c", nested], {"PATH": "/usr/bin:/bin"})
    assert measured.peak_bytes > 112 << 20


@pytest.mark.parametrize("change", ["content", "missing", "link"])
def test_a_differing_copy_is_refused(tmp_path: Path, change: str) -> None:
    from bench_measure import BenchError
    from bench_rows import compare_trees

    for name in ("source", "copy"):
        (tmp_path / name / "folder").mkdir(parents=True)
        (tmp_path / name / "folder/file").write_bytes(b"same")
        (tmp_path / name / "link").symlink_to("folder/file")
    source, copy = tmp_path / "source", tmp_path / "copy"
    compare_trees(source, copy)
    if change == "content":
        (copy / "folder/file").write_bytes(b"sane")
    elif change == "missing":
        (copy / "folder/file").unlink()
    else:
        (copy / "link").unlink()
        (copy / "link").symlink_to("folder")
    with pytest.raises(BenchError, match="differs"):
        compare_trees(source, copy)
