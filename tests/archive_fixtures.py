"""What the tests of snapshots and of the archive share: a host, a store, a source to take.

What a snapshot holds is read back through the archive and compared with what lies in
the file system; nothing of :mod:`coopfs.ops` is used for that.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.settings import load_settings
from coopfs.errors import UsageError
from coopfs.format.tree import Entry, Kind
from coopfs.ids import TreeId
from coopfs.ops.exclude import Excludes
from coopfs.ops.folder import WalkRules
from coopfs.ops.progress import NoProgress
from coopfs.ops.snapshot import SnapshotReport, SnapshotRequest, take_snapshot
from coopfs.store.base import Kind as StoreKind
from coopfs.store.faulty import FaultyStore
from coopfs.store.open import open_store

ROOT_ONLY = pytest.mark.root


def no_passphrase(prompt: str) -> str:
    """Stand for a terminal that is not there."""
    raise UsageError(prompt)


@contextmanager
def opened(
    host: Host, *, is_local: bool | None = None, refresh: bool = True, **options: Any
) -> Iterator[tuple[Archive, FaultyStore]]:
    """Open the archive of *host* on a store that can be told to misbehave."""
    settings = load_settings(host.dirs, None)
    ring = load_keyring(host.dirs, settings, no_passphrase)
    store = FaultyStore(open_store(settings.store), is_local=is_local)
    with Archive.open(host.dirs, settings, ring, store, **options) as archive:
        if refresh:
            archive.refresh()
        yield archive, store


def request_for(
    *paths: Path | bytes | str,
    series: str = "main",
    excludes: Iterable[str] = (),
    rules: dict[str, Any] | None = None,
    **options: Any,
) -> SnapshotRequest:
    """Return what to take: *paths* as they are (absolute), the rest as asked."""
    return SnapshotRequest(
        paths=tuple(os.fsencode(path) for path in paths),
        excludes=tuple(excludes),
        rules=WalkRules(Excludes.from_patterns(tuple(excludes)), **(rules or {})),
        series=series,
        **options,
    )


@dataclass(frozen=True)
class Seen:
    """One entry, as the file system or as the archive shows it."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    digest: bytes = b""  # of a file's content, holes read as zeros
    target: bytes = b""
    rdev: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Picture:
    """A tree: entries by path below its top, and which paths are one file."""

    entries: dict[bytes, Seen] = field(default_factory=dict)
    links: set[frozenset[bytes]] = field(default_factory=set)


def real_picture(top: Path | bytes) -> Picture:
    """Look at everything below the folder *top*; times are exact, content is read."""
    picture = Picture()
    groups: dict[tuple[int, int], set[bytes]] = {}

    def look(folder: bytes, shown: bytes) -> None:
        for item in sorted(os.listdir(folder)):
            path, name = folder + b"/" + item, shown + item
            status = os.lstat(path)
            picture.entries[name] = _real(path, status)
            if stat.S_ISDIR(status.st_mode):
                look(path, name + b"/")
            elif status.st_nlink > 1:
                groups.setdefault((status.st_dev, status.st_ino), set()).add(name)

    look(os.fsencode(top), b"")
    picture.links = {frozenset(group) for group in groups.values() if len(group) > 1}
    return picture


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.FOLDER,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


