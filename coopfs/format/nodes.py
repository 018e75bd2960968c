"""Folders and long files as trees of nodes with bounded fan-out.

Where a level is cut depends only on the items themselves (a keyed hash of the
entry's name, the span's own keyed id), within a minimum and a maximum, so one
insertion rewrites one path of nodes.  Pure: nodes go out through a callback.
coopfs-format(5), "Nodes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple

from blake3 import blake3

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.tree import (
    Entry,
    Span,
    decode_entry,
    encode_entry,
    flatten_spans,
    is_entry_name,
    unflatten_spans,
)
from coopfs.ids import ID_LEN, ChunkId, SpanNodeId, TreeId

ENTRY_MIN: Final = 256  # items of a tree node
ENTRY_MASK: Final = 0x3FF  # cuts once in 1,024 after the minimum
ENTRY_MAX: Final = 4096
SPAN_MIN: Final = 256
SPAN_MASK: Final = 0x3FF
SPAN_MAX: Final = 4096
NODE_BYTES_MAX: Final = 1 << 20  # a node is cut before it grows beyond (xattrs, inline files)
MAX_LEVEL: Final = 12
MAX_ITEMS: Final = 1 << 16  # accepted in one node
_KNOWN = frozenset((0, 1))


class TreeChild(NamedTuple):
    """A pointer from an interior tree node."""

    first_name: bytes
    tree_id: TreeId
    entry_count: int  # entries below


class SpanChild(NamedTuple):
    """A pointer from an interior span node."""

    length: int  # bytes of content below
    node_id: SpanNodeId


class TreeNode(NamedTuple):
    """One decoded node of a folder: entries at level 0, children above."""

    level: int
    entries: tuple[Entry, ...]
    children: tuple[TreeChild, ...]


class SpanNode(NamedTuple):
    """One decoded node of a span tree: spans at level 0, children above."""

    level: int
    spans: tuple[Span, ...]
    children: tuple[SpanChild, ...]


class TreeBuilder:
    """Builds a folder's nodes while it is being read; memory stays bounded."""

    def __init__(self, cut_key: bytes, save_node: Callable[[bytes], TreeId]) -> None:
        """*cut_key* is the archive's tree id key; *save_node* stores one encoded node."""
        self._cut_key = cut_key
        self._save_node = save_node
        self._leaf: list[encoding.Fields] = []
        self._leaf_name = b""
        self._leaf_size = 0  # bytes, roughly
        self._levels: list[list[TreeChild]] = []  # open nodes above the leaf, lowest first

    def add(self, entry: Entry) -> None:
        """Append *entry*; names must ascend."""
        size = _rough_len(entry)
        count = len(self._leaf)
        if count and (
            count >= ENTRY_MAX
            or self._leaf_size + size > NODE_BYTES_MAX
            or (count >= ENTRY_MIN and _cuts_before(self._cut_key, 0, entry.name, ENTRY_MASK))
        ):
            self._close_leaf()
        if not self._leaf:
            self._leaf_name = entry.name
        self._leaf.append(encode_entry(entry))
        self._leaf_size += size

    def _close_leaf(self) -> None:
        tree_id = self._save_node(encoding.encode({0: 0, 1: self._leaf}))
        child = TreeChild(self._leaf_name, tree_id, len(self._leaf))
        self._leaf, self._leaf_size = [], 0
        self._add_child(0, child)

    def _add_child(self, below: int, child: TreeChild) -> None:
        """Append *child*, a node of level *below*, to the open node above it."""
        if below == len(self._levels):
            self._levels.append([])
        group = self._levels[below]
        if len(group) >= ENTRY_MAX or (
            len(group) >= ENTRY_MIN
            and _cuts_before(self._cut_key, below + 1, child.first_name, ENTRY_MASK)
        ):
            self._close_level(below)
            group = self._levels[below]
        group.append(child)

    def _close_level(self, below: int) -> None:
        group = self._levels[below]
        self._levels[below] = []
        node = encoding.encode({0: below + 1, 1: [list(child) for child in group]})
        count = sum(child.entry_count for child in group)
        self._add_child(below + 1, TreeChild(group[0].first_name, self._save_node(node), count))

    def finish(self) -> TreeId:
        """Store what is open and return the topmost node's id."""
        if self._leaf or not self._levels:
            self._close_leaf()
        below = 0
        while below + 1 < len(self._levels) or len(self._levels[below]) > 1:
            if self._levels[below]:
                self._close_level(below)
            below += 1
        return self._levels[below][0].tree_id

    def copy(self) -> TreeBuilder:
        """Return a builder that can be finished while this one goes on."""
        other = TreeBuilder(self._cut_key, self._save_node)
        other._leaf = list(self._leaf)
        other._leaf_name = self._leaf_name
        other._leaf_size = self._leaf_size
        other._levels = [list(group) for group in self._levels]
        return other


