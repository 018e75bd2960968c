"""Mount options: what stands after ``-o``, on the command line or in /etc/fstab.

Owns which options there are, which go to the kernel, and which only ever mean
something to mount(8).  Documented in coopfs-mount(1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from coopfs.errors import UsageError

REFRESH_S: Final = 60  # how often new snapshots are looked for when nobody looks
# Enough for several readers in order.  What was read lies in the kernel's page cache, and
# the sealed blocks in that of the store's files, or in the disk cache.
BLOCK_MEMORY_LOCAL: Final = 12 << 20
BLOCK_MEMORY_REMOTE: Final = 48 << 20  # more is under way
ID_MAX: Final = 0xFFFFFFFE
# A mount is read-only and neither runs set-user-ID programs nor opens devices, whatever is asked.
ALWAYS: Final = frozenset({"ro", "nosuid", "nodev", "default_permissions"})
TO_KERNEL: Final = frozenset(
    {"exec", "noexec", "sync", "async", "dirsync", "atime", "noatime", "allow_other",
     "allow_root", "auto_unmount"}
)  # fmt: skip
# Read by mount(8), systemd or fsck and handed on to us all the same; or implied here.
IGNORED: Final = frozenset(
    {"defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail",
     "_netdev", "rw", "suid", "dev", "diratime", "nodiratime", "relatime", "norelatime",
     "strictatime", "nostrictatime", "lazytime", "nolazytime", "mand", "nomand", "silent", "loud",
     "iversion", "noiversion"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How the mount looks and who may use it."""

    kernel: frozenset[str] = ALWAYS  # options for the kernel or libfuse
    uid: int | None = None  # shown as the owner of everything
    gid: int | None = None
    umask: int | None = None  # permission bits taken away: 0 to 0o777
    shadow: bool = False  # show @GMT-… names for Samba too
    nonempty: bool = False  # mount over a folder that has something in it
    refresh_s: float = REFRESH_S
    block_memory_len: int | None = None  # bytes of decoded blocks kept; None: by the store


def _owner(value: str) -> int:
    number = int(value, 10)
    if not 0 <= number <= ID_MAX:
        raise ValueError
    return number


def _umask(value: str) -> int:
    number = int(value, 8)
    if not 0 <= number <= 0o777:
        raise ValueError
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 1 <= number <= 86400:
        raise ValueError
    return number


def _megabytes(value: str) -> int:
    number = int(value, 10)
    if not 4 <= number <= 1 << 20:
        raise ValueError
    return number << 20


_VALUES: Final[dict[str, tuple[str, Callable[[str], Any], str]]] = {
    "uid": ("uid", _owner, "a user id"),
    "gid": ("gid", _owner, "a group id"),
    "umask": ("umask", _umask, "octal digits from 0 to 777"),
    "refresh": ("refresh_s", _seconds, "seconds from 1 to 86400"),
    "memory": ("block_memory_len", _megabytes, "megabytes, at least 4"),
}


def parse_options(given: Iterable[str]) -> MountOptions:
    """Return what ``-o`` options mean; each of *given* is a comma-separated list.

    Raises:
        UsageError: an option that does not exist, or a value that makes no sense.
    """
    options = MountOptions()
    kernel = set(ALWAYS)
    for option in (part.strip() for text in given for part in text.split(",")):
        name, has_value, value = option.partition("=")
        if not option or option in IGNORED or option in ALWAYS:
            continue
        if name.startswith(("x-", "X-")) or name == "comment":
            continue
        if name in _VALUES and has_value:
            field, read, expected = _VALUES[name]
            try:
                options = replace(options, **{field: read(value)})
            except ValueError as exc:
                raise UsageError(f"-o {option}: expected {expected}") from exc
        elif option == "shadow":
            options = replace(options, shadow=True)
        elif option == "nonempty":
            options = replace(options, nonempty=True)
        elif option in TO_KERNEL:
            kernel.add(option)
        else:
            raise UsageError(f"-o {option}: no such option; coopfs-mount(1) lists them")
    return replace(options, kernel=frozenset(kernel))
