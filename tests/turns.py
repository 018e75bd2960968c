"""Several programs on one store, one request at a time, in an order a seed decides.

Between its requests a program may stand still for any time: longer than the grace, too.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clocks import Clocks

from coopfs.store.base import Kind, ObjectInfo, Payload, Store


class Turns:
    """Whose turn it is."""

    def __init__(self, clocks: Clocks, rng: random.Random, grace_s: float) -> None:
        self._clocks = clocks
        self._rng = rng
        self._grace_s = grace_s
        self._changed = threading.Condition()
        self._waiting: list[str] = []  # who asks, once for each request
        self._current: str | None = None
        self._asleep: dict[str, float] = {}  # until when, by the machine's clock
        self._working: set[str] = set()  # programs that have not ended
        self.requests = 0

    def begin(self, who: str) -> None:
        """Let a program take part."""
        with self._changed:
            self._working.add(who)

    def end(self, who: str) -> None:
        """Take a program out: it is done."""
        with self._changed:
            self._working.discard(who)
            self._choose()

    @contextmanager
    def turn(self, who: str) -> Iterator[None]:
        """Wait for the turn of *who*, and keep it for one request."""
        with self._changed:
            self._waiting.append(who)
            self._choose()
            if not self._changed.wait_for(lambda: self._current == who, timeout=60):
                raise AssertionError(f"{who} never had its turn")
            self._waiting.remove(who)
            self._current = ""  # taken
        try:
            yield
        finally:
            with self._changed:
                self.requests += 1
                self._clocks.pass_(self._rng.choice((0, 0, 0, 1, 4)))
                if self._rng.random() < 0.03:
                    until = self._clocks.boottime_s + self._rng.uniform(0, 3) * self._grace_s
                    self._asleep[who] = until
                self._current = None
                self._choose()

    def _choose(self) -> None:
        """Give the turn to one that asks and is not asleep; sleep ends where all sleep."""
        if self._current is not None or not self._waiting:
            return
        asking = set(self._waiting)
        awake = {w for w in self._working if self._asleep.get(w, 0) <= self._clocks.boottime_s}
        ready = sorted(asking & awake)
        if not ready and awake:
            return  # they compute, and ask soon
        if not ready:
            first = min(asking, key=lambda w: self._asleep.get(w, 0))
            self._clocks.pass_(max(self._asleep.get(first, 0) - self._clocks.boottime_s, 0))
            ready = [first]
        self._current = self._rng.choice(ready)
        self._changed.notify_all()


class TurnStore(Store):
    """The store as one program sees it: each request in its turn."""

    def __init__(self, inner: Store, turns: Turns, who: str) -> None:
        self._inner = inner
        self._turns = turns
        self._who = who
        self.address = inner.address
        self.is_local = inner.is_local
        self.is_durable = inner.is_durable

    def get(self, kind: Kind, name: bytes, offset: int = 0, length: int | None = None) -> bytes:
        with self._turns.turn(self._who):
            return self._inner.get(kind, name, offset, length)

    def put(self, kind: Kind, name: bytes, data: Payload) -> None:
        with self._turns.turn(self._who):
            self._inner.put(kind, name, data)

    def list(self, kind: Kind) -> Iterator[ObjectInfo]:
        with self._turns.turn(self._who):
            return iter(tuple(self._inner.list(kind)))

    def size(self, kind: Kind, name: bytes) -> int:
        with self._turns.turn(self._who):
            return self._inner.size(kind, name)

    def delete(self, kind: Kind, name: bytes) -> None:
        with self._turns.turn(self._who):
            self._inner.delete(kind, name)

    def get_config(self) -> bytes:
        return self._inner.get_config()

    def put_config(self, data: bytes) -> None:
        self._inner.put_config(data)

    def free_bytes(self) -> int | None:
        return self._inner.free_bytes()

    def close(self) -> None:
        self._inner.close()
