"""Tree entries: everything a folder knows of what is in it, and nothing ambiguous."""

from __future__ import annotations

from typing import Any

import pytest
from format_strategies import entries, names
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding, tree
from coopfs.format.tree import Entry, Kind, Span, decode_entry, encode_entry, is_entry_name


def stored(entry: Entry) -> Any:
    """The map of *entry* as a reader gets it."""
    return encoding.decode(encoding.encode(encode_entry(entry)), "entry")


@given(entries())
def test_what_is_stored_of_an_entry_comes_back(entry: Entry) -> None:
    assert decode_entry(stored(entry), "folder") == entry


@given(entries())
def test_keys_are_ascending_and_nothing_is_stored_twice(entry: Entry) -> None:
    fields = encode_entry(entry)

    assert list(fields) == sorted(fields)
    assert None not in fields.values()


@given(entries(), st.sampled_from(range(21)), st.none() | st.booleans() | st.floats() | st.text())
def test_a_field_of_another_type_is_refused(entry: Entry, key: int, value: Any) -> None:
    fields = encode_entry(entry)
    if key not in fields or (key == 20 and value is None):
        return
    fields[key] = value

    with pytest.raises(ObjectCorrupt):
        decode_entry(fields, "folder")


@given(entries(), st.data())
def test_an_entry_without_a_required_field_is_refused(entry: Entry, data: st.DataObject) -> None:
    fields = encode_entry(entry)
    required = [key for key in (0, 1, 2, 3, 4, 8, 16, 17, 18, 19) if key in fields]
    del fields[data.draw(st.sampled_from(required))]

    with pytest.raises(ObjectCorrupt):
        decode_entry(fields, "folder")


FILE = Entry(b"name", Kind.FILE, 0o644, 1, 2, 3, size=9, spans=(Span(9, s.SPANS[0].chunk_id),))


def test_ordinary_entries_are_decoded_the_same_the_quick_and_the_slow_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inline = FILE._replace(size=2, inline=b"ab", spans=None)
    values = [stored(FILE), stored(inline)]
    quick = [decode_entry(value, "folder") for value in values]
    monkeypatch.setattr(tree, "WITH_SPANS", ())
    slow = [decode_entry(value, "folder") for value in values]

    assert quick == slow == [FILE, inline]


@pytest.mark.parametrize("key", range(9))
@pytest.mark.parametrize("value", [False, True, 0.0, None, "", -(1 << 63), 1 << 64])
def test_the_quick_way_is_as_strict_as_the_slow_one(key: int, value: Any) -> None:
    fields = stored(FILE) | {key: value}

    with pytest.raises(ObjectCorrupt):
        decode_entry(fields, "folder")


@pytest.mark.parametrize("key", [False, True, 0.0, 1.0, 8.0, 17.0])
def test_keys_that_only_equal_a_number_are_refused(key: float) -> None:
    fields = {(key if known == key else known): value for known, value in stored(FILE).items()}
    assert fields == stored(FILE)  # that is the trap

    with pytest.raises(ObjectCorrupt, match="ascending integers"):
        decode_entry(fields, "folder")


@given(names)
def test_names_with_any_bytes_are_allowed(name: bytes) -> None:
    assert decode_entry(stored(FILE._replace(name=name)), "folder").name == name


@pytest.mark.parametrize("name", [b"", b".", b"..", b"/", b"a/", b"/a", b"a/b", b"\0", b"a\0"])
def test_names_that_lead_elsewhere_are_not(name: bytes) -> None:
    assert not is_entry_name(name)
    with pytest.raises(ObjectCorrupt):
        decode_entry(stored(FILE._replace(name=name)), "folder")


@pytest.mark.parametrize(
    "name", [b"...", b" ", b"..a", b".\n", b"..\n", b"\n", b"\xff", b"n" * 1024]
)
def test_names_that_only_look_like_it_are(name: bytes) -> None:
    assert is_entry_name(name)


def test_xattrs_are_bounded_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = FILE._replace(xattrs=((b"a", bytes(50)), (b"b", bytes(50))))
    assert decode_entry(stored(entry), "folder") == entry
    monkeypatch.setattr(tree, "XATTRS_LEN_MAX", 101)

    with pytest.raises(ObjectCorrupt, match="out of bounds"):
        decode_entry(stored(entry), "folder")


def test_the_message_names_the_entry() -> None:
    with pytest.raises(ObjectCorrupt, match="folder: entry b'name': field 2"):
        decode_entry(stored(FILE) | {2: -1}, "folder")
