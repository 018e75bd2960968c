"""pyfuse3's quicker way to wait: it waits, it wakes, and it starves nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from coopfs.view.quickwait import quick_wait


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(reading)
    os.close(writing)


def quick() -> Any:
    return pyfuse3.trio  # type: ignore[attr-defined]  # what pyfuse3 itself looks up


async def test_outside_of_it_pyfuse3_uses_trio() -> None:
    assert quick() is trio
    with quick_wait(lambda: True):
        assert quick() is not trio
        assert quick().open_nursery is trio.open_nursery
        assert quick().lowlevel.current_task is trio.lowlevel.current_task
    assert quick() is trio


@pytest.mark.parametrize("is_idle", [True, False])
async def test_it_waits_until_there_is_something_to_read(
    pipe: tuple[int, int], is_idle: bool
) -> None:
    reading, writing = pipe
    with quick_wait(lambda: is_idle):
        for number in range(20):  # the first goes through trio, the rest in a burst
            async with trio.open_nursery() as nursery:
                arrived = trio.Event()

                async def wait(arrived: trio.Event = arrived) -> None:
                    await quick().lowlevel.wait_readable(reading)
                    arrived.set()

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                assert not arrived.is_set()
                os.write(writing, b"%d" % number)
                await arrived.wait()
            os.read(reading, 10)


async def test_a_stream_of_requests_leaves_other_tasks_their_turn(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.write(writing, b"always readable")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    with quick_wait(lambda: True), trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            while turns < 5:
                await quick().lowlevel.wait_readable(reading)
            nursery.cancel_scope.cancel()


async def test_only_one_task_at_a_time_holds_the_lock() -> None:
    inside = most = finished = 0

    async def work() -> None:
        nonlocal inside, most, finished
        for _ in range(20):
            async with lock:
                inside += 1
                most = max(most, inside)
                await trio.lowlevel.checkpoint()
                inside -= 1
        finished += 1

    with quick_wait(lambda: True):
        lock = quick().Lock()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(work)
    assert (most, finished) == (1, 5)


async def test_closing_the_descriptor_wakes_the_waiter(pipe: tuple[int, int]) -> None:
    with quick_wait(lambda: True), trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await quick().lowlevel.wait_readable(pipe[0])

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            quick().lowlevel.notify_closing(pipe[0])