def build_tree(
    entries: Iterable[Entry], cut_key: bytes, save_node: Callable[[bytes], TreeId]
) -> TreeId:
    """Store a folder's *entries* (ascending by name) as nodes; return the topmost one's id."""
    builder = TreeBuilder(cut_key, save_node)
    for entry in entries:
        builder.add(entry)
    return builder.finish()


def _rough_len(entry: Entry) -> int:
    size = 96 + len(entry.name) + len(entry.target)
    if entry.inline is not None:
        size += len(entry.inline)
    elif entry.spans is not None:
        size += 40 * len(entry.spans)
    if entry.xattrs:
        size += sum(len(name) + len(value) + 8 for name, value in entry.xattrs)
    return size


def _cuts_before(cut_key: bytes, level: int, name: bytes, mask: int) -> bool:
    digest = blake3(bytes((level,)) + name, key=cut_key).digest(4)
    return int.from_bytes(digest, "big") & mask == 0


class SpanTreeBuilder:
    """Builds a span tree while its file is being read; memory stays bounded."""

    def __init__(self, save_node: Callable[[bytes], SpanNodeId]) -> None:
        """*save_node* stores one encoded span node and returns its id."""
        self._save_node = save_node
        self._levels: list[list[Any]] = [[]]

    def add(self, span: Span) -> None:
        """Append *span* to the file."""
        leaf = self._levels[0]
        leaf.append(span)
        if _ends_node(len(leaf), span.chunk_id):
            self._close(0)

    def _close(self, level: int) -> None:
        items = self._levels[level]
        self._levels[level] = []
        node = encoding.encode({0: level, 1: flatten_spans(tuple(items))})
        child = SpanChild(sum(item[0] for item in items), self._save_node(node))
        if level + 1 == len(self._levels):
            self._levels.append([])
        above = self._levels[level + 1]
        above.append(child)
        if _ends_node(len(above), child.node_id):
            self._close(level + 1)

    def finish(self) -> SpanNodeId:
        """Store what is open and return the root; at least one span was added."""
        level = 0
        while True:
            items = self._levels[level]
            is_top = level + 1 == len(self._levels)
            if is_top and level > 0 and len(items) == 1:
                root: SpanNodeId = items[0].node_id
                return root
            if items:
                self._close(level)
            level += 1


def _ends_node(count: int, keyed_id: bytes | None) -> bool:
    if count >= SPAN_MAX:
        return True
    # The id is a keyed hash already; its last bytes decide.
    return (
        count >= SPAN_MIN
        and keyed_id is not None
        and int.from_bytes(keyed_id[-4:], "big") & SPAN_MASK == 0
    )


def decode_tree_node(node: bytes, what: str) -> TreeNode:
    """Parse a tree node: names strictly ascending, level and sizes bounded (ObjectCorrupt)."""
    return decode_tree_items(*decode_node(node, what), what)


def decode_tree_items(level: int, items: list[Any], what: str) -> TreeNode:
    """Parse the items of a tree node (ObjectCorrupt)."""
    if level and not items:
        raise ObjectCorrupt(f"{what}: an inner node without children")
    if level == 0:
        entries = tuple([decode_entry(item, what) for item in items])
        _check_ascending([entry.name for entry in entries], what)
        return TreeNode(0, entries, ())
    children = []
    for item in items:
        if (
            type(item) is not list
            or [type(part) for part in item] != [bytes, bytes, int]
            or not is_entry_name(item[0])
            or len(item[1]) != ID_LEN
            or not 0 < item[2] <= encoding.I64_MAX
        ):
            raise ObjectCorrupt(f"{what}: malformed pointer to a node")
        children.append(TreeChild(item[0], TreeId(item[1]), item[2]))
    _check_ascending([child.first_name for child in children], what)
    return TreeNode(level, (), tuple(children))


def decode_span_node(node: bytes, what: str) -> SpanNode:
    """Parse a span node (ObjectCorrupt)."""
    level, items = decode_node(node, what)
    spans = unflatten_spans(items, what)
    if not spans:
        raise ObjectCorrupt(f"{what}: an empty span node")
    if level == 0:
        return SpanNode(0, spans, ())
    children = []
    for length, node_id in spans:
        if node_id is None:
            raise ObjectCorrupt(f"{what}: a pointer without an id")
        children.append(SpanChild(length, SpanNodeId(node_id)))
    return SpanNode(level, (), tuple(children))


