"""Deliveries: pushed when whole, never twice, never damaged, never after they are not wanted."""

from __future__ import annotations

import os
import threading

import pytest

from coopfs.archive.blocks import Block
from coopfs.view.layout import HOLE, PAGE, Stretch
from coopfs.view.pagecache import LARGE, Delivery, PageCache

SOUND = frozenset[int]()
DATA = {number: os.urandom(LARGE + 3 * PAGE) for number in range(4)}


class Kernel:
    """Takes what is pushed; may be made to wait, as for the pages of a read."""

    def __init__(self) -> None:
        self.pushed: list[tuple[int, int, bytes]] = []
        self.is_free = threading.Event()
        self.is_free.set()
        self.has_begun = threading.Event()
        self.failure: OSError | None = None

    def __call__(self, ino: int, offset: int, data: bytes | memoryview) -> None:
        self.has_begun.set()
        assert self.is_free.wait(20)
        if self.failure is not None:
            raise self.failure
        self.pushed.append((ino, offset, bytes(data)))

    def content(self, ino: int = 7) -> dict[int, bytes]:
        """Return what it holds of a file, by offset of the pages."""
        pages = {}
        for owner, offset, data in self.pushed:
            if owner == ino:
                for start in range(0, len(data), PAGE):
                    assert offset + start not in pages
                    pages[offset + start] = data[start : start + PAGE]
        return pages


def block(number: int, bad: frozenset[int] = SOUND) -> Block:
    return Block(DATA[number], bad)


def joined(pages: dict[int, bytes], offset: int) -> bytes:
    assert sorted(pages) == list(range(offset, offset + PAGE * len(pages), PAGE))
    return b"".join(pages[at] for at in sorted(pages))


def test_a_delivery_is_pushed_once_all_its_blocks_have_come() -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    stretches = [Stretch(0, 100, 1000), Stretch(1, 0, LARGE + PAGE - 1000)]
    cache.plan(Delivery(7, 8 * PAGE, stretches))
    cache.landed(1, block(1))
    cache.landed(3, block(3))
    assert not kernel.has_begun.is_set()
    cache.landed(0, block(0))
    cache.close(20)
    expected = DATA[0][100:1100] + DATA[1][: LARGE + PAGE - 1000]
    assert joined(kernel.content(), 8 * PAGE) == expected
    assert cache.pushed == len(expected)


def test_large_parts_are_pushed_as_they_lie_and_cuts_are_joined() -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    parts = [Stretch(0, 1, LARGE + 5000), Stretch(HOLE, 0, 3000), Stretch(1, 7, LARGE + 9000)]
    cache.plan(Delivery(7, 0, parts))
    cache.landed(0, block(0))
    cache.landed(1, block(1))
    cache.close(20)
    whole = DATA[0][1 : LARGE + 5001] + bytes(3000) + DATA[1][7 : LARGE + 9007]
    assert joined(kernel.content(), 0) == whole
    assert all(offset % PAGE == 0 for _, offset, _ in kernel.pushed)


def test_a_hole_needs_no_block() -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    cache.plan(Delivery(7, PAGE, [Stretch(HOLE, 0, 2 * PAGE)]))
    cache.close(20)
    assert joined(kernel.content(), PAGE) == bytes(2 * PAGE)


@pytest.mark.parametrize("what", ["failed", "bad"])
def test_nothing_of_a_damaged_block_is_pushed(what: str) -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    cache.plan(Delivery(7, 0, [Stretch(0, 0, PAGE)]))
    cache.plan(Delivery(7, PAGE, [Stretch(1, 0, PAGE)]))
    cache.landed(0, None if what == "failed" else block(0, frozenset({0})))
    cache.landed(1, block(1))
    cache.close(20)
    assert kernel.content() == {PAGE: DATA[1][:PAGE]}


def test_what_a_read_answers_is_left_out_and_the_rest_is_pushed() -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    delivery = Delivery(7, 4 * PAGE, [Stretch(0, 10, 3 * PAGE), Stretch(1, 0, 3 * PAGE)])
    cache.plan(delivery)
    cache.shorten(delivery, 2 * PAGE, 8 * PAGE)
    cache.landed(0, block(0))
    cache.landed(1, block(1))
    cache.close(20)
    assert joined(kernel.content(), 8 * PAGE) == DATA[1][PAGE : 3 * PAGE]


@pytest.mark.parametrize(("offset", "end"), [(0, 6 * PAGE), (PAGE, 7 * PAGE), (2 * PAGE, 3 * PAGE)])
def test_a_read_of_the_end_or_the_middle_voids_a_delivery(offset: int, end: int) -> None:
    kernel = Kernel()
    cache = PageCache(kernel)
    delivery = Delivery(7, 0, [Stretch(0, 0, 6 * PAGE)])
    cache.plan(delivery)
    cache.shorten(delivery, offset, end)
    cache.landed(0, block(0))
    cache.close(20)
    assert kernel.content() == {}


def test_what_is_forgotten_is_not_pushed_even_if_it_was_complete() -> None:
    kernel = Kernel()
    kernel.is_free.clear()
    cache = PageCache(kernel)
    first, second, third = (Delivery(7, n * PAGE, [Stretch(n, 0, PAGE)]) for n in range(3))
    for delivery in (first, second, third):
        cache.plan(delivery)
    cache.landed(0, block(0))
    assert kernel.has_begun.wait(20)
    cache.landed(1, block(1))
    cache.forget([second, third])
    cache.landed(2, block(2))
    kernel.is_free.set()
    cache.close(20)
    assert kernel.content() == {0: DATA[0][:PAGE]}


def test_a_kernel_that_takes_nothing_does_no_harm() -> None:
    kernel = Kernel()
    kernel.failure = OSError(2, "no such inode")
    cache = PageCache(kernel)
    cache.plan(Delivery(7, 0, [Stretch(0, 0, PAGE)]))
    cache.landed(0, block(0))
    cache.plan(Delivery(8, 0, [Stretch(1, 0, PAGE)]))
    cache.landed(1, block(1))
    cache.close(20)
    assert kernel.pushed == []
    assert cache.pushed == 0


def test_closing_gives_up_on_a_push_that_waits_for_ever() -> None:
    kernel = Kernel()
    kernel.is_free.clear()
    cache = PageCache(kernel)
    cache.plan(Delivery(7, 0, [Stretch(0, 0, PAGE)]))
    cache.landed(0, block(0))
    assert kernel.has_begun.wait(20)
    cache.close(0.05)
    kernel.is_free.set()
