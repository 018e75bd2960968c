"""Possession audits without transfer: what is asked about a pack, and the right answer.

Pure functions on bytes.  Spelled out in coopfs-format(5), "Index object", "Answers".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

from blake3 import blake3

from coopfs.ids import ID_LEN

QUESTION_LEN: Final = 32  # bytes, a key of BLAKE3
ANSWER_LEN: Final = 32  # bytes
_NUMBER = struct.Struct(">Q")


def audit_question(audit_key: bytes, pack_name: bytes, number: int) -> bytes:
    """Return the one-time key that is sent to ask for *pack_name*; *number* is used once.

    Nobody without the archive's audit key can tell it beforehand.
    """
    if len(pack_name) != ID_LEN:
        raise ValueError(f"a pack's name is {ID_LEN} bytes, not {len(pack_name)}")
    return blake3(pack_name + _NUMBER.pack(number), key=audit_key).digest()


def audit_answer(question: bytes, pack: Iterable[bytes | memoryview]) -> bytes:
    """Return what only who has every byte of the pack (its pieces in order) can answer."""
    hasher = blake3(key=question)
    for piece in pack:
        hasher.update(piece)
    return hasher.digest()


def audit_answers(
    audit_key: bytes, pack_name: bytes, pack: Iterable[bytes | memoryview], count: int
) -> tuple[bytes, ...]:
    """Return the answers to the questions 0 to *count* - 1, as an index object keeps them.

    The pieces are gone through once.
    """
    hashers = [blake3(key=audit_question(audit_key, pack_name, i)) for i in range(count)]
    for piece in pack:
        for hasher in hashers:
            hasher.update(piece)
    return tuple(hasher.digest() for hasher in hashers)
