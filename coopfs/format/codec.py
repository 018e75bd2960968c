"""Compression of blocks and bodies: raw or zstd, sizes known beforehand.

Owns the codec numbers.  Refuses to produce more bytes than the caller said.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from backports import zstd

from coopfs.errors import FormatUnsupported, ObjectCorrupt

LEVEL: Final = 3  # as restic's and borg's usual choice; 1 MiB blocks, scripts/bench
SAMPLE_LEN: Final = 16 << 10  # bytes tried first
SAMPLE_MIN: Final = 128 << 10  # shorter inputs are just compressed
SAMPLES: Final = 3  # spread over the input
MIN_GAIN: Final = 0.97  # stored raw unless at least 3 % smaller


class Codec(IntEnum):
    """How a block's plaintext was made from its chunks."""

    RAW = 0
    ZSTD = 1


class Compressor:
    """A reusable zstd compressor; one a thread."""

    __slots__ = ("_sampler", "_zstd")

    def __init__(self, level: int = LEVEL) -> None:
        """Allocate the compressor's tables once."""
        self._zstd = zstd.ZstdCompressor(level)
        self._sampler = zstd.ZstdCompressor(1)

    def compress(self, data: bytes) -> tuple[Codec, bytes]:
        """Return (codec, stored bytes); raw when zstd would gain less than 3 %."""
        if len(data) >= SAMPLE_MIN and not self._is_worth_it(data):
            return Codec.RAW, data
        packed = self._zstd.compress(data, self._zstd.FLUSH_FRAME)
        if len(packed) >= len(data) * MIN_GAIN:
            return Codec.RAW, data
        return Codec.ZSTD, packed

    def _is_worth_it(self, data: bytes) -> bool:
        step = (len(data) - SAMPLE_LEN) // (SAMPLES - 1)
        for start in range(0, len(data) - SAMPLE_LEN + 1, step):
            sample = data[start : start + SAMPLE_LEN]
            if len(self._sampler.compress(sample, zstd.ZstdCompressor.FLUSH_FRAME)) < (
                SAMPLE_LEN * MIN_GAIN
            ):
                return True
        return False


def decompress(codec: int, stored: bytes, plain_len: int, what: str) -> bytes:
    """Return the *plain_len* bytes that *stored* stands for.

    Never allocates more than *plain_len*: the frame must be one, end where
    *stored* ends, and hold exactly that many bytes.

    Raises:
        ObjectCorrupt: any of that does not hold.
        FormatUnsupported: a codec of a newer version.
    """
    if codec == Codec.RAW:
        if len(stored) != plain_len:
            raise ObjectCorrupt(f"{what}: {len(stored)} bytes stored raw, {plain_len} expected")
        return stored
    if codec != Codec.ZSTD:
        raise FormatUnsupported(f"{what}: unknown codec {codec}; update coopfs")
    try:
        # A frame that asks for a window beyond its content is a bomb; 2^27 is zstd's own cap.
        decompressor = zstd.ZstdDecompressor()
        plain: bytes = decompressor.decompress(stored, plain_len)
        if not decompressor.eof and len(plain) == plain_len:
            # The output is full but the end mark is not read yet: there must be nothing more.
            if decompressor.decompress(b"", 1):
                raise ObjectCorrupt(f"{what}: holds more than the {plain_len} bytes expected")
        complete = decompressor.eof and not decompressor.unused_data
    except zstd.ZstdError as exc:
        raise ObjectCorrupt(f"{what}: does not decompress ({exc})") from exc
    if not complete or len(plain) != plain_len:
        raise ObjectCorrupt(f"{what}: does not decompress to the {plain_len} bytes expected")
    return plain
