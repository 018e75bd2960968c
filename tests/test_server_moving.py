from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coopfs.errors import StoreUnavailable
from coopfs.server.moving import Moving

ROOT = Path(__file__).parent.parent


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "moving.lock")


def test_who_holds_it_may_take_it_again(path: str) -> None:
    moving = Moving(path)
    with moving, moving:
        pass
    with moving:
        pass
    moving.close()


@pytest.mark.parametrize("is_same", [True, False])
def test_threads_hold_it_one_at_a_time(path: str, is_same: bool) -> None:
    """Of one depot as of two."""
    one = Moving(path)
    other = one if is_same else Moving(path)
    inside: list[str] = []
    most: list[int] = []

    def work(moving: Moving) -> None:
        for _ in range(200):
            with moving:
                inside.append("x")
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work, args=(moving,)) for moving in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(most) == 1
    assert len(most) == 400


def test_another_process_waits(path: str) -> None:
    moving = Moving(path)
    program = (
        "import sys; from coopfs.server.moving import Moving\n"
        "print('begun', flush=True)\n"
        "with Moving(sys.argv[1]): print('inside', flush=True)\n"
    )
    with moving, moving:
        other = subprocess.Popen(
            [sys.executable, "-c", program, path],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        # Whether it waits shows in what the kernel says of it, not in how long we look.
        while str(other.pid) not in waiting_for_locks():
            assert other.poll() is None, "it did not wait"
    assert other.stdout.read() == "inside\n"
    assert other.wait() == 0
    other.stdout.close()


def waiting_for_locks() -> set[str]:
    """Return the ids of the processes that wait for a lock (``->`` in /proc/locks)."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return {line.split()[5] for line in lines if "->" in line}


def test_an_error_inside_gives_it_back(path: str) -> None:
    moving, other = Moving(path), Moving(path)
    with pytest.raises(KeyError), moving:
        raise KeyError
    with other:
        pass


def test_closed_it_is_refused_and_nobody_is_locked_out(path: str) -> None:
    moving = Moving(path)
    moving.close()
    moving.close()
    with pytest.raises(StoreUnavailable, match="not open any more"), moving:
        pass
    with pytest.raises(StoreUnavailable), moving:
        pass
    with Moving(path):
        pass
