"""Tree entries: everything a folder knows of what is in it.

Pure functions between :class:`Entry` values and msgpack maps.  Folders as trees
of nodes are :mod:`coopfs.format.nodes`'.  Byte tables: coopfs-format(5), "Tree".
"""

from __future__ import annotations

from enum import IntEnum
from operator import is_
from typing import Any, Final, NamedTuple

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format.encoding import CRITICAL_KEY, I64_MAX, U64_MAX, Fields, fields_of
from coopfs.ids import ID_LEN, ChunkId, SpanNodeId, TreeId

INLINE_MAX: Final = 256  # bytes of content kept in the entry; longer gets a chunk
SPANS_MAX: Final = 64  # spans kept in the entry; more become a span tree
NAME_MAX: Final = 1024  # bytes; Linux allows 255, other systems 255 UTF-16 units
TARGET_MAX: Final = 1 << 16
OWNER_MAX: Final = 256  # bytes of a user's or group's name
XATTRS_MAX: Final = 4096
XATTR_VALUE_MAX: Final = 1 << 20
XATTRS_LEN_MAX: Final = 8 << 20  # bytes, names and values of one entry: a node is one chunk
HARD_LINK_ID_LEN: Final = 16


class Kind(IntEnum):
    """What an entry is."""

    FILE = 0
    FOLDER = 1
    SYMLINK = 2
    FIFO = 3
    SOCKET = 4
    CHAR_DEVICE = 5
    BLOCK_DEVICE = 6


_KINDS: Final = tuple(Kind)  # by number; faster than the enum's own look-up


class Span(NamedTuple):
    """A piece of a file: a chunk, or a hole (no id)."""

    length: int  # bytes
    chunk_id: ChunkId | None


class Totals(NamedTuple):
    """What lies below a folder, itself not counted."""

    files: int  # entries that are not folders
    folders: int
    size: int  # bytes of file content, holes included


class Entry(NamedTuple):
    """One name in a folder.

    A named tuple, not a dataclass: one is made for each of the 83,700 entries of
    a source tree on every `find`, and a frozen dataclass costs four times as much.
    Of a file's content exactly one of *inline*, *spans*, *span_root* is set.
    """

    name: bytes
    kind: Kind
    mode: int  # permission bits, 0 to 0o7777
    uid: int
    gid: int
    mtime_ns: int
    user: bytes = b""  # name of the owner, empty where unknown
    group: bytes = b""
    size: int = 0  # bytes, of a file
    birth_ns: int | None = None
    rdev: int = 0  # of a device node
    target: bytes = b""  # of a symlink
    xattrs: tuple[tuple[bytes, bytes], ...] = ()  # sorted by name; ACLs, capabilities too
    hard_link_id: bytes | None = None  # 16 bytes; equal within a group of links
    link_count: int = 1  # of the source, where hard_link_id is set
    data_len: int | None = None  # bytes that are not holes, where fewer than size
    inline: bytes | None = None
    spans: tuple[Span, ...] | None = None
    span_root: SpanNodeId | None = None
    tree: TreeId | None = None  # of a folder
    totals: Totals | None = None  # of a folder
    unsupported: str = ""  # why this entry cannot be read by this version; empty if it can


_KNOWN = frozenset(range(21))


def encode_entry(entry: Entry) -> Fields:
    """Return the map that is stored for *entry* (keys ascending, absent ones left out)."""
    fields: Fields = {0: entry.name, 1: int(entry.kind), 2: entry.mode, 3: entry.uid, 4: entry.gid}
    if entry.user or not entry.kind:
        fields[5] = entry.user
    if entry.group or not entry.kind:
        fields[6] = entry.group
    if entry.size or not entry.kind:
        fields[7] = entry.size
    fields[8] = entry.mtime_ns
    if entry.birth_ns is not None:
        fields[9] = entry.birth_ns
    if entry.kind:
        if entry.rdev:
            fields[10] = entry.rdev
        if entry.target:
            fields[11] = entry.target
    if entry.xattrs:
        fields[12] = [[name, value] for name, value in entry.xattrs]
    if entry.hard_link_id is not None:
        fields[13] = entry.hard_link_id
        fields[14] = entry.link_count
    if entry.data_len is not None:
        fields[15] = entry.data_len
    if entry.inline is not None:
        fields[16] = entry.inline
    elif entry.spans is not None:
        fields[17] = flatten_spans(entry.spans)
    elif entry.span_root is not None:
        fields[18] = entry.span_root
    elif entry.tree is not None:
        fields[19] = entry.tree
        if entry.totals is not None:
            fields[20] = list(entry.totals)
    return fields


