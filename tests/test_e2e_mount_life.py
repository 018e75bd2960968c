"""A mount's life: made in the foreground, the background or by mount(8), and unmade."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from hosts import Host
from mounting import DEADLINE_S, ROOT, command, mounted, needs_fuse, wait_until

from coopfs.view.mountpoint import mounted_at

pytestmark = needs_fuse


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with one small snapshot."""
    base = tmp_path_factory.mktemp("life")
    (base / "source").mkdir()
    (base / "source" / "file").write_bytes(b"content" * 1_000)
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; what is still mounted on it at the end is taken away."""
    path = tmp_path / "mnt"
    path.mkdir()
    yield path
    if mounted_at(str(path)):
        subprocess.run(["umount", "-l", str(path)], check=False)


def finished(host: Host, *args: object) -> tuple[int, str, str]:
    """Run a command of *host* in a process of its own: (exit code, stdout, stderr)."""
    process = command(host, *args)
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


# --- ways to end ----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends_well(host: Host, tmp_path: Path, number: int) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        assert (mount.path / "by-host").is_dir()
        code, log = mount.stop(number)
        assert code == 0
        assert "unmounted" in log
        assert mounted_at(str(mount.path)) is None


def test_a_signal_unmounts_even_while_a_file_is_open(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        inside = str(host.base / "source/file").lstrip("/")
        descriptor = os.open(mount.path / "by-host/anna/s/latest" / inside, os.O_RDONLY)
        try:
            code, _ = mount.stop()
        finally:
            with suppress(OSError):  # what was open is dead
                os.close(descriptor)
        assert code == 0
        assert mounted_at(str(mount.path)) is None


def test_umount_ends_the_process(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        assert (mount.path / "by-host").is_dir()
        assert finished(host, "umount", mount.path) == (0, "", "")
        assert mount.process.wait(DEADLINE_S) == 0


def test_umount_of_a_mount_in_use_says_by_whom(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        with subprocess.Popen(["sleep", "1000"], cwd=mount.path / "by-host") as user:
            try:
                code, _, err = finished(host, "umount", mount.path)
                assert code == 1
                assert f"sleep ({user.pid})" in err
                assert "--lazy" in err
                assert mounted_at(str(mount.path))
                assert finished(host, "umount", "--lazy", mount.path)[0] == 0
                assert mounted_at(str(mount.path)) is None
            finally:
                user.kill()
        assert mount.process.wait(DEADLINE_S) == 0


def test_umount_refuses_what_is_no_mount_of_coopfs(host: Host, tmp_path: Path) -> None:
    code, _, err = finished(host, "umount", tmp_path)
    assert (code, "nothing is mounted there" in err) == (1, True)
    code, _, err = finished(host, "umount", "/proc")
    assert (code, "not by coopfs" in err) == (1, True)


# --- ways to begin --------------------------------------------------------------------


def test_in_the_background_the_command_returns_when_the_mount_is_up(
    host: Host, mountpoint: Path
) -> None:
    assert finished(host, "mount", mountpoint) == (0, "", "")
    # No waiting: it was promised to be there.
    inside = str(host.base / "source/file").lstrip("/")
    file = mountpoint / "by-host/anna/s/latest" / inside
    assert file.read_bytes() == b"content" * 1_000
    assert finished(host, "umount", mountpoint)[0] == 0


def test_in_the_background_errors_reach_the_terminal_and_the_exit_code(
    tmp_path: Path, mountpoint: Path
) -> None:
    host = Host(tmp_path / "host")
    host.init(tmp_path / "store")
    shutil.rmtree(tmp_path / "store")
    code, out, err = finished(host, "mount", mountpoint)
    assert code == 10
    assert out == ""
    assert err.startswith("coopfs: ")
    assert len(err.splitlines()) == 1
    assert mounted_at(str(mountpoint)) is None


def test_a_host_without_an_archive_is_told_so(tmp_path: Path, mountpoint: Path) -> None:
    code, _, err = finished(Host(tmp_path / "nobody"), "mount", mountpoint)
    assert code == 10
    assert "coopfs init" in err


def test_mount_by_type_works_as_in_fstab(host: Host, mountpoint: Path, tmp_path: Path) -> None:
    helper = Path("/sbin/mount.fuse")
    if os.geteuid() or not helper.exists():
        pytest.skip("needs root and mount.fuse3")
    program = tmp_path / "bin" / "coopfs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m coopfs.cli.main "$@"\n')
    program.chmod(0o755)
    environ = {
        **os.environ,
        **host.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{program.parent}:{os.environ['PATH']}",
    }
    options = "ro,noexec,allow_other,_netdev,nofail,x-systemd.automount,umask=022"
    # What `mount -t fuse.coopfs default MOUNTPOINT -o …` runs; mount itself looks for the
    # program in the system's folders only.
    command_line = [helper, "default", mountpoint, "-o", options, "-t", "fuse.coopfs"]
    subprocess.run(command_line, env=environ, check=True, timeout=DEADLINE_S)
    found = mounted_at(str(mountpoint))
    assert found is not None
    assert (found.fs_type, found.source) == ("fuse.coopfs", "default")
    assert os.statvfs(mountpoint).f_flag & os.ST_NOEXEC
    assert (mountpoint / "by-host/anna").is_dir()
    subprocess.run(["umount", str(mountpoint)], check=True, timeout=DEADLINE_S)


# --- processes that decode ------------------------------------------------------------


def test_processes_that_decode_a_large_file_end_with_the_mount(
    tmp_path: Path,
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: NO PROCESSES DECODE FOR A MOUNT HERE")
    (tmp_path / "source").mkdir()
    content = random.Random(1).randbytes(96 << 20)
    (tmp_path / "source" / "large").write_bytes(content)
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    host.ok("snapshot", tmp_path / "source", "--series", "s")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with mounted(host, tmp_path / "mnt") as mount:
            (large,) = (mount.path / "by-host/anna/s/latest").rglob("large")
            children: set[str] = set()
            with large.open("rb") as file:
                for start in range(0, len(content), 1 << 20):
                    assert file.read(1 << 20) == content[start : start + (1 << 20)]
                    if start == 4 << 20:
                        wait_until(partial(_children, mount.process.pid), "processes")
                        time.sleep(1)  # for their start
                    children.update(_children(mount.process.pid))
            status = (mount.path / ".coopfs/status").read_text()
            assert children
            assert "\nblocks decoded by processes: 0\n" not in status
            assert "\nblocks decoded by processes: " in status
            if os.geteuid() == 0:
                device = mounted_at(str(mount.path))
                assert device is not None
                ahead = Path(f"/sys/class/bdi/{device.device}/read_ahead_kb")
                assert ahead.read_text() == "1024\n"
            mount.process.send_signal(number)
            mount.process.wait(DEADLINE_S)
            for pid in children:
                wait_until(partial(_has_ended, pid), "a process of the mount to end")


def _children(pid: int) -> set[str]:
    listings = Path(f"/proc/{pid}/task").glob("*/children")
    return {child for listing in listings for child in listing.read_text().split()}


def _has_ended(pid: str) -> bool:
    return "decoder_process" not in _command_line(pid)


# --- what stands in the way -----------------------------------------------------------


def test_mountpoints_that_cannot_be_used_are_each_named(host: Host, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name, words in (
        ("missing", "no such folder"),
        ("file", "is not a folder"),
        ("full", "is not empty"),
    ):
        code, _, err = finished(host, "mount", tmp_path / name)
        assert code == 1
        assert words in err
        assert str(tmp_path / name) in err


def test_a_second_mount_on_the_same_folder_is_refused(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        code, _, err = finished(host, "mount", mount.path)
        assert code == 1
        assert "is mounted there already" in err


def test_a_mount_whose_process_was_killed_is_named_and_can_be_taken_away(
    host: Host, tmp_path: Path
) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        mount.process.kill()
        mount.process.wait(DEADLINE_S)
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            mount.path.stat()
        code, _, err = finished(host, "mount", mount.path)
        assert code == 1
        assert "coopfs umount" in err
        assert finished(host, "umount", mount.path)[0] == 0
        assert mounted_at(str(mount.path)) is None


def test_an_option_that_does_not_exist_is_a_usage_error(host: Host, mountpoint: Path) -> None:
    code, _, err = finished(host, "mount", mountpoint, "-o", "allow_oher")
    assert code == 2
    assert "allow_oher" in err


def test_a_mount_ends_up_with_few_open_files_and_no_zombie(host: Host, mountpoint: Path) -> None:
    assert finished(host, "mount", mountpoint)[0] == 0
    pids = [
        pid
        for pid in os.listdir("/proc")
        if pid.isdigit() and str(mountpoint) in _command_line(pid)
    ]
    assert len(pids) == 1
    assert os.readlink(f"/proc/{pids[0]}/cwd") == "/"
    assert os.readlink(f"/proc/{pids[0]}/fd/2") == "/dev/null"
    os.kill(int(pids[0]), signal.SIGTERM)
    wait_until(lambda: mounted_at(str(mountpoint)) is None, "the mount to end")


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
