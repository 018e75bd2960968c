"""Walking sources: folders read, compared with their witnesses, stored as trees.

Owns which files are read again and how a folder becomes a tree.  Keeps an
explicit stack of open folders, so that what is done so far can be stored at any
moment (a checkpoint) and depth costs no recursion.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import ChunkMissing, DataError
from coopfs.format.nodes import TreeBuilder
from coopfs.format.tree import Entry, Kind, Totals
from coopfs.ids import TreeId
from coopfs.ops.content import ContentReader
from coopfs.ops.files import FileStorer
from coopfs.ops.folder import Former, OpenFolder, WalkRules, gone_folders
from coopfs.ops.progress import Progress
from coopfs.ops.tally import Tally
from coopfs.ops.witness import Witness, Witnesses


class Result:
    """A stored folder: its tree, what lies below it, and whether its witness still holds."""

    __slots__ = ("is_same", "totals", "tree")

    def __init__(self, tree: TreeId, totals: Totals, *, is_same: bool) -> None:
        self.tree = tree
        self.totals = totals
        self.is_same = is_same


class FormerTreeDamaged(DataError):
    """What an unchanged folder was stored as cannot be read any more; start the run again."""


class Walker:
    """Stores source folders; one a run."""

    def __init__(
        self,
        archive: Archive,
        writer: ArchiveWriter,
        reader: ContentReader,
        witnesses: Witnesses,
        rules: WalkRules,
        progress: Progress,
        *,
        is_wary: bool = False,
    ) -> None:
        """*witnesses* are those of the run's series; *is_wary*: check all they rely on."""
        self._archive = archive
        self._writer = writer
        self._witnesses = witnesses
        self._rules = rules
        self._progress = progress
        self._stack: list[OpenFolder] = []
        # Witnesses are believed at once unless a pack left the index, was marked or was lost
        # since a run last looked at all of them.  Marked packs may stay for a week: what was
        # looked at since relies on none.
        self.must_look = is_wary or witnesses.generation() != archive.index.generation
        self.tally = Tally()
        self.files = FileStorer(reader, archive.keys.record_id_key, self.tally)
        self.rows: list[Witness] = []  # of folders stored since the last checkpoint
        self.gone: list[bytes] = []  # folders that are no more
        self.between_files: Callable[[], None] = lambda: None  # may make a checkpoint

    # --- folders --------------------------------------------------------------

    def store_folder(self, path: bytes, entry: Entry, device: int) -> Result | None:
        """Walk the folder *path* and store it; None when it cannot be listed.

        Raises:
            StoreError: the store failed; what was done is in :attr:`rows`.
        """
        stack = self._stack
        floor = len(stack)
        opened = self._open_folder(path, entry, device)
        if opened is None:
            return None
        stack.append(opened)
        while True:
            folder = stack[-1]
            below = self._walk_items(folder)
            if below is not None:
                stack.append(below)
                continue
            result = self._close_folder(folder)
            stack.pop()
            if len(stack) == floor:
                return result
            self._add_folder(stack[-1], folder, result)

    def _open_folder(self, path: bytes, entry: Entry | None, device: int) -> OpenFolder | None:
        self.between_files()  # where nothing has changed, nobody else asks
        builder = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
        folder = OpenFolder(path, entry, device, builder)
        try:
            folder.look(self.files, self.tally, self._rules)
        except OSError as exc:
            self.tally.report(path, exc)
            return None
        self._compare(folder)
        self._progress.update(
            files=self.tally.files + self.tally.others, bytes_=self.tally.size, current=path
        )
        return folder

    def _compare(self, folder: OpenFolder) -> None:
        """Look up the folder's witness and decide whether everything in it is as it was."""
        folder.old = old = self._witnesses.get(folder.path)
        if old is None:
            return
        if self.must_look and not self._writer.has(old.tree):
            folder.old = None  # pruned, or in a pack that is lost
            return
        folder.is_same = (
            not self.must_look
            and folder.listing.rows == old.names
            and folder.listing.is_older(old.limit_ns, self._rules.witness)
        )

    def _walk_items(self, folder: OpenFolder) -> OpenFolder | None:
        """Do the folder's next items; return a folder below to walk first, or None at the end."""
        listing, prefix = folder.listing, folder.prefix
        tally = self.tally
        while folder.place < len(listing):
            name, status = listing.name(folder.place), listing.status(folder.place)
            if status is None:
                try:
                    status = os.lstat(prefix + name)
                except OSError as exc:
                    self._skip(folder, prefix + name, exc)
                    continue
            kind_bits = status.st_mode & 0o170000
            if kind_bits == stat.S_IFDIR:
                below = self._enter(folder, name, status)
                if below is not None:
                    return below
                continue
            if folder.is_same:
                folder.totals[0] += 1
                if kind_bits == stat.S_IFREG:
                    tally.files += 1
                    tally.files_unchanged += 1
                    tally.size += status.st_size
                    folder.totals[2] += status.st_size
                else:
                    tally.others += 1
            else:
                entry = self._store_item(folder, prefix + name, name, status)
                if entry is None:
                    self._skip(folder, prefix + name, None)
                    continue
                folder.builder.add(entry)
                folder.totals[0] += 1
                folder.totals[2] += entry.size
            folder.place += 1
        return None

    def _skip(self, folder: OpenFolder, path: bytes, problem: OSError | None) -> None:
        """Leave out the item at hand, and its record, so that the next run looks again."""
        if problem is not None:
            self.tally.report(path, problem)
        if folder.is_same:
            self._start_over(folder)
        folder.listing.leave_out(folder.place)
        folder.place += 1

    def _enter(self, folder: OpenFolder, name: bytes, status: os.stat_result) -> OpenFolder | None:
        path = folder.prefix + name
        entry = self.files.folder_entry(path, name, status)
        if entry is None:
            self._skip(folder, path, None)
            return None
        if self._rules.one_file_system and status.st_dev != folder.device:
            # As rsync and tar do: the mount point is taken, empty.
            self._add_entry(folder, entry, self._empty_folder())
            return None
        below = self._open_folder(path, entry, folder.device)
        if below is None:
            # It is there but cannot be listed: taken empty, reported, looked at again.
            self._add_entry(folder, entry, self._empty_folder())
        return below

    def _empty_folder(self) -> Result:
        empty = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
        return Result(empty.finish(), Totals(0, 0, 0), is_same=False)

    def _close_folder(self, folder: OpenFolder) -> Result:
        if folder.is_same and folder.old is not None:
            return Result(folder.old.tree, folder.old.totals, is_same=True)
        self._note_gone(folder)
        totals = Totals(*folder.totals)
        tree = folder.builder.finish()
        names = folder.listing.first_rows(len(folder.listing))
        self.rows.append(Witness(folder.path, names, tree, totals, folder.read_ns))
        return Result(tree, totals, is_same=False)

    def _add_folder(self, parent: OpenFolder, folder: OpenFolder, result: Result) -> None:
        if folder.entry is None:
            raise AssertionError("a folder below another has an entry")
        self._add_entry(parent, folder.entry, result)

    def _add_entry(self, parent: OpenFolder, entry: Entry, result: Result) -> None:
        if parent.is_same and not result.is_same:
            self._start_over(parent)
        if not parent.is_same:
            parent.builder.add(entry._replace(tree=result.tree, totals=result.totals))
        totals = parent.totals
        totals[0] += result.totals.files
        totals[1] += result.totals.folders + 1
        totals[2] += result.totals.size
        self.tally.folders += 1
        parent.place += 1

    def _start_over(self, folder: OpenFolder) -> None:
        """A folder believed unchanged is not: add what was passed over, from its old tree."""
        folder.is_same = False
        for place in range(folder.place):
            entry, _ = self._former(folder, folder.listing.name(place))
            if entry is None:
                raise _damaged(folder, "it lacks a name")
            folder.builder.add(entry)

    def _former(self, folder: OpenFolder, name: bytes) -> tuple[Entry | None, bytes | None]:
        """Return what was stored as *name*, and its record; names are asked for in order."""
        if folder.old is None:
            return None, None
        try:
            if folder.former is None:
                folder.former = Former(self._archive.iter_entries, folder.old)
            return folder.former.at(name)
        except DataError as exc:
            self._on_damage(folder, folder.old, exc)
            return None, None

    def _on_damage(self, folder: OpenFolder, old: Witness, exc: DataError) -> None:
        """Go on without the old tree, of which a node cannot be read, where that is right."""
        self._note_damage(old.tree, str(exc))
        if not self.must_look:
            raise _damaged(folder, str(exc)) from exc
        # What of it was believed so far was looked at; all else is read again.
        folder.old = folder.former = None

    def _note_gone(self, folder: OpenFolder) -> None:
        """Note the folders that were in the folder and are no more."""
        old, load = folder.old, self._archive.iter_entries
        if old is None or not old.totals.folders:
            return
        try:
            self.gone += map(folder.prefix.__add__, gone_folders(load(old.tree), folder.listing))
        except DataError as exc:
            self._on_damage(folder, old, exc)

    def _note_damage(self, tree: TreeId, reason: str) -> None:
        """Have no run rely any more on the packs in which nodes of *tree* cannot be read."""
        index = self._archive.index
        pending = [tree]
        while pending:
            node_id = pending.pop()
            try:
                pending.extend(c.tree_id for c in self._archive.load_tree_node(node_id).children)
            except ChunkMissing:
                continue
            except DataError:
                for place in index.locate(node_id):
                    pack_id = index.pack(index.block(place.block_no).pack_no).pack_id
                    index.mark_lost(pack_id, reason)

    # --- files ----------------------------------------------------------------

    def _store_item(
        self, folder: OpenFolder, path: bytes, name: bytes, status: os.stat_result
    ) -> Entry | None:
        """Return the entry of anything but a folder; None when it cannot be had."""
        if not folder.place & 63:  # every file would cost more than the answer is worth
            self.between_files()
        former, record = self._former(folder, name)
        if former is not None and self._is_unchanged(folder, folder.place, former, record):
            self.tally.count(former, "files_unchanged")
            return former
        entry = self.files.store_file(path, name, status)
        if entry is not None:
            self.count_read(entry, former)
        return entry

    def count_read(self, entry: Entry, former: Entry | None) -> None:
        """Count an entry that was read and was *former* in the last snapshot."""
        if former is None:
            self.tally.count(entry, "files_new")
        else:
            # Read again, to be sure, and just as it was: nobody would call that changed.
            self.tally.count(entry, "files_unchanged" if entry == former else "files_changed")

    def _is_unchanged(
        self, folder: OpenFolder, place: int, former: Entry, record: bytes | None
    ) -> bool:
        """Tell whether *former*, witnessed by *record*, still holds for the entry at *place*."""
        if folder.old is None or record is None or record != folder.listing.record(place):
            return False
        if self._rules.witness.youngest_in(record) >= folder.old.limit_ns:
            return False
        return not self.must_look or self.is_intact(former)

    def is_intact(self, entry: Entry) -> bool:
        """Tell whether every chunk of a file is in a usable pack."""
        if entry.unsupported:
            return False
        has = self._writer.has
        if entry.span_root is not None and not has(entry.span_root):
            return False
        try:
            return all(
                chunk_id is None or has(chunk_id) for _, chunk_id in self._archive.iter_spans(entry)
            )
        except DataError:
            return False

    # --- checkpoints --------------------------------------------

    @property
    def open_source(self) -> bytes | None:
        """The path of the source folder being walked."""
        return self._stack[0].path if self._stack else None

    def note_open_folders(self) -> None:
        """Note rows for the open folders too, so that what is done of them counts.

        What comes after stays as the former row had it, where that still holds.
        """
        for folder in self._stack:
            if folder.is_same:
                continue  # its former row holds
            builder, done = folder.builder.copy(), folder.place
            names = bytearray(folder.listing.first_rows(done))
            totals = Totals(*folder.totals)
            for record, name, entry in self._unchanged_rest(folder):
                builder.add(entry)
                names += record + name + b"\0"
                totals = totals._replace(files=totals.files + 1, size=totals.size + entry.size)
            tree = builder.finish()
            self.rows.append(Witness(folder.path, names, tree, totals, folder.read_ns))

    def _unchanged_rest(self, folder: OpenFolder) -> Iterator[tuple[bytes, bytes, Entry]]:
        """Yield (record, name, entry) of the files still to come that will prove unchanged."""
        if folder.old is None:
            return
        listing = folder.listing
        with suppress(DataError):  # then no more is known to be unchanged
            former = Former(self._archive.iter_entries, folder.old)
            for place in range(folder.place, len(listing)):
                name = listing.name(place)
                entry, record = former.at(name)
                if entry is None or entry.kind is Kind.FOLDER:
                    continue
                if self._is_unchanged(folder, place, entry, record):
                    yield listing.record(place), name, entry

    def store_open_folders(self) -> list[tuple[Entry, TreeId, Totals]]:
        """Store what is done so far of every open folder, outermost first; the walk goes on.

        Each one's tree holds what is done of the next.
        """
        below: tuple[Entry, TreeId, Totals] | None = None
        stored = []
        for folder in reversed(self._stack):
            if folder.is_same:
                self._start_over(folder)
            builder = folder.builder.copy()
            totals = Totals(*folder.totals)
            if below is not None:
                entry, tree, inner = below
                builder.add(entry._replace(tree=tree, totals=inner))
                totals = Totals(
                    totals.files + inner.files,
                    totals.folders + inner.folders + 1,
                    totals.size + inner.size,
                )
            tree = builder.finish()
            if folder.entry is None:
                raise AssertionError("every walked folder has an entry")
            below = (folder.entry, tree, totals)
            stored.append(below)
        stored.reverse()
        return stored


def _damaged(folder: OpenFolder, problem: str) -> FormerTreeDamaged:
    return FormerTreeDamaged(
        f"{os.fsdecode(folder.path)}: what it was stored as cannot be read any more ({problem}); "
        "run again, and it is stored anew"
    )
