from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import NotAStore
from coopfs.store.base import ObjectInfo
from coopfs.store.restlist import parse_listing

NAMES = [f"{number:064x}" for number in range(5)]


def parse(text: str | bytes) -> list[ObjectInfo]:
    return list(parse_listing(text.encode() if isinstance(text, str) else text, "here"))


def entry(name: str, size: object) -> dict[str, object]:
    return {"name": name, "size": size}


def test_every_way_to_write_a_listing_is_read() -> None:
    expected = [ObjectInfo(bytes.fromhex(name), n) for n, name in enumerate(NAMES)]
    entries: list[dict[str, Any]] = [entry(name, n) for n, name in enumerate(NAMES)]
    for text in (
        json.dumps(entries),
        json.dumps(entries, separators=(",", ":")) + "\n",
        json.dumps(entries, indent=3),
        json.dumps([{"size": e["size"], "more": [{}], "name": e["name"]} for e in entries]),
    ):
        assert parse(text) == expected


@pytest.mark.parametrize("text", ["null", "null\n", "[]", " [ ] \n", ""])
def test_nothing_may_be_said_in_several_ways(text: str) -> None:
    assert parse(text) == []


def test_what_is_no_objects_name_is_left_out() -> None:
    names = [
        "",
        "README",
        NAMES[0][:-1],
        NAMES[0] + "0",
        NAMES[0].replace("0", "A"),
        "\n" + NAMES[0],
    ]
    found = parse(json.dumps([entry(name, 1) for name in [*names, NAMES[1]]]))
    assert [info.name.hex() for info in found] == [NAMES[1]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<html>", "no list"),
        ('{"name":"x","size":1}', "no list"),
        (b"\xff[]", "no text"),
        ("[", "no JSON"),
        ("[,]", "no JSON"),
        (f'[{{"name":"{NAMES[0]}","size":1}}', "middle"),
        (f'[{{"name":"{NAMES[0]}","size":1}}x', "middle"),
        (f'[{{"name":"{NAMES[0]}","size":1}},]', "no JSON"),
        (f'[{{"name":"{NAMES[0]}","size":1}}]]', "follows"),
        ("[] []", "follows"),
        (f'["{NAMES[0]}"]', "version 1"),
        ('[{"size":1}]', "no name"),
        ('[{"name":5,"size":1}]', "no name"),
        ("[5]", "no name"),
        (f'[{{"name":"{NAMES[0]}"}}]', "no size"),
        (f'[{{"name":"{NAMES[0]}","size":-1}}]', "no size"),
        (f'[{{"name":"{NAMES[0]}","size":1.5}}]', "no size"),
        (f'[{{"name":"{NAMES[0]}","size":true}}]', "no size"),
        (f'[{{"name":"{NAMES[0]}","size":{1 << 63}}}]', "no size"),
        ('[{"name":"' + "x" * 100_000 + '", "size":1}]', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_listing_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(NotAStore, match=f"here: .*{why}"):
        parse(text)


@given(st.text() | st.binary() | st.recursive(st.none(), lambda c: st.lists(c)).map(json.dumps))
def test_any_bytes_are_read_or_refused(text: str | bytes) -> None:
    with suppress(NotAStore):
        parse(text if isinstance(text, bytes) else text.encode(errors="replace"))
