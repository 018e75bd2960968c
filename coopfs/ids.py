"""Names of things: one type a concept, all plain bytes, shown as hex.

Nothing here computes anything but text; how ids are derived from content is in
:mod:`coopfs.format.keys`.
"""

from __future__ import annotations

from typing import NewType

ChunkId = NewType("ChunkId", bytes)  # 32 bytes, keyed BLAKE3 of the plaintext
TreeId = NewType("TreeId", bytes)  # 32 bytes, id of a folder's topmost tree node
SpanNodeId = NewType("SpanNodeId", bytes)  # 32 bytes, id of a node of a span tree
PackId = NewType("PackId", bytes)  # 32 bytes, SHA-256 of the pack object
SnapshotId = NewType("SnapshotId", bytes)  # 32 bytes, SHA-256 of the snapshot object
ObjectId = NewType("ObjectId", bytes)  # 32 bytes, SHA-256 of any object
WriterId = NewType("WriterId", bytes)  # 16 bytes, from the writer's public key
ArchiveId = NewType("ArchiveId", bytes)  # 16 random bytes, chosen at init

ID_LEN = 32
WRITER_ID_LEN = 16
ARCHIVE_ID_LEN = 16
SHORT_HEX = 8  # digits shown to people and accepted as a prefix


def short_hex(identifier: bytes) -> str:
    """Return the first eight hex digits, as shown in tables and messages."""
    return identifier.hex()[:SHORT_HEX]
