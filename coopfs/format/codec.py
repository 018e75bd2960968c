"""Compression of blocks and bodies: raw or zstd, sizes known beforehand.

Owns the codec numbers.  Refuses to produce more bytes than the caller said.
"""

from __future__ import annotations

import threading
from enum import IntEnum
from typing import Final, overload

import zstandard

from coopfs.errors import FormatUnsupported, ObjectCorrupt

LEVEL: Final = 3  # as restic's and borg's usual choice
# Levels beside it, by what they cost and save on 1 MiB blocks of a source tree (level 3 is 1):
#   level     1     2     3     5     6     7     8    12
#   time   0.76  0.83     1   2.4   3.4   3.9   4.8   7.6
#   size   1.09  1.05     1  0.92  0.88  0.87  0.86  0.85
SAMPLE_LEN: Final = 16 << 10  # bytes tried first
SAMPLE_MIN: Final = 128 << 10  # shorter inputs are just compressed
SAMPLES: Final = 3  # spread over the input
MIN_GAIN: Final = 0.97  # stored raw unless at least 3 % smaller
USUAL_LEN: Final = 1 << 20  # bytes of a block
WINDOW_LOG_MAX: Final = 25  # 32 MiB, a block's most; level 3 asks for 2 MiB
_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878, section 3.1.1
_SINGLE_SEGMENT: Final = 0x20  # in byte 4: no window descriptor follows
_thread = threading.local()  # a decompressor serves one thread at a time


class Codec(IntEnum):
    """How a block's plaintext was made from its chunks."""

    RAW = 0
    ZSTD = 1


class Compressor:
    """A reusable zstd compressor; one a thread."""

    __slots__ = ("_by_level", "_sampler", "_samples_next")

    def __init__(self) -> None:
        """Allocate nothing yet: each level's tables are made when it is first used."""
        self._by_level: dict[int, zstandard.ZstdCompressor] = {}
        self._sampler = zstandard.ZstdCompressor(level=1)
        self._samples_next = True

    def compress(
        self, data: bytes | memoryview, level: int = LEVEL
    ) -> tuple[Codec, bytes | memoryview]:
        """Return (codec, stored bytes); *data* itself when zstd would gain less than 3 %."""
        # What follows something compressible mostly is, and is not sampled.
        if self._samples_next and len(data) >= SAMPLE_MIN and not self._is_worth_it(data):
            return Codec.RAW, data
        zstd = self._by_level.get(level) or self._start(level)
        packed = zstd.compress(data)
        self._samples_next = len(packed) >= len(data) * MIN_GAIN
        return (Codec.RAW, data) if self._samples_next else (Codec.ZSTD, packed)

    def _start(self, level: int) -> zstandard.ZstdCompressor:
        if level == LEVEL:
            # Half its own tables: they stay in the caches, 12 % less time for 0.5 % more bytes
            # on a source tree.
            parameters = zstandard.ZstdCompressionParameters(
                compression_level=level, hash_log=16, chain_log=15
            )
        else:
            # Made for megabytes; level 12 would take 70 MB a thread.
            parameters = zstandard.ZstdCompressionParameters.from_level(
                level, source_size=USUAL_LEN
            )
        zstd = self._by_level[level] = zstandard.ZstdCompressor(compression_params=parameters)
        return zstd

    def _is_worth_it(self, data: bytes | memoryview) -> bool:
        step = (len(data) - SAMPLE_LEN) // (SAMPLES - 1)
        for start in range(0, len(data) - SAMPLE_LEN + 1, step):
            sample = data[start : start + SAMPLE_LEN]
            if len(self._sampler.compress(sample)) < SAMPLE_LEN * MIN_GAIN:
                return True
        return False


@overload
def decompress(codec: int, stored: bytes, plain_len: int, what: str) -> bytes: ...
@overload
def decompress(
    codec: int, stored: bytearray | memoryview, plain_len: int, what: str
) -> bytes | bytearray | memoryview: ...
def decompress(
    codec: int, stored: bytes | bytearray | memoryview, plain_len: int, what: str
) -> bytes | bytearray | memoryview:
    """Return the *plain_len* bytes that *stored* stands for; the caller has bounded them.

    Never allocates more than about *plain_len*: *stored* must be one whole zstd frame
    whose header says that it holds exactly that many bytes.

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
        _check_frame(stored, plain_len, what)
        # One call into one buffer of the right size: the standard library's module collects
        # pieces and joins them with Python's lock held (11 % of a read).
        plain: bytes = _decompressor().decompress(
            stored, max_output_size=plain_len, allow_extra_data=False
        )
    except zstandard.ZstdError as exc:
        raise ObjectCorrupt(f"{what}: does not decompress ({exc})") from exc
    if len(plain) != plain_len:
        raise ObjectCorrupt(f"{what}: does not decompress to the {plain_len} bytes expected")
    return plain


def decompress_start(
    codec: int, stored: bytearray | memoryview, plain_len: int, length: int, what: str
) -> bytes | bytearray | memoryview:
    """Return the first *length* of the *plain_len* bytes that *stored* stands for.

    Raises as :func:`decompress`, but for what comes after them.
    """
    if codec != Codec.ZSTD or length == plain_len:
        return decompress(codec, stored, plain_len, what)[:length]
    try:
        _check_frame(stored, plain_len, what)
        start: bytes = _decompressor().stream_reader(stored).read(length)
    except zstandard.ZstdError as exc:
        raise ObjectCorrupt(f"{what}: does not decompress ({exc})") from exc
    if len(start) != length:
        raise ObjectCorrupt(f"{what}: does not decompress to {length} bytes and more")
    return start


def _decompressor() -> zstandard.ZstdDecompressor:
    kept: zstandard.ZstdDecompressor | None = getattr(_thread, "decompressor", None)
    if kept is None:
        kept = _thread.decompressor = zstandard.ZstdDecompressor()
    return kept


def _check_frame(stored: bytes | bytearray | memoryview, plain_len: int, what: str) -> None:
    """Refuse, before anything is allocated for it, a frame that is not what it should be.

    A header of a few bytes may ask for a window of 2 GiB and more.
    """
    if stored[:4] != _FRAME_MAGIC:
        raise ObjectCorrupt(f"{what}: does not start with a zstd frame")
    found = zstandard.frame_content_size(stored)
    if found != plain_len:
        said = "unknown length" if found < 0 else f"{found} bytes"
        raise ObjectCorrupt(f"{what}: a zstd frame of {said}, {plain_len} bytes expected")
    if not stored[4] & _SINGLE_SEGMENT and stored[5] > (WINDOW_LOG_MAX - 10) << 3:
        raise ObjectCorrupt(f"{what}: its zstd frame asks for a window that is out of bounds")
