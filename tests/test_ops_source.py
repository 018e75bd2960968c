"""What a stat and the extended attributes become."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from coopfs.format.tree import Kind
from coopfs.ops import source
from coopfs.ops.source import OwnerNames, base_entry, kind_of, read_xattrs


def test_every_type_a_unix_file_has_is_known_and_no_other() -> None:
    kinds = {
        kind_of(kind | 0o644)
        for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK,
                     stat.S_IFCHR, stat.S_IFBLK)
    }  # fmt: skip
    assert kinds == set(Kind)
    assert kind_of(0o150000) is None  # a door of Solaris


def test_owners_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = source.pwd.getpwuid

    def asking(uid: int) -> object:
        asked.append(uid)
        return ask(uid)

    monkeypatch.setattr(source.pwd, "getpwuid", asking)
    names = OwnerNames()
    assert [names.user(0), names.user(0), names.user(4_000_000_000)] == [b"root", b"root", b""]
    assert names.user(4_000_000_000) == b""
    assert asked == [0, 4_000_000_000]
    assert names.group(0) == b"root"
    assert names.group(4_000_000_000) == b""


def test_the_attributes_of_a_symlink_are_its_own(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.touch()
    os.setxattr(target, "user.x", b"of the target")
    link = tmp_path / "link"
    link.symlink_to(target)
    assert read_xattrs(os.fsencode(link)) == ()
    assert read_xattrs(os.fsencode(target)) == ((b"user.x", b"of the target"),)


def test_an_attribute_removed_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.touch()
    for name in ("user.a", "user.b", "user.c"):
        os.setxattr(path, name, b"1")
    read = os.getxattr

    def vanishing(target: object, name: str, **options: object) -> bytes:
        if name == "user.b":
            raise OSError(errno.ENODATA, "No data available")
        return read(target, name, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(source.os, "getxattr", vanishing)
    assert [name for name, _ in read_xattrs(os.fsencode(path))] == [b"user.a", b"user.c"]


def test_a_file_system_without_attributes_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object, **__: object) -> list[str]:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(source.os, "listxattr", unsupported)
    assert read_xattrs(b"/") == ()


def test_a_device_keeps_its_number_and_only_a_file_its_size(tmp_path: Path) -> None:
    null = base_entry(b"null", Kind.CHAR_DEVICE, os.stat("/dev/null"), OwnerNames())
    assert null.rdev == os.makedev(1, 3)
    link = tmp_path / "l"
    link.symlink_to("somewhere")
    assert base_entry(b"l", Kind.SYMLINK, os.lstat(link), OwnerNames()).size == 0
