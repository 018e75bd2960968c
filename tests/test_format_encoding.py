"""Canonical msgpack: one spelling a value, nothing else accepted."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format import encoding

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=300)
    | st.text(max_size=300)
)


def _sorted_map(pairs: dict[int, Any]) -> dict[int, Any]:
    return dict(sorted(pairs.items()))


values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=20)
        | st.dictionaries(st.integers(0, 300), inner, max_size=20).map(_sorted_map)
    ),
    max_leaves=30,
)


@given(values)
def test_what_is_encoded_decodes_to_itself(value: Any) -> None:
    assert encoding.decode(encoding.encode(value), "value") == value


@given(values)
def test_any_value_may_stand_under_an_unknown_key(value: Any) -> None:
    body = encoding.encode({0: 1, 63: value})

    fields = encoding.fields_of(encoding.decode(body, "map"), "map", frozenset((0,)))

    assert fields == {0: 1, 63: value}


@given(st.binary(max_size=60))
def test_bytes_are_refused_or_are_the_one_spelling_of_their_value(data: bytes) -> None:
    try:
        value = encoding.decode(data, "noise")
    except ObjectCorrupt:
        return
    assert encoding.encode(value) == data


@given(values, st.data())
def test_cut_anywhere_it_is_refused(value: Any, data: st.DataObject) -> None:
    body = encoding.encode({0: value})
    end = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(ObjectCorrupt):
        encoding.decode(body[:end], "cut")


@pytest.mark.parametrize("code", [0, 5, 127])
def test_extension_types_are_refused(code: int) -> None:
    body = msgpack.packb({0: msgpack.ExtType(code, b"x")})

    with pytest.raises(ObjectCorrupt, match="extension"):
        encoding.decode(body, "map")


def test_known_keys_are_told_from_critical_ones() -> None:
    fields = {0: b"", 64: b"", 65: b""}

    assert encoding.fields_of(fields, "map", frozenset((0, 64, 65))) == fields
    with pytest.raises(FormatUnsupported, match="critical key 65"):
        encoding.fields_of(fields, "map", frozenset((0, 64)))


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 11])
def test_a_number_is_an_int_within_its_bounds(value: Any) -> None:
    with pytest.raises(ObjectCorrupt, match="field 3: expected a number from 0 to 10"):
        encoding.u64({3: value}, 3, "map", limit=10)


@pytest.mark.parametrize("value", [True, 1.0, 1 << 63, -(1 << 63) - 1])
def test_a_signed_number_has_64_bits(value: Any) -> None:
    with pytest.raises(ObjectCorrupt):
        encoding.i64({3: value}, 3, "map")


def test_lists_are_bounded_before_their_members_are_looked_at() -> None:
    def never(member: object) -> object:
        raise AssertionError(member)

    with pytest.raises(ObjectCorrupt, match="at most 2"):
        encoding.list_of({0: [1, 2, 3]}, 0, "map", never, 2)
    assert encoding.list_of({}, 0, "map", never, 2) == ()


LONG = encoding.UNCOUNTED_LEN


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(b"\x80", id="empty maps"),
        pytest.param(b"\x92\x80\x80", id="maps in lists"),
        pytest.param(b"\x91" * 200 + b"\xc0", id="lists in lists"),
        pytest.param(b"\x82\x00\x80\x01\x80", id="maps in maps"),
        pytest.param(b"\xa2ab", id="short texts"),
    ],
)
@pytest.mark.parametrize("form", ["a list of them", "lists of a hundred"])
def test_a_megabyte_does_not_become_a_hundred(member: bytes, form: str) -> None:
    count = 2 * LONG // len(member)
    if form == "a list of them":
        body = b"\xdd" + count.to_bytes(4, "big") + member * count
    else:
        hundred = b"\xdc\x00\x64" + member * 100
        body = b"\xdd" + (count // 100).to_bytes(4, "big") + hundred * (count // 100)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorrupt, match=r"items|exceeds"):
            encoding.decode(body, "bomb")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20  # bytes
    finally:
        tracemalloc.stop()


def test_the_densest_structures_there_are_have_items_to_spare() -> None:
    names = [bytes((n & 255,)) * 32 for n in range(LONG // 8)]
    chains = [[name] for name in names]
    packs = [{0: name, 1: 5, 2: bytes(64), 3: bytes(300), 4: bytes(64)} for name in names]
    blocks = [[5000, 20_000, 1, 100]] * (len(names) // 100)
    directory = {0: blocks, 1: b"".join(names), 2: [200] * len(names), 3: bytes(16)}
    for structure in ({1: names}, {0: names, 2: chains}, {0: packs}, directory):
        body = encoding.encode(structure)
        assert len(body) > LONG
        assert encoding.decode(body, "structure") == structure
