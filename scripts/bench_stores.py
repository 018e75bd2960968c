#!/usr/bin/env python3
"""Measure every kind of store that can be started here, on loopback, taking turns.

Each round starts the server anew, puts packs from several threads (after a few that make
the connections and are not measured), reads 1 MiB ranges at random places from several
threads, then 16 KiB one after the other, as a mount does: with the store, and with a plain
client of the same library at the same server, so that what this machine can do today is
measured and not remembered.  What comes back is compared, so that no store can be fast by
being wrong.  A kind whose server or client is missing is named and left out.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench_bare import Bare
from bench_measure import BenchError, cpu_seconds, remove_tree, settle
from bench_servers import KINDS, LongLine, Missing, Started, started
from urllib3.exceptions import HTTPError

from coopfs.errors import CoopfsError
from coopfs.store.base import Kind, Store
from coopfs.store.open import create_store, open_store

MIB = 1 << 20
PACK_LEN = 16 * MIB
RANGE_LEN = MIB
SMALL_LEN = 16 << 10
SMALL_READS = 200
WARM_UP_SEED = 1000  # of packs that are put before the clock starts
BUSY_LOAD = 0.7  # processes wanting to run, on average of the last minute

FOUR_FIFTHS = 0.8  # of what the plain client reaches is asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """What a store is to reach over loopback."""

    mb_per_s: float
    nginx_mb_per_s: float  # of nginx with TLS on the machine for which that was asked

    @property
    def of_nginx(self) -> float:
        """The same as a part of what nginx reaches, which holds on any machine."""
        return self.mb_per_s / self.nginx_mb_per_s


_ASKED_OF_COOP = {"put": Asked(350.0, 693.0), "range": Asked(450.0, 629.0)}
ASKED = {"coop": _ASKED_OF_COOP, "dialled": _ASKED_OF_COOP}


@dataclass(frozen=True, slots=True)
class Measure:
    """One column."""

    name: str
    title: str
    unit: str


PUT = Measure("put", "put 16 MiB", "MB/s")
RANGE = Measure("range", "read 1 MiB ranges", "MB/s")
SMALL = Measure("small", "read 16 KiB", "ms")
MEASURES = (PUT, RANGE, SMALL)


@dataclass(slots=True)
class Work:
    """What every store is given to do: the same bytes, in another order each round."""

    packs: dict[bytes, bytes]  # by name
    bare_packs: dict[bytes, bytes]  # others, so that no server has them already
    threads: int
    ranges: int
    line: LongLine = field(default_factory=LongLine)
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
    packs, others = (_make_packs(options.packs, seed) for seed in (1, 2))
    line = LongLine(options.rtt, options.rate)
    work = Work(packs, others, options.threads, options.ranges, line)
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
            except (BenchError, CoopfsError, OSError, HTTPError) as exc:
                print(f"bench: {kind}: {exc}", file=sys.stderr)
                return 1
            finally:
                remove_tree(folder)
    output = options.output or options.work.resolve() / "stores.rst"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(rst_table(work, options.rounds))
    output.with_suffix(".json").write_text(json.dumps(work.samples, indent=1) + "\n")
    print("\n".join(["", screen_table(work), "", *asked_lines(work), f"written to {output}"]))
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
    parser.add_argument("--rtt", type=float, metavar="MS", default=0.0, help="of a line between")
    parser.add_argument("--rate", type=float, metavar="MBIT", help="of it, each way")
    parser.add_argument("--work", type=Path, metavar="DIR", default=cache / "coopfs-bench")
    parser.add_argument("--output", type=Path, metavar="FILE", help="table (WORK/stores.rst)")
    return parser


def _make_packs(count: int, seed: int) -> dict[bytes, bytes]:
    """Return packs by name: noise, as ciphertext is, and no two alike."""
    noise = random.Random(seed).randbytes(PACK_LEN + count)
    packs = (noise[number : number + PACK_LEN] for number in range(count))
    return {hashlib.sha256(pack).digest(): pack for pack in packs}


class Ours:
    """A store, as the plain clients are."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, name: str, data: bytes) -> None:
        """See Bare."""
        self._store.put(Kind.DATA, bytes.fromhex(name), data)

    def get(self, name: str, offset: int, length: int) -> bytes:
        """See Bare."""
        return self._store.get(Kind.DATA, bytes.fromhex(name), offset, length)

    def close(self) -> None:
        """See Bare."""
        self._store.close()


