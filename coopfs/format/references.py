"""What the nodes of trees refer to, and nothing else: for a prune, which reads all there are.

Of nodes of usual entries a survey says it, verified; of others what is not looked at here
a reader refuses later, which loses nothing.  What could hide a reference is refused here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format.encoding import CRITICAL_KEY, decode, fields_of
from coopfs.format.survey import survey_usual
from coopfs.ids import ID_LEN

_KNOWN: Final = frozenset(range(2))


@dataclass(frozen=True, slots=True)
class References:
    """The ids a tree node names."""

    trees: list[bytes]  # folders in it, or nodes of the same folder
    chunks: bytes  # of files with few spans; ids back to back
    span_roots: list[bytes]  # of files with many


def tree_references(node: bytes, what: str) -> References:
    """Return what a tree node refers to.

    Raises:
        ObjectCorrupt: it is not understood.
        FormatUnsupported: an entry has content of a kind that only a newer version knows.
    """
    usual = survey_usual(node, what)
    if usual is not None:
        roots = [span_root for _, span_root in usual.rooted]
        return References([tree for _, tree, _ in usual.folders], usual.chunk_ids, roots)
    trees: list[bytes] = []
    chunks: list[bytes] = []
    span_roots: list[bytes] = []
    fields = fields_of(decode(node, what), what, _KNOWN)
    items = fields.get(1)
    if type(items) is not list:
        raise ObjectCorrupt(f"{what}: malformed node")
    try:
        if fields.get(0):
            trees.extend(_id(item[1], what) for item in items)
            return References(trees, b"", [])
        for item in items:
            # Keys ascend, or no reader takes the entry.
            if next(reversed(item)) >= CRITICAL_KEY:
                raise FormatUnsupported(
                    f"{what}: entry {item.get(0)!r} has the critical key {next(reversed(item))}, "
                    "which this version does not know; a newer coopfs is needed to read it"
                )
            spans = item.get(17)
            if spans is not None:
                for chunk_id in spans[1::2]:
                    if type(chunk_id) is bytes and len(chunk_id) == ID_LEN:
                        chunks.append(chunk_id)
                    elif chunk_id is not None:
                        raise ObjectCorrupt(f"{what}: malformed chunk id in a span")
            elif 16 in item:
                continue
            if 18 in item:
                span_roots.append(_id(item[18], what))
            if 19 in item:
                trees.append(_id(item[19], what))
    except (TypeError, AttributeError, IndexError, KeyError, StopIteration) as exc:
        raise ObjectCorrupt(f"{what}: malformed entry or pointer") from exc
    return References(trees, b"".join(chunks), span_roots)


def _id(value: Any, what: str) -> bytes:
    if type(value) is not bytes or len(value) != ID_LEN:
        raise ObjectCorrupt(f"{what}: malformed id")
    return value
