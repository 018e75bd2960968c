"""Runs one coopfs command that gets a signal at a chosen step.  A program, not a test.

    python tests/crashing.py SIGNAL STEP NTH ARGS...

SIGNAL is KILL, INT or TERM.  STEP is ``open`` (before any source file),
``put:KIND:before`` or ``put:KIND:after`` (a put into the local store), ``fsync:KIND``
(before one within such a put) or ``fsync:local`` (any other), ``commit:before`` or
``commit:after`` (of a transaction of the local state).  With NTH 0 nothing happens but
that the steps are counted and printed, as JSON, when the command is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection
from typing import Any

from coopfs.archive.state import State
from coopfs.cli.main import run
from coopfs.ops import snapshot
from coopfs.store.base import Kind, Payload
from coopfs.store.local import LocalStore

CHECKPOINT_CHUNKS = 600  # several index objects in a small run


class Bomb:
    """Counts steps and goes off at the one that was chosen."""

    def __init__(self, number: signal.Signals, step: str, nth: int) -> None:
        self._number = number
        self._step = step
        self._left = nth
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def reach(self, step: str) -> None:
        with self._lock:
            self.counts[step] += 1
            if step == self._step:
                self._left -= 1
                if self._left == 0:
                    os.kill(os.getpid(), self._number)


def lay(bomb: Bomb) -> None:
    """Have the store, fsync and the local state tell *bomb* what they do."""
    put, fsync, transaction = LocalStore.put, os.fsync, State.transaction
    open_file = os.open
    putting = threading.local()

    def counted_put(self: LocalStore, kind: Kind, name: bytes, data: Payload) -> None:
        bomb.reach(f"put:{kind}:before")
        putting.kind = kind
        put(self, kind, name, data)
        putting.kind = None
        bomb.reach(f"put:{kind}:after")

    def counted_fsync(fd: Any) -> None:
        bomb.reach(f"fsync:{getattr(putting, 'kind', None) or 'local'}")
        fsync(fd)

    def counted_open(path: Any, *args: Any, **more: Any) -> int:
        if isinstance(path, bytes) and b"/source/" in path:
            bomb.reach("open")
        return open_file(path, *args, **more)

    @contextmanager
    def counted_transaction(self: State) -> Iterator[Connection]:
        with transaction(self) as connection:
            yield connection
            bomb.reach("commit:before")
        bomb.reach("commit:after")

    LocalStore.put = counted_put  # type: ignore[method-assign]  # that is the point
    os.fsync = counted_fsync
    os.open = counted_open
    State.transaction = counted_transaction  # type: ignore[method-assign]  # likewise


def main() -> int:
    name, step, nth, *args = sys.argv[1:]
    bomb = Bomb(signal.Signals[f"SIG{name}"], step, int(nth))
    lay(bomb)
    snapshot.CHECKPOINT_CHUNKS = CHECKPOINT_CHUNKS  # type: ignore[misc]  # Final for all others
    code = run(args)
    if nth == "0":
        sys.stdout.write(json.dumps(bomb.counts) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
