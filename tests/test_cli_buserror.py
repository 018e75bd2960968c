"""A process that the kernel ends by SIGBUS says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from coopfs.cli.buserror import MESSAGE

# A mapped page that the file no longer has, as one that no room can be found for, is SIGBUS.
CODE = """
import mmap, sys, threading
from coopfs.cli.buserror import explain_bus_errors
explain_bus_errors()
with open(sys.argv[1], "w+b") as stream:
    stream.truncate(8192)
    mapped = mmap.mmap(stream.fileno(), 8192)
    mapped[5000] = 1
    stream.truncate(0)
    thread = threading.Thread(target=mapped.__setitem__, args=(5000, 1))
    thread.start()
    thread.join()
"""


def test_a_bus_error_is_said_in_words_and_is_a_failure(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "mapped")],
        capture_output=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert (ran.returncode, ran.stderr) == (1, MESSAGE)
