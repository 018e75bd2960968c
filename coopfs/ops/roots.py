"""Sources and the folders above them: what a snapshot's root is made of.

Paths keep their place from the root: /home/ann appears as home/ann.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from coopfs.errors import UsageError
from coopfs.format.tree import Entry, Totals
from coopfs.ids import TreeId

DEFAULT_SERIES: Final = "default"

SaveTree = Callable[[Iterable[Entry]], TreeId]  # stores the entries of a folder
FolderAbove = Callable[[bytes, bytes], Entry]  # (path, name) -> its entry, without a tree


def default_series(paths: tuple[bytes, ...]) -> str:
    """Return the series' name when nobody gave one: the last part of a single path."""
    if len(paths) != 1:
        return DEFAULT_SERIES
    last = os.fsdecode(os.path.basename(paths[0].rstrip(b"/"))) or "root"
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", last)[:128].strip("-")
    return name if name.strip(".") else DEFAULT_SERIES


def absolute_paths(paths: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return the sources as absolute paths, each once, none below another.

    Raises:
        UsageError: one of them is empty.
    """
    if "" in paths:
        raise UsageError("an empty PATH (a variable that is not set?); for this folder say .")
    # Two slashes in front mean the same as one on Linux, but abspath() leaves them.
    chosen = sorted({b"/" + os.path.abspath(os.fsencode(path)).lstrip(b"/") for path in paths})
    kept: set[bytes] = set()
    for path in chosen:  # a folder comes before what is in it
        if kept.isdisjoint(_folders_above(path)):
            kept.add(path)
    return tuple(sorted(kept))


def _folders_above(path: bytes) -> Iterator[bytes]:
    while len(path) > 1:
        path = os.path.dirname(path)
        yield path


def build_root(save_tree: SaveTree, entries: list[Entry], folder_above: FolderAbove) -> TreeId:
    """Store the folders above the sources; *entries* carry whole paths as names."""
    if len(entries) == 1 and entries[0].name == b"/" and entries[0].tree is not None:
        return entries[0].tree
    placed = [(entry.name.strip(b"/").split(b"/"), entry) for entry in entries]
    return _build_above(save_tree, b"", placed, folder_above)[0]


def _build_above(
    save_tree: SaveTree,
    path: bytes,
    entries: list[tuple[list[bytes], Entry]],
    folder_above: FolderAbove,
) -> tuple[TreeId, Totals]:
    by_name: dict[bytes, list[tuple[list[bytes], Entry]]] = {}
    for parts, entry in entries:
        by_name.setdefault(parts[0], []).append((parts[1:], entry))
    stored: list[Entry] = []
    for name in sorted(by_name):
        group = by_name[name]
        rest, entry = group[0]
        if not rest:
            stored.append(entry._replace(name=name))
            continue
        here = path + b"/" + name
        tree, totals = _build_above(save_tree, here, group, folder_above)
        stored.append(folder_above(here, name)._replace(tree=tree, totals=totals))
    files = folders = size = 0
    for entry in stored:
        inner = entry.totals
        if inner is None:
            files, size = files + 1, size + entry.size
        else:
            files, size = files + inner.files, size + inner.size
            folders += inner.folders + 1
    return save_tree(stored), Totals(files, folders, size)
