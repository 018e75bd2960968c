"""What mount(8) calls becomes a command line of ours, and nothing else does."""

from __future__ import annotations

import pytest

from coopfs.cli.fstab import command_line_of
from coopfs.cli.main import COMMANDS


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ["home", "/mnt/old", "-o", "rw,allow_other"],
            ["--archive", "home", "mount", "/mnt/old", "-o", "rw,allow_other"],
        ),
        (["home", "/mnt/old"], ["--archive", "home", "mount", "/mnt/old"]),
        # What mount(8) makes of it where a folder of that name is in its own.
        (["/home", "/mnt/old"], ["--archive", "home", "mount", "/mnt/old"]),
        (["/srv/mount", "/mnt/old"], ["--archive", "mount", "mount", "/mnt/old"]),
    ],
)
def test_a_call_of_mount_becomes_the_mount_command(args: list[str], expected: list[str]) -> None:
    assert command_line_of(args, COMMANDS) == expected


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["mount", "/mnt"],
        ["mount", "/mnt", "-o", "ro"],
        ["snapshot", "/home"],
        ["snapshots"],
        ["--json", "/mnt"],
        ["sanpshot", "home"],
        ["ls", "latest", "-o", "x"],
    ],
)
def test_other_command_lines_stay_as_they_are(args: list[str]) -> None:
    assert command_line_of(args, COMMANDS) == args
