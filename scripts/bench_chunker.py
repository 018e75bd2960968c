#!/usr/bin/env python3
"""Measure what chunk and block sizes cost: the table in coopfs-format(5), "Chunker".

Input, kept in a work folder: ten consecutive releases of a large package (wheels,
fetched by ``pip download``, which runs no code of theirs), once as unpacked trees
and once as uncompressed tars, and simulated nightly text dumps of a database.
For each setting, all of it goes through a model of an archive:

- a file up to the minimum is one chunk, a larger one is cut by FastCDC (2020);
- a chunk whose id the archive has is not stored again;
- new chunks, in walk order (entries sorted by raw name), fill blocks of up to the
  block size, each compressed with zstd level 3, or raw where that does not help;
  a chunk of at least the block size is a block alone;
- every new chunk costs its id and length in the pack's directory and again in the
  index object, every block a tag and its line in both;
- every span costs its id and length in a tree.  Approximate: span lists are cut
  into nodes of about 128 spans, and a node the archive has is not stored again;
  inner nodes, and entries rewritten because a neighbour changed, are left out.

Encryption, padding, pack headers and inline files are left out. In the table: sizes in
KiB (mean: of the tars' distinct chunks); then MB stored of each source, and of all in one
archive; of that, ids (directories, index, trees), and what spans came to if trees did not
dedup; distinct chunks; local state for 1 TB of such chunks; CPU seconds to cut and hash.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import blake3
import pyfastcdc

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

KIB = 1024
PACKAGE = "ansible"
VERSIONS = tuple(f"11.{minor}.0" for minor in range(4, 14))
SEED = 0x1E3779B97F4A7C15  # any value; archives derive theirs. pyfastcdc: below 2**63
KEY = bytes(32)
ZSTD_LEVEL = 3
SPAN_COST = 34  # bytes: 32 of id, 2-3 of length
CHUNK_COST = 2 * 35  # bytes: id and length, in the directory and in the index object
BLOCK_COST = 16 + 2 * 16  # bytes: tag; offset, two lengths and codec in both
LOCAL_COST = 48  # bytes a chunk in the local state, measured
NODE_SPANS = 128  # about this many spans in one node of a span list
DEFAULT_SETTINGS = ("8", "16", "32", "64", "128", "256", "1024")  # averages, KiB
DUMP_ROWS = 1_000_000
DUMP_NIGHTS = 4
WORDS = ("open", "paid", "sent", "lost", "north", "south", "red", "blue", "small", "large", "late")

Normalization = Literal[0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class Setting:
    """One choice of sizes; all in bytes."""

    avg_size: int  # FastCDC's parameter; what comes out is about this plus the minimum
    min_size: int
    max_size: int
    normalization: Normalization
    block_size: int

    def chunker(self) -> pyfastcdc.FastCDC:
        """Return a chunker with these sizes."""
        return pyfastcdc.FastCDC(
            self.avg_size,
            min_size=self.min_size,
            max_size=self.max_size,
            normalized_chunking=self.normalization,
            seed=SEED,
        )


@dataclass(slots=True)
class Account:
    """What a simulated archive holds and what that costs; lengths in bytes."""

    setting: Setting
    read_len: int = 0
    unique_len: int = 0
    chunk_count: int = 0  # distinct chunks
    block_len: int = 0  # compressed blocks, with BLOCK_COST
    span_len: int = 0  # after dedup of span nodes
    all_span_len: int = 0  # as if every snapshot stored all its spans
    _known: set[bytes] = field(default_factory=set)
    _nodes: set[bytes] = field(default_factory=set)
    _open: bytearray = field(default_factory=bytearray)

    @property
    def ids_len(self) -> int:
        """Bytes spent on ids: directories, index objects, trees."""
        return self.chunk_count * CHUNK_COST + self.span_len

    def add(self, path: bytes, chunks: list[tuple[bytes, memoryview]]) -> None:
        """Store the file *path*, made of *chunks*."""
        for chunk_id, data in chunks:
            self.read_len += len(data)
            if chunk_id not in self._known:
                self._known.add(chunk_id)
                self.unique_len += len(data)
                self.chunk_count += 1
                self._append(data)
        self._add_spans(path, [chunk_id for chunk_id, _ in chunks])

    def end_snapshot(self) -> None:
        """Close the open block, as a snapshot's end does."""
        self._seal(self._open)
        self._open = bytearray()

    def _append(self, data: memoryview) -> None:
        limit = self.setting.block_size
        if len(data) >= limit:
            self._seal(data)
            return
        if len(self._open) + len(data) > limit:
            self.end_snapshot()
        self._open += data

    def _seal(self, plain: bytearray | memoryview) -> None:
        if plain:
            packed_len = len(zstd.compress(plain, level=ZSTD_LEVEL))
            self.block_len += min(packed_len, len(plain)) + BLOCK_COST

    def _add_spans(self, path: bytes, chunk_ids: list[bytes]) -> None:
        self.all_span_len += len(chunk_ids) * SPAN_COST
        node = blake3.blake3(path)  # the first node belongs to the file's own entry
        node_spans = 0
        for chunk_id in chunk_ids:
            node.update(chunk_id)
            node_spans += 1
            if int.from_bytes(chunk_id[:4], "little") % NODE_SPANS == 0:
                self._add_node(node.digest(), node_spans)
                node, node_spans = blake3.blake3(), 0
        self._add_node(node.digest(), node_spans)

    def _add_node(self, node_id: bytes, spans: int) -> None:
        if node_id not in self._nodes:
            self._nodes.add(node_id)
            self.span_len += spans * SPAN_COST


