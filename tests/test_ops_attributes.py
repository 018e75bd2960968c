"""Owners by name or number, and what is set at once, later, or not at all."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest
from rich_source import NOBODY, NONE, acl

from coopfs.format.tree import Entry, Kind
from coopfs.ops import attributes as module
from coopfs.ops.attributes import KEEP, Attributes, Owners, current_umask, proc_path

FILE = Entry(b"name", Kind.FILE, 0o640, 1234, 4321, 5_000_000_001, b"", b"", inline=b"")


def test_names_that_are_known_here_decide_and_numbers_where_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    user, group = pwd.getpwall()[1], grp.getgrall()[1]
    known = FILE._replace(user=user.pw_name.encode(), group=group.gr_name.encode())
    assert Owners(numeric=False).of(known)[:2] == (user.pw_uid, group.gr_gid)
    assert Owners(numeric=True).of(known)[:2] == (1234, 4321)
    unknown = FILE._replace(user=b"no such user", group=b"no\xffsuch group")
    assert Owners(numeric=False).of(unknown) == (1234, 4321, 1234, 4321)


def test_without_root_only_ones_own_user_and_groups_can_be_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 50])
    owners = Owners(numeric=True)
    assert owners.of(FILE) == (1234, 4321, KEEP, KEEP)
    assert owners.of(FILE._replace(uid=1000, gid=50)) == (1000, 50, 1000, 50)


def test_a_file_is_plain_when_creating_it_sets_all_but_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "current_umask", lambda: 0o022)
    attributes = Attributes(numeric_owner=True)
    born = (1234, 4321)
    assert attributes.is_plain(FILE, born)
    assert not attributes.is_plain(FILE, (0, 4321))
    assert not attributes.is_plain(FILE._replace(mode=0o660), born)  # the umask takes a bit
    assert not attributes.is_plain(FILE._replace(mode=0o4755), born)
    assert not attributes.is_plain(FILE._replace(xattrs=((b"user.a", b""),)), born)
    assert not attributes.left_out


def test_without_root_other_owners_are_counted_and_nothing_else_is_slower(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    attributes = Attributes(numeric_owner=True)
    assert attributes.is_plain(FILE._replace(mode=0o600), (1000, 1000))
    assert list(attributes.left_out.values()) == [1]


def test_what_is_right_already_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    entry = FILE._replace(
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )
    Attributes(numeric_owner=True).amend(str(path), entry, status)
    assert path.stat().st_ctime_ns == status.st_ctime_ns
    Attributes(numeric_owner=True).amend(str(path), entry._replace(mtime_ns=17), status)
    assert path.stat().st_mtime_ns == 17


def test_attributes_that_the_file_system_does_not_have_are_counted_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    entry = FILE._replace(
        uid=status.st_uid,
        gid=status.st_gid,
        xattrs=((b"system.posix_acl_access", b"x"), (b"user.a", b""), (b"user.b", b"")),
    )
    attributes = Attributes(numeric_owner=True)
    attributes.apply(str(path), entry, status, is_clean=True)
    assert attributes.left_out == {
        "ACLs: the target's file system does not have them": 1,
        "attributes user.*: the target's file system does not have them": 2,
    }
    assert path.stat().st_mtime_ns == entry.mtime_ns


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # Somebody named may write, so the mask has w; the file's own group may only read.
        (acl((1, 6, NONE), (2, 6, NOBODY), (4, 4, NONE), (0x10, 6, NONE), (0x20, 0, NONE)), 0o640),
        (acl((1, 6, NONE), (2, 6, NOBODY), (4, 0, NONE), (0x10, 6, NONE), (0x20, 0, NONE)), 0o600),
        (b"no ACL at all", 0o600),
    ],
)
def test_where_an_acl_cannot_be_had_the_group_gets_no_more_than_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: bytes, expected: int
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    entry = FILE._replace(
        mode=0o660,
        uid=status.st_uid,
        gid=status.st_gid,
        xattrs=((b"system.posix_acl_access", value),),
    )
    Attributes(numeric_owner=True).apply(str(path), entry, status, is_clean=True)
    assert stat.S_IMODE(path.stat().st_mode) == expected


def test_an_attribute_that_should_have_worked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "setxattr", refuse)
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    entry = FILE._replace(uid=status.st_uid, gid=status.st_gid, xattrs=((b"user.a", b""),))
    with pytest.raises(OSError, match=r"attribute user\.a: No space left"):
        Attributes(numeric_owner=True).apply(str(path), entry, status, is_clean=True)


def test_a_symlink_opened_as_a_path_is_changed_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    before = (tmp_path / "file").stat()
    fd = os.open(tmp_path / "link", os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        entry = FILE._replace(
            kind=Kind.SYMLINK, uid=status.st_uid, gid=status.st_gid, inline=None, target=b"file"
        )
        Attributes(numeric_owner=True).apply(proc_path(fd), entry, status, is_clean=False)
    finally:
        os.close(fd)
    assert (tmp_path / "link").lstat().st_mtime_ns == entry.mtime_ns
    assert (tmp_path / "file").stat() == before


def test_the_umask_is_read_without_changing_it() -> None:
    before = os.umask(0o027)
    try:
        assert current_umask() == 0o027
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
