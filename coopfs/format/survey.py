"""Tree nodes surveyed: as thoroughly verified as when read, at a third of the cost.

A check decodes every node of every snapshot, but wants only sums, and the chunks and
folders they name.  A pattern finds the usual entries, ordinary files and folders, as they
are spelled canonically (coopfs-format(5), "Encoding" and "Tree"): what it matches is what a
reader would have accepted.  Where one entry of a node is not matched, all of that node is
decoded as a reader does it, which then says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from operator import lt
from typing import Final, NamedTuple

from coopfs.errors import CoopfsError
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
# All contents of up to 255 bytes, each with its length.
_INLINE: Final = b"|".join(re.escape(bytes((length,))) + b".{%d}" % length for length in range(256))
_FILE: Final = (
    rb"\x00%b\x07(?P<size>%b)\x08%b(?:\x11(?:\x92(?P=size)\xc4\x20(?P<id>.{32})"
    rb"|(?P<spans>(?:[\x94\x96\x98\x9a\x9c\x9e]|\xdc\x00[\x10-\x80])(?:%b%b){2,64}))"
    rb"|\x10\xc4(?P<inline>%b)|\x12\xc4\x20(?P<root>.{32}))"
) % (_OWNERS, _U63, _LONG, _U63, _ID, _INLINE)
_FOLDER: Final = rb"\x01%b\x08%b\x13\xc4\x20(?P<tree>.{32})\x14(?P<totals>\x93%b%b%b)" % (
    _OWNERS, _LONG, _U63, _U63, _U63
)  # fmt: skip
_ENTRY: Final = re.compile(
    rb"(\x8a\x00\xc4(.)([^\x00-\x08/]+)\x01(?:%b|%b))" % (_FILE, _FOLDER), re.DOTALL
)
_SPAN: Final = re.compile(rb"(%b)\xc4\x20(.{32})" % _U63, re.DOTALL)  # within what matched
_ARRAY_16: Final = 0xDC  # the first byte of a list of 16 and more
# Places in what findall() gives, after the first three.
_FILE_OWNERS: Final = slice(0, 4)
_CONTENTS: Final = slice(4, 9)
_FOLDER_OWNERS: Final = slice(9, 13)
_START: Final = b"\x82\x00\x00\x01"  # of a node of level 0; its entries follow


class Survey(NamedTuple):
    """What is in one node of a folder, in values that msgpack can hold.

    Chunk ids (32 bytes each, back to back) and lengths of spans pair up; holes are left out.
    """

    level: int
    entry_count: int  # at level 0; above: none
    first_name: bytes  # of the entries or children; empty: there are none
    last_name: bytes
    files: int  # entries that are no folders
    size: int  # bytes of those
    chunk_ids: bytes
    span_lens: Sequence[int]  # bytes
    folders: Sequence[tuple[bytes, bytes, Sequence[int] | None]]  # name, tree, totals
    rooted: Sequence[tuple[int, bytes]]  # files with a span tree: size, its root
    unsupported: Sequence[tuple[int, str]]  # entries of a newer version: size, why
    children: Sequence[tuple[bytes, bytes, int]]  # as TreeChild


def survey_block(
    keys: ArchiveKeys, chunk_ids: Iterable[bytes], lengths: Iterable[int], plain: memoryview
) -> Iterator[tuple[bytes, Survey]]:
    """Yield (id, survey) of the tree nodes in a block of metadata; ids are verified.

    What is no tree node by its id, or not well-formed, is passed over: whoever needs it
    reads it by itself and learns what is wrong.
    """
    start = 0
    for chunk_id, length in zip(chunk_ids, lengths, strict=True):
        node = bytes(plain[start : start + length])
        start += length
        if keys.tree_id(node) == chunk_id:
            try:
                survey = survey_tree_node(node, "tree")
            except CoopfsError:
                continue
            yield chunk_id, survey


def survey_tree_node(node: bytes, what: str) -> Survey:
    """Verify an encoded tree node and return what is in it (ObjectCorrupt)."""
    found = survey_usual(node, what)
    if found is not None:
        return found
    level, items = decode_node(node, what)
    parsed = decode_tree_items(level, items, what)
    if level:
        children = parsed.children
        ends = (children[0].first_name, children[-1].first_name)
        return Survey(level, 0, *ends, 0, 0, b"", (), (), (), (), children)
    return _of_entries(parsed.entries)


def survey_usual(node: bytes, what: str) -> Survey | None:
    """Return what :func:`survey_tree_node` does if only the pattern is needed for it, else None.

    None too where something is amiss.
    """
    start, count = _entries_at(node)
    rows = _ENTRY.findall(node, start) if count else []
    if len(rows) != count or not rows:
        return None
    # By column: a tenth of the calls that going by row would take.
    wholes, name_lens, names, *columns = zip(*rows, strict=True)
    if sum(map(len, wholes)) != len(node) - start:
        return None  # something else between them
    if (
        bytes(map(len, names)) != b"".join(name_lens)
        or not NO_NAMES.isdisjoint(names)
        or not all(map(lt, names, names[1:]))
        or not _are_owners({*zip(*columns[_FILE_OWNERS], strict=True)})
    ):
        return None
    contents, (trees, totals) = columns[_CONTENTS], columns[-2:]
    folders: list[tuple[bytes, bytes, list[int]]] = []
    if any(trees):
        if not _are_owners({*zip(*columns[_FOLDER_OWNERS], strict=True)}):
            return None
        for name, tree, below in zip(names, trees, totals, strict=True):
            if tree:
                folders.append((name, tree, _numbers(below[1:], 3, what)))
        contents = list(zip(*[row for row in zip(*contents, strict=True) if row[0]], strict=True))
    ends = (names[0], names[-1])
    if not contents:
        return Survey(0, count, *ends, 0, 0, b"", (), folders, (), (), ())
    sizes, ids, spans, inlines, roots = contents
    values = _numbers(b"".join(sizes), len(sizes), what)
    size = sum(values)
    known = _chunks(values, ids, spans, inlines, what)
    if known is None:
        return None
    rooted = [pair for pair in zip(values, roots, strict=True) if pair[1]] if any(roots) else ()
    return Survey(0, count, *ends, len(values), size, *known, folders, rooted, (), ())


def _entries_at(node: bytes) -> tuple[int, int]:
    """Return where the entries of a node of level 0 begin, and how many there are; or 0, 0."""
    if not node.startswith(_START) or len(node) < len(_START) + 3:
        return 0, 0
    first = node[4]
    if 0x90 < first <= 0x9F:
        return 5, first & 15
    count = int.from_bytes(node[5:7], "big")
    return (7, count) if first == _ARRAY_16 and count > 15 else (0, 0)


def _are_owners(pairs: set[tuple[bytes, ...]]) -> bool:
    """Tell whether (length, user, length, group) fit each other; empty where there is none."""
    return all(
        user_len == bytes((len(user),)) and group_len == bytes((len(group),))
        for user_len, user, group_len, group in pairs
        if user_len
    )


def _numbers(packed: bytes, count: int, what: str) -> list[int]:
    """Return *count* numbers whose canonical bytes are *packed*."""
    header = encoding.encode([0] * count)[: -count or None]  # a list of so many
    numbers: list[int] = encoding.decode(header + packed, what)
    return numbers


def _chunks(
    sizes: list[int],
    ids: Sequence[bytes],
    spans: Sequence[bytes],
    inlines: Sequence[bytes],
    what: str,
) -> tuple[bytes, Sequence[int]] | None:
    """Return (chunk ids, lengths) of files' spans; None where something is amiss."""
    if b"" not in ids:
        return None if min(sizes) == 0 else (b"".join(ids), sizes)
    lens = [size for size, chunk_id in zip(sizes, ids, strict=True) if chunk_id]
    several: list[tuple[int, int]] = []  # files of several spans: size, how many
    pairs: list[tuple[bytes, bytes]] = []
    for size, packed, inline in zip(sizes, spans, inlines, strict=True):
        if inline and len(inline) - 1 != size:
            return None
        if packed:
            is_short = packed[0] != _ARRAY_16
            found = _SPAN.findall(packed, 1 if is_short else 3)
            if 2 * len(found) != (packed[0] & 15 if is_short else packed[2]):
                return None
            several.append((size, len(found)))
            pairs += found
    more = _numbers(b"".join([length for length, _ in pairs]), len(pairs), what)
    start = 0
    for size, count in several:
        if sum(more[start : start + count]) != size:
            return None
        start += count
    lens += more
    if lens and min(lens) == 0:
        return None
    return b"".join((*ids, *(chunk_id for _, chunk_id in pairs))), lens


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
