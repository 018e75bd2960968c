"""What the packs of an archive add up to, by the local index; nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass

from coopfs.archive.archive import Archive
from coopfs.ids import ID_LEN

_CHUNK_ROW: int = ID_LEN + 4  # bytes of a chunk in a block's row (archive.state)


@dataclass(frozen=True, slots=True)
class PackSums:
    """Packs the index knows, of file content or of metadata."""

    packs: int
    size: int  # bytes in the store
    blocks: int
    chunks: int  # every copy counted
    plain_len: int  # bytes of the chunks
    sealed_len: int  # bytes of the blocks, compressed and sealed

    @property
    def overhead(self) -> int:
        """Bytes that are no blocks: headers, directories and padding."""
        return self.size - self.sealed_len


def pack_sums(archive: Archive) -> tuple[PackSums, PackSums]:
    """Return the sums of data packs and of metadata packs; nothing is fetched."""
    # Added up by SQLite: decoding every chunk id of a large archive would take minutes.
    rows = archive.state.connection.execute(
        "SELECT pack_no, COUNT(*), SUM(LENGTH(chunks)), SUM(plain_len), SUM(sealed_len)"
        " FROM blocks GROUP BY pack_no"
    )
    by_pack = {row[0]: row[1:] for row in rows.fetchall()}
    sums = {False: [0] * 6, True: [0] * 6}
    for pack in archive.index.packs():
        blocks, chunks_len, plain_len, sealed_len = by_pack.get(pack.pack_no, (0, 0, 0, 0))
        found = (1, pack.size, blocks, chunks_len // _CHUNK_ROW, plain_len, sealed_len)
        sums[pack.is_meta] = [a + b for a, b in zip(sums[pack.is_meta], found, strict=True)]
    return PackSums(*sums[False]), PackSums(*sums[True])
