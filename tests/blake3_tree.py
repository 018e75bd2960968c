"""BLAKE3's tree, written from its paper (2021), in pure Python: for what a cheat could keep.

The library hashes whole inputs only; a server that wants to keep less than the data
needs the chaining values of subtrees.  Tested against the library.
"""

from __future__ import annotations

import struct

CHUNK_LEN = 1024
_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A)
_IV += (0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT, _KEYED = 1, 2, 4, 8, 16
_MASK = 0xFFFFFFFF

Words = tuple[int, ...]


def key_words(key: bytes | None) -> tuple[Words, int]:
    """Return the key as words, and the flag that every node then carries."""
    return (_IV, 0) if key is None else (struct.unpack("<8I", key), _KEYED)


def leaf_value(chunk: bytes, number: int, key: bytes | None = None) -> Words:
    """Return the chaining value of the 1 KiB chunk *number*."""
    value, mode = key_words(key)
    blocks = [chunk[i : i + 64] for i in range(0, len(chunk), 64)]
    for place, block in enumerate(blocks):
        flags = mode | (_CHUNK_START if place == 0 else 0)
        flags |= _CHUNK_END if place == len(blocks) - 1 else 0
        words = struct.unpack("<16I", block.ljust(64, b"\0"))
        value = _compress(value, words, number, len(block), flags)
    return value


def parent_value(left: Words, right: Words, key: bytes | None = None, flags: int = 0) -> Words:
    """Return the chaining value of the node above two."""
    value, mode = key_words(key)
    return _compress(value, left + right, 0, 64, mode | _PARENT | flags)


def root_digest(left: Words, right: Words, key: bytes | None = None) -> bytes:
    """Return the hash of the input whose two topmost subtrees these are."""
    return struct.pack("<8I", *parent_value(left, right, key, _ROOT))


def subtree_value(data: bytes, first: int, key: bytes | None = None) -> Words:
    """Return the value of a whole subtree (a power of two of chunks) from chunk *first* on."""
    level = [
        leaf_value(data[i : i + CHUNK_LEN], first + i // CHUNK_LEN, key)
        for i in range(0, len(data), CHUNK_LEN)
    ]
    while len(level) > 1:
        level = [parent_value(level[i], level[i + 1], key) for i in range(0, len(level), 2)]
    return level[0]


def _compress(value: Words, block: Words, counter: int, length: int, flags: int) -> Words:
    state = [*value, *_IV[:4], counter & _MASK, counter >> 32, length, flags]
    for round_ in range(7):
        if round_:
            block = tuple(block[place] for place in _PERMUTATION)
        for place in range(4):
            _mix(state, place, 4 + place, 8 + place, 12 + place, block[2 * place : 2 * place + 2])
        for place in range(4):
            b, c, d = 4 + (place + 1) % 4, 8 + (place + 2) % 4, 12 + (place + 3) % 4
            _mix(state, place, b, c, d, block[8 + 2 * place : 10 + 2 * place])
    return tuple(state[place] ^ state[place + 8] for place in range(8))


def _mix(state: list[int], a: int, b: int, c: int, d: int, words: Words) -> None:
    for word, first, second in ((words[0], 16, 12), (words[1], 8, 7)):
        state[a] = (state[a] + state[b] + word) & _MASK
        state[d] = _turn(state[d] ^ state[a], first)
        state[c] = (state[c] + state[d]) & _MASK
        state[b] = _turn(state[b] ^ state[c], second)


def _turn(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & _MASK