def _measure(kind: str, folder: Path, work: Work, number: int) -> None:
    remove_tree(folder)
    folder.mkdir(parents=True)
    with started(kind, folder, work.line) as server:
        if server.address is not None:
            with create_store(server.address) as store:
                store.put_config(b"a config, so that it is a store")
        # Whoever is first finds an emptier disk.
        turns = (_measure_ours, _measure_bare)
        for turn in turns if number % 2 else reversed(turns):
            turn(kind, server, work, number)


def _measure_ours(kind: str, server: Started, work: Work, number: int) -> None:
    if server.address is not None:
        _measure_client(kind, "", Ours(open_store(server.address)), work.packs, work, number)


def _measure_bare(kind: str, server: Started, work: Work, number: int) -> None:
    if server.make_bare is not None:
        prefix = "" if server.address is None else "bare "
        _measure_client(kind, prefix, server.make_bare(), work.bare_packs, work, number)


def _measure_client(
    kind: str, prefix: str, client: Bare, packs: dict[bytes, bytes], work: Work, number: int
) -> None:
    """Measure *client* and note it; *prefix* goes before what is noted."""
    rng = random.Random(number)
    said = []

    def timed(measure: Measure, run: Callable[[], float], moved: int) -> None:
        before = cpu_seconds()
        value = run()
        cpu_s = [now - then for now, then in zip(cpu_seconds(), before, strict=True)]
        work.note(kind, prefix + measure.name, value)
        work.note(kind, f"{prefix}{measure.name} cpu", sum(cpu_s) / moved * 1e9)
        said.append(
            f"{measure.title} {_shown(value)} {measure.unit} "
            f"(CPU {cpu_s[0] / moved * 1e9:.2f}+{cpu_s[1] / moved * 1e9:.2f} s/GB)"
        )

    try:
        # A store makes its connections when it has a use for them, a plain client has them.
        _put_all(client, _make_packs(2 * work.threads, WARM_UP_SEED + len(prefix)), work.threads)
        settle()
        put_len, range_len = len(packs) * PACK_LEN, work.ranges * RANGE_LEN
        timed(PUT, lambda: put_len / _put_all(client, packs, work.threads) / 1e6, put_len)
        timed(
            RANGE,
            lambda: range_len / sum(_read_all(client, packs, rng, RANGE_LEN, work)) / 1e6,
            range_len,
        )
        timed(
            SMALL,
            lambda: statistics.median(_read_all(client, packs, rng, SMALL_LEN, work)) * 1000,
            SMALL_LEN * SMALL_READS,
        )
    finally:
        client.close()
    print(f"  {prefix}{kind}: {', '.join(said)}", flush=True)


def _put_all(client: Bare, packs: dict[bytes, bytes], threads: int) -> float:
    """Put every pack, from the threads; return how many seconds it took."""
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for done in [pool.submit(client.put, name.hex(), pack) for name, pack in packs.items()]:
            done.result()
        return time.perf_counter() - begun


def _read_all(
    client: Bare, packs: dict[bytes, bytes], rng: random.Random, length: int, work: Work
) -> list[float]:
    """Read at random places; return the seconds of each small read, or of all large ones.

    Raises:
        BenchError: what came back is not what was put.  Compared after the clock has
            stopped: it costs as much as a fast store's answer.
    """
    names = [*packs]
    count = SMALL_READS if length == SMALL_LEN else work.ranges
    places = [(rng.choice(names), rng.randrange(PACK_LEN - length)) for _ in range(count)]
    times_s: list[float] = []
    got: list[bytes] = []
    if length == SMALL_LEN:
        for name, offset in places:
            begun = time.perf_counter()
            got.append(client.get(name.hex(), offset, length))
            times_s.append(time.perf_counter() - begun)
    else:
        with ThreadPoolExecutor(work.threads) as pool:
            begun = time.perf_counter()
            reads = [pool.submit(client.get, name.hex(), at, length) for name, at in places]
            got = [done.result() for done in reads]
            times_s.append(time.perf_counter() - begun)
    for (name, offset), data in zip(places, got, strict=True):
        if data != packs[name][offset : offset + length]:
            raise BenchError(f"{name.hex()} came back wrong at {offset}")
    return times_s


