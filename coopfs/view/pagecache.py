"""File content put into the kernel's page cache before anybody asks for it.

An answer to a read is copied to the kernel with Python's global lock held and costs the
event loop a turn; notify_store lets go of the lock, and what is in the page cache is
read without the mount.  So a thread of its own pushes what is fetched ahead.

The kernel locks the pages of a read until it is answered, and a push waits for them:
answering must therefore never depend on a push (nor on a thread that pushes).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import Final

import pyfuse3

from coopfs.archive.blocks import Block
from coopfs.view.layout import HOLE, PAGE, Stretch, cut_stretches

LARGE: Final = 64 << 10  # bytes; less is joined with its neighbours rather than sent alone

Push = Callable[[int, int, "bytes | memoryview"], None]


def _push(ino: int, offset: int, data: bytes | memoryview) -> None:
    pyfuse3.notify_store(ino, offset, data)  # type: ignore[arg-type]  # takes any buffer


class Delivery:
    """Bytes of one file for the page cache, complete once all their blocks have come."""

    __slots__ = ("blocks", "end", "ino", "is_void", "missing", "offset", "stretches")

    def __init__(self, ino: int, offset: int, stretches: Sequence[Stretch]) -> None:
        """*offset* is that of a page; *stretches* end at a page or with the file."""
        self.ino = ino
        self.offset = offset
        self.end = offset + sum(one.length for one in stretches)
        self.stretches = stretches
        self.missing = {one.block_no for one in stretches if one.block_no != HOLE}
        self.blocks: dict[int, Block] = {}
        self.is_void = False  # a read answers for it, or nobody reads the file any more


class PageCache:
    """Pushes deliveries when they are complete; planned on the event loop, done in a thread."""

    def __init__(self, push: Push = _push) -> None:
        """*push* is called with an inode, an offset and the bytes there."""
        self._push = push
        self._lock = threading.Lock()
        self._waiting: dict[int, list[Delivery]] = {}  # by block
        self._complete: SimpleQueue[Delivery | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.pushed = 0  # bytes; for the status file

    def plan(self, delivery: Delivery) -> None:
        """Push *delivery* once :meth:`landed` was told of all its blocks."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="page cache", daemon=True)
            self._thread.start()
        with self._lock:
            for block_no in delivery.missing:
                self._waiting.setdefault(block_no, []).append(delivery)
            if not delivery.missing:  # a hole
                self._complete.put(delivery)

    def landed(self, block_no: int, block: Block | None) -> None:
        """Note that a block is in memory, or (None) that it cannot be had; from any thread."""
        if block_no not in self._waiting:
            return
        with self._lock:
            for delivery in self._waiting.pop(block_no, ()):
                if block is None or block.bad:  # whoever reads it finds another copy, or is told
                    delivery.is_void = True
                    continue
                delivery.blocks[block_no] = block
                delivery.missing.discard(block_no)
                if not delivery.missing and not delivery.is_void:
                    self._complete.put(delivery)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """Drop what is not wanted any more and not pushed yet."""
        with self._lock:
            for delivery in deliveries:
                delivery.is_void = True
                for block_no in delivery.missing:
                    waiting = self._waiting.get(block_no)
                    if waiting is not None and delivery in waiting:
                        waiting.remove(delivery)
                        if not waiting:
                            del self._waiting[block_no]
                delivery.blocks.clear()

    def shorten(self, delivery: Delivery, offset: int, end: int) -> None:
        """Leave [*offset*, *end*), which is answered by a read, out of *delivery*.

        What comes after it is still pushed; if nothing does, nothing is.
        """
        with self._lock:
            if end >= delivery.end or offset > delivery.offset:
                delivery.is_void = True
                return
            delivery.stretches = cut_stretches(
                delivery.stretches, end - delivery.offset, delivery.end - delivery.offset
            )
            delivery.offset = end

    def close(self, timeout_s: float) -> None:
        """Push nothing more; wait for the push under way.  Reads must still be answered."""
        if self._thread is not None:
            self._complete.put(None)
            self._thread.join(timeout_s)

    def _work(self) -> None:
        while (delivery := self._complete.get()) is not None:
            with self._lock:
                offset, views = delivery.offset, list(_views(delivery))
            # The kernel has forgotten the inode, or is short of memory: it will ask.
            with suppress(OSError):
                for data in _whole_pages(views):
                    self._push(delivery.ino, offset, data)
                    offset += len(data)
                    self.pushed += len(data)
            delivery.blocks.clear()
            del views  # of blocks that may be dropped now


def _views(delivery: Delivery) -> Iterator[bytes | memoryview]:
    if delivery.is_void:
        return
    for block_no, start, length in delivery.stretches:
        if block_no == HOLE:
            yield bytes(length)
        else:
            yield memoryview(delivery.blocks[block_no].data)[start : start + length]


def _whole_pages(views: Sequence[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Yield the same bytes cut at pages; only what lies around a cut is copied."""
    carry: list[bytes | memoryview] = []
    carried = 0
    for view in views:
        need = -carried % PAGE
        if len(view) < need + LARGE:
            carry.append(view)
            carried += len(view)
            continue
        if carried:
            carry.append(view[:need])
            yield b"".join(carry)
        end = need + (len(view) - need) // PAGE * PAGE
        yield view[need:end]
        carry = [view[end:]]
        carried = len(view) - end
    if carried:
        yield b"".join(carry)