@dataclass(frozen=True, slots=True)
class Source:
    """One history: a list of snapshots, each a list of (path, content) in walk order."""

    name: str
    snapshots: list[list[tuple[bytes, memoryview]]]


@dataclass(frozen=True, slots=True)
class Result:
    """What one setting came to, by source name; the last account is all in one archive."""

    setting: Setting
    accounts: dict[str, Account]
    mean_len: float  # mean length of a distinct chunk of the tars, in bytes
    cut_s_per_gb: float  # CPU seconds to cut and hash 10^9 bytes of a tar


def cut_file(setting: Setting, content: memoryview) -> list[tuple[bytes, memoryview]]:
    """Cut *content*; return its chunks in order, each with its id."""
    if len(content) <= setting.min_size:
        pieces = [content] if content else []
    else:
        pieces = [
            content[chunk.offset : chunk.offset + chunk.length]
            for chunk in setting.chunker().cut_buf(content)
        ]
    return [(blake3.blake3(piece, key=KEY).digest(), piece) for piece in pieces]


def measure(setting: Setting, sources: list[Source]) -> Result:
    """Store every source in an archive of its own, and all of them in one."""
    accounts = {source.name: Account(setting) for source in sources}
    together = Account(setting)
    for number in range(max(len(source.snapshots) for source in sources)):
        for source in sources:
            if number >= len(source.snapshots):
                continue
            for path, content in source.snapshots[number]:
                chunks = cut_file(setting, content)
                accounts[source.name].add(path, chunks)
                together.add(path, chunks)
            accounts[source.name].end_snapshot()
            together.end_snapshot()
    tars = accounts["tars"]
    accounts["together"] = together
    speed = time_cutting(setting, sources)
    return Result(setting, accounts, tars.unique_len / tars.chunk_count, speed)


def time_cutting(setting: Setting, sources: list[Source], rounds: int = 3) -> float:
    """Return the fewest CPU seconds per 10^9 bytes to cut and hash the first tar."""
    _, content = next(s for s in sources if s.name == "tars").snapshots[0][0]
    times_s = []
    for _ in range(rounds):
        start_s = time.process_time()
        cut_file(setting, content)
        times_s.append(time.process_time() - start_s)
    return min(times_s) / len(content) * 1e9


