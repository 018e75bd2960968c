"""Listings of the restic REST protocol, version 2: ``[{"name": HEX, "size": BYTES}, …]``.

Pure functions.  A listing comes from a server nobody trusts: lengths are bounded, one
entry at a time becomes an object, and what is no object's name is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from coopfs.errors import NotAStore
from coopfs.store.base import ObjectInfo, parse_object_name

MEDIA_TYPE: Final = "application/vnd.x.restic.rest.v2"
# Bytes; 2.5 million objects, 40 TB in packs of 16 MiB.  More is what a hostile server
# would have us keep in memory.
LIST_LEN_MAX: Final = 256 << 20
_SIZE_MAX: Final = 1 << 62
_ENTRY_LEN_MAX: Final = 64 << 10  # characters; a real one has about 95

_BLANK = re.compile(r"[ \t\r\n]*")
# How every known server writes an entry, and what follows it: in one step, as an archive
# of 16 TB has a million of them.
_ENTRY = re.compile(
    r'\{"name": ?"([^"\\]{0,255})", ?"size": ?(\d{1,19})\}[ \n]*([,\]])[ \n]*', re.ASCII
)


def parse_listing(body: bytes, where: str) -> Iterator[ObjectInfo]:
    """Yield the objects that *body*, sent by *where*, lists.

    Raises:
        NotAStore: it is no such listing; what came before has been yielded.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        raise _malformed(where, "no text") from exc
    if text.strip() in ("null", ""):  # Go's way to list nothing
        return
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        raise _malformed(where, "no list")
    position = _skip(text, position + 1)
    if text[position : position + 1] == "]":
        return _expect_end(text, position + 1, where)
    while True:
        if usual := _ENTRY.match(text, position):
            name, digits, mark = usual.groups()
            size, position = _size(int(digits), where), usual.end()
        else:
            name, size, position = _unusual_entry(text, position, where)
            position = _skip(text, position)
            mark = text[position : position + 1]
            position = _skip(text, position + 1)
        object_id = parse_object_name(name)
        if object_id is not None:
            yield ObjectInfo(object_id, size)
        if mark == "]":
            return _expect_end(text, position, where)
        if mark != ",":
            raise _malformed(where, "it ends in the middle")


def _unusual_entry(text: str, position: int, where: str) -> tuple[str, int, int]:
    """Return name, size and end of an entry that is written as JSON allows, but nobody does."""
    # A slice, or one hostile entry would take all memory.
    piece = text[position : position + _ENTRY_LEN_MAX]
    try:
        found, length = json.JSONDecoder().raw_decode(piece)
    except (ValueError, RecursionError) as exc:
        raise _malformed(where, "no JSON") from exc
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        hint = "; does the server speak version 1 of the protocol only?"
        raise _malformed(where, "an entry has no name" + hint * isinstance(found, str))
    return found["name"], _size(found.get("size"), where), position + length


def _size(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value <= _SIZE_MAX:
        raise _malformed(where, "an entry has no size")
    return value


def _skip(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _expect_end(text: str, position: int, where: str) -> None:
    if _skip(text, position) != len(text):
        raise _malformed(where, "something follows it")


def _malformed(where: str, why: str) -> NotAStore:
    return NotAStore(
        f"{where}: what it sent is no listing of a REST store, version 2 ({why}); "
        f"is the path of the address right?"
    )