def decode_entry(value: Any, what: str) -> Entry:
    """Parse one stored entry; an unknown critical key makes it *unsupported*, not the tree.

    Raises:
        ObjectCorrupt: anything malformed, out of bounds or ambiguous.
    """
    if (
        type(value) is dict
        and len(value) == len(WITH_SPANS)
        # By identity, as False == 0 == 0.0: small numbers are the same objects in CPython,
        # and elsewhere the slow way below decides.
        and all(map(is_, value, WITH_SPANS if 17 in value else WITH_INLINE))
    ):
        # Nine entries of ten; what is done here again is spelled out for speed (a `find`
        # over a source tree decodes 83,700 of them).
        name, number, mode, uid, gid, user, group, size, mtime_ns, content = value.values()
        if (
            type(number) is type(mode) is type(uid) is type(gid) is type(size) is int
            and type(mtime_ns) is int
            and number == 0
            and 0 <= mode <= 0o7777
            and 0 <= uid <= 0xFFFFFFFF
            and 0 <= gid <= 0xFFFFFFFF
            and 0 <= size <= I64_MAX
            and -I64_MAX <= mtime_ns <= I64_MAX
            and type(name) is type(user) is type(group) is bytes
            and 0 not in name
            and 47 not in name  # a slash; a number is found five times as fast as b"/"
            and name not in NO_NAMES
            and len(name) <= NAME_MAX
            and 0 not in user
            and 0 not in group
            and len(user) <= OWNER_MAX
            and len(group) <= OWNER_MAX
        ):
            inline = spans = None
            if 17 in value:
                spans = _content_spans(content, size, what)
            elif type(content) is bytes and len(content) == size:
                inline = content
            else:
                raise ObjectCorrupt(f"{what}: inline content of the wrong length")
            # What Entry() does, without its Python function; the fields not here have their
            # defaults.
            return _new_tuple(
                Entry,
                (
                    name, _KINDS[0], mode, uid, gid, mtime_ns, user, group, size,
                    None, 0, b"", (), None, 1, None, inline, spans, None, None, None, "",
                ),
            )  # fmt: skip
    return _decode_any_entry(value, what)


# The fields of an ordinary file, in order; a survey verifies them by column.
WITH_INLINE: Final = (*range(9), 16)
WITH_SPANS: Final = (*range(9), 17)
_new_tuple: Final = tuple.__new__


def _decode_any_entry(value: Any, what: str) -> Entry:
    try:
        f = fields_of(value, what, _KNOWN)
        unsupported = ""
    except FormatUnsupported as exc:
        f = {key: item for key, item in value.items() if key < CRITICAL_KEY}
        unsupported = str(exc)
    name = f.get(0)
    if type(name) is not bytes or not is_entry_name(name):
        raise ObjectCorrupt(f"{what}: an entry has a name that is not allowed")
    what = f"{what}: entry {name!r}"
    number = _required_int(f, 1, what, 0, 255)
    if number >= len(_KINDS):
        if not unsupported:
            raise ObjectCorrupt(f"{what}: unknown kind of file")
        number = 0
    entry = Entry(
        name=name,
        kind=_KINDS[number],
        mode=_required_int(f, 2, what, 0, 0o7777),
        uid=_required_int(f, 3, what, 0, 0xFFFFFFFF),
        gid=_required_int(f, 4, what, 0, 0xFFFFFFFF),
        mtime_ns=_required_int(f, 8, what, -I64_MAX, I64_MAX),
        user=_without_nul(f, 5, what, OWNER_MAX),
        group=_without_nul(f, 6, what, OWNER_MAX),
        size=_optional_int(f, 7, what, 0, I64_MAX) or 0,
        birth_ns=_optional_int(f, 9, what, -I64_MAX, I64_MAX),
        rdev=_optional_int(f, 10, what, 0, U64_MAX) or 0,
        target=_without_nul(f, 11, what, TARGET_MAX),
        xattrs=_decode_xattrs(f.get(12, []), what),
        hard_link_id=_optional_bin(f, 13, what, HARD_LINK_ID_LEN, exact=True),
        link_count=_optional_int(f, 14, what, 1, 0xFFFFFFFF) or 1,
        data_len=_optional_int(f, 15, what, 0, I64_MAX),
        unsupported=unsupported,
    )
    return entry if unsupported else entry._replace(**_decode_content(entry, f, what))


_FITTING: Final = {
    Kind.FILE: frozenset((7, 13, 14, 15, 16, 17, 18)),
    Kind.FOLDER: frozenset((19, 20)),
    Kind.SYMLINK: frozenset((7, 11, 13, 14)),
    Kind.FIFO: frozenset((13, 14)),
    Kind.SOCKET: frozenset((13, 14)),
    Kind.CHAR_DEVICE: frozenset((10, 13, 14)),
    Kind.BLOCK_DEVICE: frozenset((10, 13, 14)),
}
_OF_SOME_KINDS: Final = frozenset().union(*_FITTING.values())


def _decode_content(entry: Entry, f: Fields, what: str) -> dict[str, Any]:
    fitting = _FITTING.get(entry.kind, frozenset())
    if not _OF_SOME_KINDS.isdisjoint(f.keys() - fitting):
        raise ObjectCorrupt(f"{what}: has fields that do not fit its kind")
    contents = [key for key in (16, 17, 18, 19) if key in f]
    if len(contents) != (entry.kind in (Kind.FILE, Kind.FOLDER)):
        raise ObjectCorrupt(f"{what}: expected one content that fits its kind")
    if entry.kind is Kind.SYMLINK and not entry.target:
        raise ObjectCorrupt(f"{what}: a symlink without a target")
    if entry.data_len is not None and entry.data_len > entry.size:
        raise ObjectCorrupt(f"{what}: more data than its size")
    if 16 in f:
        return {"inline": _optional_bin(f, 16, what, entry.size, exact=True)}
    if 17 in f:
        return {"spans": _content_spans(f[17], entry.size, what)}
    if 18 in f:
        return {"span_root": _optional_bin(f, 18, what, ID_LEN, exact=True)}
    if 19 in f:
        tree = _optional_bin(f, 19, what, ID_LEN, exact=True)
        return {"tree": tree, "totals": _decode_totals(f.get(20), what)}
    return {}


