"""What keeps an archive healthy: ten nights of a tree, then check, forget and prune.

The same nights for every tool: each changes a seeded choice of files (the shares are
below), and the tools take a snapshot in turn.  The archives of ten snapshots are kept
aside, and every measurement starts from a copy of them.

What is compared frees the space within the measured time: `restic forget --prune`; `borg
prune` and `borg compact`; `coopfs forget` and `coopfs prune --grace 0`, which marks and
deletes in one run.  No tool can be fast by being wrong: in the first round the newest
snapshot is restored after the deletion and compared, and a store with one altered byte
must not pass a check that reads all data.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench_measure import BenchError, Measured, read_all, remove_tree, settle, tree_size, walk
from bench_rows import Bench, Row, Step, compare_trees
from bench_tools import Archive, Tool

NIGHTS: Final = 10
KEPT: Final = 5  # of the snapshots
SEED: Final = 4  # any value
EDITED: Final = 0.015  # shares of all files, a night
REMOVED: Final = 0.002
ADDED: Final = 0.003
NAME: Final = "nights"

YEAR_ROWS: Final = (
    Row("check", "check", "s", target=2.0),
    Row("check-data", "check --read-data", "s", target=2.0),
    Row("forget-prune", "forget + prune of half the snapshots", "s", target=2.0),
    Row("left", "bytes stored afterwards", "MB"),
    Row("year-memory", "memory: the highest of these", "MB"),
)


class Nights:
    """The tree that changes, and every tool's archive of it."""

    def __init__(self, work: Path, source: Path) -> None:
        """*source* is the tree as it is before the first night; it is only read."""
        self._source = source
        self.tree = work / "archives/tree" / source.name

    def prepare(self, bench: Bench) -> None:
        """Make the archives, unless an earlier run has kept them."""
        kept = [self._kept(bench.archive(tool, NAME)) for tool in bench.tools]
        if self.tree.exists() and all((folder / "complete").exists() for folder in kept):
            return
        print(f"making {NIGHTS} nights", flush=True)
        remove_tree(self.tree)
        self.tree.parent.mkdir(parents=True, exist_ok=True)
        _copy(self._source, self.tree)
        archives = [(tool, bench.archive(tool, NAME)) for tool in bench.tools]
        for tool, archive in archives:
            tool.create(archive)
        for night in range(NIGHTS):
            if night:
                change_tree(self.tree, night)
            for tool, archive in archives:
                tool.snapshot(archive, [self.tree])
        for _, archive in archives:
            (archive.folder / "complete").touch()
            remove_tree(self._kept(archive))
            archive.folder.rename(self._kept(archive))

    @staticmethod
    def _kept(archive: Archive) -> Path:
        return archive.folder.with_name(f"{NAME}.kept")

    def fresh_archive(self, bench: Bench, tool: Tool) -> Archive:
        """Return the archive as it was after the last night, in memory, the disk at rest.

        It always lies in the same place: the tools' local state says where.
        """
        archive = bench.archive(tool, NAME)
        remove_tree(archive.folder)
        _copy(self._kept(archive), archive.folder)
        read_all(archive.folder)
        settle()
        return archive

    def steps(self) -> tuple[Step, ...]:
        """Return what is measured."""
        return (
            (("check",), self._check),
            (("check-data",), self._check_data),
            (("forget-prune", "left"), self._forget_prune),
        )

    def _check(self, bench: Bench, tool: Tool, _number: int) -> None:
        archive = self.fresh_archive(bench, tool)
        _record(bench, tool, "check", tool.check(archive, reads_data=False))

    def _check_data(self, bench: Bench, tool: Tool, number: int) -> None:
        archive = self.fresh_archive(bench, tool)
        _record(bench, tool, "check-data", tool.check(archive, reads_data=True))
        if number == 0:
            _alter_a_byte(archive.store)
            tool.check(archive, reads_data=True, ok_code=1)  # BenchError if it is content

    def _forget_prune(self, bench: Bench, tool: Tool, number: int) -> None:
        archive = self.fresh_archive(bench, tool)
        _record(bench, tool, "forget-prune", tool.forget(archive, KEPT))
        bench.record("left", tool, tree_size(archive.store)[1] / 1e6)
        if (count := tool.snapshot_count(archive)) != KEPT:
            raise BenchError(f"{tool.name}: {count} snapshots are left, expected {KEPT}")
        if number == 0:
            target = bench.work / "restored"
            remove_tree(target)
            target.mkdir()
            tool.restore(archive, target)
            compare_trees(self.tree, target / self.tree.relative_to("/"))
            remove_tree(target)


def _record(bench: Bench, tool: Tool, row: str, measured: Measured) -> None:
    bench.record(row, tool, measured.seconds, measured.cpu_s)
    bench.record("year-memory", tool, measured.peak_bytes / 1e6)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def change_tree(tree: Path, night: int) -> None:
    """Edit, remove and add files below *tree*; the same ones whenever it is the same tree."""
    chance = random.Random(f"{SEED} {night}")
    files = sorted(path for path in walk(tree) if path.is_file() and not path.is_symlink())
    chosen = chance.sample(files, round(len(files) * (EDITED + REMOVED + ADDED)))
    removed = round(len(files) * REMOVED)
    added = round(len(files) * ADDED)
    for path in chosen[:removed]:
        path.unlink()
    for path in chosen[removed : removed + added]:
        beside = path.with_name(f"{path.stem}-{night}{path.suffix}")
        beside.write_bytes(_edited(path.read_bytes(), chance))
    for path in chosen[removed + added :]:
        path.write_bytes(_edited(path.read_bytes(), chance))


def _edited(content: bytes, chance: random.Random) -> bytes:
    """Return *content* with up to 200 bytes of one place replaced by other text."""
    place = chance.randrange(len(content) + 1)
    end = place + chance.randrange(200)
    text = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz_ ;\n", k=chance.randrange(1, 200)))
    return content[:place] + text.encode() + content[end:]


def _alter_a_byte(store: Path) -> None:
    """Flip the bits of one byte in the middle of the store's largest file."""
    largest = max(_files(store), key=lambda path: (path.stat().st_size, path))
    largest.chmod(0o600)
    with largest.open("r+b") as stream:
        place = stream.seek(largest.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 0xFF]))


def _files(folder: Path) -> Iterable[Path]:
    return (path for path in walk(folder) if path.is_file())
