"""An opened archive: keys, store, local index and snapshots in one place.

What the operations and the mount work with.  Reading is thread-safe; writing
goes through :mod:`coopfs.archive.writer`.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from coopfs.archive.blocks import MEMORY_LEN, BlockReader
from coopfs.archive.cache import BlockCache
from coopfs.archive.heads import Heads
from coopfs.archive.index import Index
from coopfs.archive.kept_config import check_as_before, keep_config, kept_config
from coopfs.archive.keyring import KeyRing
from coopfs.archive.listings import settle_contradictions
from coopfs.archive.settings import ArchiveSettings
from coopfs.archive.sightings import boottime_s
from coopfs.archive.snapshots import Snapshot, SnapshotObjects
from coopfs.archive.state import State
from coopfs.dirs import Dirs
from coopfs.errors import (
    DataError,
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    SignatureInvalid,
    StoreUnavailable,
    WrongKey,
)
from coopfs.format.body import check_name, open_body, verify_body
from coopfs.format.config import ArchiveConfig, decode_config
from coopfs.format.index import IndexObject, decode_index, repeats_itself
from coopfs.format.keys import ArchiveKeys, Role, writer_id_of
from coopfs.format.nodes import (
    SpanNode,
    TreeNode,
    decode_span_node,
    decode_tree_node,
    find_entry,
    iter_entries,
    iter_spans,
)
from coopfs.format.tree import Entry, Span
from coopfs.ids import ObjectId, PackId, SpanNodeId, TreeId, short_hex
from coopfs.store.base import Kind, Store

LISTINGS_MAX: Final = 5  # of index/ in one refresh, while objects vanish between list and get
NODES_KEPT: Final = 512  # decoded tree nodes in memory; a folder's entries are one or more
ENTRIES_KEPT: Final = 40_000  # in those, 1 KB each: a node of a large folder has a thousand


class Archive:
    """See the module; made by :meth:`open`, closed as a context manager."""

    def __init__(
        self,
        dirs: Dirs,
        settings: ArchiveSettings,
        ring: KeyRing,
        store: Store,
        config: ArchiveConfig,
        memory_len: int,
        *,
        is_uncached: bool = False,
    ) -> None:
        """Use :meth:`open`."""
        self.settings = settings
        self.ring = ring
        self.keys: ArchiveKeys = ring.keys
        self.store = store
        self.config = config
        state_folder = settings.state_folder(dirs)
        self.state = State(state_folder)
        self.state_folder = state_folder
        self.heads = Heads(state_folder)
        self.index = Index(self.state)
        cache = (
            None
            if store.is_local or is_uncached
            else BlockCache(dirs.archive_cache(config.archive_id), settings.cache_max)
        )
        self.blocks = BlockReader(self.index, self.keys, store, cache, memory_len)
        self.objects = SnapshotObjects(self.state, self.heads, self.keys, config, store)
        self.warnings: list[str] = []
        self.away = ""  # why the store could not be reached when the archive was opened
        self.index_read_s = -math.inf  # CLOCK_BOOTTIME at the start of the last refresh
        self.unusable_index: list[str] = []  # of the warnings those about index objects
        self._nodes: OrderedDict[bytes, TreeNode] = OrderedDict()
        self._entries_kept = 0  # in those
        self._nodes_lock = threading.Lock()

    @classmethod
    def open(
        cls,
        dirs: Dirs,
        settings: ArchiveSettings,
        ring: KeyRing,
        store: Store,
        memory_len: int = MEMORY_LEN,
        *,
        may_be_away: bool = False,
        is_uncached: bool = False,
    ) -> Archive:
        """Open the archive that *settings* and *ring* describe, in *store*.

        *memory_len* bounds the decoded blocks kept in memory, in bytes.  With
        *may_be_away* a store that cannot be reached is no error where the archive was
        opened before on this machine: what is known of it can be looked at.  With
        *is_uncached* no block comes from the disk cache, and none is kept there.

        Raises:
            NotAStore: there is no archive in the store.
            WrongKey: it is another archive, or its config was altered.
            SignatureInvalid: its config was replaced by somebody who has the archive key.
            FormatUnsupported: written by a newer coopfs.
            StoreUnavailable: the store cannot be reached.
        """
        away = ""
        try:
            data = store.get_config()
        except ObjectNotFound as exc:
            raise NotAStore(
                f"{store.address}: holds no archive (no config); is the address right?"
            ) from exc
        except StoreUnavailable as exc:
            seen = kept_config(dirs, settings) if may_be_away else None
            if seen is None:
                raise
            data, away = seen, str(exc)
        config = decode_config(ring.keys, data, store.address)
        if config.archive_id != settings.archive_id:
            raise WrongKey(
                f"{store.address}: holds archive {short_hex(config.archive_id)}, "
                f"not {short_hex(settings.archive_id)} as configured for {settings.name!r}"
            )
        check_as_before(dirs, settings, ring.keys, config, store.address)
        archive = cls(dirs, settings, ring, store, config, memory_len, is_uncached=is_uncached)
        archive.away = away
        if not away:
            keep_config(dirs, settings, data)
        return archive

    def close(self) -> None:
        """Close the store and the local state."""
        self.state.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- what the store shows -------------------------------------------------

    def refresh(self) -> None:
        """Take in snapshots and index objects that are new in the store.

        Raises:
            Rollback: the store shows less than before.
            StoreUnavailable: the partner cannot be reached.
        """
        # Snapshots first: every pack of a listed snapshot is then in a listed index object.
        self.objects.refresh()
        self.warnings = list(self.objects.warnings)
        self.refresh_index()

    def refresh_index(self) -> None:
        """Take in new index objects; drop what only vanished or replaced ones listed."""
        self.unusable_index = []
        begun_s = boottime_s()
        generation = self.index.generation
        self.index.distrust(self.objects.distrusted().keys())
        for attempt in range(LISTINGS_MAX):
            known = self.index.known_objects()  # first: another process may be adding some
            listed = {info.name for info in self.store.list(Kind.INDEX)}
            gone = self._take_in_index(sorted(listed - known), is_first=attempt == 0)
            if self.index.retain_objects(listed - gone, known) or gone:
                continue  # a prune is replacing them: list again
            break
        admin_id = writer_id_of(self.config.admin_public_key)
        self.warnings += settle_contradictions(self.index, self.keys, self.store, admin_id)
        self.index.reload_if_changed()
        if self.index.generation != generation:
            self.drop_idle_metadata()
        self.index_read_s = begun_s

    def _take_in_index(self, new: list[ObjectId], *, is_first: bool) -> set[ObjectId]:
        """Read *new* index objects; return those that were gone meanwhile."""
        gone = set()
        failed: dict[ObjectId, str] = {}
        for object_id in new:
            try:
                content = self.read_index_object(object_id)
            except ObjectNotFound:
                gone.add(object_id)
            except (DataError, WrongKey) as exc:
                failed[object_id] = str(exc)
            else:
                self.index.add_object(object_id, content)
        if is_first and failed:
            # One that a repair has replaced and could not delete matters to nobody.
            replaced = self.index.replaced_objects()
            problems = [problem for name, problem in failed.items() if name not in replaced]
            self.warnings += problems
            self.unusable_index += problems
        return gone

    def read_index_object(self, object_id: ObjectId) -> IndexObject:
        """Fetch and verify one index object.

        Raises:
            SignatureInvalid: not by an enrolled writer; or it marks or replaces
                without being the admin's.
            ObjectNotFound, ObjectCorrupt, FormatUnsupported, WrongKey.
        """
        what = f"index/{object_id.hex()[:16]}"
        data = self.store.get(Kind.INDEX, object_id)
        check_name(data, object_id, what)
        opened = open_body(self.keys, data, (Role.INDEX,), what)
        content = decode_index(opened.body, what)
        admin_key = self.config.admin_public_key
        if content.writer_id == writer_id_of(admin_key):
            verify_body(opened, self.config.archive_id, admin_key)
            return content
        if content.marked or content.replaces:
            raise SignatureInvalid(
                f"{what}: marks packs or replaces index objects, which only the admin key may do; "
                "it does not count"
            )
        writer = self.objects.writers().get(content.writer_id)
        if writer is None:
            raise SignatureInvalid(
                f"{what}: its writer {short_hex(content.writer_id)} is not enrolled in this archive"
            )
        verify_body(opened, self.config.archive_id, writer.public_key)
        if repeats_itself(content):
            raise ObjectCorrupt(
                f"{what}: writer {short_hex(content.writer_id)} lists the same chunks again and "
                "again, as no honest one does; do not trust it"
            )
        return content

    def heed_keeper(self) -> None:
        """Rely no more on packs that the store's keeper itself has found damaged.

        What is in them is then stored again.  A keeper who lies fills its own disk.

        Raises:
            StoreUnavailable: the partner cannot be reached.
        """
        told = {PackId(name) for name in self.store.damaged_packs()}
        hurt = [
            pack.pack_id
            for pack in (self.index.packs() if told else ())
            if pack.pack_id in told and self.index.is_usable(pack.pack_no)
        ]
        if hurt:
            self.index.mark_all_lost(dict.fromkeys(hurt, "damaged, as its keeper has found"))

    def fetch_metadata(self) -> None:
        """Copy what is not here yet of trees to the disk cache, so that names never wait.

        Raises:
            StoreUnavailable: the partner cannot be reached; what was copied stays.
        """
        # Not relied on is not unread: trees of a distrusted writer are looked at, too.
        gone = self.index.marked() | self.index.lost().keys()
        for pack in self.index.packs():
            if pack.is_meta and pack.pack_id not in gone:
                self.blocks.fetch_ahead(self.index.blocks_of(pack.pack_no), pack)
        self.drop_idle_metadata()

    def drop_idle_metadata(self) -> None:
        """Drop cached trees of packs that have left the index, as a prune deleted them.

        A copy of the archive shares the cache and may be behind: it drops nothing.
        """
        if self.settings.is_in_copy:
            return
        known = {pack.pack_id for pack in self.index.packs() if pack.is_meta}
        rows = self.state.connection.execute("SELECT pack_id FROM unindexed_packs").fetchall()
        self.blocks.keep_only_metadata(known | {PackId(row[0]) for row in rows})

    def snapshots(self) -> list[Snapshot]:
        """Return the snapshots as last refreshed, oldest first."""
        return self.objects.snapshots()

    # --- reading --------------------------------------------------------------

    def load_chunk(self, chunk_id: bytes) -> bytes:
        """Return a verified chunk (ChunkMissing, ChunkCorrupt, StoreUnavailable)."""
        return self.blocks.load_chunk(chunk_id)

    def load_tree_node(self, tree_id: TreeId) -> TreeNode:
        """Return one decoded node of a folder; recent ones are kept.

        Raises as :meth:`load_chunk`, and ObjectCorrupt when the node is malformed.
        """
        with self._nodes_lock:
            node = self._nodes.get(tree_id)
            if node is not None:
                self._nodes.move_to_end(tree_id)
                return node
        node = decode_tree_node(self.load_tree_bytes(tree_id), f"tree {short_hex(tree_id)}")
        with self._nodes_lock:
            if tree_id not in self._nodes:  # another thread may have been quicker
                self._entries_kept += len(node.entries)
            self._nodes[tree_id] = node
            while len(self._nodes) > NODES_KEPT or (
                self._entries_kept > ENTRIES_KEPT and len(self._nodes) > 1
            ):
                _, dropped = self._nodes.popitem(last=False)
                self._entries_kept -= len(dropped.entries)
        return node

    def load_tree_bytes(self, tree_id: TreeId) -> bytes:
        """Return one node of a folder as it is stored; raises as :meth:`load_chunk`."""
        data = self.load_chunk(tree_id)
        # Only what is a tree node by its id may pass as one: the role is in the id.
        self._check_id(self.keys.tree_id(data), tree_id, "tree")
        return data

    def load_span_node(self, node_id: SpanNodeId) -> SpanNode:
        """Return one decoded node of a span tree; raises as :meth:`load_tree_node`."""
        data = self.load_chunk(node_id)
        self._check_id(self.keys.span_node_id(data), node_id, "span node")
        return decode_span_node(data, f"span node {short_hex(node_id)}")

    def _check_id(self, found: bytes, expected: bytes, what: str) -> None:
        if found != expected:
            raise DataError(f"{what} {short_hex(expected)}: stored as something else; do not trust")

    def iter_entries(self, tree_id: TreeId) -> Iterator[Entry]:
        """Yield a folder's entries by name."""
        return iter_entries(tree_id, self.load_tree_node)

    def find_entry(self, tree_id: TreeId, name: bytes) -> Entry | None:
        """Return the entry called *name* in a folder, or None."""
        return find_entry(tree_id, name, self.load_tree_node)

    def iter_spans(self, entry: Entry) -> Iterator[Span]:
        """Yield a file's spans; nothing for inline content or no file."""
        if entry.span_root is not None:
            return iter_spans(entry.span_root, self.load_span_node)
        return iter(entry.spans or ())
