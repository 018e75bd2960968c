"""The mount as FUSE requests: every handler of pyfuse3 that a read-only mount needs.

The only place of the mount that catches :class:`CoopfsError`: it becomes an errno
and one line in the log that names the path and the reason.  Handlers run on the
event loop; those whose answer is in memory pass no checkpoint.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, StatvfsData

from coopfs.archive.archive import Archive
from coopfs.errors import CoopfsError, FormatUnsupported
from coopfs.format.tree import Entry, Kind
from coopfs.view.attributes import Attributes
from coopfs.view.browser import Browser, Found
from coopfs.view.catalogue import VirtualNode
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.names import Folder, Names
from coopfs.view.options import MountOptions
from coopfs.view.reader import OpenFile, Reader
from coopfs.view.refresher import Refresher
from coopfs.view.reporter import Reporter
from coopfs.view.status import render_status

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_LISTING: Final = 1 << 62  # handles from here up are listings above the snapshots
_DOTS: Final = 2  # "." and ".." come before the entries
XATTR_SNAPSHOT: Final = b"user.coopfs.snapshot"
XATTR_DISTRUSTED: Final = b"user.coopfs.distrusted"
XATTR_LOCAL: Final = b"user.coopfs.local"


def _answered(
    method: Callable[Concatenate[MountOperations, int, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[MountOperations, int, P], Coroutine[Any, Any, R]]:
    """Turn what goes wrong into an errno; the first argument is an inode or handle."""

    async def handler(
        self: MountOperations, number: int, /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        try:
            return await method(self, number, *args, **kwargs)
        except CoopfsError as exc:
            raise FUSEError(self.errno_for(number, exc)) from exc
        except (FUSEError, MemoryError):
            raise
        except Exception as exc:
            # A defect must cost one request, not the mount.
            log.exception("a request failed in a way that was not foreseen")
            raise FUSEError(errno.EIO) from exc

    handler.__name__, handler.__doc__ = method.__name__, method.__doc__
    return handler


class MountOperations(pyfuse3.Operations):
    """Answers the kernel; one object a mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True  # the kernel then checks POSIX ACLs as it does on a disk

    def __init__(
        self,
        archive: Archive,
        options: MountOptions,
        refresher: Refresher,
        fetcher: Fetcher,
        decoders: Decoders,
        on_ready: Callable[[], None],
    ) -> None:
        """Show *archive*; *on_ready* is called once, when the kernel has said hello."""
        super().__init__()
        self._archive = archive
        self._refresher = refresher
        self._fetcher = fetcher
        self._decoders = decoders
        self._on_ready = on_ready
        self._names = Names(refresher.catalogue)
        refresher.show = self._names.replace_catalogue
        self._browser = Browser(self._names, fetcher)
        self._reader = Reader(archive, fetcher, decoders)
        self._attributes = Attributes(options)
        self._files: dict[int, OpenFile | bytes] = {}
        self._listings: dict[int, VirtualNode] = {}
        self._next_handle = 1
        self._reporter = Reporter(self._names, fetcher)
        self._dot = self._attributes.blank()
        self._blank = self._attributes.blank()

    # --- the mount as a whole -------------------------------------------------

    def init(self) -> None:
        """Say that the kernel has accepted the mount."""
        self._on_ready()

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Say how much the snapshots hold; nothing is ever free on a read-only mount."""
        data = StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        newest: dict[tuple[str, str], int] = {}
        for snapshot in self._archive.snapshots():
            newest[snapshot.facts.host, snapshot.facts.series] = snapshot.facts.counts.size
        data.f_blocks = -(-sum(newest.values()) // 4096)
        data.f_namemax = 255
        return data

    def errno_for(self, number: int, exc: CoopfsError) -> int:
        """Return the errno that answers a request about an inode or an open file."""
        file = self._files.get(number)
        return self._reporter.errno_for(file.ino if isinstance(file, OpenFile) else number, exc)

    # --- names ----------------------------------------------------------------

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Return the attributes of *name* in a folder; absence is remembered by the kernel."""
        virtual = self._names.virtual(parent_inode)
        if virtual is not None and virtual.snapshot is None:
            child = await self._virtual_child(virtual, name)
            return await self._virtual_attributes(child)
        found = await self._browser.child(await self._browser.folder(parent_inode), name)
        attributes = self._attributes.blank()
        if found is None:
            attributes.st_ino = 0
            return attributes
        await self._fill(attributes, found.folder, found.place, found.entry)
        return attributes

    async def _virtual_child(self, parent: VirtualNode, name: bytes) -> VirtualNode:
        child = (parent.children or {}).get(name)
        if child is None:
            # A snapshot taken a moment ago must be there for whoever asks by name.
            await self._refresher.looked_at()
            parent = self._current(parent)
            child = (parent.children or {}).get(name)
            if child is None:
                raise FUSEError(errno.ENOENT)
        return child

    def _current(self, node: VirtualNode) -> VirtualNode:
        """Return what stands at the node's path now, or *node* itself when it is gone."""
        found: VirtualNode | None = self._refresher.catalogue
        for name in filter(None, node.path.split(b"/")):
            found = (found.children or {}).get(name) if found else None
        return found or node

    async def _virtual_attributes(self, node: VirtualNode) -> EntryAttributes:
        link_count, size = self._virtual_facts(node)
        if node.snapshot is not None:
            link_count = await self._browser.link_count(node.snapshot.facts.root)
        ino = self._names.virtual_ino(node)
        return self._attributes.of_virtual(node, ino, link_count, size)

    def _virtual_facts(self, node: VirtualNode) -> tuple[int, int]:
        """Return (link count, size in bytes) as far as they are known without waiting."""
        if node.snapshot is not None:
            return self._browser.known_root_link_count(node.snapshot.facts.root), 4096
        if node.children is not None:
            return 2 + sum(child.is_folder for child in node.children.values()), 4096
        return 1, len(node.target) or len(self._status())

    async def _fill(
        self, attributes: EntryAttributes, folder: Folder, place: int, entry: Entry
    ) -> int:
        """Write an entry's attributes; returns its inode number."""
        link_count = self._browser.known_link_count(entry)
        if link_count is None and entry.tree is not None:
            link_count = await self._browser.link_count(entry.tree)
        ino = self._names.entry_ino(folder, place, entry)
        self._attributes.fill(attributes, entry, ino, link_count or 1)
        return ino

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Keep numbers: they are given out per folder, and a folder may be visited again."""

    @_answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Return an inode's attributes."""
        virtual = self._names.virtual(inode)
        if virtual is not None:
            return await self._virtual_attributes(self._current(virtual))
        found = await self._browser.entry(inode)
        attributes = self._attributes.blank()
        await self._fill(attributes, found.folder, found.place, found.entry)
        return attributes

    @_answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Return a symlink's target; `latest` is looked up anew."""
        virtual = self._names.virtual(inode)
        if virtual is not None:
            await self._refresher.looked_at()
            return self._current(virtual).target
        return (await self._browser.entry(inode)).entry.target

    # --- listing --------------------------------------------------------------

    @_answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Return the handle of a listing: the inode itself, inside snapshots."""
        virtual = self._names.virtual(inode)
        if virtual is None or virtual.snapshot is not None:
            await self._browser.folder(inode)
            return inode
        await self._refresher.looked_at()
        handle = _LISTING + self._take_handle()
        self._listings[handle] = self._current(virtual)
        return handle

    @_answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Reply with entries and their attributes, from number *start_id* on."""
        if fh >= _LISTING:
            self._list_virtual(self._listings[fh], start_id, token)
            return
        folder = await self._browser.folder(fh)
        parent_ino = folder.parent.ino if folder.parent else self._names.virtual_parent_ino(fh)
        if not self._list_dots(fh, parent_ino, start_id, token):
            return
        place = max(start_id - _DOTS, 0)
        while place < folder.count:
            leaf, start = folder.leaf_at(place)
            entries = await self._browser.leaf(leaf)
            if not await self._list_leaf(folder, entries, start, place, token):
                return
            place = start + len(entries)

    async def _list_leaf(
        self,
        folder: Folder,
        entries: Sequence[Entry],
        start: int,
        place: int,
        token: pyfuse3.ReaddirToken,
    ) -> bool:
        """Reply with a leaf's entries from *place* on; False when the reply is full."""
        # One object for all: reply copies it, and no one else runs between fill and reply.
        attributes = self._blank
        fill, reply = self._attributes.fill, pyfuse3.readdir_reply
        link_count_of, ino_of = self._browser.known_link_count, self._names.entry_ino
        for number in range(place, start + len(entries)):
            entry = entries[number - start]
            link_count = link_count_of(entry)
            if link_count is None and entry.tree is not None:
                link_count = await self._browser.link_count(entry.tree)
            fill(attributes, entry, ino_of(folder, number, entry), link_count or 1)
            if not reply(token, entry.name, attributes, number + _DOTS + 1):
                return False
        return True

    def _list_dots(
        self, ino: int, parent_ino: int, start_id: int, token: pyfuse3.ReaddirToken
    ) -> bool:
        """Reply with "." and ".." as far as *start_id* wants them; False when the reply is full."""
        for number, (name, own) in enumerate(((b".", ino), (b"..", parent_ino))):
            if number >= start_id:
                # The kernel takes only the number from these two.
                self._dot.st_ino = own
                self._dot.st_mode = 0o40755
                if not pyfuse3.readdir_reply(token, name, self._dot, number + 1):
                    return False
        return True

    def _list_virtual(self, node: VirtualNode, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        ino = self._names.virtual_ino(node)
        if not self._list_dots(ino, self._names.virtual_parent_ino(ino), start_id, token):
            return
        children = list((node.children or {}).items())
        for number in range(max(start_id - _DOTS, 0), len(children)):
            name, child = children[number]
            attributes = self._attributes.of_virtual(
                child, self._names.virtual_ino(child), *self._virtual_facts(child)
            )
            if not pyfuse3.readdir_reply(token, name, attributes, number + _DOTS + 1):
                return

    async def releasedir(self, fh: int) -> None:
        """Forget a listing."""
        self._listings.pop(fh, None)

    # --- content --------------------------------------------------------------

    @_answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file for reading; its pages stay valid in the kernel between opens."""
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise FUSEError(errno.EROFS)
        handle = self._take_handle()
        if self._names.virtual(inode) is not None:
            self._files[handle] = self._status()
            return FileInfo(fh=handle, direct_io=True, keep_cache=False)
        found = await self._browser.entry(inode)
        if found.entry.unsupported:
            raise FormatUnsupported(found.entry.unsupported)
        if found.entry.kind is not Kind.FILE:
            raise FUSEError(errno.EPERM)
        self._files[handle] = OpenFile(inode, found.entry)
        self._reader.opened(found.folder.ino, found.place, found.leaf, found.leaf_start)
        return FileInfo(fh=handle, keep_cache=True)

    @_answered
    async def read(  # type: ignore[override]  # pyfuse3 sends any buffer, not only bytes
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        """Return exactly the bytes that are there, fewer only at the file's end."""
        file = self._files[fh]
        if isinstance(file, bytes):
            return file[off : off + size]
        return await self._reader.read(file, off, size)

    async def release(self, fh: int) -> None:
        """Close a file."""
        file = self._files.pop(fh, None)
        if isinstance(file, OpenFile):
            self._reader.closed(file)

    async def flush(self, fh: int) -> NoReturn:
        """Nothing is ever written: the kernel asks once and then no more."""
        raise FUSEError(errno.ENOSYS)

    def _take_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _status(self) -> bytes:
        return render_status(
            self._archive,
            self._refresher,
            self._names,
            self._fetcher,
            self._decoders,
            len(self._files),
        )

    # --- extended attributes --------------------------------------------------

    @_answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return an attribute as it was on the source, or one of `user.coopfs.*`."""
        virtual = self._names.virtual(inode)
        if virtual is not None:
            if virtual.snapshot is not None and name == XATTR_SNAPSHOT:
                return virtual.snapshot.snapshot_id.hex().encode()
            if virtual.snapshot is not None and name == XATTR_DISTRUSTED:
                return b"yes" if virtual.snapshot.is_distrusted else b"no"
            raise FUSEError(pyfuse3.ENOATTR)
        found = await self._browser.entry(inode)
        for own_name, value in found.entry.xattrs:
            if own_name == name:
                return value
        # By name only, never listed: a copy made with rsync -X or cp -a is the source's equal.
        if name == XATTR_SNAPSHOT:
            return found.folder.snapshot.snapshot_id.hex().encode()
        if name == XATTR_LOCAL:
            return await self._locality(found)
        raise FUSEError(pyfuse3.ENOATTR)

    async def _locality(self, found: Found) -> bytes:
        """Say whether a file's data can be read without the partner: yes, no or partly."""

        def look() -> bytes:
            states = set()
            for span in self._archive.iter_spans(found.entry):
                if span.chunk_id is not None:
                    location = self._archive.index.first_location(span.chunk_id)
                    states.add(self._archive.blocks.is_cached(location.block_no))
                if len(states) > 1:
                    return b"partly"
            return b"no" if states == {False} else b"yes"

        return await self._fetcher.in_thread(look)

    @_answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Return the names of the attributes the source had."""
        if self._names.virtual(inode) is not None:
            return ()
        found = await self._browser.entry(inode)
        return [name for name, _ in found.entry.xattrs]

    # --- everything that would change something -------------------------------

    async def _refuse(self, *args: Any) -> NoReturn:
        """Refuse: `mount -o remount,rw` can take away the kernel's own refusal."""
        raise FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = _refuse  # type: ignore[assignment]  # one for all
    rename = link = create = write = setxattr = removexattr = _refuse  # type: ignore[assignment]  # as above