def decode_node(node: bytes, what: str) -> tuple[int, list[Any]]:
    """Return the level of a tree or span node and its items, not parsed yet (ObjectCorrupt)."""
    fields = encoding.fields_of(encoding.decode(node, what), what, _KNOWN)
    level = encoding.u64(fields, 0, what, limit=MAX_LEVEL)
    items = fields.get(1)
    if type(items) is not list or len(items) > MAX_ITEMS:
        raise ObjectCorrupt(f"{what}: malformed node")
    return level, items


def _check_ascending(names: list[bytes], what: str) -> None:
    if any(a >= b for a, b in pairwise(names)):
        raise ObjectCorrupt(f"{what}: names are not in ascending order")


def iter_entries(root: TreeId, load_node: Callable[[TreeId], TreeNode]) -> Iterator[Entry]:
    """Yield all entries of the folder whose topmost node is *root*, in name order.

    Raises:
        ObjectCorrupt: a node is not what the one above says of it.
    """
    node = load_node(root)
    yield from node.entries
    last = b""
    for leaf in _leaves(node, load_node):
        # Checked across nodes too: a name that comes twice, a folder once and once a
        # symlink, is how a restore would be led astray.
        if leaf.entries[0].name <= last:
            raise ObjectCorrupt(f"tree {root.hex()[:8]}: names are not in ascending order")
        yield from leaf.entries
        last = leaf.entries[-1].name


def _leaves(node: TreeNode, load_node: Callable[[TreeId], TreeNode]) -> Iterator[TreeNode]:
    for child in node.children:
        below = load_tree_child(child, node.level, load_node)
        if below.level:
            yield from _leaves(below, load_node)
        else:
            yield below


def load_tree_child(
    child: TreeChild, level: int, load_node: Callable[[TreeId], TreeNode]
) -> TreeNode:
    """Return the node *child* points to from a node of *level*; it must be as announced.

    Raises:
        ObjectCorrupt: another level, first name or number of entries.
    """
    node = load_node(child.tree_id)
    if node.level:
        first, count = node.children[0].first_name, sum(item.entry_count for item in node.children)
    else:
        first, count = node.entries[0].name if node.entries else b"", len(node.entries)
    if (node.level, first, count) != (level - 1, child.first_name, child.entry_count):
        raise ObjectCorrupt(f"tree {child.tree_id.hex()[:8]}: is not what the node above it says")
    return node


def find_entry(root: TreeId, name: bytes, load_node: Callable[[TreeId], TreeNode]) -> Entry | None:
    """Return the entry called *name*, or None; reads one path of nodes (ObjectCorrupt)."""
    node = load_node(root)
    while node.level:
        chosen = None
        for child in node.children:
            if child.first_name > name:
                break
            chosen = child
        if chosen is None:
            return None
        node = load_tree_child(chosen, node.level, load_node)
    for entry in node.entries:
        if entry.name == name:
            return entry
    return None


def iter_spans(
    root: SpanNodeId, load_node: Callable[[SpanNodeId], SpanNode], size: int | None = None
) -> Iterator[Span]:
    """Yield all spans below *root*, in file order; they must add up to *size* if given.

    Raises:
        ObjectCorrupt: they do not, or a node is not what the one above says of it.
    """
    node = load_node(root)
    if size is not None and _length_of(node) != size:
        raise ObjectCorrupt(f"span tree {root.hex()[:8]}: does not add up to {size} bytes")
    yield from node.spans
    yield from _spans_below(node, load_node)


def _spans_below(node: SpanNode, load_node: Callable[[SpanNodeId], SpanNode]) -> Iterator[Span]:
    for child in node.children:
        below = load_span_child(child, node.level, load_node)
        yield from below.spans
        yield from _spans_below(below, load_node)


def load_span_child(
    child: SpanChild, level: int, load_node: Callable[[SpanNodeId], SpanNode]
) -> SpanNode:
    """Return the node *child* points to from a node of *level*; it must be as announced.

    Raises:
        ObjectCorrupt: another level or length.
    """
    node = load_node(child.node_id)
    if node.level != level - 1 or _length_of(node) != child.length:
        raise ObjectCorrupt(
            f"span tree {child.node_id.hex()[:8]}: is not what the node above it says"
        )
    return node


def _length_of(node: SpanNode) -> int:
    return sum(item[0] for item in node.spans or node.children)


def chunk_ids_of(entry: Entry) -> Iterator[ChunkId]:
    """Yield the chunk ids that stand in *entry* itself (not those of a span tree)."""
    for span in entry.spans or ():
        if span.chunk_id is not None:
            yield span.chunk_id
