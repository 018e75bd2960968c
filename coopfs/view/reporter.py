"""What goes wrong in a request: an errno for the caller, one line in the log for the admin."""

from __future__ import annotations

import logging
import os
from typing import Final

from coopfs.errors import CoopfsError, NotFound
from coopfs.ops.wording import printable
from coopfs.view.fetcher import Fetcher
from coopfs.view.names import Names

REPORTED_MAX: Final = 1000  # lines remembered, so that none is written twice

log = logging.getLogger(__name__)


class Reporter:
    """Logs each failure once, with the path it happened at."""

    def __init__(self, names: Names, fetcher: Fetcher) -> None:
        """Find paths through *names* and what *fetcher* has in memory."""
        self._names = names
        self._fetcher = fetcher
        self._reported: set[tuple[int, str]] = set()

    def errno_for(self, ino: int, exc: CoopfsError) -> int:
        """Return the errno for *exc*; log it, unless it is a plain "no" or was logged before."""
        key = (ino, str(exc))
        if not isinstance(exc, NotFound) and key not in self._reported:
            if len(self._reported) >= REPORTED_MAX:
                self._reported.clear()
            self._reported.add(key)
            # One line each: a name with a line end in it must not look like two.
            log.error("%s: %s", printable(os.fsdecode(self.path(ino))), printable(str(exc)))
        return exc.errno

    def path(self, ino: int) -> bytes:
        """Return the path from the top of the mount, as far as it is known without waiting."""
        virtual = self._names.virtual(ino)
        if virtual is not None:
            return b"/" + virtual.path
        folder = self._names.folder(ino)
        name = b""
        if folder is None:
            place = self._names.place(ino)
            if place is None:
                return b"inode %d" % ino
            folder = place.folder
            leaf, start = folder.leaf_at(place.place)
            node = self._fetcher.peek_tree(leaf.tree_id)
            index = place.place - start
            name = node.entries[index].name if node and index < len(node.entries) else b"?"
        top = folder
        while top.parent is not None:
            top = top.parent
        snapshot = self._names.virtual(top.ino)
        parts = [snapshot.path if snapshot else b"", folder.path(), name]
        return b"/" + b"/".join(part for part in parts if part)
