"""Where a file is cut: FastCDC (2020), seeded by the archive's key.

Owns the parameters an archive is made with; its cut points have golden vectors.
Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication
Based Storage Systems", IEEE TPDS 31(9), 2020.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pyfastcdc import FastCDC

from coopfs.errors import FormatUnsupported, ObjectCorrupt

CHUNKER_NAME: Final = "fastcdc2020-nc1"
AVG_DEFAULT: Final = 32 << 10  # bytes; scripts/bench chunker, table in coopfs-format(5)
AVG_MIN: Final = 4 << 10
AVG_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ChunkerParams:
    """How an archive cuts files; fixed at init (sizes in bytes)."""

    name: str = CHUNKER_NAME
    min_len: int = AVG_DEFAULT // 4
    avg_len: int = AVG_DEFAULT
    max_len: int = AVG_DEFAULT * 4

    @classmethod
    def for_average(cls, avg_len: int) -> ChunkerParams:
        """Return the usual parameters around an average of *avg_len* bytes."""
        return cls(CHUNKER_NAME, avg_len // 4, avg_len, avg_len * 4)


def check_params(params: ChunkerParams, what: str) -> None:
    """Refuse parameters this version cannot cut with.

    Raises:
        FormatUnsupported: another algorithm.
        ObjectCorrupt: sizes out of bounds.
    """
    if params.name != CHUNKER_NAME:
        raise FormatUnsupported(f"{what}: unknown chunker {params.name!r}; update coopfs")
    if not (
        AVG_MIN <= params.avg_len <= AVG_MAX
        and 64 <= params.min_len <= params.avg_len <= params.max_len <= 16 << 20
        and params.min_len <= 1 << 20
    ):
        raise ObjectCorrupt(f"{what}: chunk sizes out of bounds")


class Chunker:
    """Cuts buffers; not to be shared between threads."""

    __slots__ = ("_cdc", "max_len", "min_len")

    def __init__(self, params: ChunkerParams, seed: int) -> None:
        """Prepare the gear table for *seed* (63 bits)."""
        self.min_len = params.min_len
        self.max_len = params.max_len
        self._cdc = FastCDC(
            params.avg_len,
            min_size=params.min_len,
            max_size=params.max_len,
            normalized_chunking=1,
            seed=seed,
        )

    def cut(self, buffer: bytes | memoryview, *, is_last: bool) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of the chunks of *buffer*, in order.

        Unless *is_last*, the tail whose end is not certain yet is not yielded: the
        caller puts it before the next buffer.  So cut points do not depend on
        how a file is read.
        """
        end = len(buffer)
        for chunk in self._cdc.cut_buf(buffer):
            # A cut is final when max_len bytes were there to choose it from.
            if not is_last and end - chunk.offset < self.max_len:
                return
            yield chunk.offset, chunk.length
