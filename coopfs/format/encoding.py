"""Canonical msgpack: maps with ascending small-integer keys, one spelling a value.

Owns the rules every stored structure obeys and refuses whatever breaks them:
floats, extension types, non-minimal integers and lengths, keys that are not
ascending, trailing bytes.  Written down in coopfs-format(5), "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import msgpack

from coopfs.errors import FormatUnsupported, ObjectCorrupt

CRITICAL_KEY: Final = 64  # an unknown key from here up makes its map unreadable
MAX_DEPTH: Final = 32  # nesting of values below keys this version does not know
# A byte may spell an empty map, which takes 88 in memory.  Up to the first length nothing is
# counted; above, a structure may have so many items, and one more for so many bytes of it.
# The densest there is, a list of names, has one in 34 bytes.
UNCOUNTED_LEN: Final = 1 << 20
ITEMS_FREE: Final = 1 << 19
BYTES_AN_ITEM: Final = 16
U64_MAX: Final = (1 << 64) - 1
I64_MIN: Final = -(1 << 63)
I64_MAX: Final = (1 << 63) - 1  # also where a count goes into SQLite

Fields = dict[int, Any]
T = TypeVar("T")


def encode(value: object) -> bytes:
    """Return the canonical bytes of *value* (maps must have ascending keys already)."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _refuse_ext(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _bounds(length: int) -> dict[str, Any]:
    """Return what keeps msgpack from making more items than *length* bytes should spell."""
    left = most = ITEMS_FREE + length // BYTES_AN_ITEM

    def count(value: list[Any] | dict[Any, Any]) -> list[Any] | dict[Any, Any]:
        nonlocal left
        left -= len(value) + 1
        if left < 0:
            raise ValueError(f"more than {most} items")
        return value

    return {"max_array_len": most, "max_map_len": most, "list_hook": count, "object_hook": count}


def decode(data: bytes, what: str) -> Any:
    """Return the value whose canonical bytes are exactly *data*.

    Takes 100 MB or ten times the memory of *data*, whichever is more, whatever it spells.
    The order of keys and the types of values are checked where a map is read
    (:func:`fields_of`).

    Raises:
        ObjectCorrupt: not msgpack, trailing bytes, not the canonical spelling, or too many
            items for its length.
    """
    bounds = _bounds(len(data)) if len(data) > UNCOUNTED_LEN else {}
    try:
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=False, use_list=True, ext_hook=_refuse_ext, **bounds
        )
        # Minimal lengths and integers, no duplicate keys, no trailing bytes: encoding
        # again must give the same bytes.  In C on both sides, so cheaper than walking.
        canonical = msgpack.packb(value, use_bin_type=True) == data
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as exc:
        # MemoryError: nested array headers, each of which claims all there is room for.
        raise ObjectCorrupt(f"{what}: not well-formed ({exc})") from exc
    if not canonical:
        raise ObjectCorrupt(f"{what}: not in canonical form")
    return value


def fields_of(value: object, what: str, known: frozenset[int]) -> Fields:
    """Return *value* as a map with ascending integer keys, unknown values checked.

    Raises:
        ObjectCorrupt: not a map, keys not ascending integers, or a forbidden type.
        FormatUnsupported: a critical key (from 64 up) that is not in *known*.
    """
    if type(value) is not dict:
        raise ObjectCorrupt(f"{what}: expected a map")
    _check_keys(value, what)
    unknown = [key for key in value if key not in known]
    for key in unknown:
        _check_plain(value[key], what, 0)
    if unknown and unknown[-1] >= CRITICAL_KEY:
        raise FormatUnsupported(
            f"{what}: has the critical key {unknown[-1]}, which this version does not know; "
            "a newer coopfs is needed to read it"
        )
    return value


def _check_keys(value: dict[Any, Any], what: str) -> None:
    previous = -1
    for key in value:
        if type(key) is not int or key <= previous:
            raise ObjectCorrupt(f"{what}: keys are not ascending integers")
        previous = key


_SCALARS: Final = frozenset((int, bytes, str, bool, type(None)))


def _check_plain(value: Any, what: str, depth: int) -> None:
    """Check what stands under a key this version does not know."""
    if depth > MAX_DEPTH:
        raise ObjectCorrupt(f"{what}: nested too deeply")
    kind = type(value)
    if kind is list:
        for item in value:
            _check_plain(item, what, depth + 1)
    elif kind is dict:
        _check_keys(value, what)
        for item in value.values():
            _check_plain(item, what, depth + 1)
    elif kind not in _SCALARS:  # floats, and the one extension type msgpack knows: timestamps
        raise ObjectCorrupt(f"{what}: a value of a kind that is not allowed")


def u64(fields: Fields, key: int, what: str, limit: int = U64_MAX) -> int:
    """Return the unsigned integer at *key*, at most *limit*; ObjectCorrupt otherwise."""
    value = fields.get(key)
    if type(value) is not int or not 0 <= value <= limit:
        raise ObjectCorrupt(f"{what}: field {key}: expected a number from 0 to {limit}")
    return value


def i64(fields: Fields, key: int, what: str) -> int:
    """Return the signed 64-bit integer at *key*; ObjectCorrupt otherwise."""
    value = fields.get(key)
    if type(value) is not int or not I64_MIN <= value <= I64_MAX:
        raise ObjectCorrupt(f"{what}: field {key}: expected a signed 64-bit number")
    return value


def bin_(fields: Fields, key: int, what: str, *, size: int | None = None, limit: int = 0) -> bytes:
    """Return the byte string at *key*, of exactly *size* bytes or at most *limit*."""
    value = fields.get(key)
    if type(value) is not bytes:
        raise ObjectCorrupt(f"{what}: field {key}: expected bytes")
    if size is not None and len(value) != size:
        raise ObjectCorrupt(f"{what}: field {key}: expected {size} bytes, found {len(value)}")
    if limit and len(value) > limit:
        raise ObjectCorrupt(f"{what}: field {key}: {len(value)} bytes are over the limit {limit}")
    return value


def text(fields: Fields, key: int, what: str, limit: int = 4096) -> str:
    """Return the text at *key*, at most *limit* characters; ObjectCorrupt otherwise."""
    value = fields.get(key)
    if type(value) is not str or len(value) > limit:
        raise ObjectCorrupt(f"{what}: field {key}: expected text of at most {limit} characters")
    return value


def list_of(
    fields: Fields, key: int, what: str, item: Callable[[Any], T], limit: int
) -> tuple[T, ...]:
    """Return the array at *key* with *item* applied to each member; absent means empty."""
    value = fields.get(key, [])
    if type(value) is not list or len(value) > limit:
        raise ObjectCorrupt(f"{what}: field {key}: expected a list of at most {limit}")
    return tuple(item(member) for member in value)


def exact_bin(size: int, what: str) -> Callable[[Any], bytes]:
    """Return a check for list members: a byte string of exactly *size* bytes."""

    def check(value: Any) -> bytes:
        if type(value) is not bytes or len(value) != size:
            raise ObjectCorrupt(f"{what}: expected {size} bytes")
        return value

    return check


def compact(pairs: dict[int, Any]) -> Fields:
    """Return *pairs* without absent values (None), keys ascending, ready to encode."""
    return {key: pairs[key] for key in sorted(pairs) if pairs[key] is not None}
