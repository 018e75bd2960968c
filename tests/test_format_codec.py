"""Compression: what comes out is known, and bounded, before anything is decoded."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format.codec import SAMPLE_MIN, Codec, Compressor, decompress, decompress_start

MAGIC = b"\x28\xb5\x2f\xfd"


def frame(descriptor: int, window: bytes, size: bytes, content: bytes) -> bytes:
    """Return a zstd frame of one raw block (RFC 8878, section 3.1.1)."""
    block = ((len(content) << 3) | 1).to_bytes(3, "little") + content
    return MAGIC + bytes((descriptor,)) + window + size + block


@given(st.binary(max_size=100), st.integers(1, 3000))
def test_what_is_compressed_comes_back(part: bytes, times: int) -> None:
    data = part * times
    codec, stored = Compressor().compress(data)

    assert len(stored) <= len(data)
    assert decompress(codec, stored, len(data), "block") == data


@given(st.binary(min_size=1, max_size=100), st.integers(1, 30_000), st.floats(0, 1))
def test_the_start_of_what_is_compressed_comes_back(part: bytes, times: int, where: float) -> None:
    data = part * times
    codec, stored = Compressor().compress(data)
    length = int(where * len(data))

    assert decompress_start(codec, memoryview(stored), len(data), length, "block") == data[:length]


def test_a_start_that_is_not_there_is_refused() -> None:
    data = b"".join(b"%d " % number for number in range(200_000))
    codec, stored = Compressor().compress(data)
    assert codec is Codec.ZSTD
    half = memoryview(stored)[: len(stored) // 2]

    assert decompress_start(codec, half, len(data), 1000, "block") == data[:1000]
    for hurt, plain_len in (
        (half, len(data)),
        (memoryview(stored), len(data) - 1),
        (memoryview(bytes(stored[:20]) + b"\xff" * 40 + stored[60:]), len(data)),
    ):
        with pytest.raises(ObjectCorrupt):
            decompress_start(codec, hurt, plain_len, len(data) - 1, "block")


def test_what_does_not_compress_is_stored_raw() -> None:
    noise = random.Random(1).randbytes(1 << 20)

    assert Compressor().compress(noise) == (Codec.RAW, noise)
    assert Compressor().compress(noise[:1000]) == (Codec.RAW, noise[:1000])
    assert Compressor().compress(b"") == (Codec.RAW, b"")


def test_a_block_is_compressed_when_only_part_of_it_can_be() -> None:
    noise = random.Random(1).randbytes(SAMPLE_MIN)

    for data in (noise + bytes(SAMPLE_MIN), bytes(SAMPLE_MIN) + noise):
        codec, stored = Compressor().compress(data)
        assert codec is Codec.ZSTD
        assert len(stored) < SAMPLE_MIN + 1000


def test_a_compressor_can_be_used_again() -> None:
    compressor = Compressor()
    frames = [compressor.compress(b"same" * 1000) for _ in range(3)]

    assert len(set(frames)) == 1


@given(st.binary(max_size=50))
def test_frames_of_noise_are_refused(data: bytes) -> None:
    for stored in (data, MAGIC + data):
        with pytest.raises(ObjectCorrupt, match="block"):
            decompress(Codec.ZSTD, stored, 1 << 20, "block")


@pytest.mark.parametrize("wrong", [0, 1, 3999, 4001, 1 << 25])
def test_a_frame_of_another_length_is_refused(wrong: int) -> None:
    assert decompress(Codec.ZSTD, s.zstd_of_xs(4000), 4000, "block") == b"x" * 4000
    with pytest.raises(ObjectCorrupt, match="a zstd frame of 4000 bytes"):
        decompress(Codec.ZSTD, s.zstd_of_xs(4000), wrong, "block")


@pytest.mark.parametrize("length", [0, 99, 101, 1 << 20])
def test_a_frame_that_lies_about_its_length_is_refused(length: int) -> None:
    with pytest.raises(ObjectCorrupt):
        decompress(Codec.ZSTD, s.zstd_of_xs(length, declared=100), 100, "block")


def test_a_frame_that_does_not_say_its_length_is_refused() -> None:
    silent = frame(0, bytes((10 << 3,)), b"", b"hello")
    assert zstd.decompress(silent) == b"hello"

    with pytest.raises(ObjectCorrupt, match="a zstd frame of unknown length"):
        decompress(Codec.ZSTD, silent, 5, "block")


def test_a_bomb_is_refused_without_being_unpacked() -> None:
    bomb = s.zstd_of_xs(1 << 30, declared=1000)
    tracemalloc.start()
    try:
        with pytest.raises(ObjectCorrupt):
            decompress(Codec.ZSTD, bomb, 1000, "block")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


@pytest.mark.parametrize("exponent", range(32))
def test_a_window_beyond_32_mib_is_refused_whatever_the_content(exponent: int) -> None:
    size = (5).to_bytes(8, "little")
    asking = frame(0xC0, bytes((exponent << 3,)), size, b"hello")

    if 10 + exponent <= 25:
        assert decompress(Codec.ZSTD, asking, 5, "block") == b"hello"
    else:
        with pytest.raises(ObjectCorrupt):
            decompress(Codec.ZSTD, asking, 5, "block")


@pytest.mark.parametrize(
    "stored",
    [
        s.zstd_of_xs(100) + b"\0",
        s.zstd_of_xs(100) + s.zstd_of_xs(100),
        s.zstd_of_xs(100)[:-1],
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + s.zstd_of_xs(100),  # a skippable frame first
        s.zstd_of_xs(100) + b"\x50\x2a\x4d\x18\x04\0\0\0skip",
        b"",
    ],
    ids=["trailing", "two frames", "truncated", "skippable first", "skippable last", "empty"],
)
def test_only_one_whole_frame_is_accepted(stored: bytes) -> None:
    with pytest.raises(ObjectCorrupt):
        decompress(Codec.ZSTD, stored, 100, "block")


def test_a_skippable_frame_is_not_an_empty_block() -> None:
    with pytest.raises(ObjectCorrupt, match="does not start with a zstd frame"):
        decompress(Codec.ZSTD, b"\x50\x2a\x4d\x18\x04\0\0\0skip", 0, "block")


def test_a_damaged_frame_is_refused() -> None:
    data = b"".join(b"%d " % number for number in range(2000))
    codec, stored = Compressor().compress(data)
    assert codec is Codec.ZSTD

    with pytest.raises(ObjectCorrupt):
        decompress(Codec.ZSTD, stored[:20] + b"\xff" * 40 + stored[60:], len(data), "block")


@pytest.mark.parametrize("codec", [2, 255, -1])
def test_an_unknown_codec_says_update(codec: int) -> None:
    with pytest.raises(FormatUnsupported, match="update coopfs"):
        decompress(codec, b"", 0, "block")


def test_raw_content_has_its_length() -> None:
    assert decompress(Codec.RAW, b"abc", 3, "block") == b"abc"
    with pytest.raises(ObjectCorrupt):
        decompress(Codec.RAW, b"abc", 4, "block")
