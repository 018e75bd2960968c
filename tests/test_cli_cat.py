"""The cat command: exact bytes, several files, pipes that close, damage."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Host

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    base = tmp_path_factory.mktemp("cat")
    source = base / "source"
    source.mkdir()
    (source / "a").write_bytes(b"first\n")
    (source / "b").write_bytes(random.Random(1).randbytes(20_000_000))
    (source / "empty").touch()
    (source / "folder").mkdir()
    (source / "link").symlink_to("a")
    with (source / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", source, "--series", "s")
    return host


def cat(host: Host, *names: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "coopfs.cli.main", "cat"]
    return subprocess.run(
        [*command, *(f"latest:{host.base}/source/{name}" for name in names)],
        env=os.environ | host.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
        **options,  # type: ignore[call-overload]  # of run()
    )


@pytest.mark.parametrize("names", [["a"], ["b"], ["empty"], ["sparse"], ["a", "b", "a", "sparse"]])
def test_files_come_out_byte_by_byte_one_after_another(host: Host, names: list[str]) -> None:
    ran = cat(host, *names)
    expected = b"".join((host.base / "source" / name).read_bytes() for name in names)
    assert ran.stdout == expected
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_a_pipe_that_closes_early_is_no_error_worth_a_word(host: Host) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "coopfs.cli.main", "cat", f"latest:{host.base}/source/b"],
        env=os.environ | host.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert len(process.stdout.read(100)) == 100
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141  # 128 + SIGPIPE


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("folder", 2, "is a folder, which has no content"),
        ("link", 2, "is a symlink to a; name the file it leads to"),
        ("nothing", 1, "not in snapshot"),
    ],
)
def test_what_has_no_content_is_said(host: Host, name: str, code: int, text: str) -> None:
    ran = cat(host, name)
    assert (ran.returncode, ran.stdout) == (code, b"")
    assert text in ran.stderr.decode()


def test_of_several_the_others_still_come_and_the_exit_code_is_1(host: Host) -> None:
    ran = cat(host, "folder", "a")
    assert ran.stdout == b"first\n"
    assert ran.returncode == 1
    assert b"is a folder" in ran.stderr


def test_damage_ends_the_output_before_the_first_wrong_byte(host: Host, tmp_path: Path) -> None:
    packs = [path for path in (host.base / "store" / "data").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    shutil.copy(pack, tmp_path / "whole")
    pack.chmod(0o600)
    try:
        with pack.open("r+b") as file:
            file.seek(9_000_000)
            file.write(bytes(32))
        ran = cat(host, "b")
    finally:
        shutil.copy(tmp_path / "whole", pack)
    assert ran.returncode == 1
    assert b"coopfs check --read-data" in ran.stderr
    whole = (host.base / "source" / "b").read_bytes()
    assert 0 < len(ran.stdout) < len(whole)
    assert whole.startswith(ran.stdout)
