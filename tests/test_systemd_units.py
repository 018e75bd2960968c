"""The units for systemd: understood by it, and shut tight."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "systemd"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: UNITS ARE NOT TESTED"
)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """Copies whose command and manual are on this machine, as verification wants them."""
    for unit in UNITS.iterdir():
        text = unit.read_text()
        text = re.sub(r"^ExecStart=coopfs ", f"ExecStart={sys.executable} ", text, flags=re.M)
        text = re.sub(r"^Documentation=.*\n", "", text, flags=re.M)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_systemd
def test_units_are_understood_without_a_complaint(units: Path) -> None:
    ran = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(units.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


@needs_systemd
def test_service_is_shut_tight(units: Path) -> None:
    ran = subprocess.run(
        [
            *("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager"),
            str(units / "coopfs-serve.service"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr  # exposure 2.0 of 10 at most


def test_units_name_the_command_and_what_it_understands() -> None:
    service = (UNITS / "coopfs-serve.service").read_text()
    socket = (UNITS / "coopfs-serve.socket").read_text()
    assert "ExecStart=coopfs serve --root ${STATE_DIRECTORY}\n" in service
    assert "Type=notify" in service and "FileDescriptorName=coopfs\n" in socket
