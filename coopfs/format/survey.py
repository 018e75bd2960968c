"""Tree nodes surveyed: as thoroughly verified as when read, at a third of the cost.

A check decodes every node of every snapshot, but wants only sums, and the chunks and
folders they name.  A pattern finds the usual entries, plain files, folders and symlinks, as they
are spelled canonically (coopfs-format(5), "Encoding" and "Tree"): what it matches is what a
reader would have accepted.  Where one entry of a node is not matched, all of that node is
decoded as a reader does it, which then says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from operator import lt
from typing import Final, NamedTuple

from blake3 import blake3

from coopfs.format import encoding
from coopfs.format.keys import ArchiveKeys
from coopfs.format.nodes import decode_node, decode_tree_items
from coopfs.format.tree import NO_NAMES, Entry

# Canonical msgpack of what an entry is made of; every number has one spelling only.
_SMALL: Final = rb"[\x00-\x7f]|\xcc[\x80-\xff]"
_MODE: Final = rb"(?:%b|\xcd[\x01-\x0f].)" % _SMALL  # at most 0o7777
_U32: Final = rb"(?:%b|\xcd[\x01-\xff].|\xce(?!\x00\x00).{4})" % _SMALL
_LONG: Final = rb"\xcf(?!\x00{4})[\x00-\x7f].{7}"
_U63: Final = rb"(?:%b|\xcd[\x01-\xff].|\xce(?!\x00\x00).{4}|%b)" % (_SMALL, _LONG)
# That a name ends where its length says is seen to afterwards.  None of the bytes that follow
# one may be in it: were there several ends to try, a hacked host's node of a few kilobytes
# would take years, as names, users and groups multiply.
_OWNERS: Final = rb"\x02%b\x03%b\x04%b\x05\xc4(.)([^\x00-\x08]*)\x06\xc4(.)([^\x00-\x08]*)" % (
    _MODE, _U32, _U32
)  # fmt: skip
_ID: Final = rb"\xc4\x20.{32}"
# All contents of up to 256 bytes, each with its length.
_INLINE: Final = rb"\xc4(?:%b)|\xc5\x01\x00.{256}" % b"|".join(
    re.escape(bytes((length,))) + b".{%d}" % length for length in range(256)
)
_FILE: Final = (
    rb"\x00%b\x07(?P<size>%b)\x08%b(?:\x11(?:\x92(?P=size)\xc4\x20(?P<id>.{32})"
    rb"|(?P<spans>(?:[\x94\x96\x98\x9a\x9c\x9e]|\xdc\x00[\x10-\x80])(?:%b%b){2,64}))"
    rb"|\x10(?P<inline>%b)|\x12\xc4\x20(?P<root>.{32}))"
) % (_OWNERS, _U63, _LONG, _U63, _ID, _INLINE)
_FOLDER: Final = rb"\x01%b\x08%b\x13\xc4\x20(?P<tree>.{32})\x14(?P<totals>\x93%b%b%b)" % (
    _OWNERS, _LONG, _U63, _U63, _U63
)  # fmt: skip
# A target has no NUL, so it reaches at most to the next entry's second byte.
_SYMLINK: Final = rb"\x02%b\x08%b\x0b\xc4(.)([^\x00]+?)(?=[\x89\x8a]\x00|\Z)" % (_OWNERS, _LONG)
_KINDS: Final = rb"(?(2)%b|(?:%b|%b))" % (_SYMLINK, _FILE, _FOLDER)
_ENTRY: Final = re.compile(
    rb"((?:(\x89)|\x8a)\x00\xc4(.)([^\x00-\x08/]+)\x01%b)" % _KINDS, re.DOTALL
)
_SPAN: Final = re.compile(rb"(%b)\xc4\x20(.{32})" % _U63, re.DOTALL)  # within what matched
_ARRAY_16: Final = 0xDC  # the first byte of a list of 16 and more
_BIN_8: Final = 0xC4  # the first byte of up to 255 bytes
# Places in what findall() gives.
_WHOLE, _NAME_LEN, _NAME = 0, 2, 3
_LINK_OWNERS: Final = slice(4, 8)
_TARGET: Final = slice(8, 10)
_FILE_OWNERS: Final = slice(10, 14)
_CONTENTS: Final = slice(14, 19)  # size, id, spans, inline, root
_FOLDER_OWNERS: Final = slice(19, 23)
_TREE, _TOTALS = 23, 24
_START: Final = b"\x82\x00\x00\x01"  # of a node of level 0; its entries follow


Folder = tuple[bytes, bytes, Sequence[int] | None]  # name, tree, totals where known


class Survey(NamedTuple):
    """What is in one node of a folder, in values that msgpack can hold.

    Chunk ids (32 bytes each, back to back) and lengths of spans pair up, in the order of
    the entries; holes are left out.
    """

    level: int
    entry_count: int  # at level 0; above: none
    first_name: bytes  # of the entries or children; empty: there are none
    last_name: bytes
    files: int  # entries that are no folders
    size: int  # bytes of those
    chunk_ids: bytes
    span_lens: Sequence[int]  # bytes
    folders: Sequence[Folder]
    rooted: Sequence[tuple[int, bytes]]  # files with a span tree: size, its root
    unsupported: Sequence[tuple[int, str]]  # entries of a newer version: size, why
    children: Sequence[tuple[bytes, bytes, int]]  # as TreeChild
    # Where not empty: a node surveyed before.  All chunks and span trees that this one refers
    # to and that are not named here, that one refers to as well.
    like: bytes = b""


class Usual(NamedTuple):
    """A usual entry, verified."""

    entry_len: int  # bytes in the node
    name: bytes
    size: int  # bytes; 0 of what is no plain file
    folder: Folder | None
    rooted: tuple[int, bytes] | None  # size and root of a span tree
    chunk_ids: bytes  # back to back
    span_lens: Sequence[int]  # bytes


def tree_nodes(
    keys: ArchiveKeys, chunk_ids: Iterable[bytes], lengths: Iterable[int], plain: memoryview
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (id, bytes) of what is a tree node by its id in a block of metadata."""
    id_key = keys.tree_id_key
    start = 0
    for chunk_id, length in zip(chunk_ids, lengths, strict=True):
        node = bytes(plain[start : start + length])
        start += length
        if blake3(node, key=id_key).digest() == chunk_id:  # as keys.tree_id(), sooner
            yield chunk_id, node


