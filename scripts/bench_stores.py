#!/usr/bin/env python3
"""Measure every kind of store that can be started here, on loopback, taking turns.

Each round starts the server anew, puts packs from several threads, reads 1 MiB ranges
at random places from several threads, then 16 KiB one after the other, as a mount does.
What comes back is compared, so that no store can be fast by being wrong.  A kind whose
server or client is missing is named and left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench_measure import BenchError, remove_tree, settle
from bench_servers import KINDS, Missing, started

from coopfs.errors import CoopfsError
from coopfs.store.base import Kind, Store
from coopfs.store.open import create_store, open_store

MIB = 1 << 20
PACK_LEN = 16 * MIB
RANGE_LEN = MIB
SMALL_LEN = 16 << 10
SMALL_READS = 200
BUSY_LOAD = 0.7  # processes wanting to run, on average of the last minute

# Reached on two cores over loopback by the same libraries without coopfs around them; the
# table asks for four fifths of it.  (MB/s put, MB/s of 1 MiB ranges, ms for 16 KiB.)
FOUR_FIFTHS = 0.8
BARE = {
    "sftp": (353.0, 384.0, 0.32),
    "ftps": (195.0, 200.0, None),
    "coop": (350.0 / FOUR_FIFTHS, 450.0 / FOUR_FIFTHS, None),  # what it is to do itself
    "s3": (115.0, 230.0, 3.2),
    "rclone": (None, 1440.0, 0.23),
}


@dataclass(frozen=True, slots=True)
class Measure:
    """One column."""

    name: str
    title: str
    unit: str


MEASURES = (
    Measure("put", "put 16 MiB", "MB/s"),
    Measure("range", "read 1 MiB ranges", "MB/s"),
    Measure("small", "read 16 KiB", "ms"),
)


@dataclass(slots=True)
class Work:
    """What every store is given to do: the same bytes, in another order each round."""

    packs: dict[bytes, bytes]  # by name
    threads: int
    ranges: int
    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def note(self, kind: str, measure: str, value: float) -> None:
        """Keep one measured value."""
        self.samples.setdefault(kind, {}).setdefault(measure, []).append(value)


def main() -> int:
    """Measure and write the table."""
    options = _parser().parse_args()
    kinds = options.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        print(f"bench: no such kind: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    work = Work(_make_packs(options.packs), options.threads, options.ranges)
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        print(f"the machine is busy (load {load:.1f}): the figures will say little")
    missing: dict[str, str] = {}
    folder = options.work.resolve() / "stores"
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        for kind in kinds:
            if kind in missing:
                continue
            try:
                _measure(kind, folder, work, number)
            except Missing as exc:
                missing[kind] = str(exc)
                print(f"  {kind}: left out: {exc}", flush=True)
            except (BenchError, CoopfsError) as exc:
                print(f"bench: {kind}: {exc}", file=sys.stderr)
                return 1
            finally:
                remove_tree(folder)
    output = options.output or options.work.resolve() / "stores.rst"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(rst_table(work, options.rounds))
    output.with_suffix(".json").write_text(json.dumps(work.samples, indent=1) + "\n")
    print(f"\n{screen_table(work)}\n\nwritten to {output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench stores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    names = ",".join(KINDS)
    parser.add_argument("--only", metavar="KIND,…", default=names, help=names)
    parser.add_argument("--rounds", type=int, metavar="N", default=3)
    parser.add_argument("--packs", type=int, metavar="N", default=16, help="of 16 MiB (16)")
    parser.add_argument("--ranges", type=int, metavar="N", default=256, help="of 1 MiB (256)")
    parser.add_argument("--threads", type=int, metavar="N", default=4)
    parser.add_argument("--work", type=Path, metavar="DIR", default=cache / "coopfs-bench")
    parser.add_argument("--output", type=Path, metavar="FILE", help="table (WORK/stores.rst)")
    return parser


def _make_packs(count: int) -> dict[bytes, bytes]:
    """Return packs by name: noise, as ciphertext is, and no two alike."""
    noise = random.Random(1).randbytes(PACK_LEN + count)
    packs = (noise[number : number + PACK_LEN] for number in range(count))
    return {hashlib.sha256(pack).digest(): pack for pack in packs}


def _measure(kind: str, folder: Path, work: Work, number: int) -> None:
    remove_tree(folder)
    folder.mkdir(parents=True)
    with started(kind, folder) as address:
        with create_store(address) as store:
            store.put_config(b"a config, so that it is a store")
        with open_store(address) as store:
            settle()
            put_s = _put_all(store, work)
            work.note(kind, "put", len(work.packs) * PACK_LEN / put_s / 1e6)
            rng = random.Random(number)
            range_s = sum(_read_all(store, work, rng, RANGE_LEN, work.ranges, work.threads))
            work.note(kind, "range", work.ranges * RANGE_LEN / range_s / 1e6)
            small_s = _read_all(store, work, rng, SMALL_LEN, SMALL_READS, 1)
            work.note(kind, "small", statistics.median(small_s) * 1000)
    values = {name: values[-1] for name, values in work.samples[kind].items()}
    shown = ", ".join(f"{m.title} {_shown(values[m.name])} {m.unit}" for m in MEASURES)
    print(f"  {kind}: {shown}", flush=True)


def _put_all(store: Store, work: Work) -> float:
    """Put every pack, from the threads; return how many seconds it took."""
    with ThreadPoolExecutor(work.threads) as pool:
        begun = time.perf_counter()
        for done in [pool.submit(store.put, Kind.DATA, *pack) for pack in work.packs.items()]:
            done.result()
        return time.perf_counter() - begun


def _read_all(
    store: Store, work: Work, rng: random.Random, length: int, count: int, threads: int
) -> list[float]:
    """Read at *count* random places; return the seconds of each, or of all with threads.

    Raises:
        BenchError: what came back is not what was put.  Compared after the clock has
            stopped: it costs as much as a fast store's answer.
    """
    names = [*work.packs]
    places = [(rng.choice(names), rng.randrange(PACK_LEN - length)) for _ in range(count)]
    times_s: list[float] = []
    got: list[bytes] = []
    if threads == 1:
        for name, offset in places:
            begun = time.perf_counter()
            got.append(store.get(Kind.DATA, name, offset, length))
            times_s.append(time.perf_counter() - begun)
    else:
        with ThreadPoolExecutor(threads) as pool:
            begun = time.perf_counter()
            reads = [pool.submit(store.get, Kind.DATA, *place, length) for place in places]
            got = [done.result() for done in reads]
            times_s.append(time.perf_counter() - begun)
    for (name, offset), data in zip(places, got, strict=True):
        if data != work.packs[name][offset : offset + length]:
            raise BenchError(f"{store.address}: {name.hex()} came back wrong at {offset}")
    return times_s


# --- the table ------------------------------------------------------------------


def _median(work: Work, kind: str, measure: str) -> float:
    return statistics.median(work.samples[kind][measure])


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _to_reach(kind: str, number: int) -> str:
    bare = BARE.get(kind, (None, None, None))[number]
    if bare is None:
        return ""
    unit = MEASURES[number].unit
    return f"≤ {_shown(bare / FOUR_FIFTHS)}" if unit == "ms" else f"≥ {_shown(bare * FOUR_FIFTHS)}"


def _grid(work: Work) -> list[list[str]]:
    heads = [cell for measure in MEASURES for cell in (f"{measure.title} ({measure.unit})", "")]
    grid = [["store", *heads]]
    for kind in work.samples:
        line = [KINDS[kind]]
        for number, measure in enumerate(MEASURES):
            line += [_shown(_median(work, kind, measure.name)), _to_reach(kind, number)]
        grid.append(line)
    return grid


def screen_table(work: Work) -> str:
    """Return the medians with aligned columns, beside each what is to be reached."""
    grid = _grid(work)
    widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in grid
    )


def rst_table(work: Work, rounds: int) -> str:
    """Return the same as a list-table in reStructuredText, with what it was run on."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for line in _grid(work):
        lines += [
            f"   {' ' if number else '*'} - {cell}".rstrip() for number, cell in enumerate(line)
        ]
    lines += [
        "",
        f"Loopback, {work.threads} threads (16 KiB: one), medians of {rounds} rounds; "
        f"{os.cpu_count()} cores,",
        f"Linux {platform.release()}, Python {platform.python_version()}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