def map_file(path: Path) -> memoryview:
    """Map a whole file, which must not be empty; it stays mapped until the process ends."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def fetch_wheel(work: Path, package: str, version: str) -> Path:
    """Return the wheel of a release, fetched by pip unless it is in *work* already.

    Raises:
        SystemExit: pip failed (its own message is shown), or fetched something else.
    """
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(work.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(work), f"{package}=={version}"]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{package} {version}: pip could not fetch a wheel; see its message above")
    found = list(work.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{work}: expected one file {pattern}, found {len(found)}; empty the folder")
    return found[0]


def walk_order(name: str) -> tuple[bytes, ...]:
    """Sort key that gives the order of a walk whose folders are sorted by raw name."""
    return tuple(os.fsencode(part) for part in name.split("/"))


def tar_wheel(wheel: Path) -> Path:
    """Write *wheel* as an uncompressed GNU tar beside it, in walk order; return its path."""
    target = wheel.with_suffix(".tar")
    if target.exists():
        return target
    partial = target.with_suffix(".part")
    with (
        zipfile.ZipFile(wheel) as archive,
        tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar,
    ):
        files = [entry for entry in archive.infolist() if not entry.is_dir()]
        for entry in sorted(files, key=lambda entry: walk_order(entry.filename)):
            member = tarfile.TarInfo(entry.filename)
            member.size = entry.file_size
            # The release's own times: a file of an unchanged part keeps its time.
            member.mtime = int(datetime(*entry.date_time, tzinfo=UTC).timestamp())
            with archive.open(entry) as content:
                tar.addfile(member, content)
    partial.rename(target)
    return target


def load_releases(work: Path, package: str, versions: Iterable[str]) -> list[Source]:
    """Return the releases as unpacked trees and as tars.

    The trees are read where they lie in the tars, which were written in walk order.
    """
    trees, tars = [], []
    for version in versions:
        path = tar_wheel(fetch_wheel(work, package, version))
        view = map_file(path)
        with tarfile.open(path) as tar:
            files = [(entry.name, entry.offset_data, entry.size) for entry in tar]
        trees.append([(os.fsencode(name), view[at : at + size]) for name, at, size in files])
        tars.append([(b"release.tar", view)])
    return [Source("trees", trees), Source("tars", tars)]


def make_row(rng: random.Random, number: int) -> bytes:
    """Return one row as a text dump has it, about 86 bytes."""
    note = " ".join(rng.choices(WORDS, k=rng.randrange(2, 12)))
    stamp = f"2026-{rng.randrange(1, 12):02}-{rng.randrange(1, 28):02} {rng.randrange(86400):05}"
    amount = rng.randrange(10**7)
    return f"{number}\t{rng.getrandbits(64):016x}\t{stamp}\t{amount}\t{note}\t\\N\n".encode()


def change_rows(rng: random.Random, rows: list[bytes], run: int) -> None:
    """Change 1 % of the rows in place, in runs of *run* neighbours; append 0.5 % new ones."""
    for _ in range(len(rows) // 100 // run):
        start = rng.randrange(len(rows) - run)
        for number in range(start, start + run):
            rows[number] = make_row(rng, number)
    rows += [make_row(rng, len(rows) + extra) for extra in range(len(rows) // 200)]


def load_dumps(work: Path, name: str, run: int) -> Source:
    """Return nightly dumps of one table (see change_rows), written to *work* at first."""
    paths = [work / f"dump-{DUMP_ROWS}-{run}-{night}.sql" for night in range(DUMP_NIGHTS)]
    if not all(path.exists() for path in paths):
        rng = random.Random(run)  # fixed seed: the same rows everywhere
        rows = [make_row(rng, number) for number in range(DUMP_ROWS)]
        for path in paths:
            partial = path.with_suffix(".part")
            partial.write_bytes(b"".join(rows))
            partial.rename(path)
            change_rows(rng, rows, run)
    return Source(name, [[(b"db.sql", map_file(path))] for path in paths])


def parse_setting(text: str) -> Setting:
    """Parse AVG[:MIN[:MAX[:NC[:BLOCK]]]], sizes in KiB.

    By default the minimum is a quarter of the average, the maximum four times that,
    normalization 1, and the block 1024 KiB.

    Raises:
        ValueError: a number does not parse, or FastCDC refuses the sizes.
    """
    fields = [int(part) for part in text.split(":")]
    defaults = [fields[0], fields[0] // 4, fields[0] * 4, 1, 1024]
    if len(fields) > len(defaults):
        raise ValueError(text)
    avg, low, high, level, block = fields + defaults[len(fields) :]
    levels: dict[int, Normalization] = {0: 0, 1: 1, 2: 2, 3: 3}
    if level not in levels:
        raise ValueError(text)
    setting = Setting(avg * KIB, low * KIB, high * KIB, levels[level], block * KIB)
    setting.chunker()
    return setting


HEADINGS = ("avg", "min", "max", "NC", "block", "mean", "trees", "tars", "dump A", "dump B",
            "all", "ids", "spans", "chunks", "MB/TB", "s/GB")  # fmt: skip


def cells(result: Result) -> list[str]:
    """Return the table's row for *result*; the module's docstring names the columns."""
    setting, every = result.setting, result.accounts["together"]
    sizes = (setting.avg_size, setting.min_size, setting.max_size)
    row = [f"{size // KIB}" for size in sizes]
    row += [f"{setting.normalization}", f"{setting.block_size // KIB}"]
    row += [f"{result.mean_len / KIB:.1f}"]
    row += [
        f"{(account.block_len + account.ids_len) / 1e6:.1f}" for account in result.accounts.values()
    ]
    row += [f"{every.ids_len / 1e6:.1f}", f"{every.all_span_len / 1e6:.1f}"]
    row += [f"{every.chunk_count / 1e3:.0f}k"]
    row += [f"{1e12 / result.mean_len * LOCAL_COST / 1e6:.0f}", f"{result.cut_s_per_gb:.2f}"]
    return row


def render_table(rows: list[list[str]]) -> str:
    """Return *rows*, the headings first, as a reStructuredText simple table."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule, ""])


def main() -> None:
    """Prepare the input, measure every setting, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("settings", nargs="*", default=DEFAULT_SETTINGS,
                        metavar="AVG[:MIN[:MAX[:NC[:BLOCK]]]]", help="in KiB")  # fmt: skip
    parser.add_argument("--work", type=Path, default=cache / "coopfs-bench-chunker",
                        help="folder for downloads and tars, about 4 GB")  # fmt: skip
    parser.add_argument("--package", default=PACKAGE, help="package with wheels of its own")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help="releases, oldest first")
    options = parser.parse_args()
    try:
        settings = [parse_setting(text) for text in options.settings]
    except ValueError as exc:
        parser.error(f"{exc}: not a setting; expected AVG[:MIN[:MAX[:NC[:BLOCK]]]] in KiB")
    options.work.mkdir(parents=True, exist_ok=True)
    sources = load_releases(options.work, options.package, options.versions)
    sources.append(load_dumps(options.work, "dump A", 1))
    sources.append(load_dumps(options.work, "dump B", 100))
    rows = [list(HEADINGS)]
    for setting in settings:
        result = measure(setting, sources)
        if len(rows) == 1:
            for name, account in result.accounts.items():
                print(f"{name}: {account.read_len / 1e6:.1f} MB read", file=sys.stderr)
        rows.append(cells(result))
        print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(render_table(rows), end="")


if __name__ == "__main__":
    main()
