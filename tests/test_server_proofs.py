from __future__ import annotations

import os
from pathlib import Path

import blake3_tree as tree
import pytest
from blake3 import blake3
from depots import Lab, name_of, put, rot, some_bytes

from coopfs.errors import ObjectNotFound, UsageError
from coopfs.format.audit import audit_answers, audit_question

CHUNK_LEN = tree.CHUNK_LEN
AUDIT_KEY = bytes(range(32))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "serve")


def questions(name: str, count: int) -> list[bytes]:
    return [audit_question(AUDIT_KEY, bytes.fromhex(name), number) for number in range(count)]


@pytest.mark.parametrize("length", [0, 1, 1024, 1025, 5 << 20, (3 << 20) + 17])
def test_a_server_answers_what_the_writer_computed_beforehand(lab: Lab, length: int) -> None:
    pack = some_bytes(length)
    pieces = [memoryview(pack)[i : i + 700_000] for i in range(0, length, 700_000)]
    expected = audit_answers(AUDIT_KEY, bytes.fromhex(name_of(pack)), pieces, 3)
    name = put(lab.depot, pack)

    answers = [lab.depot.prove(name, question) for question in questions(name, 3)]

    assert tuple(answers) == expected
    assert len(set(answers)) == 3


def test_one_changed_bit_gives_another_answer(lab: Lab) -> None:
    pack = some_bytes(3 << 20)
    name = put(lab.depot, pack)
    (question,) = questions(name, 1)
    before = lab.depot.prove(name, question)
    rot(lab.path("data", name))

    assert lab.depot.prove(name, question) != before


def test_no_pack_no_answer(lab: Lab) -> None:
    with pytest.raises(ObjectNotFound, match="a" * 64):
        lab.depot.prove("a" * 64, bytes(32))
    kept_elsewhere = put(lab.depot, some_bytes(100), "index")
    with pytest.raises(ObjectNotFound):
        lab.depot.prove(kept_elsewhere, bytes(32))


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_question_has_32_bytes(lab: Lab, length: int) -> None:
    name = put(lab.depot, some_bytes(100))
    with pytest.raises(UsageError, match=f"32 bytes, not {length}"):
        lab.depot.prove(name, bytes(length))


def test_no_descriptor_stays_open(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(100))
    before = len(os.listdir("/proc/self/fd"))
    lab.depot.prove(name, bytes(32))
    with pytest.raises(UsageError):
        lab.depot.prove(name, b"")

    assert len(os.listdir("/proc/self/fd")) == before


# --- the cheat: keeps values of subtrees, not the data ------------------------------

PACK_LEN = 31 * CHUNK_LEN  # with one chunk before it, a whole tree of 32


class Cheat:
    """A server that keeps 160 bytes of a pack, and throws the pack away.

    The chunk that a nonce would fill is left out; of all others the values of the
    subtrees beside its path to the root suffice.
    """

    def __init__(self, pack: bytes) -> None:
        shifted = bytes(CHUNK_LEN) + pack  # as with a nonce of one chunk put in front
        self._beside = []
        first = 1
        while first < len(shifted) // CHUNK_LEN:
            part = shifted[first * CHUNK_LEN : 2 * first * CHUNK_LEN]
            self._beside.append(tree.subtree_value(part, first))
            first *= 2

    def hash_with_nonce(self, nonce: bytes) -> bytes:
        """Answer BLAKE3(nonce followed by the pack)."""
        return self._climb(tree.leaf_value(nonce, 0), None)

    def keyed_hash(self, key: bytes, first_chunk: bytes) -> bytes:
        """Answer BLAKE3(key; pack) as well as it can: even the first chunk was left to it."""
        return self._climb(tree.leaf_value(first_chunk, 0, key), key)

    def _climb(self, value: tree.Words, key: bytes | None) -> bytes:
        for beside in self._beside[:-1]:
            value = tree.parent_value(value, beside, key)
        return tree.root_digest(value, self._beside[-1], key)


@pytest.mark.parametrize("key", [None, bytes(range(32))])
@pytest.mark.parametrize("chunks", [2, 8])
def test_the_tree_of_the_cheat_is_that_of_blake3(key: bytes | None, chunks: int) -> None:
    data = some_bytes(chunks * CHUNK_LEN)
    half = len(data) // 2
    left = tree.subtree_value(data[:half], 0, key)
    right = tree.subtree_value(data[half:], chunks // 2, key)

    expected = blake3(data).digest() if key is None else blake3(data, key=key).digest()
    assert tree.root_digest(left, right, key) == expected


def test_a_nonce_in_front_would_be_answered_without_the_data() -> None:
    """The cheat is a good one: this is what the protocol must not be."""
    pack = some_bytes(PACK_LEN)
    cheat = Cheat(pack)
    nonce = some_bytes(CHUNK_LEN, seed=1)

    assert cheat.hash_with_nonce(nonce) == blake3(nonce + pack).digest()


def test_values_of_subtrees_do_not_answer_a_keyed_question(lab: Lab) -> None:
    # As long as the cheat's tree, so that it lacks nothing but the key in its nodes.
    pack = some_bytes(PACK_LEN + CHUNK_LEN)
    name = put(lab.depot, pack)
    (question,) = questions(name, 1)
    (expected,) = audit_answers(AUDIT_KEY, bytes.fromhex(name), [pack], 1)
    cheat = Cheat(pack[CHUNK_LEN:])

    assert lab.depot.prove(name, question) == expected
    assert cheat.keyed_hash(question, pack[:CHUNK_LEN]) != expected
    # And with the key in every node it would have been right: only the data is missing.
    honest = Cheat.__new__(Cheat)
    honest._beside = [
        tree.subtree_value(pack[first * CHUNK_LEN : 2 * first * CHUNK_LEN], first, question)
        for first in (1, 2, 4, 8, 16)
    ]
    assert honest.keyed_hash(question, pack[:CHUNK_LEN]) == expected
