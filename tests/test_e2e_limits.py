"""The line's limits by the real commands: options, settings, and a restore that goes first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hosts import Host
from mounting import command, wait_until
from servers import free_port, rest_server

from coopfs.archive.line import HINT_FILE
from coopfs.archive.settings import load_settings, save_settings

SOURCE_LEN = 2_000_000  # bytes that nothing makes smaller: 1.6 s at 10 Mbit/s


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps what it is sent."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """Yield the address of a server."""
    port = free_port()
    with rest_server(folder, port, "--no-auth"):
        yield f"rest+http://127.0.0.1:{port}"


@pytest.fixture
def host(served: str, tmp_path: Path) -> Host:
    host = Host(tmp_path)
    host.init(f"{served}/{tmp_path.name}")
    (tmp_path / "source").write_bytes(os.urandom(SOURCE_LEN))
    return host


def seconds_of(host: Host, *args: object, **environ: str) -> float:
    begun = time.monotonic()
    host.ok(*args, **environ)
    return time.monotonic() - begun


def test_a_run_keeps_to_its_own_limits(host: Host, tmp_path: Path) -> None:
    assert seconds_of(host, "snapshot", tmp_path / "source", "--limit-upload", "10M") > 1.5
    restore = ("restore", "latest", "--target", tmp_path / "out")
    assert seconds_of(host, *restore, COOPFS_LIMIT_DOWNLOAD="10M") > 1.4


def test_what_is_no_rate_is_refused_before_anything_is_sent(host: Host, tmp_path: Path) -> None:
    ran = host.run("snapshot", tmp_path / "source", "--limit-upload", "10")
    assert (ran.code, ran.out) == (2, "")
    assert "'10' is below 8000 bits a second" in ran.err
    ran = host.run("--limit-download", "fast", "restore", "latest", "--target", tmp_path / "out")
    assert (ran.code, ran.out) == (2, "")
    assert "'fast' is no rate" in ran.err


def test_a_running_snapshot_notices_a_changed_setting(
    host: Host, tmp_path: Path, folder: Path
) -> None:
    settings = load_settings(host.dirs, None)
    save_settings(host.dirs, replace(settings, upload_rate="8k"))  # half an hour
    process = command(host, "snapshot", tmp_path / "source")
    try:
        data = folder / tmp_path.name / "data"
        wait_until(lambda: any(path.stat().st_size for path in data.rglob("?" * 64 + "*")), "bytes")
        assert process.poll() is None
        save_settings(host.dirs, settings)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, (out, err)


def test_who_restores_says_so_to_who_uploads(host: Host, tmp_path: Path) -> None:
    hint = host.dirs.state / HINT_FILE
    host.ok("snapshot", tmp_path / "source")
    assert not hint.exists()
    host.ok("restore", "latest", "--target", tmp_path / "out")
    assert abs(time.time() - hint.stat().st_mtime) < 60
