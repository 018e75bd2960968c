from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from coopfs.dirs import Dirs, make_private_folder, write_private
from coopfs.errors import ConfigError
from coopfs.ids import ArchiveId


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_each_folder_can_be_moved_by_its_variable(tmp_path: Path) -> None:
    dirs = Dirs.from_environment(
        {
            "COOPFS_CONFIG_DIR": str(tmp_path / "a"),
            "COOPFS_STATE_DIR": str(tmp_path / "b"),
            "COOPFS_CACHE_DIR": str(tmp_path / "c"),
        }
    )
    assert (dirs.config, dirs.state, dirs.cache) == tuple(tmp_path / n for n in "abc")


def test_a_relative_folder_is_meant_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dirs = Dirs.from_environment({"COOPFS_CONFIG_DIR": "conf/../conf"})
    assert dirs.config == tmp_path / "conf"


def test_without_variables_they_follow_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dirs = Dirs.from_environment({"COOPFS_CONFIG_DIR": ""})
    assert dirs.config == tmp_path / "config" / "coopfs"
    assert dirs.state == tmp_path / "state" / "coopfs"
    assert dirs.cache == tmp_path / "home" / ".cache" / "coopfs"


def test_two_archives_share_no_folder(tmp_path: Path) -> None:
    dirs = Dirs(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    one, other = ArchiveId(bytes(16)), ArchiveId(b"\x01" * 16)
    assert dirs.archive_state(one) == tmp_path / "b" / ("00" * 16)
    assert len({dirs.archive_state(one), dirs.archive_state(other), dirs.archive_cache(one)}) == 3


def test_private_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(before)
    assert [mode_of(tmp_path / p) for p in ("a", "a/b", "a/b/c")] == [0o700] * 3


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o750)
    make_private_folder(tmp_path / "a")
    assert mode_of(tmp_path / "a") == 0o750


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        make_private_folder(tmp_path / "a" / "b")


def test_a_private_file_is_whole_and_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "key", b"secret", replace=False)
    finally:
        os.umask(before)
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert mode_of(tmp_path / "key") == 0o600
    assert os.listdir(tmp_path) == ["key"]


def test_replacing_is_only_done_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_private(path, b"old", replace=False)
    with pytest.raises(ConfigError, match="exists already"):
        write_private(path, b"new", replace=False)
    assert path.read_bytes() == b"old"
    write_private(path, b"new", replace=True)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["key"]


def test_a_symlink_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="exists already"):
        write_private(tmp_path / "key", b"secret", replace=False)
    assert not (tmp_path / "elsewhere").exists()


def test_where_there_are_no_hard_links_nothing_is_overwritten_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    write_private(tmp_path / "key", b"old", replace=False)
    with pytest.raises(ConfigError, match="exists already"):
        write_private(tmp_path / "key", b"new", replace=False)
    assert (tmp_path / "key").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["key"]


def test_a_failed_write_leaves_the_old_content_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    write_private(path, b"old", replace=False)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_private(path, b"new", replace=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["key"]
