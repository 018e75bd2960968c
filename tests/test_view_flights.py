"""Which run goes first to the threads, and that all of them go home."""

from __future__ import annotations

import threading

from coopfs.view.flights import Run, RunQueue


def test_what_somebody_waits_for_goes_before_what_is_read_ahead() -> None:
    queue = RunQueue()
    ahead, demanded = Run([1, 2], is_ahead=True), Run([3], is_ahead=False)
    queue.put(ahead)
    queue.put(demanded)
    assert [queue.take(), queue.take()] == [demanded, ahead]


def test_a_run_read_ahead_goes_first_once_somebody_waits_for_it() -> None:
    queue = RunQueue()
    runs = [Run([number], is_ahead=True) for number in range(4)]
    for run in runs:
        queue.put(run)
    queue.hurry(2)
    assert [queue.take() for _ in runs] == [runs[2], runs[0], runs[1], runs[3]]


def test_hurrying_what_a_thread_has_begun_changes_nothing() -> None:
    queue = RunQueue()
    first, second = Run([1], is_ahead=True), Run([2], is_ahead=True)
    queue.put(first)
    queue.put(second)
    assert queue.take() is first
    queue.hurry(1)
    assert queue.take() is second


def test_closing_sends_waiting_and_later_threads_home() -> None:
    queue = RunQueue()
    got: list[Run | None] = []
    threads = [threading.Thread(target=lambda: got.append(queue.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue.close()
    for thread in threads:
        thread.join(30)
    assert [*got, queue.take()] == [None] * 4


def test_a_run_is_awaited_when_one_of_its_blocks_is() -> None:
    run = Run([1, 2], is_ahead=True)
    assert not run.is_awaited
    run.flights[2].is_awaited = True
    assert run.is_awaited
