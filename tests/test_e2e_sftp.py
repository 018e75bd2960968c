"""A whole life over SFTP: init, snapshot, check, restore and the mount."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, everything_below
from mounting import mounted, needs_fuse
from sshservers import SshServer
from terminal import Terminal

from coopfs.store.sshchild import COMMAND_VARIABLE


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    """Yield a running server that ``ssh`` gets into."""
    server = SshServer(tmp_path / "ssh")
    monkeypatch.setenv(COMMAND_VARIABLE, server.command)
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")
    with server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "docs"
    (source / "deep").mkdir(parents=True)
    (source / "letter.txt").write_text("Dear Anna")
    (source / "deep" / "photo.raw").write_bytes(random.Random(7).randbytes(6 << 20))
    return source


def test_an_archive_lives_at_another_machine(
    tmp_path: Path, server: SshServer, source: Path
) -> None:
    host = Host(tmp_path / "anna")
    address = server.address(tmp_path / "partner" / "store")
    host.ok("init", address, "--no-passphrase", "--host", "anna")
    again = Host(tmp_path / "anna2").run("init", address, "--no-passphrase", "--host", "anna")
    assert again.code == 1
    assert "holds an archive already" in again.err
    host.ok("snapshot", source)
    (source / "letter.txt").write_text("Dear Anna, again")
    host.ok("snapshot", source)
    assert len(host.ok("snapshots", "--json").lines()) >= 2
    host.ok("check", "--read-data")
    host.ok("restore", "latest", "--target", tmp_path / "back")
    back = {path: data for path, data in everything_below(tmp_path / "back").items()}
    assert {Path(path).name: data for path, data in back.items()} == {
        path.name: path.read_bytes() for path in source.rglob("*") if path.is_file()
    }


@needs_fuse
def test_the_mount_reads_over_ssh(tmp_path: Path, server: SshServer, source: Path) -> None:
    host = Host(tmp_path / "anna")
    host.ok("init", server.address(tmp_path / "store"), "--no-passphrase", "--host", "anna")
    host.ok("snapshot", source)
    with mounted(host, tmp_path / "mnt") as mount:
        (shown,) = (tmp_path / "mnt").glob("by-host/anna/*/latest/**/photo.raw")
        assert shown.read_bytes()[:1000] == (source / "deep/photo.raw").read_bytes()[:1000]
        # The line breaks and comes back: what is read next connects anew.
        server.kill_sessions()
        assert shown.read_bytes() == (source / "deep/photo.raw").read_bytes()
        code, log = mount.stop()
    assert code == 0, log


def test_a_key_with_a_passphrase_is_asked_for_at_a_terminal_only(
    tmp_path: Path, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path / "anna")
    host.ok("init", server.address(tmp_path / "store"), "--no-passphrase", "--host", "anna")
    key = server.base / "client_key"
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key]
    subprocess.run(change, check=True, capture_output=True)
    asking = server.command.replace("ssh ", "ssh -o BatchMode=no ", 1)
    terminal = Terminal(["snapshots"], {**host.environ, COMMAND_VARIABLE: asking})
    terminal.expect("Enter passphrase for key")
    terminal.type("open sesame\n")
    assert terminal.finish() == 0
    monkeypatch.setenv("SSH_ASKPASS", "/nonexistent")
    ran = host.run("snapshots")
    assert ran.code == 1
    assert "does not let us in" in ran.err
