"""Tree nodes surveyed by what differs from one surveyed before.

From snapshot to snapshot a folder's node changes by an entry or two; all others are the
same bytes, and each entry is verified by itself.  So those that a node has in common with
an earlier one are not looked at again: what was found in them then counts.  All of the
node's bytes are compared or verified, and the number and order of its entries checked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from coopfs.errors import CoopfsError
from coopfs.format.keys import ArchiveKeys
from coopfs.format.survey import (
    Survey,
    Usual,
    entries_at,
    survey_of,
    survey_tree_node,
    tree_nodes,
    usual_entries,
)

MEMORY_LEN: Final = 12 << 20  # bytes of nodes kept, of each of two ages; about 4 times that in all
_END_LEN: Final = 128  # bytes; about what an entry of one chunk takes
_NEXT_MAX: Final = 4  # entries that may have gone or changed side by side
_GAP_MAX: Final = 4096  # bytes that may have come in one place
_GAPS_MAX: Final = 100  # in one node; a hostile one may make each as slow to find as can be


class _Kept(NamedTuple):
    """A usual node as it was surveyed."""

    node_id: bytes
    body: bytes  # its entries
    starts: list[int]  # of each in it, and the end of the last
    entries: list[Usual]


class _Draft(NamedTuple):
    """A node of which only is known what it has in common with another one."""

    node_id: bytes
    node: bytes
    body: bytes  # its entries
    entry_count: int  # as it says; 0: it is not a usual one
    kept: _Kept | None  # one like it
    # Bytes that are new, then a run of entries of *kept* (the first, after the last), in turn.
    runs: list[tuple[bytes, int, int]]


class _Parsed(NamedTuple):
    """Entries back to back."""

    entries: list[Usual]
    starts: list[int]  # of each, and the end of the last; bytes


class Surveyor:
    """Surveys the nodes of one block after another; memory is bounded.  One thread uses it."""

    def __init__(self, memory_len: int = MEMORY_LEN) -> None:
        """Keep up to twice *memory_len* bytes of nodes to compare with."""
        self._memory_len = memory_len
        self._young: dict[bytes, _Kept] = {}  # by how they begin, and by how they end
        self._old: dict[bytes, _Kept] = {}
        self._young_len = 0

    def survey_block(
        self,
        keys: ArchiveKeys,
        chunk_ids: Iterable[bytes],
        lengths: Iterable[int],
        plain: memoryview,
    ) -> Iterator[tuple[bytes, Survey]]:
        """Yield (id, survey) of the tree nodes in a block of metadata; ids are verified.

        They may be *like* others of blocks before.  What is no tree node by its id, or not
        well-formed, is passed over: whoever needs it reads it by itself and learns what is
        wrong.
        """
        nodes = tree_nodes(keys, chunk_ids, lengths, plain)
        drafts = [self._draft(node_id, node) for node_id, node in nodes]
        # All at once: a call for each node costs more than what is new in it.
        together = _parse(drafts)
        at = 0
        for draft in drafts:
            parsed = together or _parse([draft])
            assembled = _assemble(draft, parsed, at if together else 0) if parsed else None
            at += sum([len(gap) for gap, _, _ in draft.runs])
            if assembled is not None:
                entries, new = assembled
                self._keep(_Kept(draft.node_id, draft.body, _starts(entries), entries))
                yield (
                    draft.node_id,
                    survey_of(entries, new, draft.kept.node_id if draft.kept else b""),
                )
                continue
            try:
                survey = survey_tree_node(draft.node, "tree")
            except CoopfsError:
                continue
            yield draft.node_id, survey

    def _draft(self, node_id: bytes, node: bytes) -> _Draft:
        start, count = entries_at(node)
        body = node[start:]
        if not count:
            return _Draft(node_id, node, body, 0, None, [])
        kept = self._find(body)
        if kept is None:
            return _Draft(node_id, node, body, count, None, [(body, 0, 0)])
        return _Draft(node_id, node, body, count, kept, _compare(kept, body))

    def _find(self, body: bytes) -> _Kept | None:
        young, old = self._young, self._old
        first, last = body[:_END_LEN], body[-_END_LEN:]
        return young.get(first) or young.get(last) or old.get(first) or old.get(last)

    def _keep(self, kept: _Kept) -> None:
        if self._young_len > self._memory_len:
            self._old, self._young, self._young_len = self._young, {}, 0
        body = kept.body
        self._young[body[:_END_LEN]] = self._young[body[-_END_LEN:]] = kept
        self._young_len += len(body)


def _starts(entries: list[Usual]) -> list[int]:
    return list(accumulate([entry[0] for entry in entries], initial=0))


def _parse(drafts: Sequence[_Draft]) -> _Parsed | None:
    """Return all that is new in nodes; None where not all of it is usual and verified."""
    new = b"".join([gap for draft in drafts for gap, _, _ in draft.runs])
    entries = usual_entries(new, "tree") if new else []
    return None if entries is None else _Parsed(entries, _starts(entries))


def _assemble(draft: _Draft, parsed: _Parsed, at: int) -> tuple[list[Usual], list[Usual]] | None:
    """Return the entries of a node, and those of them that are new.

    The latter are what *parsed* has from byte *at* on.  None where this is no sound node.
    """
    starts = parsed.starts
    first_new = place = bisect_left(starts, at)
    found: list[Usual] = []
    name = b""  # the last
    for gap, first, after in draft.runs:
        at += len(gap)
        until = bisect_left(starts, at, lo=place)
        if starts[until] != at:
            return None  # an entry ends somewhere else
        for entry in parsed.entries[place:until]:
            if entry[1] <= name:
                return None
            name = entry[1]
        found += parsed.entries[place:until]
        place = until
        if draft.kept is not None and first < after:
            if draft.kept.entries[first][1] <= name:
                return None
            found += draft.kept.entries[first:after]  # in order among themselves
            name = found[-1][1]
    is_whole = len(found) == draft.entry_count > 0
    return (found, parsed.entries[first_new:place]) if is_whole else None


def _compare(kept: _Kept, body: bytes) -> list[tuple[bytes, int, int]]:
    """Return what ``_Draft.runs`` says."""
    starts, before = kept.starts, kept.body
    last = len(starts) - 1
    runs: list[tuple[bytes, int, int]] = []
    entry = at = done = 0
    while entry < last and at < len(body) and len(runs) < _GAPS_MAX:
        after = _same_until(kept, entry, body, at)
        if after > entry:
            runs.append((body[done:at], entry, after))
            done = at = at + starts[after] - starts[entry]
            entry = after
        for coming in range(entry, min(entry + _NEXT_MAX, last)):
            found = body.find(before[starts[coming] : starts[coming + 1]], at, at + _GAP_MAX)
            if found >= 0:
                entry, at = coming, found
                break
        else:
            break
    runs.append((body[done:], 0, 0))
    return runs


def _same_until(kept: _Kept, entry: int, body: bytes, at: int) -> int:
    """Return the first entry from *entry* on that *body*, from *at* on, has not."""
    before, start = kept.body, kept.starts[entry]

    def differs(end: int) -> bool:
        return not body.startswith(before[start:end], at)

    return bisect_left(kept.starts, True, lo=entry, key=differs) - 1
