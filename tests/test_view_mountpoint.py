"""What must hold before a mount, without making one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coopfs.errors import MountError
from coopfs.view import mountpoint
from coopfs.view.mountpoint import check_fuse, mounted_at
from coopfs.view.options import MountOptions


def test_a_missing_device_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", tmp_path / "fuse")
    with pytest.raises(MountError, match="modprobe fuse"):
        check_fuse(MountOptions())


def test_a_missing_fusermount3_matters_only_without_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fuse").touch()
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(mountpoint.shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    check_fuse(MountOptions())
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MountError, match="fusermount3 is missing"):
        check_fuse(MountOptions())


def test_allow_other_without_root_needs_a_line_in_fuse_conf(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fuse").touch()
    conf = tmp_path / "fuse.conf"
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", tmp_path / "fuse")
    monkeypatch.setattr(mountpoint, "FUSE_CONF", conf)
    monkeypatch.setattr(mountpoint.shutil, "which", lambda name: "/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    options = MountOptions(kernel=frozenset({"allow_other"}))
    conf.write_text("#user_allow_other\n")
    with pytest.raises(MountError, match="user_allow_other"):
        check_fuse(options)
    conf.write_text("mount_max = 10\n  user_allow_other\n")
    check_fuse(options)


def test_mountinfo_is_read_with_its_escapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:50 / /mnt/a\\040b rw,nosuid shared:7 - fuse.coopfs my\\040archive rw\n"
        "3 2 0:51 / /mnt/a\\040b rw - tmpfs tmpfs rw\n"
    )
    monkeypatch.setattr(mountpoint, "MOUNTINFO", table)
    found = mounted_at("/mnt/a b")
    assert found is not None
    assert (found.fs_type, found.device, found.is_ours) == ("tmpfs", "0:51", False)
    assert mounted_at("/mnt") is None