def _real(path: bytes, status: os.stat_result) -> Seen:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    is_file = kind is Kind.FILE
    return Seen(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if is_file else 0,
        blake3(Path(os.fsdecode(path)).read_bytes()).digest() if is_file else b"",
        os.readlink(path) if kind is Kind.SYMLINK else b"",
        status.st_rdev if kind in (Kind.CHAR_DEVICE, Kind.BLOCK_DEVICE) else 0,
        tuple(
            sorted(
                (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
                for name in os.listxattr(path, follow_symlinks=False)
            )
        ),
    )


def content_of(archive: Archive, entry: Entry) -> bytes:
    """Return a file's whole content from the archive; it is as long as the entry says."""
    if entry.inline is not None:
        content = entry.inline
    else:
        content = b"".join(
            bytes(length) if chunk_id is None else archive.load_chunk(chunk_id)
            for length, chunk_id in archive.iter_spans(entry)
        )
    assert len(content) == entry.size
    return content


def archived_picture(archive: Archive, tree: TreeId) -> Picture:
    """Read back everything below a tree of the archive; totals on the way must add up."""
    picture = Picture()
    groups: dict[bytes, set[bytes]] = {}

    def look(tree_id: TreeId, shown: bytes) -> tuple[int, int, int]:
        files = folders = size = 0
        for entry in archive.iter_entries(tree_id):
            name = shown + entry.name
            picture.entries[name] = _archived(archive, entry)
            if entry.tree is not None:
                assert entry.totals is not None
                inner = look(entry.tree, name + b"/")
                assert inner == tuple(entry.totals), name
                files, folders = files + inner[0], folders + inner[1] + 1
                size += inner[2]
                continue
            files, size = files + 1, size + entry.size
            if entry.hard_link_id is not None:
                groups.setdefault(entry.hard_link_id, set()).add(name)
        return files, folders, size

    look(tree, b"")
    picture.links = {frozenset(group) for group in groups.values() if len(group) > 1}
    return picture


def _archived(archive: Archive, entry: Entry) -> Seen:
    is_file = entry.kind is Kind.FILE
    return Seen(
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime_ns,
        entry.size,
        blake3(content_of(archive, entry)).digest() if is_file else b"",
        entry.target,
        entry.rdev,
        entry.xattrs,
    )


def entry_below(archive: Archive, tree: TreeId, path: bytes | Path) -> Entry:
    """Return the entry at *path* below *tree*; it must be there."""
    found: Entry | None = None
    for name in os.fsencode(path).strip(b"/").split(b"/"):
        below = tree if found is None else found.tree
        assert below is not None, path
        found = archive.find_entry(below, name)
        assert found is not None, path
    assert found is not None
    return found


class Lab:
    """A host with an archive in a folder, and a source folder to take."""

    def __init__(self, base: Path, name: str = "anna") -> None:
        self.base = base
        self.host = Host(base / name, name)
        self.store_path = base / "store"
        self.source = base / "source"
        self.source.mkdir(exist_ok=True)

    def init(self, *args: object) -> Lab:
        """Make the archive."""
        self.host.init(self.store_path, *args)
        return self

    def second_host(self, name: str = "bob") -> Lab:
        """Return a host of the same archive, enrolled as *name*."""
        other = Lab(self.base, name)
        sheets = self.host.ok("--json", "key", "export").lines()[0]
        asked = other.host.ok(
            *("--json", "writer", "request", self.store_path, "--host", name, "--no-passphrase"),
            stdin=sheets["archive_key_words"],
        )
        self.host.ok("writer", "enrol", asked.lines()[0]["code"])
        return other

    def open(self, **options: Any) -> Any:
        """See :func:`opened`."""
        return opened(self.host, **options)

    def take(self, *paths: Path | bytes, **options: Any) -> SnapshotReport:
        """Take a snapshot (of the source, unless told otherwise) in a session of its own."""
        with self.open() as (archive, _):
            return take(archive, *(paths or (self.source,)), **options)

    def expect_archived(self, report: SnapshotReport, top: Path | None = None) -> None:
        """The snapshot holds exactly what is below *top* (the source) now."""
        top = self.source if top is None else top
        with self.open() as (archive, _):
            root = entry_below(archive, report.facts.root, top)
            assert root.tree is not None
            found, real = archived_picture(archive, root.tree), real_picture(top)
        assert found.entries == real.entries
        assert found.links == real.links

    def objects(self, kind: StoreKind) -> set[bytes]:
        """Return the names of the objects of *kind* in the store."""
        with open_store(str(self.store_path)) as store:
            return {info.name for info in store.list(kind)}


def take(archive: Archive, *paths: Path | bytes, **options: Any) -> SnapshotReport:
    """Take a snapshot in an open archive."""
    is_stopped = options.pop("is_stopped", lambda: False)
    return take_snapshot(archive, request_for(*paths, **options), NoProgress(), is_stopped)


def write(path: Path, content: bytes | str = b"", *, mode: int = 0o644) -> Path:
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def keep_above_still(patch: pytest.MonkeyPatch) -> None:
    """Have the folders above sources look the same for ever; others make files in /tmp too."""

    def above(run: object, path: bytes, name: bytes) -> Entry:
        return Entry(name, Kind.FOLDER, 0o755, 0, 0, 0)

    patch.setattr("coopfs.ops.source_paths.SourceStorer._folder_above", above)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A host and an archive of its own; roots depend on nothing but the sources."""
    keep_above_still(monkeypatch)
    return Lab(tmp_path).init()


@pytest.fixture
def no_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe times at once; else all that was written within two seconds is read again."""
    monkeypatch.setattr("coopfs.ops.witness.RACY_NS", 0)
