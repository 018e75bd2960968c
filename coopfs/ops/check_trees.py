"""Trees under check: every node of every snapshot once, and who is hurt by damage.

Owns the walk from the snapshots' roots down to the chunks, and the paths of what
cannot be read.  Nodes are told apart by id, so a tree that many snapshots share is
walked once; memory is about 200 bytes a node.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import ChunkCorrupt, ChunkMissing, DataError, ObjectNotFound, WrongKey
from coopfs.format.nodes import SpanChild
from coopfs.format.survey import Survey
from coopfs.format.tree import Entry, Span, Totals
from coopfs.ids import SpanNodeId, TreeId, short_hex
from coopfs.ops.check_ahead import SurveysAhead
from coopfs.ops.check_chunks import ChunkTable
from coopfs.ops.check_findings import Findings, HurtFile, Subject
from coopfs.ops.progress import Progress

# What is kept of a node that was walked: level, entries, and Totals below it.
_KEPT: Final = struct.Struct("<BQQQQ")
# What is kept of a span node: level, bytes.
_KEPT_SPANS: Final = struct.Struct("<BQ")
_U64: Final = (1 << 64) - 1
# Named of one snapshot.  A hacked host can put a folder into another twice, that one twice
# into a third, and so on: 60 small nodes, and more paths than anybody can list.
HURT_MAX: Final = 1 << 22


class _Below(NamedTuple):
    """A node or folder that a node points to, and what the pointer says of it."""

    tree_id: TreeId
    is_folder: bool
    totals: Totals | None  # of a folder, where known
    entry_count: int  # of a node of the same folder
    first_name: bytes  # of a node of the same folder
    name_limit: bytes | None  # its names come before this one; None: no limit
    name: bytes  # of a folder


class _Frame:
    """A node being walked."""

    __slots__ = (
        "below",
        "count",
        "files",
        "folders",
        "is_hurt",
        "level",
        "size",
        "todo",
        "tree_id",
    )

    def __init__(self, tree_id: TreeId, level: int) -> None:
        self.tree_id = tree_id
        self.level = level
        self.count = 0  # entries of the folder here and below
        self.files = self.folders = self.size = 0
        self.is_hurt = False
        self.below: list[_Below] = []
        self.todo: list[_Below] = []


class TreeCheck:
    """Walks trees against the chunks the store has."""

    def __init__(
        self,
        archive: Archive,
        ahead: SurveysAhead,
        table: ChunkTable,
        findings: Findings,
        progress: Progress,
    ) -> None:
        """*archive* and *ahead* have nodes from the store alone; *table* is sealed."""
        self._archive = archive
        self._ahead = ahead
        self._table = table
        self._findings = findings
        self._progress = progress
        self._done: dict[TreeId, bytes] = {}
        self._hurt: set[TreeId] = set()  # walked, something below cannot be read
        self._unreadable: dict[bytes, str] = {}  # node id -> why
        self._spans_done: dict[SpanNodeId, bytes] = {}
        self._spans_hurt: dict[SpanNodeId, tuple[int, int]] = {}  # bytes lost, the first's offset
        self.node_count = 0
        self.file_count = 0

    # --- every node once --------------------------------------------------------

    def walk(self, root: TreeId) -> bool:
        """Walk the tree of one snapshot; tell whether everything in it can be read."""
        stack: list[_Frame] = []
        self._enter(_Below(root, True, None, 0, b"", None, b"/"), stack)
        while stack:
            frame = stack[-1]
            if frame.todo:
                below = frame.todo.pop()
                if below.tree_id not in self._done and below.tree_id not in self._unreadable:
                    self._enter(below, stack)
            else:
                self._leave(frame)
                stack.pop()
        return root not in self._hurt and root not in self._unreadable

    def _enter(self, below: _Below, stack: list[_Frame]) -> None:
        tree_id = below.tree_id
        if tree_id in self._done or tree_id in self._unreadable:
            return
        try:
            node = self._ahead.survey(tree_id)
            if node.like and (node.like not in self._done or node.like in self._hurt):
                node = self._ahead.survey_alone(tree_id)
        except (DataError, ObjectNotFound, WrongKey) as exc:
            self._unreadable[tree_id] = _why(exc)
            self._damage(tree_id, f"tree {short_hex(tree_id)}: cannot be read: {_why(exc)}")
            return
        self.node_count += 1
        self._check_names(below, node)
        frame = _Frame(tree_id, node.level)
        frame.is_hurt = not self._table.need_node(tree_id)
        frame.count = node.entry_count
        frame.files, frame.size = node.files, node.size
        if not self._table.need_all(node.chunk_ids, node.span_lens):
            frame.is_hurt = True
        for name, tree, totals in node.folders:
            known = None if totals is None else Totals(*totals)
            frame.below.append(_Below(TreeId(tree), True, known, 0, b"", None, name))
        frame.folders = len(node.folders)
        for size, span_root in node.rooted:
            if self._lost_of_span_tree(size, SpanNodeId(span_root)) is not None:
                frame.is_hurt = True
        if node.unsupported:
            frame.is_hurt = True
        for place, (first_name, child, count) in enumerate(node.children):
            last = place + 1 == len(node.children)
            limit = below.name_limit if last else node.children[place + 1][0]
            frame.below.append(_Below(TreeId(child), False, None, count, first_name, limit, b""))
        self.file_count += frame.files
        self._progress.update(files=self.file_count, bytes_=0)
        frame.todo = frame.below[::-1]
        stack.append(frame)

    def _check_names(self, below: _Below, node: Survey) -> None:
        if below.is_folder:
            return
        limit = below.name_limit
        if node.first_name != below.first_name or (limit is not None and node.last_name >= limit):
            self._damage(
                below.tree_id,
                f"tree {short_hex(below.tree_id)}: its names are not those the node above "
                "says, so some cannot be found; do not trust its writer",
            )

    def _leave(self, frame: _Frame) -> None:
        """Add up what is below *frame* and compare it with what its pointers say."""
        for below in frame.below:
            kept = self._done.get(below.tree_id)
            if kept is None:
                frame.is_hurt = True  # unreadable; its totals are taken on trust
                if below.totals is not None:
                    self._add(frame, below.totals)
                frame.count += below.entry_count
                continue
            level, count, *numbers = _KEPT.unpack(kept)
            totals = Totals(*numbers)
            self._add(frame, totals)
            is_hurt_below = below.tree_id in self._hurt
            frame.is_hurt = frame.is_hurt or is_hurt_below
            if below.is_folder:
                if below.totals not in (None, totals) and not is_hurt_below:
                    self._damage(
                        frame.tree_id,
                        f"tree {short_hex(frame.tree_id)}: says that folder {below.name!r} holds "
                        f"{below.totals}, it holds {totals}; do not trust its writer",
                    )
                continue
            frame.count += count
            if level != frame.level - 1:
                why = f"its node {short_hex(below.tree_id)} is at the wrong level"
                self._unreadable[frame.tree_id] = why  # a reader stops here
                frame.is_hurt = True
                self._damage(frame.tree_id, f"tree {short_hex(frame.tree_id)}: {why}")
            elif count != below.entry_count:
                self._damage(
                    frame.tree_id,
                    f"tree {short_hex(frame.tree_id)}: says that its node "
                    f"{short_hex(below.tree_id)} has {below.entry_count} entries, it has {count}; "
                    "do not trust its writer",
                )
        sums: tuple[int, ...] = frame.count, frame.files, frame.folders, frame.size
        if max(sums) > _U64:
            sums = tuple([min(number, _U64) for number in sums])
        self._done[frame.tree_id] = _KEPT.pack(frame.level, *sums)
        if frame.is_hurt:
            self._hurt.add(frame.tree_id)

    @staticmethod
    def _add(frame: _Frame, totals: Totals) -> None:
        frame.files += totals.files
        frame.folders += totals.folders
        frame.size += totals.size

    def _damage(self, tree_id: bytes, message: str) -> None:
        self._findings.damage(Subject.TREE, tree_id, message)

    # --- content -----------------------------------------------------------------

    def _lost_of(self, entry: Entry) -> tuple[int, int, str] | None:
        """Return (bytes, first offset, why) of what cannot be read of a file, or None."""
        spans = entry.spans
        if spans is not None:
            for length, chunk_id in spans:
                if chunk_id is not None and not self._table.need(chunk_id, length):
                    return self._lost_in(iter(spans))
            return None
        if entry.span_root is not None:
            return self._lost_of_span_tree(entry.size, entry.span_root)
        if entry.unsupported:
            return entry.size, 0, entry.unsupported
        return None

    def _lost_in(self, spans: Iterator[Span]) -> tuple[int, int, str]:
        lost, first, offset = 0, -1, 0
        for length, chunk_id in spans:
            if chunk_id is not None and not self._table.need(chunk_id, length):
                lost += length
                first = offset if first < 0 else first
            offset += length
        return lost, max(first, 0), ""

    def _lost_of_span_tree(self, size: int, root: SpanNodeId) -> tuple[int, int, str] | None:
        self._walk_spans(root, None)
        kept = self._spans_done.get(root)
        if kept is None:
            return size, 0, self._unreadable[root]
        _, length = _KEPT_SPANS.unpack(kept)
        if length != size:
            why = f"its chunks have {length} bytes, its entry says {size}"
            return size, 0, f"{why}; do not trust its writer"
        hurt = self._spans_hurt.get(root)
        return None if hurt is None else (*hurt, "")

    def _walk_spans(self, node_id: SpanNodeId, level: int | None) -> None:
        """Walk a span tree once; levels descend, so recursion is bounded by MAX_LEVEL."""
        if node_id in self._spans_done or node_id in self._unreadable:
            return
        try:
            node = self._archive.load_span_node(node_id)
        except (DataError, ObjectNotFound, WrongKey) as exc:
            self._unreadable[node_id] = _why(exc)
            self._damage(node_id, f"span node {short_hex(node_id)}: cannot be read: {_why(exc)}")
            return
        if level is not None and node.level != level:
            return  # the pointer's fault: another one may be right
        self.node_count += 1
        is_hurt = not self._table.need_node(node_id)
        length = lost = 0
        first = -1
        for span_len, chunk_id in node.spans:
            if chunk_id is not None and not self._table.need(chunk_id, span_len):
                lost += span_len
                first = length if first < 0 else first
            length += span_len
        for child in node.children:
            lost_below = self._lost_below(node_id, child, node.level - 1)
            if lost_below is not None:
                lost += lost_below[0]
                first = length + lost_below[1] if first < 0 else first
            length += child.length
        self._spans_done[node_id] = _KEPT_SPANS.pack(node.level, min(length, _U64))
        if is_hurt or first >= 0:
            self._spans_hurt[node_id] = lost, max(first, 0)

    def _lost_below(
        self, node_id: SpanNodeId, child: SpanChild, level: int
    ) -> tuple[int, int] | None:
        """Return (bytes, first offset) of what cannot be read below a child, or None."""
        self._walk_spans(child.node_id, level)
        if child.node_id in self._unreadable:
            return child.length, 0
        kept = self._spans_done.get(child.node_id)
        if kept == _KEPT_SPANS.pack(level, min(child.length, _U64)):
            return self._spans_hurt.get(child.node_id)
        self._damage(
            node_id,
            f"span node {short_hex(node_id)}: says that {short_hex(child.node_id)} has "
            f"{child.length} bytes and is at level {level}, which is not so; do not trust its "
            "writer",
        )
        return child.length, 0  # a reader stops here

    # --- who is hurt -------------------------------------------------------------

    def hurt_files(self, snapshot: Snapshot) -> Iterator[HurtFile]:
        """Yield what cannot be read of a snapshot that was walked, in path order."""
        root = snapshot.facts.root
        pending: list[tuple[bytes, TreeId]] = [(b"", root)]
        count = 0
        while pending:
            path, tree_id = pending.pop()
            if count > HURT_MAX:
                why = f"and more than {HURT_MAX:,} before it; the rest is not named"
                yield HurtFile(snapshot, path or b"/", True, 0, 0, 0, why)
                return
            if tree_id in self._unreadable:
                count += 1
                yield HurtFile(snapshot, path or b"/", True, 0, 0, 0, self._unreadable[tree_id])
                continue
            if tree_id not in self._hurt:
                continue
            node = self._archive.load_tree_node(tree_id)
            for entry in node.entries:
                lost = self._lost_of(entry)
                if lost is not None:
                    count += 1
                    yield HurtFile(snapshot, path + b"/" + entry.name, False, entry.size, *lost)
            pending += [
                (path + b"/" + entry.name, entry.tree)
                for entry in reversed(node.entries)
                if entry.tree is not None
            ]
            pending += [(path, child.tree_id) for child in reversed(node.children)]


def _why(exc: Exception) -> str:
    """Return the reason without advice to run the check that is running."""
    if isinstance(exc, ChunkMissing):
        return "no pack in the store has it"
    if isinstance(exc, ChunkCorrupt) and exc.__cause__ is not None:
        return str(exc.__cause__)
    return str(exc)
