"""Proofs of possession: the keyed BLAKE3 of a whole object, read from the disk.

The owner computed the same while the pack was in its memory (:mod:`coopfs.format.audit`)
and sends the key only when it asks.  *Keyed* matters: BLAKE3 is a tree, and the key goes
into every node of it, so nothing short of all bytes answers.  With a nonce put in front
of the bytes only one leaf would change, and whoever had kept the values of the other
subtrees could answer without the data.
"""

from __future__ import annotations

from blake3 import blake3

from coopfs.errors import ObjectCorrupt, UsageError
from coopfs.format.audit import QUESTION_LEN
from coopfs.server.reading import drop_cached, read_into


def answer(label: str, fd: int, size: int, question: bytes) -> bytes:
    """Return the keyed BLAKE3 of the file's *size* bytes under *question*; 32 bytes.

    Raises:
        UsageError: *question* has not 32 bytes.
        ObjectCorrupt: the file ends before.
    """
    if len(question) != QUESTION_LEN:
        raise UsageError(
            f"{label}: a proof is asked for with a key of {QUESTION_LEN} bytes, not {len(question)}"
        )
    hasher = blake3(key=question)
    drop_cached(fd)
    found = read_into(fd, 0, size, hasher.update)
    drop_cached(fd)
    if found < size:
        raise ObjectCorrupt(f"{label}: ends after {found} of {size} bytes")
    return hasher.digest()
