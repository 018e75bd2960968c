"""Parsers against noise near the truth: an error of ours, or a value; nothing else."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_format_vectors import PARSERS, VECTORS
from vectors import rejects

from coopfs.errors import CoopfsError
from coopfs.format import nodes
from coopfs.format.tree import Kind

STRUCTURES: dict[str, str] = json.loads((VECTORS / "structures.json").read_text(encoding="utf-8"))
PARSER_OF = {
    "tree-inner-node": "tree-node",
    "span-inner-node": "span-node",
    "index-of-writer": "index",
    "index-of-admin": "index",
    "snapshot-partial": "snapshot",
    "amendment-of-nothing": "amendment",
    "forget-with-chains": "forget",
    "distrust-taken-back": "distrust",
    "config": "config-body",
} | {name: case.parser for name, case in rejects.ACCEPTED.items()}
ODD = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=40)
    | st.just([])
    | st.just({})
    | st.just({0: 0, "a": 1})
    | st.just([[[]]])
)


def parse(name: str, data: bytes) -> None:
    """Parse; any error but ours is the test's failure."""
    try:
        PARSERS[PARSER_OF.get(name, name)](data)
    except CoopfsError as exc:
        assert str(exc).startswith("case: ")


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=60)
@given(data=st.data())
def test_edited_bytes_are_refused_or_parse(name: str, data: st.DataObject) -> None:
    body = bytearray.fromhex(STRUCTURES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 3))
        body[place : place + cut] = data.draw(st.binary(max_size=4))

    parse(name, bytes(body))


def replace_somewhere(value: Any, data: st.DataObject) -> Any:
    """Return *value* with one node, anywhere in it, turned into something odd."""
    if isinstance(value, (list, dict)) and value and data.draw(st.integers(0, 4)):
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = data.draw(st.sampled_from(list(keys)))
        value[key] = replace_somewhere(value[key], data)
        if isinstance(value, dict) and not data.draw(st.integers(0, 5)):
            value[data.draw(ODD.filter(lambda odd: not isinstance(odd, (list, dict))))] = None
        return value
    return data.draw(ODD)


@pytest.mark.parametrize("name", STRUCTURES)
@settings(max_examples=60)
@given(data=st.data())
def test_odd_values_are_refused_or_parse(name: str, data: st.DataObject) -> None:
    value = msgpack.unpackb(bytes.fromhex(STRUCTURES[name]), strict_map_key=False)

    parse(name, msgpack.packb(replace_somewhere(value, data)))


@settings(max_examples=200)
@given(data=st.data())
def test_an_entry_that_parses_can_be_used(data: st.DataObject) -> None:
    """What a mount or a restore does with an entry does not fail on what a parser let through."""
    value = msgpack.unpackb(bytes.fromhex(STRUCTURES["tree-node"]), strict_map_key=False)
    try:
        node = nodes.decode_tree_node(msgpack.packb(replace_somewhere(value, data)), "case")
    except CoopfsError:
        return
    for entry in node.entries:
        assert 0 < len(entry.name) <= 1024
        assert b"\0" not in entry.target + entry.user + entry.group
        assert -(1 << 63) < entry.mtime_ns < 1 << 63
        assert entry.unsupported or (entry.tree is not None) == (entry.kind is Kind.FOLDER)
        for span in entry.spans or ():
            assert span.length > 0
