"""Who relies on which chunks: the files of snapshots that would be hurt without some packs.

Owns the question before anything is dropped or distrusted: which chunks lie only there,
and which snapshots need them.  The walk is the one of a check.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo
from coopfs.archive.snapshots import Snapshot
from coopfs.ids import PackId
from coopfs.ops.check_ahead import SurveysAhead
from coopfs.ops.check_chunks import ChunkTable
from coopfs.ops.check_findings import CheckTotals, Finding, Findings, HurtFile
from coopfs.ops.check_trees import TreeCheck
from coopfs.ops.progress import Progress


@dataclass(frozen=True, slots=True)
class Reliance:
    """What some snapshots need of some packs, and have nowhere else."""

    snapshots: tuple[Snapshot, ...]
    chunks: int  # nodes of trees included
    length: int  # bytes of them


class _AbsentTable(ChunkTable):
    """Holds the chunks that would not be there, so that needing one of them is the damage."""

    def __init__(self) -> None:
        super().__init__()
        self._nodes: set[bytes] = set()

    def add_node(self, node_id: bytes) -> None:
        self._nodes.add(node_id)

    def need_one(self, prefix: int, length: int) -> bool:
        return not super().need_one(prefix, length)

    def need_node(self, node_id: bytes) -> bool:
        super().need_node(node_id)
        return node_id not in self._nodes


def reliance_on(
    archive: Archive,
    pack_nos: frozenset[int],
    snapshots: Iterable[Snapshot],
    progress: Progress,
) -> Reliance:
    """Return which of *snapshots* need chunks that are in no usable pack but *pack_nos*.

    The archive was refreshed.

    Raises:
        StoreUnavailable: trees that are not cached cannot be read.
    """
    table = _AbsentTable()
    for pack in archive.index.packs():
        if pack.pack_no in pack_nos:
            _add_absent(archive, table, pack, pack_nos)
    table.seal()
    progress.start(None, None)
    trees = TreeCheck(archive, SurveysAhead(archive), table, _silent(), progress)
    relying = []
    for snapshot in snapshots:
        if not trees.walk(snapshot.facts.root):
            relying.append(snapshot)
    chunks, length = table.needed()
    return Reliance(tuple(relying), chunks, length)


def hurt_files(
    archive: Archive,
    snapshots: Iterable[Snapshot],
    in_store: Container[PackId],
    on_hurt: Callable[[HurtFile], None],
    progress: Progress,
) -> int:
    """Tell *on_hurt* of files that need chunks in no pack of the index; return how many.

    *in_store*: the packs that are there; an index may name others that a prune deleted.
    Nothing of file content is read.

    Raises:
        StoreUnavailable: trees that are not cached cannot be read.
    """
    table = ChunkTable()
    for pack in archive.index.packs():
        for block in archive.index.blocks_of(pack.pack_no) if pack.pack_id in in_store else ():
            offsets = block.chunk_offsets
            lens = [offsets[i + 1] - offsets[i] for i in range(len(block.chunk_ids))]
            table.add(block.chunk_ids, lens)
    table.seal()
    progress.start(None, None)
    trees = TreeCheck(archive, SurveysAhead(archive), table, _silent(), progress)
    count = 0
    for snapshot in snapshots:
        if not trees.walk(snapshot.facts.root):
            for hurt in trees.hurt_files(snapshot):
                on_hurt(hurt)
                count += 1
    return count


def _add_absent(
    archive: Archive, table: _AbsentTable, pack: PackInfo, pack_nos: frozenset[int]
) -> None:
    index = archive.index
    for block in index.blocks_of(pack.pack_no):
        offsets = block.chunk_offsets
        for place, chunk_id in enumerate(block.chunk_ids):
            # Of several copies that all would be gone the first one is counted.
            others = [
                (location.block_no, index.block(location.block_no).pack_no)
                for location in index.other_locations(chunk_id, block.block_no)
            ]
            if any(
                block_no < block.block_no if no in pack_nos else index.is_usable(no)
                for block_no, no in others
            ):
                continue
            table.add([chunk_id], [offsets[place + 1] - offsets[place]])
            if pack.is_meta:
                table.add_node(chunk_id)


def _silent() -> Findings:
    def report(item: Finding | HurtFile) -> None:
        pass

    return Findings(report, CheckTotals())
