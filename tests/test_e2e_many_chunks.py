"""Memory stays flat however much an archive holds, and all of it can be read.

COOPFS_TEST_SOAK=1 does it with ten million chunks (100 GB of files), which takes half an
hour; otherwise the same is gone through with 60,000.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from archive_fixtures import Lab
from many_chunks import ManyChunks

from coopfs.store.base import Kind

IS_SOAK = bool(os.environ.get("COOPFS_TEST_SOAK"))
CHUNKS = 10_000_000 if IS_SOAK else 60_000
PEAK_MAX = 500_000_000 if IS_SOAK else 150_000_000  # bytes, resident
TIMEOUT_S = 7200 if IS_SOAK else 180


# Between the tests and the command: a process takes the peak of the one that starts it for
# its own (execve(2) keeps it), and this one may have been large.  What the command's own
# processes take together is looked at ten times a second; the largest of them has its peak.
MEASURE = """
import os, resource, subprocess, sys, threading

def pss(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as rollup:
            return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0

def below(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return [pid, *(one for child in children.read().split() for one in below(child))]
    except OSError:
        return []

command = subprocess.Popen(sys.argv[1:])
peak, is_done = 0, threading.Event()

def watch():
    global peak
    while not is_done.wait(0.1):
        peak = max(peak, sum(map(pss, below(command.pid))))

watcher = threading.Thread(target=watch)
watcher.start()
code = command.wait()
is_done.set()
watcher.join()
print(max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss), file=sys.stderr)
sys.exit(code)
"""


def peak_of(lab: Lab, *args: str) -> tuple[str, int]:
    """Run the command in a process of its own; return what it said and its peak, in bytes."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, sys.executable, "-m", "coopfs.cli.main", *args],
        env={**os.environ, **lab.host.environ},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout, int(ran.stderr.splitlines()[-1]) * 1024


@pytest.mark.timeout(TIMEOUT_S)
def test_memory_stays_flat(tmp_path: Path) -> None:
    lab = Lab(tmp_path).init()
    many = ManyChunks(lab, CHUNKS)
    many.build()
    peaks: dict[str, int] = {}

    def ok(*args: str) -> str:
        said, peaks[" ".join(args)] = peak_of(lab, *args)
        return said

    ok("snapshots")
    assert "nothing to free" in ok("prune", "--grace", "0", "--dry-run")
    ok("check", "--read-data=5%")
    ok("forget", "--keep-last", "1")
    before = len(lab.objects(Kind.DATA))
    planned = ok("prune", "--grace", "0", "--max-unused", "0%", "--dry-run")
    assert "would be marked" in planned
    assert "would be moved" in planned
    said = ok("prune", "--grace", "0", "--max-unused", "0%")
    assert "deleted:" in said
    # The last tenth of the packs is needed by nobody; packs of the chunks moved came anew.
    assert len(lab.objects(Kind.DATA)) < before - many.pack_count // 10 + 5
    assert "all is well" in ok("check", "--read-data")
    ok("stats")
    ok("audit")
    ok("repair", "--dry-run")
    lab.source.joinpath("file").write_text("small")
    ok("snapshot", str(lab.source), "--series", "small")
    restored = tmp_path / "restored"
    ok("restore", "latest:short/0000001", "--series", "many", "--target", str(restored))
    assert (restored / "0").read_bytes() == many.content_left()
    print(peaks)
    assert max(peaks.values()) < PEAK_MAX, peaks
