"""Looking into a snapshot without a mount: lists of entries, contents of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import FormatUnsupported, UsageError
from coopfs.format.tree import Entry, Kind
from coopfs.ops.feed import BlockFeed, read_content
from coopfs.ops.selection import Event, Selection, walk


class Listed(NamedTuple):
    """An entry and where it is."""

    path: bytes  # below the folder that was asked for
    entry: Entry


def list_entries(
    archive: Archive,
    snapshot: Snapshot,
    path: bytes,
    *,
    is_recursive: bool,
    on_unreadable: Callable[[bytes, str], None],
) -> Iterator[Listed]:
    """Yield what is in the folder at *path*, by name; for anything else, itself.

    *is_recursive*: also what is below, a folder before what is in it.  A folder that
    cannot be read is reported by its path in the snapshot, and the rest goes on.

    Raises:
        NotFound: the snapshot has no such path.
        DataError: the folder that was asked for cannot be read (without *is_recursive*).
    """
    top = entry_at(archive, snapshot, path)
    if top.tree is None:
        yield Listed(top.name, top)
        return
    if not is_recursive:
        for entry in archive.iter_entries(top.tree):
            yield Listed(entry.name, entry)
        return
    inner = path.strip(b"/")
    base = b"/" + inner + b"/" if inner else b"/"
    folders: list[bytes] = []
    for event, entry, _ in walk(archive, top, base, Selection(), on_unreadable):
        if event is Event.LEAVE:
            folders.pop()
            continue
        yield Listed(b"/".join((*folders, entry.name)), entry)
        if event is Event.ENTER:
            folders.append(entry.name)


def file_at(archive: Archive, snapshot: Snapshot, path: bytes) -> Entry:
    """Return the regular file at *path*.

    Raises:
        NotFound: the snapshot has no such path.
        UsageError: it is something that has no content.
        FormatUnsupported: this version cannot read it.
    """
    entry = entry_at(archive, snapshot, path)
    shown = path.decode("utf-8", "backslashreplace") or "/"
    if entry.unsupported:
        raise FormatUnsupported(entry.unsupported)
    if entry.kind is Kind.SYMLINK:
        leads_to = entry.target.decode("utf-8", "backslashreplace")
        raise UsageError(f"{shown}: is a symlink to {leads_to}; name the file it leads to")
    if entry.kind is not Kind.FILE:
        what = entry.kind.name.lower().replace("_", " ")
        raise UsageError(f"{shown}: is a {what}, which has no content")
    return entry


def write_content(archive: Archive, entry: Entry, write: Callable[[memoryview], int]) -> None:
    """Pass the content of a file to *write*, in order; it says how many bytes it took.

    Raises:
        DataError: a chunk is missing or damaged; what was written before is right.
        StoreUnavailable: the partner cannot be reached.
    """
    with BlockFeed(archive) as feed:
        for piece in read_content(archive, feed, entry):
            view = memoryview(piece)
            while view:
                view = view[write(view) :]
