"""A whole life over FTP with TLS: init, snapshot, check, restore and the mount."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from ftpservers import VsftpdServer
from hosts import Host, everything_below
from mounting import has_fuse, mounted


def test_an_archive_lives_on_an_ftp_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")
    source = tmp_path / "docs"
    source.mkdir()
    (source / "letter.txt").write_text("Dear Anna")
    (source / "photo.raw").write_bytes(random.Random(7).randbytes(6 << 20))
    expected = {path.name: path.read_bytes() for path in source.iterdir()}
    host = Host(tmp_path / "anna")
    with VsftpdServer(tmp_path / "vsftpd") as server:
        address = server.address(tmp_path / "store")
        host.ok("init", address, "--no-passphrase", "--host", "anna")
        host.ok("snapshot", source)
        host.ok("check", "--read-data")
        seen = host.ok("doctor").out
        assert "2 newest packs read back: whole" in seen
        assert "warning" not in seen and "line:" not in seen  # TLS, and this machine
        host.ok("restore", "latest", "--target", tmp_path / "back")
        back = everything_below(tmp_path / "back")
        assert {Path(path).name: data for path, data in back.items()} == expected
        if not has_fuse():
            pytest.skip("no /dev/fuse here: THE MOUNT OVER FTP IS NOT TESTED")
        with mounted(host, tmp_path / "mnt") as mount:
            (shown,) = mount.path.glob("by-host/anna/*/latest/**/photo.raw")
            assert shown.read_bytes() == expected["photo.raw"]
            code, log = mount.stop()
        assert code == 0, log