def survey_tree_node(node: bytes, what: str) -> Survey:
    """Verify an encoded tree node and return what is in it (ObjectCorrupt)."""
    return survey_usual(node, what) or survey_unusual(node, what)


def survey_usual(node: bytes, what: str) -> Survey | None:
    """Return what :func:`survey_tree_node` does if only the pattern is needed for it, else None.

    None too where something is amiss.
    """
    start, count = entries_at(node)
    found = usual_entries(node[start:], what) if count else None
    if found is None or len(found) != count:
        return None
    names = [entry.name for entry in found]
    return survey_of(found, found) if all(map(lt, names, names[1:])) else None


def survey_unusual(node: bytes, what: str) -> Survey:
    """Do as :func:`survey_tree_node`, as a reader does it."""
    level, items = decode_node(node, what)
    parsed = decode_tree_items(level, items, what)
    if level:
        children = parsed.children
        ends = (children[0].first_name, children[-1].first_name)
        return Survey(level, 0, *ends, 0, 0, b"", (), (), (), (), children)
    return _of_entries(parsed.entries)


def survey_of(entries: Sequence[Usual], new: Sequence[Usual], like: bytes = b"") -> Survey:
    """Return the survey of a node with these entries, one at least.

    *new* are those of them that the node it is *like* has not; all, where there is none.
    """
    folders = [entry[3] for entry in entries if entry[3]]
    return Survey(
        0,
        len(entries),
        entries[0].name,
        entries[-1].name,
        len(entries) - len(folders),
        sum([entry[2] for entry in entries]),
        b"".join([entry.chunk_ids for entry in new]),
        [length for entry in new for length in entry.span_lens],
        folders,
        [entry.rooted for entry in new if entry.rooted],
        (),
        (),
        like,
    )


def entries_at(node: bytes) -> tuple[int, int]:
    """Return where the entries of a node of level 0 begin, and how many there are; or 0, 0."""
    if not node.startswith(_START) or len(node) < len(_START) + 3:
        return 0, 0
    first = node[4]
    if 0x90 < first <= 0x9F:
        return 5, first & 15
    count = int.from_bytes(node[5:7], "big")
    return (7, count) if first == _ARRAY_16 and count > 15 else (0, 0)


