"""Kills a depot at every single step of an operation.  A program, not a test.

    python tests/depot_crashing.py OPERATION FOLDER

For every system call of OPERATION that changes or syncs something, a server's root with
the same things in it is made as FOLDER/<number>, and a child works on it and gets
SIGKILL just before that call.  The child on the last one comes to the end.  Prints the
calls and the clocks, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from depots import DAY_NS, Agreed, Clocks, name_of, put, rot, some_bytes

from coopfs.server.depot import Depot
from coopfs.server.upload import BUFFER_LEN

CALLS: Final = ("open", "write", "fsync", "link", "unlink", "rename", "mkdir")
BIG: Final = some_bytes(2 * BUFFER_LEN + 5000, seed=100)
KEPT, INDEX, ROTTEN, EXPIRED, TRASHED = (some_bytes(1000 + n, seed=n) for n in range(5))
CONFIG: Final = b"the config of an archive"


def open_depot(root: Path, clocks: Clocks) -> Depot:
    return Depot(root, Agreed(), clock=clocks.watch(root))


def prepare(root: Path, clocks: Clocks) -> None:
    """Make a root with one object of every fate."""
    root.mkdir(parents=True)
    depot = open_depot(root, clocks)
    for data in (KEPT, ROTTEN, EXPIRED, TRASHED):
        put(depot, data)
    put(depot, INDEX, "index")
    depot.delete("data", name_of(EXPIRED))
    clocks.pass_(25 * DAY_NS)
    depot.delete("data", name_of(TRASHED))
    clocks.pass_(10 * DAY_NS)
    rotten = name_of(ROTTEN)
    rot(depot.folder / "objects" / "data" / rotten[:2] / rotten)
    depot.close()


def _scrub(depot: Depot) -> None:
    while not depot.scrub_step().is_pass_done:
        pass


OPERATIONS: Final[dict[str, Callable[[Depot, Clocks], object]]] = {
    "put": lambda depot, _: put(depot, BIG),
    "restore": lambda depot, _: put(depot, EXPIRED),
    "delete": lambda depot, _: depot.delete("data", name_of(KEPT)),
    "undelete": lambda depot, _: depot.undelete(),
    "empty": lambda depot, _: depot.empty_trash(),
    "scrub": lambda depot, _: _scrub(depot),
    "config": lambda depot, _: depot.put_config(CONFIG),
    "jump": lambda depot, clocks: (clocks.jump(400 * DAY_NS), depot.confirm_clock()),
}


class Bomb:
    """Counts calls; goes off before the one that was chosen."""

    def __init__(self, chosen: int) -> None:
        self._chosen = chosen
        self.calls: list[str] = []

    def lay(self) -> None:
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **more: Any) -> Any:
            if name != "open" or args[1] & os.O_CREAT:
                self.calls.append(name)
                if len(self.calls) == self._chosen:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)

        return watched


def work(operation: str, root: Path, clocks: Clocks, chosen: int) -> list[str]:
    """Do it, or die; return the calls that were made."""
    bomb = Bomb(chosen)
    if operation == "start":
        bomb.lay()
        open_depot(root, clocks)
    else:
        depot = open_depot(root, clocks)
        bomb.lay()
        OPERATIONS[operation](depot, clocks)
    return bomb.calls


def main() -> int:
    operation, folder = sys.argv[1], Path(sys.argv[2])
    # A first start makes 500 folders, each like the one before.
    for number in range(1, 10_000, 97 if operation == "start" else 1):
        root, clocks = folder / str(number), Clocks()
        if operation == "start":
            root.mkdir(parents=True)
        else:
            prepare(root, clocks)
        child = os.fork()
        if child == 0:
            calls = work(operation, root, clocks, number)
            (root / "calls.json").write_text(json.dumps(calls))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            calls = json.loads((root / "calls.json").read_text())
            sys.stdout.write(json.dumps({"calls": calls, "clocks": asdict(clocks)}))
            return os.waitstatus_to_exitcode(status)
    raise AssertionError("unreachable: no operation has that many steps")


if __name__ == "__main__":
    sys.exit(main())
