"""A busy depot killed at any time, again and again: what was answered is never lost.

Beside the tests that kill before every single step: here threads are at different ones.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from depots import Lab, name_of, names, paths_below, put, read, some_bytes, sums

ROOT = Path(__file__).parent.parent
ROUNDS = 60 if os.environ.get("COOPFS_TEST_SOAK") else 4
OBJECTS = [some_bytes(2000 + 300_000 * (n % 5), seed=n) for n in range(24)]

# Says what was answered, one line each; a line is written whole.
BUSY = """
import os, random, sys, threading
from pathlib import Path
from depots import Agreed, name_of, put
from test_server_kill import OBJECTS
from coopfs.errors import ObjectNotFound, StoreUnavailable
from coopfs.server.depot import Depot

depot = Depot(Path(sys.argv[1]), Agreed())
seed = int(sys.argv[2])

def work(number):
    rng = random.Random(seed * 100 + number)
    while True:
        data = rng.choice(OBJECTS)
        try:
            if rng.random() < 0.5:
                os.write(1, f"{put(depot, data)}\\n".encode())
            elif rng.random() < 0.6:
                depot.delete("data", name_of(data))
            elif rng.random() < 0.5:
                depot.undelete([name_of(data)] if rng.random() < 0.8 else None)
            else:
                depot.empty_trash()
                depot.scrub_step(100_000)
        except (ObjectNotFound, StoreUnavailable):
            pass  # another thread has deleted it

for number in range(4):
    threading.Thread(target=work, args=(number,)).start()
"""


def run_and_kill(lab: Lab, seed: int) -> set[str]:
    """Return the names whose puts were answered before the kill."""
    busy = subprocess.Popen(
        [sys.executable, "-c", BUSY, str(lab.root), str(seed)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert busy.stdout is not None
    answered = {busy.stdout.readline().strip()}
    time.sleep(random.Random(seed).uniform(0, 0.4))  # the moment is what is tested
    busy.send_signal(signal.SIGKILL)
    rest = busy.stdout.read().splitlines()
    assert busy.wait() == -signal.SIGKILL
    busy.stdout.close()
    return answered | set(rest)


def test_nothing_that_was_answered_is_lost(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve")
    answered: set[str] = set()
    for round_ in range(ROUNDS):
        lab.depot.close()
        (lab.root / "clock.json").unlink(missing_ok=True)  # a hand-turned one and a real one
        answered |= run_and_kill(lab, round_)
        lab.clocks.wall = time.time_ns()
        (lab.root / "clock.json").unlink()
        lab.depot = lab.open()

        stored = set(names(lab.depot))
        trashed = {found.name for found in lab.depot.trash()}
        assert answered <= stored | trashed
        assert all(name_of(read(lab.depot, "data", name)) == name for name in stored)
        assert list((lab.folder / "incoming").iterdir()) == []
        assert lab.depot.findings() == ()
        usage = lab.depot.usage()
        objects = paths_below(lab.folder / "objects")
        assert usage.used == sum(path.stat().st_size for path in objects)
        assert usage.trash_objects == len(paths_below(lab.folder / "trash"))

    lab.depot.undelete()
    for data in OBJECTS:
        put(lab.depot, data)
    assert set(names(lab.depot)) == set(map(name_of, OBJECTS))
    assert sums(lab.depot) == sums(lab.restart())
