"""The bytes of SFTP version 3: requests out of values, values out of replies.

Pure functions; no I/O.  Format: draft-ietf-secsh-filexfer-02, and OpenSSH's file
PROTOCOL, section 4, for the extensions.  Replies come from a stranger: every length is
checked, and whatever does not parse is a :class:`WireError`.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

VERSION: Final = 3
PACKET_LEN_MAX: Final = (256 << 10) + 1024  # bytes; OpenSSH itself sends no more than 256 KiB
NAMES_MAX: Final = 100_000  # entries one NAME reply may announce; OpenSSH sends 100

# Extensions of OpenSSH.
FSYNC: Final = "fsync@openssh.com"
HARDLINK: Final = "hardlink@openssh.com"
LIMITS: Final = "limits@openssh.com"
STATVFS: Final = "statvfs@openssh.com"

_HEAD: Final = struct.Struct(">IBI")  # length of all that follows the length, type, id
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")


class WireError(Exception):
    """Not what an SFTP server answers."""


class Op(IntEnum):
    """Packet types."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    STAT = 17
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Code(IntEnum):
    """What a STATUS reply says; others exist and mean failure."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


class OpenFlag(IntFlag):
    """How OPEN opens."""

    READ = 0x01
    WRITE = 0x02
    CREATE = 0x08
    EXCLUSIVE = 0x20


class _Attr(IntEnum):  # an IntFlag's & costs as much as all of a small packet's parsing
    SIZE = 0x01
    OWNER = 0x02
    PERMISSIONS = 0x04
    TIMES = 0x08
    EXTENDED = 0x8000_0000


@dataclass(frozen=True, slots=True)
class Request:
    """One request without length and id, which the channel adds."""

    op: Op
    body: bytes
    payload: Sequence[memoryview] = ()  # follows the body; not copied

    def head(self, request_id: int) -> bytes:
        """Return all of the packet but the payload."""
        length = 5 + len(self.body) + sum(map(len, self.payload))
        return _HEAD.pack(length, self.op, request_id) + self.body


@dataclass(frozen=True, slots=True)
class Attrs:
    """What a server says of a file; None: it does not say."""

    size: int | None  # bytes
    mode: int | None
    mtime_s: int | None

    @property
    def is_folder(self) -> bool:
        """Whether it is known to be a folder."""
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file, as far as the server says what it is."""
        return self.mode is None or not stat.S_IFMT(self.mode) or stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes (limits@openssh.com); 0: it does not say."""

    packet_len: int  # bytes
    read_len: int
    write_len: int
    handles: int


# --- requests --------------------------------------------------------------------


def init_packet() -> bytes:
    """Return the first packet of a session, the only one without an id."""
    return _HEAD.pack(5, Op.INIT, VERSION)


def open_file(path: str, flags: OpenFlag, mode: int | None = None) -> Request:
    """Return the request to open *path*; a file it makes gets *mode*."""
    attrs = _mode_attrs(mode)
    return Request(Op.OPEN, _string(_path(path)) + _U32.pack(flags) + attrs)


def open_folder(path: str) -> Request:
    """Return the request for a handle to list *path*."""
    return Request(Op.OPENDIR, _string(_path(path)))


def read_folder(handle: bytes) -> Request:
    """Return the request for the next entries of a folder."""
    return Request(Op.READDIR, _string(handle))


def close(handle: bytes) -> Request:
    """Return the request to let go of *handle*."""
    return Request(Op.CLOSE, _string(handle))


def read(handle: bytes, offset: int, length: int) -> Request:
    """Return the request for *length* bytes from *offset* on."""
    return Request(Op.READ, _string(handle) + _U64.pack(offset) + _U32.pack(length))


def write(handle: bytes, offset: int, payload: Sequence[memoryview]) -> Request:
    """Return the request to write the pieces of *payload* at *offset*."""
    length = sum(map(len, payload))
    return Request(Op.WRITE, _string(handle) + _U64.pack(offset) + _U32.pack(length), payload)


def lstat(path: str) -> Request:
    """Return the request for the attributes of *path*, no symlink followed at its end."""
    return Request(Op.LSTAT, _string(_path(path)))


def stat_path(path: str) -> Request:
    """Return the request for the attributes of what *path* leads to."""
    return Request(Op.STAT, _string(_path(path)))


def remove(path: str) -> Request:
    """Return the request to remove the file *path*."""
    return Request(Op.REMOVE, _string(_path(path)))


def make_folder(path: str, mode: int) -> Request:
    """Return the request to make the folder *path*."""
    return Request(Op.MKDIR, _string(_path(path)) + _mode_attrs(mode))


def rename(old: str, new: str) -> Request:
    """Return the request to rename, which must fail where *new* exists (OpenSSH's does)."""
    return Request(Op.RENAME, _string(_path(old)) + _string(_path(new)))


def hardlink(old: str, new: str) -> Request:
    """Return the request for a second name (``HARDLINK``)."""
    return _extended(HARDLINK, _string(_path(old)) + _string(_path(new)))


def fsync(handle: bytes) -> Request:
    """Return the request to make a file durable (``FSYNC``)."""
    return _extended(FSYNC, _string(handle))


def limits() -> Request:
    """Return the request for what the server takes (``LIMITS``)."""
    return _extended(LIMITS, b"")


def statvfs(path: str) -> Request:
    """Return the request for the figures of the disk under *path* (``STATVFS``)."""
    return _extended(STATVFS, _string(_path(path)))


def payloads(pieces: Sequence[memoryview], length: int) -> list[list[memoryview]]:
    """Cut *pieces* into lists of *length* bytes each, none copied; the last may be shorter."""
    payloads: list[list[memoryview]] = []
    room = 0
    for piece in pieces:
        while piece:
            if not room:
                payloads.append([])
                room = length
            payloads[-1].append(piece[:room])
            room -= len(payloads[-1][-1])
            piece = piece[len(payloads[-1][-1]) :]
    return payloads


def _extended(name: str, body: bytes) -> Request:
    return Request(Op.EXTENDED, _string(name.encode()) + body)


def _string(data: bytes) -> bytes:
    return _U32.pack(len(data)) + data


def _path(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _mode_attrs(mode: int | None) -> bytes:
    if mode is None:
        return _U32.pack(0)
    return _U32.pack(_Attr.PERMISSIONS) + _U32.pack(mode)


# --- replies ---------------------------------------------------------------------


class _Cursor:
    """Takes values off the front of a reply's body."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._body = memoryview(body)
        self._at = 0

    def take(self, length: int) -> memoryview:
        if length > len(self._body) - self._at:
            raise WireError(f"a reply is cut off: {len(self._body)} bytes")
        self._at += length
        return self._body[self._at - length : self._at]

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def string(self) -> bytes:
        return bytes(self.take(self.u32()))

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._body)


def parse_version(body: bytes) -> dict[str, bytes]:
    """Return the extensions a VERSION reply (its body, version number first) offers."""
    cursor = _Cursor(body)
    version = cursor.u32()
    if version < VERSION:
        raise WireError(f"the server speaks SFTP version {version}; expected {VERSION}")
    extensions = {}
    while not cursor.is_at_end:
        name = cursor.string().decode("utf-8", "replace")
        extensions[name] = cursor.string()
    return extensions


def parse_status(body: bytes) -> tuple[int, str]:
    """Return code and message of a STATUS reply; the message may be missing."""
    cursor = _Cursor(body)
    code = cursor.u32()
    if cursor.is_at_end:  # servers of old leave it out
        return code, ""
    return code, cursor.string().decode("utf-8", "replace")


def parse_handle(body: bytes) -> bytes:
    """Return the handle of a HANDLE reply."""
    handle = _Cursor(body).string()
    if len(handle) > 256:  # the draft's bound
        raise WireError(f"a handle of {len(handle)} bytes")
    return handle


def parse_attrs(body: bytes) -> Attrs:
    """Return what an ATTRS reply says."""
    return _attrs(_Cursor(body))


def parse_names(body: bytes) -> list[tuple[str, Attrs]]:
    """Return the entries of a NAME reply; names as the server spells them."""
    cursor = _Cursor(body)
    count = cursor.u32()
    if count > NAMES_MAX:
        raise WireError(f"a listing of {count} names in one reply")
    entries = []
    for _ in range(count):
        name = cursor.string().decode("utf-8", "surrogateescape")
        cursor.string()  # as "ls -l" shows it, for people
        entries.append((name, _attrs(cursor)))
    return entries


def parse_limits(body: bytes) -> Limits:
    """Return what the reply to :func:`limits` says."""
    cursor = _Cursor(body)
    return Limits(cursor.u64(), cursor.u64(), cursor.u64(), cursor.u64())


def parse_room(body: bytes) -> tuple[int, int]:
    """Return from the reply to :func:`statvfs` the bytes and files that we may still add."""
    cursor = _Cursor(body)
    figures = [cursor.u64() for _ in range(11)]
    _, fragment_len, _, _, available, _, _, files_available = figures[:8]
    return fragment_len * available, files_available


def _attrs(cursor: _Cursor) -> Attrs:
    flags = cursor.u32()
    size = cursor.u64() if flags & _Attr.SIZE else None
    if flags & _Attr.OWNER:
        cursor.take(8)
    mode = cursor.u32() if flags & _Attr.PERMISSIONS else None
    mtime_s = None
    if flags & _Attr.TIMES:
        cursor.u32()
        mtime_s = cursor.u32()
    if flags & _Attr.EXTENDED:
        for _ in range(cursor.u32()):
            cursor.string()
            cursor.string()
    return Attrs(size, mode, mtime_s)
