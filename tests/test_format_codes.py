"""Codes to copy: any slip is noticed, and one kind never passes for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.format.codes import CODE_LEN_MAX, decode_code, encode_code

KIND = "coopfs 1 some kind of code"


@given(st.binary(min_size=1, max_size=200))
def test_a_code_gives_its_body_back_however_it_was_copied(body: bytes) -> None:
    code = encode_code(body, KIND)
    assert code.isascii()
    assert code.islower()
    assert decode_code(code, KIND) == body
    assert decode_code(f" {code[:9].upper()}-{code[9:]}\n", KIND) == body


@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_changed_or_missing_character_is_noticed(body: bytes, data: st.DataObject) -> None:
    code = encode_code(body, KIND)
    place = data.draw(st.integers(0, len(code) - 1))
    other = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
    changed = code[:place] + other + code[place + 1 :]
    if decode_code(changed, KIND):
        assert decode_code(changed, KIND) == body  # the last character's spare bits
    assert decode_code(code[:place], KIND) == b""


@pytest.mark.parametrize("code", ["", "a", "not a code!", "é", "a" * (CODE_LEN_MAX + 1)])
def test_what_is_no_code_has_no_body(code: str) -> None:
    assert decode_code(code, KIND) == b""


def test_a_code_of_another_kind_is_none_of_this() -> None:
    assert decode_code(encode_code(b"body", KIND), KIND + " too") == b""