def _content_spans(value: Any, size: int, what: str) -> tuple[Span, ...]:
    if type(value) is list and len(value) == 2 and value[0] == size:
        chunk_id = value[1]  # one chunk, the usual case
        if type(chunk_id) is bytes and len(chunk_id) == ID_LEN and type(value[0]) is int and size:
            return (_new_tuple(Span, (size, chunk_id)),)
    spans = unflatten_spans(value, what)
    if sum(span[0] for span in spans) != size:
        raise ObjectCorrupt(f"{what}: content does not add up to its size")
    return spans


NO_NAMES: Final = frozenset((b"", b".", b".."))


def is_entry_name(name: bytes) -> bool:
    """Tell whether *name* may stand in a folder: no slash, no NUL, not . or .."""
    return len(name) <= NAME_MAX and 0 not in name and 47 not in name and name not in NO_NAMES


def flatten_spans(spans: tuple[Span, ...]) -> list[int | bytes | None]:
    """Return [length, id or None, length, …] as stored."""
    return [item for span in spans for item in span]


def unflatten_spans(value: Any, what: str) -> tuple[Span, ...]:
    """Parse [length, id or None, …]; every length positive (ObjectCorrupt)."""
    if type(value) is not list or len(value) % 2:
        raise ObjectCorrupt(f"{what}: malformed spans")
    spans = []
    for place in range(0, len(value), 2):
        length, chunk_id = value[place], value[place + 1]
        if type(length) is not int or not 0 < length <= I64_MAX:
            raise ObjectCorrupt(f"{what}: a span's length is out of bounds")
        if chunk_id is not None and (type(chunk_id) is not bytes or len(chunk_id) != ID_LEN):
            raise ObjectCorrupt(f"{what}: malformed chunk id in a span")
        spans.append(Span(length, None if chunk_id is None else ChunkId(chunk_id)))
    return tuple(spans)


def _optional_int(f: Fields, key: int, what: str, low: int, high: int) -> int | None:
    value = f.get(key)
    if value is None and key not in f:
        return None
    if type(value) is not int or not low <= value <= high:
        raise ObjectCorrupt(f"{what}: field {key}: expected a number from {low} to {high}")
    return value


def _required_int(f: Fields, key: int, what: str, low: int, high: int) -> int:
    value = f.get(key)
    if type(value) is not int or not low <= value <= high:
        raise ObjectCorrupt(f"{what}: field {key}: expected a number from {low} to {high}")
    return value


def _optional_bin(
    f: Fields, key: int, what: str, limit: int, *, exact: bool = False
) -> bytes | None:
    value = f.get(key)
    if value is None and key not in f:
        return None
    if type(value) is not bytes or len(value) > limit or (exact and len(value) != limit):
        least = limit if exact else 0
        raise ObjectCorrupt(f"{what}: field {key}: expected {least} to {limit} bytes")
    return value


def _without_nul(f: Fields, key: int, what: str, limit: int) -> bytes:
    value = _optional_bin(f, key, what, limit) or b""
    if 0 in value:  # the system's calls would cut it there, or refuse it
        raise ObjectCorrupt(f"{what}: field {key}: a NUL byte")
    return value


def _decode_xattrs(value: Any, what: str) -> tuple[tuple[bytes, bytes], ...]:
    if type(value) is not list or len(value) > XATTRS_MAX:
        raise ObjectCorrupt(f"{what}: malformed extended attributes")
    pairs = []
    previous = b""
    for pair in value:
        if type(pair) is not list or [type(item) for item in pair] != [bytes, bytes]:
            raise ObjectCorrupt(f"{what}: malformed extended attribute")
        name, content = pair
        if name <= previous or 0 in name or len(name) > 255 or len(content) > XATTR_VALUE_MAX:
            raise ObjectCorrupt(f"{what}: extended attributes not sorted or out of bounds")
        previous = name
        pairs.append((name, content))
    if sum(len(name) + len(content) for name, content in pairs) > XATTRS_LEN_MAX:
        raise ObjectCorrupt(f"{what}: extended attributes out of bounds")
    return tuple(pairs)


def _decode_totals(value: Any, what: str) -> Totals | None:
    if value is None:
        return None
    if type(value) is not list or len(value) != 3:
        raise ObjectCorrupt(f"{what}: malformed totals")
    if any(type(number) is not int or not 0 <= number <= I64_MAX for number in value):
        raise ObjectCorrupt(f"{what}: totals out of bounds")
    return Totals(*value)
