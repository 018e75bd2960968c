"""Trees surveyed in a process of its own: a check needs two cores, Python gives one.

Sealed blocks of metadata go in, what their nodes hold comes out, both through places in
shared memory.  What does not open or is not well-formed does not come out: whoever
needs it reads it by itself, and then says what is wrong.
"""

from __future__ import annotations

from typing import Any, Final

from coopfs.archive.child import PlacedChild, child_pipes, read_message, write_message
from coopfs.archive.index_rows import BlockInfo, PackInfo, block_facts
from coopfs.errors import CoopfsError
from coopfs.format import encoding
from coopfs.format.codec import decompress
from coopfs.format.keys import PACK_ROLES, ArchiveKeys
from coopfs.format.likeness import Surveyor
from coopfs.format.sealing import Opener, Section, decode_header
from coopfs.format.survey import Survey
from coopfs.ids import ID_LEN

PLACE_LEN: Final = 4 << 20  # bytes; a larger block is not for this process
PLACES: Final = 8  # one is worked on, the others wait or come back

Surveys = dict[bytes, Survey]  # by tree id


class SurveyProcess:
    """The parent's end; one thread uses it."""

    def __init__(self, keys: ArchiveKeys) -> None:
        """Start the process (CoopfsError); a survey may name another one that it is *like*."""
        self._child = PlacedChild(__name__, PLACES, PLACE_LEN)
        self._block_nos: dict[int, int] = {}  # place -> block
        self._child.send([keys.archive_key])

    def close(self) -> None:
        """End the process."""
        self._child.close()

    @property
    def has_room(self) -> bool:
        """Whether :meth:`send` may be called."""
        return self._child.has_room

    @property
    def has_news(self) -> bool:
        """Whether :meth:`receive` would return at once."""
        return self._child.has_news

    def send(self, info: BlockInfo, pack: PackInfo, sealed: bytes | memoryview) -> None:
        """Have one block surveyed; it must fit into a place."""
        place, room = self._child.take_place()
        self._block_nos[place] = info.block_no
        end = len(sealed)
        room[:end] = sealed
        facts = encoding.encode(block_facts(info, pack))
        if end + len(facts) <= PLACE_LEN:
            # Not into the pipe: while the process starts it would soon be full.
            room[end : end + len(facts)] = facts
            self._child.send([place, end, len(facts), b""])
        else:
            self._child.send([place, end, 0, facts])

    def receive(self) -> tuple[int, Surveys] | None:
        """Wait for a block: its number, what is in it.  None: the process has died."""
        answer = self._child.take_answer()
        if answer is None:
            return None
        place, found = answer
        surveys = {tree_id: Survey(*fields) for tree_id, fields in found}
        return self._block_nos.pop(place), surveys


class _Surveyor:
    """The process's own work."""

    def __init__(self, keys: ArchiveKeys, shared: memoryview) -> None:
        self._keys = keys
        self._shared = shared
        self._surveyor = Surveyor()

    def survey(self, place: int, sealed_len: int, facts_len: int, facts: bytes) -> int:
        """Put the surveys of one block where it was; return how many bytes they take."""
        start = place * PLACE_LEN
        end = start + sealed_len
        sealed = self._shared[start:end]
        facts = facts or bytes(self._shared[end : end + facts_len])
        header, ordinal, codec, plain_len, ids, lengths = encoding.decode(facts, "facts")
        found: list[Any] = []
        try:
            opener = Opener(self._keys, decode_header(header, "pack", PACK_ROLES), "pack")
            stored = opener.open(Section.BLOCK, ordinal, sealed)
            plain = memoryview(decompress(codec, stored, plain_len, "block"))
            chunk_ids = [ids[at : at + ID_LEN] for at in range(0, len(ids), ID_LEN)]
            found = list(self._surveyor.survey_block(self._keys, chunk_ids, lengths, plain))
        except CoopfsError:
            pass  # see the module
        answer = encoding.encode(found)
        if len(answer) > PLACE_LEN:
            answer = encoding.encode([])
        self._shared[start : start + len(answer)] = answer
        return len(answer)


def main() -> None:
    """Run as the child."""
    from coopfs.archive.allocator import prepare_bulk_work

    prepare_bulk_work()
    with child_pipes() as (shared, stream, out, _):
        (archive_key,) = read_message(stream)
        surveyor = _Surveyor(ArchiveKeys.derive(archive_key), shared)
        while (message := read_message(stream)) is not None:
            write_message(out, [message[0], surveyor.survey(*message)])


if __name__ == "__main__":
    main()
