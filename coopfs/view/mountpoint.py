"""Mountpoints: what must hold before a mount, and how one is undone.

Looks at /proc/self/mountinfo, never at the mountpoint's own content once it is
mounted: a mount whose process is gone or hangs must not hang us too.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.errors import MountError
from coopfs.view.options import MountOptions

SUBTYPE: Final = "coopfs"
FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")
MOUNTINFO: Final = Path("/proc/self/mountinfo")
BDI: Final = Path("/sys/class/bdi")  # sysfs-class-bdi, in the kernel's documentation
UMOUNT_TIMEOUT_S: Final = 60
USERS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class MountedAt:
    """One line of /proc/self/mountinfo (proc(5))."""

    path: str
    device: str  # major:minor
    fs_type: str
    source: str

    @property
    def is_ours(self) -> bool:
        """Whether it is a coopfs mount."""
        return self.fs_type == f"fuse.{SUBTYPE}"


def mounted_at(path: str) -> MountedAt | None:
    """Return the topmost mount on the absolute *path*, or None."""
    found = None
    for line in MOUNTINFO.read_text("utf-8", "surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if _unescaped(fields[4]) == path:
            found = MountedAt(path, fields[2], tail[0], _unescaped(tail[1]))
    return found


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def absolute(mountpoint: str) -> str:
    """Return *mountpoint* without symlinks in its parents; the last part is not looked at.

    A dead mount cannot be resolved itself, but its parents can.
    """
    path = Path(mountpoint)
    with suppress(OSError):
        return str(path.resolve(strict=True))
    parent = path.parent.resolve()
    return str(parent / path.name) if path.name else str(parent)


def check_mountpoint(mountpoint: str, options: MountOptions) -> str:
    """Return the absolute path to mount on.

    Raises:
        MountError: it does not exist, is no folder, is not empty, or is a mount already.
    """
    path = absolute(mountpoint)
    mounted = mounted_at(path)
    if mounted is not None and mounted.is_ours:
        try:
            os.stat(path)  # only to see whether it still answers
        except OSError as exc:
            if exc.errno == errno.ENOTCONN:
                raise MountError(
                    f"{path}: a coopfs mount whose process is gone is still there; "
                    f'"coopfs umount {path}" takes it away'
                ) from exc
        raise MountError(
            f'{path}: {mounted.source} is mounted there already; "coopfs umount {path}" first'
        )
    try:
        with os.scandir(path) as entries:
            is_empty = next(entries, None) is None
    except FileNotFoundError as exc:
        raise MountError(f"{path}: no such folder; make it with mkdir first") from exc
    except NotADirectoryError as exc:
        raise MountError(f"{path}: is not a folder") from exc
    except OSError as exc:
        raise MountError(f"{path}: {exc.strerror}") from exc
    if mounted is not None and mounted.fs_type.startswith("fuse") and not options.nonempty:
        raise MountError(
            f"{path}: {mounted.fs_type} is mounted there already (-o nonempty mounts over it)"
        )
    if not is_empty and not options.nonempty:
        raise MountError(f"{path}: is not empty (-o nonempty mounts over what is in it)")
    return path


def set_read_ahead(path: str, length: int) -> None:
    """Let the kernel ask for *length* bytes ahead on the mount at *path*; only root may.

    Otherwise it stays at what the system gives every mount, 128 KiB.
    """
    mounted = mounted_at(path)
    if mounted is not None:
        with suppress(OSError):
            (BDI / mounted.device / "read_ahead_kb").write_text(str(length >> 10))


def check_fuse(options: MountOptions) -> None:
    """Check that this machine can mount at all.

    Raises:
        MountError: /dev/fuse, fusermount3 or a permission is missing; says what to do.
    """
    if not FUSE_DEVICE.exists():
        raise MountError(
            f'{FUSE_DEVICE} is missing: load the module with "modprobe fuse" as root; '
            "in a container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
        )
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise MountError(
            f"{FUSE_DEVICE}: {exc.strerror}; in a container, start it with "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        ) from exc
    if os.geteuid() == 0:
        return
    if shutil.which("fusermount3") is None:
        raise MountError(
            'fusermount3 is missing: without root it makes the mount; "apt-get install fuse3"'
        )
    asks = options.kernel & {"allow_other", "allow_root"}
    if asks and not re.search(r"^\s*user_allow_other\b", _fuse_conf(), re.MULTILINE):
        raise MountError(
            f"-o {min(asks)}: only root may, unless {FUSE_CONF} has a line user_allow_other"
        )


def _fuse_conf() -> str:
    try:
        return FUSE_CONF.read_text("utf-8", "replace")
    except OSError:
        return ""


def unmount(mountpoint: str, *, is_lazy: bool = False) -> str:
    """Take a coopfs mount away; returns its absolute path.

    With *is_lazy* the mount vanishes now and ends when its last user is gone.

    Raises:
        MountError: not a coopfs mount; in use (names by whom); not permitted.
    """
    path = absolute(mountpoint)
    mounted = mounted_at(path)
    if mounted is None:
        raise MountError(f"{path}: nothing is mounted there")
    if not mounted.is_ours:
        raise MountError(f"{path}: is mounted, but by {mounted.fs_type}, not by coopfs")
    # As root umount(8) does it alone; otherwise fusermount3 has the right to.
    command = ["umount", "-i"] if os.geteuid() == 0 else ["fusermount3", "-u"]
    if is_lazy:
        command.append("-l" if os.geteuid() == 0 else "-z")
    try:
        done = subprocess.run(
            [*command, "--", path],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=UMOUNT_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError as exc:
        raise MountError(f'{command[0]} is missing; "apt-get install fuse3 mount"') from exc
    except subprocess.TimeoutExpired as exc:
        raise MountError(
            f"{path}: {command[0]} did not end within {UMOUNT_TIMEOUT_S} s; try --lazy"
        ) from exc
    if done.returncode:
        reason = done.stderr.strip()
        if "busy" in reason:
            raise MountError(f"{path}: in use{_users_of(path)}; close that, or use --lazy")
        raise MountError(f"{path}: {reason or 'not unmounted'}")
    return path


def _users_of(path: str) -> str:
    """Return " by NAME (PID), …" of the processes seen to use something below *path*."""
    users = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)):
        with suppress(OSError):
            links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
            if any(_is_below(link, path) for link in links):
                users.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
    if not users:
        return ""
    more = ", …" if len(users) > USERS_SHOWN else ""
    return f" by {', '.join(users[:USERS_SHOWN])}{more}"


def _is_below(link: Path, path: str) -> bool:
    try:
        target = os.readlink(link)  # a Path would normalise what the kernel says
    except OSError:
        return False
    return target == path or target.startswith(f"{path}/")
