"""What is measured: the rows of the table, each with its check of what was delivered.

A row is a function of (bench, tool, round); it returns the measured values by row name.
No tool can be fast by being wrong: counts are compared every time, contents in the
first round.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench_measure import (
    BenchError,
    Measured,
    Mounted,
    mounted,
    peak_of,
    read_all,
    remove_tree,
    run,
    settle,
    tree_size,
)
from bench_tools import Archive, Coopfs, Tool

MIB = 1 << 20
HELP_RUNS = 7


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str  # for --only and the raw results
    title: str
    unit: str  # "s", "MB/s" or "MB"
    target: float | None = None  # times better than the better peer
    limit: float | None = None  # in the row's unit, not to be exceeded
    own_only: bool = False  # measured for coopfs alone


ROWS = (
    Row("tree-first", "first snapshot of the tree", "s", target=2.5),
    Row("tree-again", "snapshot with nothing changed", "s", target=2.5),
    Row("large-first", "first snapshot of the two large files", "s", target=2.0),
    Row("stored", "bytes stored for the tree", "MB", target=1 / 0.85),
    Row("cat-tar", "mount: cat of the tar, fresh mount", "MB/s", target=2.0),
    Row("cat-random", "mount: cat of the random file, fresh mount", "MB/s", target=2.5),
    Row("find", "mount: find -size over the tree, fresh mount", "s", target=2.2),
    Row("tar", "mount: tar of a subtree, fresh mount", "s", target=1.6),
    Row("restore", "restore of the tree", "s", target=1.5),
    Row("snapshot-memory", "memory: snapshot", "MB", limit=300),
    Row("mount-memory", "memory: mount after all of the above", "MB", limit=200),
    Row("mount-ready", "mount: command to first listing", "s"),
    Row("help", "start-up (--help)", "s", limit=0.2),
    Row("again-passphrase", "nothing changed, keys under a passphrase", "s", own_only=True),
)


@dataclass(frozen=True, slots=True)
class Input:
    """What is snapshotted."""

    tree: Path
    tar: Path
    random: Path
    subtree: Path  # relative to tree

    @property
    def large(self) -> tuple[Path, Path]:
        """The two large files."""
        return (self.tar, self.random)


# What a step measures, by row name, and how: called for one tool, with the round's number.
Step = tuple[tuple[str, ...], Callable[["Bench", Tool, int], None]]


@dataclass(slots=True)
class Bench:
    """One run of the benchmark: input, tools and what has been measured so far."""

    work: Path
    source: Input
    tools: list[Tool]
    wanted: set[str]
    rows: tuple[Row, ...] = ROWS
    steps: tuple[Step, ...] = field(default_factory=lambda: STEPS)
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def record(self, row: str, tool: Tool, value: float, cpu_s: float | None = None) -> None:
        """Keep one measured value and say it."""
        if row not in self.wanted:
            return
        self.samples.setdefault(row, {}).setdefault(tool.name, []).append(value)
        if cpu_s is not None:
            self.cpu.setdefault(row, {}).setdefault(tool.name, []).append(cpu_s)
        unit = next(entry.unit for entry in self.rows if entry.name == row)
        cpu_text = "" if cpu_s is None else f"  (cpu {cpu_s:.2f} s)"
        print(f"  {row:16} {tool.name:8} {value:9.2f} {unit}{cpu_text}", flush=True)

    def run_round(self, number: int) -> None:
        """Measure every wanted row once for every tool, the tools taking turns."""
        for names, measure in self.steps:
            if self.wanted.isdisjoint(names):
                continue
            for tool in self.tools:
                measure(self, tool, number)

    # --- archives ---------------------------------------------------------

    def archive(self, tool: Tool, name: str) -> Archive:
        """Return where *tool* keeps its archive *name*; it need not exist."""
        folder = self.work / "archives" / tool.name / name
        with_passphrase = not isinstance(tool, Coopfs) or name == "passphrase"
        return Archive(folder, folder / "store", with_passphrase)

    def ready_archive(self, tool: Tool, name: str, snapshots: Sequence[Sequence[Path]]) -> Archive:
        """Return an archive with these *snapshots* in it, made now unless it is there."""
        archive = self.archive(tool, name)
        if not (archive.folder / "complete").exists():
            tool.create(archive)
            for paths in snapshots:
                tool.snapshot(archive, paths)
            (archive.folder / "complete").touch()
        return archive

    def tree_archive(self, tool: Tool) -> Archive:
        """Return an archive whose newest snapshot is of the tree."""
        return self.ready_archive(tool, "tree", [[self.source.tree]])

    def large_archive(self, tool: Tool) -> Archive:
        """Return an archive whose newest snapshot is of the two large files."""
        return self.ready_archive(tool, "large", [self.source.large])

    def measured_snapshot(self, tool: Tool, archive: Archive, paths: Sequence[Path]) -> Measured:
        """Take a snapshot from the common starting point: input in memory, disk at rest."""
        for path in paths:
            read_all(path)
        settle()
        measured = tool.snapshot(archive, paths)
        self.record("snapshot-memory", tool, measured.peak_bytes / 1e6)
        return measured

    @contextmanager
    def fresh_mount(self, tool: Tool, archive: Archive) -> Iterator[Mounted]:
        """Mount anew: the tool's own caches empty, the store's files in memory."""
        read_all(archive.store)
        settle()
        how = tool.mount(archive)
        log = archive.folder / "mount.log"
        with mounted(how.command, how.env, archive.mountpoint, log) as mount:
            self.record("mount-ready", tool, mount.ready_s)
            yield mount


# --- snapshots ---------------------------------------------------------------


def _first_of_tree(bench: Bench, tool: Tool, _number: int) -> None:
    archive = bench.archive(tool, "tree")
    tool.create(archive)
    empty_bytes = tree_size(archive.store)[1]
    measured = bench.measured_snapshot(tool, archive, [bench.source.tree])
    (archive.folder / "complete").touch()
    bench.record("tree-first", tool, measured.seconds, measured.cpu_s)
    stored_bytes = tree_size(archive.store)[1] - empty_bytes
    bench.record("stored", tool, stored_bytes / 1e6)


def _again(bench: Bench, tool: Tool, _number: int) -> None:
    archive = bench.tree_archive(tool)
    measured = bench.measured_snapshot(tool, archive, [bench.source.tree])
    bench.record("tree-again", tool, measured.seconds, measured.cpu_s)


def _again_with_passphrase(bench: Bench, tool: Tool, _number: int) -> None:
    if not isinstance(tool, Coopfs):
        return  # the peers always use one
    archive = bench.ready_archive(tool, "passphrase", [[bench.source.tree]])
    read_all(bench.source.tree)
    settle()
    measured = tool.snapshot(archive, [bench.source.tree])
    bench.record("again-passphrase", tool, measured.seconds, measured.cpu_s)


def _first_of_large(bench: Bench, tool: Tool, _number: int) -> None:
    archive = bench.archive(tool, "large")
    tool.create(archive)
    measured = bench.measured_snapshot(tool, archive, bench.source.large)
    (archive.folder / "complete").touch()
    bench.record("large-first", tool, measured.seconds, measured.cpu_s)


# --- the mount ---------------------------------------------------------------


def _cat(path: Path) -> float:
    """Return the seconds `cat` takes for the whole of *path*."""
    started = time.perf_counter()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def _cat_of(bench: Bench, tool: Tool, number: int, path: Path, row: str) -> None:
    archive = bench.large_archive(tool)
    with bench.fresh_mount(tool, archive):
        shown = tool.mounted_path(archive, path)
        size = path.stat().st_size
        seconds = _cat(shown)
        if shown.stat().st_size != size:
            raise BenchError(f"{tool.name}: {shown} shows another size than {path}")
        if number == 0:
            subprocess.run(["cmp", str(path), str(shown)], check=True)
    bench.record(row, tool, size / seconds / 1e6)


def _cat_tar(bench: Bench, tool: Tool, number: int) -> None:
    _cat_of(bench, tool, number, bench.source.tar, "cat-tar")


def _cat_random(bench: Bench, tool: Tool, number: int) -> None:
    _cat_of(bench, tool, number, bench.source.random, "cat-random")


def _find(path: Path) -> tuple[float, int]:
    """Return the seconds of a `find` that needs every size, and the entries it found."""
    started = time.perf_counter()
    found = subprocess.run(
        ["find", str(path), "-size", "-1000000k", "-printf", "."], capture_output=True, check=True
    )
    return time.perf_counter() - started, len(found.stdout)


def _find_tree(bench: Bench, tool: Tool, _number: int) -> None:
    archive = bench.tree_archive(tool)
    with bench.fresh_mount(tool, archive):
        seconds, count = _find(tool.mounted_path(archive, bench.source.tree))
    expected = _find(bench.source.tree)[1]
    if count != expected:
        raise BenchError(f"{tool.name}: find shows {count} entries, the source has {expected}")
    bench.record("find", tool, seconds)


def _tar(folder: Path, subtree: Path) -> tuple[float, int]:
    """Return the seconds of a `tar` into a pipe (it would not read for /dev/null), its size."""
    started = time.perf_counter()
    with subprocess.Popen(
        ["tar", "-C", str(folder), "-cf", "-", str(subtree)], stdout=subprocess.PIPE
    ) as tar:
        counted = subprocess.run(["wc", "-c"], stdin=tar.stdout, capture_output=True, check=True)
    if tar.returncode:
        raise BenchError(f"tar of {folder / subtree}: exit code {tar.returncode}")
    return time.perf_counter() - started, int(counted.stdout)


def _tar_subtree(bench: Bench, tool: Tool, number: int) -> None:
    archive = bench.tree_archive(tool)
    subtree = bench.source.subtree
    with bench.fresh_mount(tool, archive):
        shown = tool.mounted_path(archive, bench.source.tree)
        seconds, size = _tar(shown, subtree)
        if number == 0:
            compare_trees(bench.source.tree / subtree, shown / subtree)
    expected = _tar(bench.source.tree, subtree)[1]
    if size != expected:
        raise BenchError(f"{tool.name}: tar has {size} bytes, of the source {expected}")
    bench.record("tar", tool, seconds)


def compare_trees(source: Path, copy: Path) -> None:
    """Fail unless the two trees have the same names, links and contents."""
    compare = ["diff", "-rq", "--no-dereference", str(source), str(copy)]
    differing = subprocess.run(compare, capture_output=True, text=True, check=False)
    if differing.returncode:
        raise BenchError(f"{copy} differs from {source}:\n{differing.stdout[:2000]}")


def _mount_memory(bench: Bench, tool: Tool, number: int) -> None:
    if number:
        return  # once is enough: it takes long and varies little
    source = bench.source
    archive = bench.ready_archive(tool, "all", [[source.tree, *source.large]])
    with bench.fresh_mount(tool, archive) as mount:
        watch = mount.watch()
        for path in source.large:
            _cat(tool.mounted_path(archive, path))
        shown = tool.mounted_path(archive, source.tree)
        _find(shown)
        _tar(shown, source.subtree)
        peak_bytes = max(watch.stop(), peak_of(mount.process.pid))
        bench.record("mount-memory", tool, peak_bytes / 1e6)
    remove_tree(archive.folder)


# --- the rest ----------------------------------------------------------------


def _restore(bench: Bench, tool: Tool, number: int) -> None:
    archive = bench.tree_archive(tool)
    target = bench.work / "restored"
    remove_tree(target)
    target.mkdir()
    read_all(archive.store)
    settle()
    measured = tool.restore(archive, target)
    restored = target / bench.source.tree.relative_to("/")
    expected, found = tree_size(bench.source.tree), tree_size(restored)
    if expected != found:
        raise BenchError(f"{tool.name}: restored {found} (entries, bytes), source {expected}")
    if number == 0:
        compare_trees(bench.source.tree, restored)
    bench.record("restore", tool, measured.seconds, measured.cpu_s)
    remove_tree(target)


def _help(bench: Bench, tool: Tool, _number: int) -> None:
    env = tool.env(bench.tree_archive(tool))
    times = sorted(run(tool.help_command(), env).seconds for _ in range(HELP_RUNS))
    bench.record("help", tool, times[HELP_RUNS // 2])


STEPS: tuple[Step, ...] = (
    (("tree-first", "stored", "snapshot-memory"), _first_of_tree),
    (("tree-again",), _again),
    (("again-passphrase",), _again_with_passphrase),
    (("large-first", "snapshot-memory"), _first_of_large),
    (("cat-tar",), _cat_tar),
    (("cat-random",), _cat_random),
    (("find",), _find_tree),
    (("tar",), _tar_subtree),
    (("restore",), _restore),
    (("mount-memory",), _mount_memory),
    (("help",), _help),
)