def usual_entries(entries: bytes, what: str) -> list[Usual] | None:
    """Return the entries that these bytes are, one at least; in order or not.

    None where they are not all usual and verified.
    """
    rows = _ENTRY.findall(entries)
    if not rows:
        return None
    # By column: a tenth of the calls that going by row would take.
    columns: list[Sequence[bytes]] = list(zip(*rows, strict=True))
    names = columns[_NAME]
    packed_sizes, ids, spans, inlines, roots = columns[_CONTENTS]
    lens = list(map(len, columns[_WHOLE]))
    if sum(lens) != len(entries):
        return None  # something else between them
    if (
        list(map(len, names)) != list(b"".join(columns[_NAME_LEN]))
        or not NO_NAMES.isdisjoint(names)
        or not _fit(columns[_FILE_OWNERS])
    ):
        return None
    sizes = [_number(packed) for packed in packed_sizes if packed]
    folders: list[Folder | None] = [None] * len(rows)
    if len(sizes) < len(rows):  # some are no plain files
        if not all(_fit(columns[at]) for at in (_LINK_OWNERS, _TARGET, _FOLDER_OWNERS)):
            return None
        numbers = iter(sizes)
        sizes = [next(numbers) if packed else 0 for packed in packed_sizes]
        for place, tree in enumerate(columns[_TREE]):
            if tree:
                totals = encoding.decode(columns[_TOTALS][place], what)
                folders[place] = (names[place], tree, totals)
    if any(
        # Before the content stand the first byte of its length, and one or two of the length.
        len(inline) - (2 if inline[0] == _BIN_8 else 3) != size
        for size, inline in compress(zip(sizes, inlines, strict=True), inlines)
    ):
        return None
    contents = _contents(sizes, ids, spans)
    if contents is None:
        return None
    rooted = [(size, root) if root else None for size, root in zip(sizes, roots, strict=True)]
    found = zip(lens, names, sizes, folders, rooted, *contents, strict=True)
    return list(map(Usual._make, found))


def _fit(columns: Sequence[Sequence[bytes]]) -> bool:
    """Tell whether of each second column all have the length before it; empty: there is none."""
    return all(
        row[at][0] == len(row[at + 1])
        for row in {*zip(*columns, strict=True)}
        if row[0]
        for at in range(0, len(row), 2)
    )


def _contents(
    sizes: list[int], ids: Sequence[bytes], spans: Sequence[bytes]
) -> tuple[Sequence[bytes], Sequence[Sequence[int]]] | None:
    """Return (ids, lengths) of each entry's chunks; None where something is amiss."""
    lens: list[Sequence[int]] = [
        (size,) if chunk_id else () for size, chunk_id in zip(sizes, ids, strict=True)
    ]
    if (0,) in lens:
        return None
    all_ids = list(ids)
    for place, packed in enumerate(spans) if any(spans) else ():
        if packed:
            is_short = packed[0] != _ARRAY_16
            found = _SPAN.findall(packed, 1 if is_short else 3)
            if 2 * len(found) != (packed[0] & 15 if is_short else packed[2]):
                return None
            packed_lens, span_ids = zip(*found, strict=True)
            lens[place] = span_lens = list(map(_number, packed_lens))
            all_ids[place] = b"".join(span_ids)
            if sum(span_lens) != sizes[place] or not min(span_lens):
                return None
    return all_ids, lens


def _number(packed: bytes) -> int:
    """Return what one number's canonical bytes say."""
    return int.from_bytes(packed[1:]) if len(packed) > 1 else packed[0]


def _of_entries(entries: Sequence[Entry]) -> Survey:
    files = size = 0
    ids, lens = [], []
    folders, rooted, unsupported = [], [], []
    for entry in entries:
        if entry.tree is not None:
            folders.append((entry.name, entry.tree, entry.totals))
            continue
        files, size = files + 1, size + entry.size
        if entry.span_root is not None:
            rooted.append((entry.size, entry.span_root))
        elif entry.unsupported:
            unsupported.append((entry.size, entry.unsupported))
        for length, chunk_id in entry.spans or ():
            if chunk_id is not None:
                ids.append(chunk_id)
                lens.append(length)
    ends = (entries[0].name, entries[-1].name) if entries else (b"", b"")
    contents = (b"".join(ids), lens)
    return Survey(0, len(entries), *ends, files, size, *contents, folders, rooted, unsupported, ())