# --- the table ------------------------------------------------------------------


def _median(work: Work, kind: str, measure: str) -> float:
    return statistics.median(work.samples[kind][measure])


def _shown(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _beside(work: Work, kind: str, measure: Measure) -> str:
    """Return how the store stands to the plain client, and to what it is to reach."""
    samples = work.samples[kind]
    value, words = _median(work, kind, measure.name), []
    if f"bare {measure.name}" in samples:
        bare = _median(work, kind, f"bare {measure.name}")
        reached = bare / value if measure is SMALL else value / bare
        missed = "" if reached >= FOUR_FIFTHS else ", missed"
        words.append(f"{reached:.2f} of {_shown(bare)}{missed}")
    return "; ".join(words)


def asked_lines(work: Work) -> list[str]:
    """Return, of each store of which so much is asked, how it stands to that and to nginx."""
    if work.line.is_there:
        return []
    lines = []
    for kind in work.samples:
        for measure in MEASURES:
            asked = ASKED.get(kind, {}).get(measure.name)
            if asked is not None:
                lines.append(_asked_line(work, kind, measure, asked))
    return lines


def _asked_line(work: Work, kind: str, measure: Measure, asked: Asked) -> str:
    value = _median(work, kind, measure.name)
    verdict = _verdict(value >= asked.mb_per_s)
    line = (
        f"{KINDS[kind]}: {measure.title}: {_shown(value)} {measure.unit}, "
        f"needed {_shown(asked.mb_per_s)} where nginx makes {_shown(asked.nginx_mb_per_s)}: "
        f"{verdict}; "
    )
    others = work.samples.get("nginx", {}).get(measure.name)
    if not others:
        return line + "nginx was not measured beside it"
    # Round by round: what slows one of them on a busy machine slows the other as well.
    reached = statistics.median(
        ours / theirs for ours, theirs in zip(work.samples[kind][measure.name], others, strict=True)
    )
    verdict = _verdict(reached >= asked.of_nginx)
    return line + (
        f"{reached:.2f} of the {_shown(statistics.median(others))} that nginx makes here, "
        f"needed {asked.of_nginx:.2f}: {verdict}"
    )


def _verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "missed"


def _grid(work: Work) -> list[list[str]]:
    heads = [
        cell for measure in MEASURES for cell in (f"{measure.title} ({measure.unit})", "of plain")
    ]
    cpus = [f"CPU {measure.name} (s/GB)" for measure in (PUT, RANGE)]
    grid = [["store", *heads, *cpus]]
    for kind in work.samples:
        line = [KINDS[kind]]
        for measure in MEASURES:
            line += [_shown(_median(work, kind, measure.name)), _beside(work, kind, measure)]
        line += [_shown(_median(work, kind, f"{measure.name} cpu")) for measure in (PUT, RANGE)]
        grid.append(line)
    return grid


def _shown_line(line: LongLine) -> str:
    if not line.is_there:
        return "Loopback"
    rate = f" and {_shown(line.mbit_per_s)} Mbit/s" if line.mbit_per_s else ""
    return f"A line of {_shown(line.rtt_ms)} ms{rate}"


def screen_table(work: Work) -> str:
    """Return the medians with aligned columns, beside each what the plain client reaches."""
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
        f"{_shown_line(work.line)}, {work.threads} threads (16 KiB: one), "
        f"medians of {rounds} rounds; beside each "
        "what a plain client",
        "of the same library reaches at the same server (asked for: four fifths of it); CPU of "
        "client and server;",
        f"{os.cpu_count()} cores,",
        f"Linux {platform.release()}, Python {platform.python_version()}.",
    ]
    for told in asked_lines(work):
        lines += ["", f"- {told}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
