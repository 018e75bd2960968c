"""Local locks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from coopfs.archive.lock import file_lock, series_lock
from coopfs.errors import CoopfsError, StateBusy


def test_a_series_is_locked_once_and_others_beside_it(tmp_path: Path) -> None:
    with series_lock(tmp_path, "anna/one"):
        with pytest.raises(StateBusy, match="anna/one"), series_lock(tmp_path, "anna/one"):
            pass
        with series_lock(tmp_path, "anna/two"):
            pass
    with series_lock(tmp_path, "anna/one"):
        pass


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from coopfs.archive.lock import series_lock\n"
        "with series_lock(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StateBusy), series_lock(tmp_path, "x"):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with series_lock(tmp_path, "x"):
        pass


def test_a_file_lock_waits(tmp_path: Path) -> None:
    order = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with file_lock(tmp_path / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with file_lock(tmp_path / "lock"):
        inside.set()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_place_without_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CoopfsError, match="No such file"), series_lock(tmp_path / "no", "x"):
        pass
    with (
        pytest.raises(CoopfsError, match=r"No such file .*COOPFS_STATE_DIR"),
        file_lock(tmp_path / "no" / "x"),
    ):
        pass
