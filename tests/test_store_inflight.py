from __future__ import annotations

import gc
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from mounting import ROOT, wait_until

from coopfs.store.inflight import InFlight


class Closed(Exception):
    """What a closed one says."""


@pytest.fixture
def requests() -> Iterator[InFlight]:
    requests = InFlight(3, Closed)
    yield requests
    requests.close()


def test_results_and_errors_reach_whoever_called(requests: InFlight) -> None:
    assert requests.run(lambda: 7) == 7
    with pytest.raises(KeyError, match="no"):
        requests.run(lambda: {}["no"])
    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(lambda n: requests.run(lambda: n * n), range(500))] == [
            n * n for n in range(500)
        ]


def test_no_more_run_at_a_time_than_allowed_and_threads_are_kept(requests: InFlight) -> None:
    running, most, ids = 0, 0, set()
    lock, gate = threading.Lock(), threading.Barrier(3)

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            ids.add(threading.get_ident())
        gate.wait(30)  # three must run at the same time, or this breaks
        with lock:
            running -= 1

    with ThreadPoolExecutor(9) as pool:
        for done in [pool.submit(requests.run, call) for _ in range(9)]:
            done.result(timeout=60)
    assert most == 3
    assert len(ids) == 3
    for _ in range(20):
        ids.add(requests.run(threading.get_ident))
    assert len(ids) == 3


def test_closing_ends_every_wait_and_what_comes_later(requests: InFlight) -> None:
    is_over = threading.Event()
    has_begun = threading.Semaphore(0)

    def hang() -> bool:
        has_begun.release()
        return is_over.wait(60)

    with ThreadPoolExecutor(5) as pool:
        waits = [pool.submit(requests.run, hang) for _ in range(5)]  # two of them wait to begin
        for _ in range(3):
            assert has_begun.acquire(timeout=30)
        requests.close()
        for wait in waits:
            with pytest.raises(Closed):
                wait.result(timeout=30)
    with pytest.raises(Closed):
        requests.run(lambda: 1)
    requests.close()
    is_over.set()  # those that still run come to nothing, and their threads end
    wait_until(lambda: not any("_work" in t.name for t in threading.enumerate()), "the threads")
    assert not has_begun.acquire(blocking=False)  # the two never began


def test_nothing_of_the_last_call_is_kept(requests: InFlight) -> None:
    class Large:
        pass

    large = Large()
    seen = weakref.ref(large)

    def call(kept: Large = large) -> Large:
        return kept

    assert requests.run(call) is large
    del call, large

    def is_gone() -> bool:
        gc.collect()
        return seen() is None

    wait_until(is_gone, "the last result to be let go")


_WAITING = """
import sys
from coopfs.store.cloud import CloudStore
with CloudStore(f"s3://bucket?endpoint=http://127.0.0.1:{sys.argv[1]}", is_new=True) as store:
    print("asking", flush=True)
    store.get_config()
"""


def test_a_signal_ends_the_wait_for_a_service_that_has_fallen_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = subprocess.Popen(
            [sys.executable, "-c", _WAITING, str(silent.getsockname()[1])],
            env={"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"asking\n"
            silent.settimeout(30)
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGINT
    assert err.strip().endswith(b"KeyboardInterrupt")
