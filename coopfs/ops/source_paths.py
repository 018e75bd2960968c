"""The sources of a snapshot, as they are named: folders, single files, a stream.

Owns what became of each, and the root above them.  What is below a folder is
:mod:`coopfs.ops.walk`'s.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable

from coopfs.archive.archive import Archive
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import DataError, UsageError
from coopfs.format.nodes import build_tree
from coopfs.format.tree import Entry, Kind, Totals, is_entry_name
from coopfs.ids import TreeId
from coopfs.ops.content import ContentReader
from coopfs.ops.folder import WalkRules
from coopfs.ops.roots import build_root
from coopfs.ops.source import OwnerNames
from coopfs.ops.walk import Walker
from coopfs.ops.witness import Witness, Witnesses


class SourceMissing(UsageError):
    """None of the sources is there."""


class Source:
    """One source path and, once it is stored, what became of it."""

    def __init__(self, path: bytes, status: os.stat_result) -> None:
        self.path = path
        self.status = status
        self.entry: Entry | None = None


class SourceStorer:
    """Stores the sources of one run."""

    def __init__(
        self,
        walker: Walker,
        witnesses: Witnesses,
        archive: Archive,
        writer: ArchiveWriter,
        rules: WalkRules,
    ) -> None:
        """*witnesses* are those of the run's series."""
        self._walker = walker
        self._witnesses = witnesses
        self._archive = archive
        self._writer = writer
        self._rules = rules
        self._sources: list[Source] = []

    def entries(self) -> list[Entry]:
        """Return what the sources were stored as, so far; whole paths as names."""
        return [source.entry for source in self._sources if source.entry is not None]

    def find(self, paths: tuple[bytes, ...]) -> list[Source]:
        """Return those of *paths* that are there; the others are reported.

        Raises:
            SourceMissing: none is.
        """
        for path in paths:
            try:
                self._sources.append(Source(path, os.lstat(path)))
            except OSError as exc:
                self._walker.tally.report(path, exc)
        if not self._sources:
            missing = ", ".join(os.fsdecode(path) for path in paths)
            raise SourceMissing(f"nothing to take: {missing}: no such file or folder")
        return self._sources

    def store(self, source: Source) -> None:
        """Store one source; what cannot be read is reported."""
        name = os.path.basename(source.path)
        status = source.status
        if stat.S_ISDIR(status.st_mode):
            entry = self._walker.files.folder_entry(source.path, name or b"/", status)
            if entry is None:
                return
            result = self._walker.store_folder(source.path, entry, status.st_dev)
            if result is not None:
                source.entry = entry._replace(tree=result.tree, totals=result.totals)
                self._walker.tally.folders += 1
        else:
            source.entry = self._store_single(source.path, name, status)
        if source.entry is not None:
            source.entry = source.entry._replace(name=source.path)

    def _store_single(self, path: bytes, name: bytes, status: os.stat_result) -> Entry | None:
        """Store a source that is no folder; its witness is a folder of one."""
        walker = self._walker
        record = self._rules.witness.record(status)
        names = record + name + b"\0"
        old = self._witnesses.get(path)
        former = None if old is None else self._former(old, name)
        read_ns = time.time_ns()
        if old is not None and former is not None and old.names == names:
            is_old = self._rules.witness.youngest_ns(status) < old.limit_ns
            if is_old and (not walker.must_look or walker.is_intact(former)):
                walker.tally.count(former, "files_unchanged")
                if walker.must_look:  # looked at now; see Witnesses.confirm()
                    walker.rows.append(old._replace(read_ns=read_ns))
                return former
        entry = walker.files.store_file(path, name, status)
        if entry is not None:
            walker.count_read(entry, former)
            totals = Totals(1, 0, entry.size)
            walker.rows.append(Witness(path, names, self._save_tree([entry]), totals, read_ns))
        return entry

    def _former(self, old: Witness, name: bytes) -> Entry | None:
        """Return what a single file was stored as, if that can still be read."""
        try:
            return self._archive.find_entry(old.tree, name)
        except DataError:
            return None

    def store_stream(self, reader: ContentReader, name: str) -> None:
        """Store standard input as the file *name* at the root.

        Raises:
            UsageError: that is no file name.
            SourceMissing: it cannot be read.
        """
        raw = os.fsencode(name)
        if not is_entry_name(raw):
            raise UsageError(f"--stdin-name {name!r}: expected a file name without slashes")
        try:
            content = reader.read_stream(0)
        except OSError as exc:
            raise SourceMissing(f"standard input cannot be read: {exc.strerror}") from exc
        self._walker.tally.read += content.read_len
        owners = OwnerNames()
        entry = Entry(
            raw,
            Kind.FILE,
            0o600,
            os.geteuid(),
            os.getegid(),
            time.time_ns(),
            owners.user(os.geteuid()),
            owners.group(os.getegid()),
            content.size,
            inline=content.inline,
            spans=content.spans,
            span_root=content.span_root,
        )
        self._walker.tally.count(entry, "files_new")
        source = Source(b"/" + raw, os.stat_result((0,) * 10))
        source.entry = entry._replace(name=source.path)
        self._sources.append(source)

    def build_root(self, entries: list[Entry]) -> TreeId:
        """Store the folders above *entries*, which carry whole paths as names."""
        return build_root(self._save_tree, entries, self._folder_above)

    def _save_tree(self, entries: Iterable[Entry]) -> TreeId:
        keys = self._archive.keys
        return build_tree(entries, keys.tree_id_key, self._writer.save_tree_node)

    def _folder_above(self, path: bytes, name: bytes) -> Entry:
        """Return the entry of a folder on the way to a source; as what it is a link to."""
        try:
            path = os.path.realpath(path)
            entry = self._walker.files.folder_entry(path, name, os.stat(path))
        except OSError as exc:  # gone since
            self._walker.tally.report(path, exc)
            entry = None
        return entry or Entry(name, Kind.FOLDER, 0o700, os.geteuid(), os.getegid(), time.time_ns())
