"""A source tree with one of everything a file system can hold, and how to compare two."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
from pathlib import Path

# A version 2 capability set with CAP_NET_RAW permitted and effective (linux/capability.h).
CAP_NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return a POSIX ACL as its attribute holds it: (tag, permissions, uid or gid) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


NOBODY = 65534
NONE = 0xFFFFFFFF
ACCESS_ACL = acl((1, 6, NONE), (2, 4, NOBODY), (4, 4, NONE), (0x10, 4, NONE), (0x20, 0, NONE))
DEFAULT_ACL = acl((1, 7, NONE), (2, 5, NOBODY), (4, 5, NONE), (0x10, 5, NONE), (0x20, 0, NONE))


def make_rich_source(folder: Path) -> None:
    """Fill the new *folder*; owners, devices and the like only as root."""
    rng = random.Random(7)
    folder.mkdir()
    _make_files(folder, rng)
    _make_sparse(folder, rng)
    _make_links(folder)
    _make_attributes(folder)
    os.mkfifo(folder / "fifo", 0o640)
    _make_socket(folder, "socket")
    if os.geteuid() == 0:
        _make_as_root(folder)
    _set_times(folder)


def _make_files(folder: Path, rng: random.Random) -> None:
    (folder / "empty").touch()
    (folder / "inline").write_bytes(b"short")
    (folder / "one chunk").write_bytes(rng.randbytes(9_000))
    (folder / "text").write_text("all work and no play\n" * 5_000)
    (folder / "long").write_bytes(rng.randbytes(9_000_000))  # a span tree
    (folder / "same content").write_bytes((folder / "one chunk").read_bytes())
    raw = os.fsencode(folder)
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31mred", b" space ", b"\xc3\xa4", b"-rf", b"~"):
        with open(raw + b"/" + name, "wb") as file:
            file.write(name * 100)
    (folder / "many").mkdir()
    for number in range(1_500):  # several tree nodes
        (folder / "many" / f"file {number:04}").write_bytes(rng.randbytes(rng.randrange(600)))
    deep = folder
    for number in range(60):
        deep = deep / f"deep {number}"
        deep.mkdir()
    (deep / "bottom").write_bytes(rng.randbytes(1_000))
    (folder / "no files").mkdir()


def _make_sparse(folder: Path, rng: random.Random) -> None:
    data = rng.randbytes(70_000)
    for name, pieces, size in (
        ("hole first", {3_000_000: data}, 3_070_000),
        ("hole last", {0: data}, 5_000_000),
        ("holes", {1_000_000: data, 2_000_000: b"x"}, 4_000_000),
        ("only a hole", {}, 10_000_000),
        ("small hole", {}, 5_000),
    ):
        with (folder / name).open("wb") as file:
            for offset, piece in pieces.items():
                file.seek(offset)
                file.write(piece)
            file.truncate(size)


def _make_links(folder: Path) -> None:
    (folder / "symlink").symlink_to("inline")
    (folder / "dangling").symlink_to("/nowhere/at all")
    (folder / "long symlink").symlink_to("../" * 1000)
    (folder / "linked").mkdir()
    (folder / "linked" / "later").mkdir()
    os.link(folder / "one chunk", folder / "linked" / "file")
    os.link(folder / "one chunk", folder / "linked" / "later" / "file")
    os.link(folder / "inline", folder / "linked" / "inline")
    os.link(folder / "symlink", folder / "linked" / "symlink", follow_symlinks=False)


def _make_attributes(folder: Path) -> None:
    for name, mode in (("setuid", 0o4755), ("setgid", 0o2711), ("closed", 0o000), ("all", 0o777)):
        (folder / name).write_bytes(name.encode())
        (folder / name).chmod(mode)
    for name, mode in (("sticky", 0o1777), ("passing on", 0o2775), ("read only", 0o555)):
        (folder / name).mkdir()
        (folder / name / "file").write_bytes(name.encode())
        (folder / name / "below").mkdir()
        (folder / name).chmod(mode)
    target = folder / "with attributes"
    target.write_bytes(b"content")
    os.setxattr(target, "user.comment", b"a \0 value")
    os.setxattr(target, "user.empty", b"")
    os.setxattr(folder / "no files", "user.folder", b"x" * 500)
    os.setxattr(target, "system.posix_acl_access", ACCESS_ACL)
    (folder / "default acl").mkdir()
    os.setxattr(folder / "default acl", "system.posix_acl_default", DEFAULT_ACL)
    (folder / "default acl" / "file").write_bytes(b"inherits")
    (folder / "default acl" / "below").mkdir()
    read_only = folder / "read only with attributes"
    read_only.write_bytes(b"content")
    os.setxattr(read_only, "user.comment", b"c")
    read_only.chmod(0o444)


def _make_socket(folder: Path, name: str) -> None:
    before = Path.cwd()
    os.chdir(folder)  # a socket's path has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    finally:
        os.chdir(before)


def _make_as_root(folder: Path) -> None:
    os.mknod(folder / "char", 0o660 | 0o020000, os.makedev(1, 3))
    os.mknod(folder / "block", 0o600 | 0o060000, os.makedev(7, 300))
    (folder / "program").write_bytes(b"\x7fELF")
    (folder / "owned").mkdir()
    (folder / "owned" / "file").write_bytes(b"mine")
    os.chown(folder / "owned" / "file", 1, 2)
    os.chown(folder / "owned", 12_345, 54_321)  # nobody has these numbers
    os.chown(folder / "symlink", 1, 1, follow_symlinks=False)
    os.chown(folder / "setuid", 1, 1)
    (folder / "setuid").chmod(0o4755)
    os.chown(folder / "fifo", 2, 2)
    os.setxattr(folder / "program", "security.capability", CAP_NET_RAW)
    os.setxattr(folder / "dangling", "trusted.note", b"t", follow_symlinks=False)
    os.setxattr(folder / "fifo", "trusted.note", b"t")


def _set_times(folder: Path) -> None:
    rng = random.Random(8)
    for path, _, names in os.walk(folder, topdown=False):
        for name in [*names, "."]:
            time_ns = rng.randrange(-(10**18), 4 * 10**18)  # 1938 to 2096
            os.utime(f"{path}/{name}", ns=(time_ns, time_ns), follow_symlinks=False)
        for link in (n for n in os.listdir(path) if os.path.islink(f"{path}/{n}")):
            time_ns = rng.randrange(10**18)
            os.utime(f"{path}/{link}", ns=(time_ns, time_ns), follow_symlinks=False)


def differences(one: Path, other: Path) -> list[str]:
    """Return what rsync would change to make *other* what *one* is; a line each."""
    ran = subprocess.run(
        ["rsync", "-aHAXn", "--checksum", "--delete", "--itemize-changes", "--numeric-ids",
         f"{one}/", f"{other}/"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return ran.stdout.decode("utf-8", "backslashreplace").splitlines()


def used_len(path: Path) -> int:
    """Return the bytes that *path* takes on the disk."""
    return path.stat().st_blocks * 512
