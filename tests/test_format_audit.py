from __future__ import annotations

import json
from pathlib import Path

import pytest
from blake3 import blake3
from vectors import samples as s

from coopfs.format.audit import ANSWER_LEN, audit_answer, audit_answers, audit_question
from coopfs.format.index import IndexedPack, decode_index, encode_index

VECTOR = json.loads((Path(__file__).parent / "vectors" / "server.json").read_text())
NAME = bytes(range(32))
KEY = s.KEYS.audit_key


def test_questions_differ_by_key_pack_and_number() -> None:
    questions = {
        audit_question(key, name, number)
        for key in (KEY, s.OTHER_KEYS.audit_key)
        for name in (NAME, bytes(32))
        for number in (0, 1, 255, 256, 1 << 40)
    }
    assert len(questions) == 20
    assert {len(question) for question in questions} == {32}


def test_all_answers_at_once_are_the_single_ones() -> None:
    pack = bytes(range(256)) * 5000
    pieces = [pack[:1000], memoryview(pack)[1000:700_000], pack[700_000:]]

    answers = audit_answers(KEY, NAME, pieces, 3)

    for number, answer in enumerate(answers):
        question = audit_question(KEY, NAME, number)
        assert answer == audit_answer(question, pieces) == audit_answer(question, [pack])
        assert answer == blake3(pack, key=question).digest()
    assert audit_answers(KEY, NAME, pieces, 0) == ()


def test_they_are_the_committed_ones() -> None:
    pack = s.data_pack()

    answers = audit_answers(KEY, pack.pack_id, [pack.data], 2)

    assert [answer.hex() for answer in answers] == VECTOR["answers"]


def test_an_index_object_keeps_them() -> None:
    index = s.writer_index()
    pack = index.packs[0]
    answers = audit_answers(KEY, pack.pack_id, [b"pack"], 4)
    with_answers = IndexedPack(pack.pack_id, pack.size, pack.header, pack.directory, answers)
    changed = type(index)(
        (with_answers,), index.marked, index.replaces, index.writer_id, index.time_ns
    )

    (found,) = decode_index(encode_index(changed), "index").packs

    assert found.audit_answers == answers
    assert {len(answer) for answer in found.audit_answers} == {ANSWER_LEN}


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_pack_has_a_whole_name(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        audit_question(KEY, bytes(length), 0)
