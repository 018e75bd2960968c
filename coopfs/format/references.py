"""What the nodes of trees refer to, and nothing else: for a prune, which reads all there are.

What is not looked at here a reader refuses later, which loses nothing.  What could hide a
reference is refused here.  A pattern finds the references of usual entries in a quarter of
the time that decoding takes.  All lengths count in it, so whatever a name or a file has in
it, where entries begin and end is what a reader would say.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format.encoding import CRITICAL_KEY, decode, fields_of
from coopfs.ids import ID_LEN

_KNOWN: Final = frozenset(range(2))


class References(NamedTuple):
    """The ids a tree node names."""

    trees: list[bytes]  # folders in it, or nodes of the same folder
    chunks: bytes  # of files with few spans; ids back to back
    span_roots: list[bytes]  # of files with many


def _bytes_of(lens: range) -> bytes:
    """Return a pattern for a byte string of any of these lengths, up to 255."""
    choices = b"|".join(re.escape(bytes((length,))) + b".{%d}" % length for length in lens)
    return rb"\xc4(?:%b)" % choices


# Canonical msgpack of what usual entries have; every number has one spelling only.
_SMALL: Final = rb"[\x00-\x7f]|\xcc[\x80-\xff]"
_U32: Final = rb"(?:%b|\xcd[\x01-\xff].|\xce(?!\x00\x00).{4})" % _SMALL
_LONG: Final = rb"\xcf(?!\x00{4})[\x00-\x7f].{7}"
_U63: Final = rb"(?:%b|\xcd[\x01-\xff].|\xce(?!\x00\x00).{4}|%b)" % (_SMALL, _LONG)
_SPAN: Final = rb"%b\xc4\x20.{32}" % _U63
_NAME: Final = _bytes_of(range(1, 64))
_OWNERS: Final = rb"\x02%b\x03%b\x04%b\x05%b\x06%b" % (
    _U32, _U32, _U32, _bytes_of(range(33)), _bytes_of(range(33))
)  # fmt: skip
# Several spans are a list of twice as many items: up to seven, or 8 to 64.
_SPANS: Final = rb"(?:[\x94\x96\x98\x9a\x9c\x9e]|\xdc\x00[\x10-\x80])(?:%b){2,64}" % _SPAN
_CONTENT: Final = rb"(?:\x11(?:\x92%b\xc4\x20(.{32})|(%b))|\x10%b|\x12\xc4\x20(.{32}))" % (
    _U63, _SPANS, _bytes_of(range(256))
)  # fmt: skip
_FILE: Final = rb"\x00%b\x07%b\x08%b%b" % (_OWNERS, _U63, _LONG, _CONTENT)
_FOLDER: Final = rb"\x01%b\x08%b\x13\xc4\x20(.{32})\x14\x93%b%b%b" % (
    _OWNERS, _LONG, _U63, _U63, _U63
)  # fmt: skip
_SYMLINK: Final = rb"\x02%b\x08%b\x0b%b" % (_OWNERS, _LONG, _bytes_of(range(1, 256)))
_ENTRY: Final = re.compile(
    rb"\x8a\x00%b\x01(?:%b|%b)|\x89\x00%b\x01%b" % (_NAME, _FILE, _FOLDER, _NAME, _SYMLINK),
    re.DOTALL,
)
_SPAN_ID: Final = re.compile(rb"%b\xc4\x20(.{32})" % _U63, re.DOTALL)
_START: Final = b"\x82\x00\x00\x01"  # of a node of level 0; its entries follow
_LEAST_LEN: Final = 7  # bytes; what is shorter has no entries
_ARRAY_16: Final = 0xDC  # the first byte of a list of 16 and more


def tree_references(node: bytes, what: str) -> References:
    """Return what a tree node refers to.

    Raises:
        ObjectCorrupt: it is not understood.
        FormatUnsupported: an entry has content of a kind that only a newer version knows.
    """
    usual = _of_usual(node)
    if usual is not None:
        return usual
    trees: list[bytes] = []
    chunks: list[bytes] = []
    span_roots: list[bytes] = []
    fields = fields_of(decode(node, what), what, _KNOWN)
    items = fields.get(1)
    if type(items) is not list:
        raise ObjectCorrupt(f"{what}: malformed node")
    try:
        if fields.get(0):
            trees.extend(_id(item[1], what) for item in items)
            return References(trees, b"", [])
        for item in items:
            # Keys ascend, or no reader takes the entry.
            if next(reversed(item)) >= CRITICAL_KEY:
                raise FormatUnsupported(
                    f"{what}: entry {item.get(0)!r} has the critical key {next(reversed(item))}, "
                    "which this version does not know; a newer coopfs is needed to read it"
                )
            spans = item.get(17)
            if spans is not None:
                for chunk_id in spans[1::2]:
                    if type(chunk_id) is bytes and len(chunk_id) == ID_LEN:
                        chunks.append(chunk_id)
                    elif chunk_id is not None:
                        raise ObjectCorrupt(f"{what}: malformed chunk id in a span")
            elif 16 in item:
                continue
            if 18 in item:
                span_roots.append(_id(item[18], what))
            if 19 in item:
                trees.append(_id(item[19], what))
    except (TypeError, AttributeError, IndexError, KeyError, StopIteration) as exc:
        raise ObjectCorrupt(f"{what}: malformed entry or pointer") from exc
    return References(trees, b"".join(chunks), span_roots)


def _of_usual(node: bytes) -> References | None:
    """Return what a node refers to if all its entries are usual ones, else None."""
    if not node.startswith(_START) or len(node) < _LEAST_LEN:
        return None
    is_short = 0x90 < node[4] <= 0x9F
    if not is_short and node[4] != _ARRAY_16:
        return None
    count = node[4] & 15 if is_short else int.from_bytes(node[5:7], "big")
    # In turn what lies between two entries and the four groups of one.
    parts = _ENTRY.split(node[5 if is_short else 7 :])
    if len(parts) != 5 * count + 1 or any(parts[::5]):
        return None
    chunks = b"".join(filter(None, parts[1::5]))
    for packed in filter(None, parts[2::5]):
        is_short = packed[0] != _ARRAY_16
        span_ids = _SPAN_ID.findall(packed, 1 if is_short else 3)
        if 2 * len(span_ids) != (packed[0] & 15 if is_short else packed[2]):
            return None
        chunks += b"".join(span_ids)
    return References([*filter(None, parts[4::5])], chunks, [*filter(None, parts[3::5])])


def _id(value: Any, what: str) -> bytes:
    if type(value) is not bytes or len(value) != ID_LEN:
        raise ObjectCorrupt(f"{what}: malformed id")
    return value
