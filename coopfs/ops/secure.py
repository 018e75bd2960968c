"""A snapshot is put, and just before: every chunk it relies on is in a usable pack.

A prune may have marked packs while the run was going on, or a writer may have been
distrusted; what is needed of such packs is stored anew.  Free when there are none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.sightings import boottime_s
from coopfs.archive.snapshots import Snapshot
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, WrongKey
from coopfs.format.body import seal_body
from coopfs.format.keys import Role, SigningKey
from coopfs.format.nodes import decode_span_node, decode_tree_node
from coopfs.format.snapshot import SnapshotFacts, encode_snapshot
from coopfs.ids import ObjectId, SnapshotId, TreeId, WriterId, short_hex
from coopfs.store.base import Kind

GRACE_S: Final = 7 * 24 * 3600  # a prune's default; marked packs are kept at least so long
# Within this of reading the index the snapshot must be put.  Half the grace would do (DESIGN),
# but a writer does not know with which grace others prune: twice this is the least.
FRESH_S: Final = 600


def is_stale(read_s: float) -> bool:
    """Tell whether what was read at *read_s* may not be relied on any more."""
    # BOOTTIME goes on while the machine sleeps: a suspended run must look again.
    return boottime_s() - read_s >= FRESH_S


def secure_tree(
    archive: Archive, writer: ArchiveWriter, root: TreeId, generation: int, begun_s: float
) -> float:
    """Read the index again; store anew what *root* needs of marked or missing packs.

    *generation* is the index's from before the run first relied on it, *begun_s* when it
    was read then.  Returns when it was read now (both by CLOCK_BOOTTIME): :func:`is_stale`.

    Raises:
        DataError: a chunk is in no pack any more; the next run reads its file again.
        WrongKey: this host's writer was distrusted meanwhile.
        Rollback: the store shows less than before.
        StoreError: the store failed.
    """
    while True:
        archive.refresh()  # the records too: a writer may be distrusted by now, even this one
        check_trusted(archive)
        if is_stale(begun_s):
            # So long ago that a prune may have come to its end, marks and all: a listing
            # tells what is left.
            _note_missing(archive)
        if archive.index.generation != generation:
            generation = archive.index.generation
            _store_anew(archive, writer, root)
            writer.flush()
            continue
        if not is_stale(archive.index_read_s):
            return archive.index_read_s


def put_snapshot(
    archive: Archive,
    signer: SigningKey,
    secure: Callable[[], float],
    facts: Callable[[], SnapshotFacts],
) -> Snapshot:
    """Put a snapshot object: the one moment from which the snapshot exists.

    *secure* does as :func:`secure_tree` for its root, *facts* says what the object is to
    hold; both may be called again.

    Raises as :func:`secure_tree`.
    """
    while True:
        # Just before: whatever a prune has marked meanwhile is stored anew.
        read_s = secure()
        body = encode_snapshot(facts())
        sealed = seal_body(
            archive.keys, signer, Role.SNAPSHOT, archive.config.archive_id, body, os.urandom(32)
        )
        if not is_stale(read_s):
            break
    archive.store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)
    snapshot = archive.objects.add_own(SnapshotId(sealed.object_id), body)
    if is_stale(read_s):
        # Suspended within the put, or a slow line: a prune that did not see this
        # snapshot yet may have marked and deleted what it relies on.
        secure()
    return snapshot


def check_trusted(archive: Archive) -> None:
    """Raise when what this host's writer signs does not count.

    Raises:
        WrongKey: says since when, and what to do.
    """
    word = archive.objects.distrusted().get(archive.ring.writer_id or WriterId(b""))
    if word is not None:
        day = time.strftime("%Y-%m-%d", time.localtime(word.time_ns / 1e9))
        raise WrongKey(
            f"archive {archive.settings.name!r}: this host's writer "
            f"{short_hex(word.writer_id)} is distrusted since {day} (coopfs repair --distrust), so "
            "no snapshot of it would count. Once the host is in order again, remove the archive's "
            'folder in the config directory, make a new key with "coopfs writer request", and '
            'enrol it with "--again"'
        )


def _note_missing(archive: Archive) -> None:
    """Have the index not rely on packs that the store does not list."""
    # Known first, listed then: what others put meanwhile is not missing.
    known = [p.pack_id for p in archive.index.packs() if archive.index.is_usable(p.pack_no)]
    here = {info.name for info in archive.store.list(Kind.DATA)}
    missing = [pack_id for pack_id in known if ObjectId(pack_id) not in here]
    if missing:
        archive.index.mark_all_lost(
            dict.fromkeys(missing, "gone from the store while a snapshot was taken")
        )


def _store_anew(archive: Archive, writer: ArchiveWriter, root: TreeId) -> None:
    seen: set[bytes] = set()
    trees: list[TreeId] = [root]

    def fetch(chunk_id: bytes) -> bytes:
        try:
            return archive.load_chunk(chunk_id)
        except DataError as exc:
            raise DataError(
                f"while this snapshot was taken, something it relies on left the store ({exc}); "
                "run it again"
            ) from exc

    while trees:
        tree_id = trees.pop()
        if tree_id in seen:
            continue
        seen.add(tree_id)
        raw = fetch(tree_id)
        writer.save_tree_node(raw)
        node = decode_tree_node(raw, "tree")
        trees.extend(child.tree_id for child in node.children)
        for entry in node.entries:
            if entry.tree is not None:
                trees.append(entry.tree)
            pending = [entry.span_root] if entry.span_root is not None else []
            while pending:
                raw = fetch(pending.pop())
                writer.save_span_node(raw)
                pending.extend(child.node_id for child in decode_span_node(raw, "span").children)
            for span in archive.iter_spans(entry):
                if span.chunk_id is not None and not writer.has(span.chunk_id):
                    writer.save_chunk(fetch(span.chunk_id))
