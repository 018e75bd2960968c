"""Surveys of tree nodes made ahead of the walk that asks for them, on the second core.

Blocks of metadata are surveyed whole, in the order in which they were stored, which is
about the order of a walk.  Most of that is another process's work; this one takes a block
itself whenever it would have to wait.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict, deque
from contextlib import suppress
from itertools import pairwise
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.survey_process import PLACE_LEN, SurveyProcess, Surveys
from coopfs.errors import CoopfsError, DataError, ObjectNotFound
from coopfs.format.likeness import Surveyor
from coopfs.format.survey import Survey, survey_tree_node
from coopfs.ids import TreeId, short_hex

AHEAD_LEN: Final = 48 << 20  # bytes that surveys not asked for yet may take, roughly
NODE_LEN, FOLDER_LEN = 600, 250  # bytes that a survey takes, and each folder in it
LEAST_LEN: Final = 4 << 20  # bytes of metadata; less is not worth a process


class SurveysAhead:
    """See the module; one thread uses it."""

    def __init__(self, archive: Archive) -> None:
        """Know of nothing yet: until then each node is looked at when it is asked for."""
        self._archive = archive
        self._process: SurveyProcess | None = None
        self._todo: deque[int] = deque()  # blocks
        self._plain_lens: dict[int, int] = {}  # of those that are not done
        self._ready: OrderedDict[int, Surveys] = OrderedDict()  # what of a block was not taken
        self._ready_lens: dict[int, int] = {}
        self._ready_len = 0
        self._sent_len = 0
        self._last_pack_no = 0  # that was taken in
        self._surveyor = Surveyor()
        self._last_taken = 0  # block, for this process
        self._was_started = False

    def start(self, meta_len: int) -> None:
        """Start the process, where *meta_len* bytes of metadata are enough for one; once."""
        if meta_len >= LEAST_LEN and not self._was_started:
            self._was_started = True
            with suppress(CoopfsError):  # then this process does it all
                self._process = SurveyProcess(self._archive.keys)
                self._send()

    def take_in(self) -> None:
        """Have the metadata packs surveyed that the archive's index knows since the last call."""
        index = self._archive.index
        for pack in index.packs_after(self._last_pack_no):
            self._last_pack_no = pack.pack_no
            for info in index.blocks_of(pack.pack_no) if pack.is_meta else ():
                if max(info.plain_len, info.sealed_len) <= PLACE_LEN:
                    self._todo.append(info.block_no)
                    self._plain_lens[info.block_no] = info.plain_len
        self._send()

    @property
    def waiting_len(self) -> int:
        """How many bytes of metadata, plain, have been taken in and not been surveyed."""
        return sum(self._plain_lens.values())

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def go_on(self) -> None:
        """Keep the process busy while this one does something else; to be called now and then."""
        self._send()

    def survey(self, tree_id: TreeId) -> Survey:
        """Return what is in a tree node.

        Raises as ``Archive.load_tree_node``.
        """
        block_no = self._archive.index.first_location(tree_id).block_no
        while block_no in self._plain_lens and self._process is not None:
            self._go_on(block_no, self._process)
        surveys = self._ready.get(block_no)
        found = surveys.pop(tree_id, None) if surveys is not None else None
        if not surveys:
            self._drop(block_no)
        if found is not None:
            return found
        return self.survey_alone(tree_id)

    def survey_alone(self, tree_id: TreeId) -> Survey:
        """Return what is in a tree node, told without any that it is *like*; raises as above."""
        node = self._archive.load_tree_bytes(tree_id)
        return survey_tree_node(node, f"tree {short_hex(tree_id)}")

    def _go_on(self, block_no: int, process: SurveyProcess) -> None:
        """Take in a block, or survey one here; *block_no* is wanted now."""
        self._send()
        if block_no not in self._plain_lens:
            return  # it has just come
        if block_no in self._todo:
            self._todo.remove(block_no)
            self._survey_here(block_no)
        elif not process.has_news and self._todo and self._ready_len < AHEAD_LEN // 2:
            self._survey_here(self._take_later())
        else:
            self._receive(process)

    def _take_later(self) -> int:
        """Return a block for this process: of the later half, in order.

        Each of the two then sees the nodes of night after night, which are like each other.
        """
        place = bisect_right(self._todo, self._last_taken)
        if not 0 < place < len(self._todo):
            place = len(self._todo) // 2
        self._last_taken = self._todo[place]
        del self._todo[place]
        return self._last_taken

    @property
    def _has_room(self) -> bool:
        return self._ready_len + self._sent_len < AHEAD_LEN

    def _send(self) -> None:
        """Keep the process busy."""
        while self._process is not None and self._process.has_news:
            self._receive(self._process)
        process = self._process
        while process is not None and process.has_room and self._todo and self._has_room:
            block_no = self._todo.popleft()
            try:
                for info, pack, sealed in self._archive.blocks.fetch_sealed([block_no]):
                    process.send(info, pack, sealed)
                    self._sent_len += info.plain_len
            except (DataError, ObjectNotFound):
                self._plain_lens.pop(block_no)  # each node is asked for by itself

    def _receive(self, process: SurveyProcess) -> None:
        received = process.receive()
        if received is None:
            self._process = None
            process.close()
            return
        block_no, surveys = received
        self._sent_len -= self._plain_lens[block_no]
        self._take_in(block_no, surveys)

    def _survey_here(self, block_no: int) -> None:
        info = self._archive.index.block(block_no)
        offsets = info.chunk_offsets
        lengths = (b - a for a, b in pairwise(offsets))
        try:
            plain = memoryview(self._archive.blocks.load(block_no).data)
        except (DataError, ObjectNotFound):
            self._plain_lens.pop(block_no)
            return
        found = self._surveyor.survey_block(self._archive.keys, info.chunk_ids, lengths, plain)
        self._take_in(block_no, dict(found))

    def _take_in(self, block_no: int, surveys: Surveys) -> None:
        self._plain_lens.pop(block_no)
        held_len = sum(
            [
                NODE_LEN + FOLDER_LEN * len(survey.folders) + 2 * len(survey.chunk_ids)
                for survey in surveys.values()
            ]
        )
        self._ready[block_no] = surveys
        self._ready_lens[block_no] = held_len
        self._ready_len += held_len
        while self._ready_len > AHEAD_LEN:  # what no snapshot needs stays until then
            self._drop(next(iter(self._ready)))

    def _drop(self, block_no: int) -> None:
        self._ready.pop(block_no, None)
        self._ready_len -= self._ready_lens.pop(block_no, 0)
