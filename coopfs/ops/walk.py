"""Walking sources: folders read, compared with their witnesses, stored as trees.

Owns which files are read again and how a folder becomes a tree.  Keeps an
explicit stack of open folders, so that what is done so far can be stored at any
moment (a checkpoint) and depth costs no recursion.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from blake3 import blake3

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import ChunkMissing, DataError
from coopfs.format.nodes import TreeBuilder
from coopfs.format.snapshot import PROBLEMS_MAX, Counts, Problem
from coopfs.format.tree import HARD_LINK_ID_LEN, NAME_MAX, Entry, Kind, Totals
from coopfs.ids import TreeId
from coopfs.ops.content import ContentReader
from coopfs.ops.exclude import Excludes
from coopfs.ops.progress import Progress
from coopfs.ops.source import OwnerNames, base_entry, kind_of, read_xattrs
from coopfs.ops.witness import NO_LINK, RACY_NS, Witness, Witnesses, WitnessRules, split_names

CACHEDIR_TAG: Final = b"CACHEDIR.TAG"
CACHEDIR_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"  # bford.info/cachedir
STATS_KEPT: Final = 20_000  # entries of a folder whose stats are kept from look to use
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

Item = tuple[bytes, os.stat_result | None]  # name and, in a folder of usual size, its stat


@dataclass(slots=True)
class Tally:
    """What a run has seen and done so far; becomes :class:`Counts`."""

    files: int = 0
    folders: int = 0
    others: int = 0
    size: int = 0
    files_new: int = 0
    files_changed: int = 0
    files_unchanged: int = 0
    read: int = 0
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0

    def counts(self, new_len: int, stored_len: int) -> Counts:
        """Return the numbers for the snapshot object; arguments in bytes."""
        return Counts(
            self.files,
            self.folders,
            self.others,
            self.size,
            self.files_new,
            self.files_changed,
            self.files_unchanged,
            self.read,
            new_len,
            stored_len,
        )


@dataclass(frozen=True, slots=True)
class WalkRules:
    """What is walked and what is believed."""

    excludes: Excludes
    one_file_system: bool = False
    exclude_caches: bool = False  # folders marked with a CACHEDIR.TAG: only the tag is taken
    witness: WitnessRules = field(default_factory=WitnessRules)


class Result:
    """A stored folder: its tree, what lies below it, and whether its witness still holds."""

    __slots__ = ("is_same", "totals", "tree")

    def __init__(self, tree: TreeId, totals: Totals, *, is_same: bool) -> None:
        self.tree = tree
        self.totals = totals
        self.is_same = is_same


class _OpenFolder:
    """A folder being walked."""

    __slots__ = (
        "builder", "device", "entry", "is_same", "items", "last_name", "names_done", "old",
        "old_entries", "old_records", "path", "place", "read_ns", "records", "totals",
    )  # fmt: skip

    def __init__(self, path: bytes, entry: Entry | None, device: int, builder: TreeBuilder) -> None:
        self.path = path
        self.entry = entry  # of the folder itself, without its tree
        self.device = device
        self.builder = builder
        self.read_ns = time.time_ns()
        self.items: list[Item] = []
        self.records: list[bytes] = []  # per item
        self.place = 0  # the next item's
        self.old: Witness | None = None
        self.old_records: dict[bytes, bytes] | None = None  # read when first needed
        self.old_entries: dict[bytes, Entry] = {}
        self.is_same = False
        self.totals = [0, 0, 0]


class FormerTreeDamaged(DataError):
    """What an unchanged folder was stored as cannot be read any more; start the run again."""


class _LinkGroup(NamedTuple):
    """The hard links of one inode."""

    link_id: bytes
    first: Entry | None = None  # once stored, while more links may come
    ctime_ns: int = 0  # of the inode when *first* was stored
    left: int = 0  # links not seen yet


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
        self._reader = reader
        self._witnesses = witnesses
        self._rules = rules
        self._progress = progress
        self._owners = OwnerNames()
        self._stack: list[_OpenFolder] = []
        self._links: dict[tuple[int, int], _LinkGroup] = {}
        # Witnesses are believed at once unless a pack left the index since they were written.
        self.must_look = (
            is_wary
            or not archive.index.is_whole
            or witnesses.generation() != archive.index.generation
        )
        self.tally = Tally()
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

    def _open_folder(self, path: bytes, entry: Entry | None, device: int) -> _OpenFolder | None:
        self.between_files()  # where nothing has changed, nobody else asks
        builder = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
        folder = _OpenFolder(path, entry, device, builder)
        try:
            self._list_items(folder)
        except OSError as exc:
            self.report(path, exc)
            return None
        self._compare(folder)
        self._progress.update(
            files=self.tally.files + self.tally.others, bytes_=self.tally.size, current=path
        )
        return folder

    def _list_items(self, folder: _OpenFolder) -> None:
        """Fill in names and records, in name order, excludes left out."""
        excludes, prefix = self._rules.excludes, folder.path.rstrip(b"/") + b"/"
        found: list[tuple[bytes, os.DirEntry[bytes]]]
        with os.scandir(folder.path) as listing:
            found = [(item.name, item) for item in listing]
        found.sort()
        if self._rules.exclude_caches and self._is_cache(prefix, found):
            found = [item for item in found if item[0] == CACHEDIR_TAG]
        keep_stats = len(found) <= STATS_KEPT
        record = self._rules.witness.record
        for name, item in found:
            try:
                status = item.stat(follow_symlinks=False)
                if not excludes.is_empty and excludes.matches(
                    prefix + name, name, stat.S_ISDIR(status.st_mode)
                ):
                    continue
            except FileNotFoundError:
                self.report(prefix + name, "vanished while its folder was read")
                continue
            except OSError as exc:
                self.report(prefix + name, exc)
                continue
            link_id = NO_LINK
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                link_id = self._link_id(prefix + name, status)[:8]
            folder.items.append((name, status if keep_stats else None))
            folder.records.append(record(status, link_id))

    def _is_cache(self, prefix: bytes, found: list[tuple[bytes, os.DirEntry[bytes]]]) -> bool:
        if not any(name == CACHEDIR_TAG for name, _ in found):
            return False
        try:
            fd = os.open(prefix + CACHEDIR_TAG, _OPEN_FLAGS)  # a FIFO must not hold the run up
            try:
                return os.read(fd, len(CACHEDIR_SIGNATURE)) == CACHEDIR_SIGNATURE
            finally:
                os.close(fd)
        except OSError:
            return False

    def _compare(self, folder: _OpenFolder) -> None:
        """Look up the folder's witness and decide whether everything in it is as it was."""
        folder.old = old = self._witnesses.get(folder.path)
        if old is None:
            return
        if self.must_look and not self._writer.has(old.tree):
            folder.old = None  # pruned, or in a pack that is lost
            return
        names = b"".join(
            [record + item[0] + b"\0" for record, item in zip(folder.records, folder.items)]  # noqa: B905  # made together
        )
        youngest = self._rules.witness.youngest_ns
        limit = old.read_ns - RACY_NS
        folder.is_same = (
            names == old.names
            and not self.must_look
            and all(status is not None and youngest(status) < limit for _, status in folder.items)
        )

    def _walk_items(self, folder: _OpenFolder) -> _OpenFolder | None:
        """Do the folder's next items; return a folder below to walk first, or None at the end."""
        items, prefix = folder.items, folder.path.rstrip(b"/") + b"/"
        tally = self.tally
        while folder.place < len(items):
            name, status = items[folder.place]
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

    def _skip(self, folder: _OpenFolder, path: bytes, problem: OSError | None) -> None:
        """Leave out the item at hand, and its record, so that the next run looks again."""
        if problem is not None:
            self.report(path, problem)
        if folder.is_same:
            self._start_over(folder)
        del folder.items[folder.place], folder.records[folder.place]

    def _enter(
        self, folder: _OpenFolder, name: bytes, status: os.stat_result
    ) -> _OpenFolder | None:
        path = folder.path.rstrip(b"/") + b"/" + name
        entry = self.folder_entry(path, name, status)
        if entry is None:
            self._skip(folder, path, None)
            return None
        if self._rules.one_file_system and status.st_dev != folder.device:
            # As rsync and tar do: the mount point is taken, empty.
            empty = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
            result = Result(empty.finish(), Totals(0, 0, 0), is_same=False)
            self._add_entry(folder, entry, result)
            return None
        below = self._open_folder(path, entry, folder.device)
        if below is None:
            # It is there but cannot be listed: taken empty, reported, looked at again.
            empty = TreeBuilder(self._archive.keys.tree_id_key, self._writer.save_tree_node)
            result = Result(empty.finish(), Totals(0, 0, 0), is_same=False)
            self._add_entry(folder, entry, result)
        return below

    def folder_entry(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        """Return the entry of a folder, still without its tree; None (and a report) if unfit."""
        entry = base_entry(name, Kind.FOLDER, status, self._owners)
        try:
            xattrs = read_xattrs(path)
        except OSError as exc:
            self.report(path, exc)
            xattrs = ()
        if len(name) > NAME_MAX:
            self.report(path, "its name is too long to be stored")
            return None
        return entry._replace(xattrs=xattrs) if xattrs else entry

    def _close_folder(self, folder: _OpenFolder) -> Result:
        if folder.is_same and folder.old is not None:
            return Result(folder.old.tree, folder.old.totals, is_same=True)
        if folder.old is not None:
            self._load_old(folder)  # which notes the folders that are gone
        totals = Totals(*folder.totals)
        tree = folder.builder.finish()
        names = b"".join(
            [record + item[0] + b"\0" for record, item in zip(folder.records, folder.items)]  # noqa: B905  # made together
        )
        self.rows.append(Witness(folder.path, names, tree, totals, folder.read_ns))
        return Result(tree, totals, is_same=False)

    def _add_folder(self, parent: _OpenFolder, folder: _OpenFolder, result: Result) -> None:
        if folder.entry is None:
            raise AssertionError("a folder below another has an entry")
        if parent.is_same and not result.is_same:
            self._start_over(parent)
        self._add_entry(parent, folder.entry, result)

    def _add_entry(self, parent: _OpenFolder, entry: Entry, result: Result) -> None:
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

    def _start_over(self, folder: _OpenFolder) -> None:
        """A folder believed unchanged is not: add what was passed over, from its old tree."""
        folder.is_same = False
        self._load_old(folder)
        for name, _ in folder.items[: folder.place]:
            folder.builder.add(folder.old_entries[name])

    def _load_old(self, folder: _OpenFolder) -> None:
        """Read the folder's old tree and records, once."""
        if folder.old_records is not None:
            return
        folder.old_records = {}
        if folder.old is None:
            return
        try:
            folder.old_entries = {e.name: e for e in self._archive.iter_entries(folder.old.tree)}
        except DataError as exc:
            self._note_damage(folder.old.tree, str(exc))
            if self.must_look:  # nothing in it was believed yet: all of it is read again
                folder.old = None
                return
            raise FormerTreeDamaged(
                f"{os.fsdecode(folder.path)}: what it was stored as cannot be read any more "
                f"({exc}); run again, and it is stored anew"
            ) from exc
        folder.old_records = dict(split_names(folder.old.names))
        here = {name for name, _ in folder.items}
        prefix = folder.path.rstrip(b"/") + b"/"
        for name, entry in folder.old_entries.items():
            if entry.kind is Kind.FOLDER and name not in here:
                self.gone.append(prefix + name)

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
        self, folder: _OpenFolder, path: bytes, name: bytes, status: os.stat_result
    ) -> Entry | None:
        """Return the entry of anything but a folder; None when it cannot be had."""
        if not folder.place & 63:  # every file would cost more than the answer is worth
            self.between_files()
        if folder.old is not None:
            if folder.old_records is None:
                self._load_old(folder)
            entry = self._unchanged(folder, folder.place)
            if entry is not None:
                self.count(entry, "files_unchanged")
                return entry
        entry = self.store_file(path, name, status)
        if entry is not None:
            is_new = name not in folder.old_entries
            self.count(entry, "files_new" if is_new else "files_changed")
        return entry

    def _unchanged(self, folder: _OpenFolder, place: int) -> Entry | None:
        """Return the former entry of the item at *place* if it still holds."""
        old, records = folder.old, folder.old_records
        name, record = folder.items[place][0], folder.records[place]
        if old is None or records is None or records.get(name) != record:
            return None
        if self._rules.witness.youngest_in(record) >= old.read_ns - RACY_NS:
            return None
        entry = folder.old_entries.get(name)
        if entry is None or (self.must_look and not self._is_intact(entry)):
            return None
        return entry

    def unchanged_single(
        self, old: Witness | None, names: bytes, name: bytes, status: os.stat_result
    ) -> Entry | None:
        """Return the former entry of a source that is a single file, if it still holds."""
        if old is None or old.names != names:
            return None
        if self._rules.witness.youngest_ns(status) >= old.read_ns - RACY_NS:
            return None
        try:
            entry = self._archive.find_entry(old.tree, name)
        except DataError:
            return None
        if entry is None or (self.must_look and not self._is_intact(entry)):
            return None
        return entry

    def _is_intact(self, entry: Entry) -> bool:
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

    def store_file(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        """Store whatever *path* is, a folder excepted; None (and a report) when it cannot be."""
        kind = kind_of(status.st_mode)
        if kind is None or len(name) > NAME_MAX:
            self.report(path, "its type or name cannot be stored")
            return None
        try:
            if kind is Kind.FILE:
                return self._store_regular(path, name, status)
            entry = base_entry(name, kind, status, self._owners)
            if kind is Kind.SYMLINK:
                entry = entry._replace(target=os.readlink(path))
            entry = entry._replace(xattrs=read_xattrs(path))
        except FileNotFoundError:
            self.report(path, "vanished before it was read")
            return None
        except OSError as exc:
            self.report(path, exc)
            return None
        if status.st_nlink > 1:
            link_id = self._link_id(path, status)
            entry = entry._replace(hard_link_id=link_id, link_count=status.st_nlink)
        return entry

    def _store_regular(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        link_id: bytes | None = None
        if status.st_nlink > 1:
            link_id = self._link_id(path, status)
            group = self._links[status.st_dev, status.st_ino]
            # Written to since the first link was read, or another file by now: read again.
            if group.first is not None and group.ctime_ns == status.st_ctime_ns:
                self._let_link_go(status)
                return group.first._replace(name=name)
        fd = _open_for_reading(path)
        try:
            content = self._reader.read_file(fd, status.st_size, status.st_blocks)
            xattrs = read_xattrs(fd)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if after.st_ctime_ns != status.st_ctime_ns or after.st_ino != status.st_ino:
            if not stat.S_ISREG(after.st_mode):
                self.report(path, "was replaced by something else while it was read")
                return None
            if after.st_mtime_ns != status.st_mtime_ns or after.st_size != status.st_size:
                self.report(path, "changed while it was read; stored as read")
            status = after
        self.tally.read += content.read_len
        owners = self._owners
        entry = Entry(
            name,
            Kind.FILE,
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            owners.user(status.st_uid),
            owners.group(status.st_gid),
            content.size,
            getattr(status, "st_birthtime_ns", None),
            0,
            b"",
            xattrs,
            link_id,
            status.st_nlink if link_id else 1,
            content.data_len,
            content.inline,
            content.spans,
            content.span_root,
        )
        if link_id is not None:
            self._links[status.st_dev, status.st_ino] = _LinkGroup(
                link_id, entry, status.st_ctime_ns, status.st_nlink - 1
            )
        return entry

    def _link_id(self, path: bytes, status: os.stat_result) -> bytes:
        """Return the id of the group of hard links, from the first path seen of it."""
        known = self._links.get((status.st_dev, status.st_ino))
        if known is not None:
            return known.link_id
        key = self._archive.keys.record_id_key
        link_id = blake3(path, key=key).digest(HARD_LINK_ID_LEN)
        self._links[status.st_dev, status.st_ino] = _LinkGroup(link_id)
        return link_id

    def _let_link_go(self, status: os.stat_result) -> None:
        """Count down a group's links; after the last nothing of it is kept in memory."""
        key = (status.st_dev, status.st_ino)
        group = self._links[key]
        if group.left <= 1:
            # Only the content is let go: the id may still be asked for by a folder's look.
            self._links[key] = _LinkGroup(group.link_id)
        else:
            self._links[key] = group._replace(left=group.left - 1)

    # --- reporting and checkpoints --------------------------------------------

    def count(self, entry: Entry, what: str) -> None:
        """Count an entry that is no folder; *what* names the field for regular files."""
        tally = self.tally
        if entry.kind is not Kind.FILE:
            tally.others += 1
            return
        tally.files += 1
        tally.size += entry.size
        setattr(tally, what, getattr(tally, what) + 1)

    def report(self, path: bytes, problem: OSError | str) -> None:
        """Note that *path* could not be read, or changed; the run goes on."""
        reason = problem if isinstance(problem, str) else (problem.strerror or str(problem))
        self.tally.problem_count += 1
        if len(self.tally.problems) < PROBLEMS_MAX:
            self.tally.problems.append(Problem(path, reason))

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
            names = [r + item[0] + b"\0" for r, item in zip(folder.records[:done], folder.items)]  # noqa: B905  # fewer records
            totals = Totals(*folder.totals)
            for record, name, entry in self._unchanged_rest(folder):
                builder.add(entry)
                names.append(record + name + b"\0")
                totals = totals._replace(files=totals.files + 1, size=totals.size + entry.size)
            row = Witness(folder.path, b"".join(names), builder.finish(), totals, folder.read_ns)
            self.rows.append(row)

    def _unchanged_rest(self, folder: _OpenFolder) -> Iterator[tuple[bytes, bytes, Entry]]:
        """Yield (record, name, entry) of the files still to come that will prove unchanged."""
        if folder.old is None:
            return
        if folder.old_records is None:
            self._load_old(folder)
        for place in range(folder.place, len(folder.items)):
            name = folder.items[place][0]
            entry = self._unchanged(folder, place)
            if entry is not None and entry.kind is not Kind.FOLDER:
                yield folder.records[place], name, entry

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


def _open_for_reading(path: bytes) -> int:
    """Open a regular file without touching its access time, where that is allowed."""
    try:
        return os.open(path, _OPEN_FLAGS | os.O_NOATIME)
    except PermissionError:
        return os.open(path, _OPEN_FLAGS)  # not ours: only the owner may leave atime alone
