"""Packs read whole by several processes: each verifies as many as it can.

Threads of one process would do: hashing, opening and decompressing let go of Python's
lock.  But they do it for every chunk, 10 KB of a source tree, and win it back from each
other: two threads take half as much CPU again as two processes.

This process fetches, and verifies what the others have no room for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from coopfs.archive.child import PlacedChild, child_pipes, read_message, write_message
from coopfs.errors import CoopfsError
from coopfs.format import encoding
from coopfs.format.keys import ArchiveKeys
from coopfs.ids import ObjectId, PackId
from coopfs.ops.check_packs import PackFacts, PackReport, fetch_pack, verify_pack
from coopfs.store.base import Store

PROCESSES_MAX: Final = 3  # beside this one
PLACE_LEN: Final = 20 << 20  # bytes; a larger pack is not for another process
PLACES: Final = 2  # one is worked on, one waits
LEAST_LEN: Final = 64 << 20  # bytes of packs; fewer are not worth a process
FETCH_THREADS: Final = 3  # each holds a pack, 16 MiB as a rule


def read_packs(
    keys: ArchiveKeys, store: Store, chosen: Iterable[PackFacts]
) -> Iterator[PackReport]:
    """Read and verify packs; yield what each has shown, as it comes.

    Raises:
        StoreUnavailable: the partner cannot be reached.
    """
    chosen = list(chosen)
    processes = _start(keys, sum(facts.size for facts in chosen))
    try:
        with ThreadPoolExecutor(FETCH_THREADS, "coopfs-check") as pool:
            try:
                for facts, data in _fetched(pool, store, chosen):
                    if isinstance(data, PackReport):
                        yield data
                        continue
                    for process in processes:
                        yield from process.news()
                    free = [p for p in processes if p.has_room and len(data) <= PLACE_LEN]
                    if free:
                        min(free, key=lambda process: process.pending).send(facts, data)
                    else:
                        yield verify_pack(keys, facts, data)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            yield from process.rest()
        for process in processes:
            for facts in process.unanswered:  # it has died
                data = fetch_pack(store, facts)
                yield data if isinstance(data, PackReport) else verify_pack(keys, facts, data)
    finally:
        for process in processes:
            process.close()


def _start(keys: ArchiveKeys, total_len: int) -> list[_PackProcess]:
    processes: list[_PackProcess] = []
    if total_len >= LEAST_LEN:
        with suppress(CoopfsError):  # then those that could be started do it all
            for _ in range(min(PROCESSES_MAX, (os.cpu_count() or 1) - 1)):
                processes.append(_PackProcess(keys))
    return processes


def _fetched(
    pool: ThreadPoolExecutor, store: Store, chosen: list[PackFacts]
) -> Iterator[tuple[PackFacts, bytes | PackReport]]:
    """Fetch packs ahead, in order; only as many at a time as there are threads."""
    running: deque[tuple[PackFacts, Future[bytes | PackReport]]] = deque()
    for facts in chosen:
        if len(running) >= FETCH_THREADS:
            oldest, future = running.popleft()
            yield oldest, future.result()
            del future
        running.append((facts, pool.submit(fetch_pack, store, facts)))
    while running:
        oldest, future = running.popleft()
        yield oldest, future.result()


class _PackProcess:
    """The parent's end; one thread uses it."""

    def __init__(self, keys: ArchiveKeys) -> None:
        """Start the process (CoopfsError)."""
        self._child = PlacedChild(__name__, PLACES, PLACE_LEN)
        self._sent: dict[int, PackFacts] = {}  # by place
        self._child.send([keys.archive_key])

    def close(self) -> None:
        """End the process."""
        self._child.close()

    @property
    def pending(self) -> int:
        """How many packs it has."""
        return len(self._sent)

    @property
    def unanswered(self) -> list[PackFacts]:
        """The packs it has."""
        return list(self._sent.values())

    @property
    def has_room(self) -> bool:
        """Whether :meth:`send` may be called."""
        return self._child.has_room

    def send(self, facts: PackFacts, data: bytes) -> None:
        """Have a pack verified; it must fit into a place."""
        place, room = self._child.take_place()
        self._sent[place] = facts
        room[: len(data)] = data
        fields = [facts.pack_id, facts.size, facts.object_id, facts.digest]
        self._child.send([place, len(data), *fields, facts.block_count, facts.chunk_count])

    def news(self) -> Iterator[PackReport]:
        """Yield what has come."""
        while self._sent and self._child.has_news and (report := self._receive()) is not None:
            yield report

    def rest(self) -> Iterator[PackReport]:
        """Yield what comes until all is answered, or the process has died."""
        while self._sent and (report := self._receive()) is not None:
            yield report

    def _receive(self) -> PackReport | None:
        answer = self._child.take_answer()
        if answer is None:
            return None
        place, (read_len, problems, is_suspect, lost) = answer
        pairs = [(chunk_id, chunk_len) for chunk_id, chunk_len in lost]
        return PackReport(self._sent.pop(place), read_len, problems, is_suspect, pairs)


def _verify(keys: ArchiveKeys, shared: memoryview, message: list[Any]) -> int:
    """Verify the pack in a place, put the report there; return how many bytes it has."""
    place, length, pack_id, size, object_id, *rest = message
    facts = PackFacts(PackId(pack_id), size, ObjectId(object_id), *rest)
    start = place * PLACE_LEN
    report = verify_pack(keys, facts, shared[start : start + length])
    answer = encoding.encode([report.read_len, report.problems, report.is_suspect, report.lost])
    if len(answer) > PLACE_LEN:
        # Hundreds of thousands of chunks: as if nothing of the pack could be relied on.
        answer = encoding.encode([report.read_len, report.problems[:1], True, []])
    shared[start : start + len(answer)] = answer
    return len(answer)


def main() -> None:
    """Run as the child."""
    from coopfs.archive.allocator import prepare_bulk_work

    prepare_bulk_work()
    with child_pipes() as (shared, stream, out, _):
        (archive_key,) = read_message(stream)
        keys = ArchiveKeys.derive(archive_key)
        while (message := read_message(stream)) is not None:
            write_message(out, [message[0], _verify(keys, shared, message)])


if __name__ == "__main__":
    main()
