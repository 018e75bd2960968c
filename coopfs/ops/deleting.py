"""Deleting many objects: several requests in flight, and stores that do not allow it.

A store may keep what it holds whatever we ask (append-only servers): that is no error
here but an answer, as everything works on beside objects that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from coopfs.errors import ObjectNotFound, StoreDenied
from coopfs.ids import ObjectId
from coopfs.store.base import Kind, Store

THREADS: Final = 4


@dataclass(slots=True)
class Deleted:
    """What became of the objects."""

    count: int = 0  # gone now, whoever deleted them
    denial: str = ""  # what the store said when it did not let us; the rest was not tried


def delete_objects(
    store: Store,
    kind: Kind,
    names: Iterable[ObjectId],
    is_stopped: Callable[[], bool] = lambda: False,
) -> Deleted:
    """Delete *names*; one that is gone already counts, a denial ends it.

    *is_stopped* is asked before each; what is then left is simply not deleted.

    Raises:
        StoreError: the store failed.
    """
    result = Deleted()

    def delete(name: ObjectId) -> None:
        with suppress(ObjectNotFound):  # an interrupted run before, or another beside this
            store.delete(kind, name)

    running: set[Future[None]] = set()

    def collect(*, everything: bool) -> None:
        nonlocal running
        done, running = wait(
            running, return_when="ALL_COMPLETED" if everything else FIRST_COMPLETED
        )
        for job in done:
            try:
                job.result()
                result.count += 1
            except StoreDenied as exc:
                result.denial = str(exc)

    threads = 1 if store.is_local else THREADS
    with ThreadPoolExecutor(threads, "coopfs-delete") as pool:
        for name in names:
            if len(running) >= 2 * threads:
                collect(everything=False)
            if result.denial or is_stopped():
                break
            running.add(pool.submit(delete, name))
        if running:
            collect(everything=True)
    return result
