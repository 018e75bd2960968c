"""Cut points: those of the vectors, however a file is read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import make
from vectors import samples as s

from coopfs.errors import FormatUnsupported, ObjectCorrupt
from coopfs.format.chunker import Chunker, ChunkerParams, check_params

CASES: list[dict[str, Any]] = json.loads(
    (Path(make.__file__).parent / "chunker.json").read_text(encoding="utf-8")
)
PARAMS = ChunkerParams(min_len=256, avg_len=1024, max_len=4096)
SEED = s.KEYS.chunker_seed()


def cut_in_reads(chunker: Chunker, data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut *data* as a file that comes in reads of *sizes*, over and over."""
    chunks: list[bytes] = []
    rest = b""
    place = turn = 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        turn += 1
        buffer = rest + data[place : place + size]
        place += size
        used = 0
        for offset, length in chunker.cut(buffer, is_last=place >= len(data)):
            assert offset == used
            chunks.append(buffer[offset : offset + length])
            used = offset + length
        rest = buffer[used:]
    assert not rest
    return chunks


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c['min']}-{c['avg']}-{c['max']} {c['input']} {c['seed'] % 7}"
)
def test_cut_points_are_those_of_the_vectors(case: dict[str, Any]) -> None:
    params = ChunkerParams(min_len=case["min"], avg_len=case["avg"], max_len=case["max"])
    data = make.chunker_input(case["input"], case["length"])
    chunker = Chunker(params, case["seed"])

    whole = [length for _, length in chunker.cut(data, is_last=True)]
    pieces = cut_in_reads(chunker, data, [1 << 20, 1, 70_001])
    from_view = [length for _, length in chunker.cut(memoryview(data), is_last=True)]

    assert whole == from_view == list(map(len, pieces)) == case["chunks"]
    assert b"".join(pieces) == data


@settings(max_examples=60)
@given(
    st.integers(0, 40_000),
    st.lists(st.integers(1, 9000), min_size=1, max_size=5),
    st.integers(0, (1 << 63) - 1),
    st.integers(0, 1 << 30),
)
def test_cut_points_do_not_depend_on_how_a_file_is_read(
    length: int, sizes: list[int], seed: int, noise: int
) -> None:
    data = random.Random(noise).randbytes(length)
    chunker = Chunker(PARAMS, seed)

    whole = [data[offset : offset + size] for offset, size in chunker.cut(data, is_last=True)]

    assert cut_in_reads(chunker, data, sizes) == whole
    assert b"".join(whole) == data
    assert all(PARAMS.min_len <= len(chunk) <= PARAMS.max_len for chunk in whole[:-1])


@pytest.mark.parametrize("length", [0, 1, 255, 256])
def test_up_to_the_minimum_a_file_is_one_chunk(length: int) -> None:
    cuts = list(Chunker(PARAMS, SEED).cut(bytes(length), is_last=True))

    assert cuts == ([(0, length)] if length else [])


def test_what_may_still_grow_is_not_cut() -> None:
    chunker = Chunker(PARAMS, SEED)

    assert list(chunker.cut(bytes(PARAMS.max_len - 1), is_last=False)) == []
    assert list(chunker.cut(bytes(PARAMS.max_len), is_last=False)) == [(0, PARAMS.max_len)]


def test_an_insertion_moves_cut_points_only_nearby() -> None:
    data = s.stream("insertion", 500_000)
    chunker = Chunker(PARAMS, SEED)

    def chunks_of(content: bytes) -> set[bytes]:
        return {content[o : o + n] for o, n in chunker.cut(content, is_last=True)}

    before, after = chunks_of(data), chunks_of(data[:250_000] + b"!" + data[250_000:])

    assert len(before) > 300
    assert len(after - before) <= 6


def test_cut_points_tell_nothing_without_the_seed() -> None:
    data = s.stream("seeds", 300_000)
    ends = []
    for seed in (SEED, s.OTHER_KEYS.chunker_seed(), 0):
        cuts = Chunker(PARAMS, seed).cut(data, is_last=True)
        ends.append({offset + length for offset, length in cuts})

    assert len(ends[0] & ends[1]) < 5
    assert len(ends[0] & ends[2]) < 5
    assert SEED < 1 << 63


def test_parameters_of_an_unknown_chunker_say_update() -> None:
    with pytest.raises(FormatUnsupported, match="update coopfs"):
        check_params(ChunkerParams(name="fastcdc2030"), "config")


@pytest.mark.parametrize(
    ("least", "average", "most"),
    [
        (63, 4096, 8192),
        (8192, 4096, 8192),
        (64, 4095, 8192),
        (64, 8 << 20, 16 << 20),
        (64, 4096, 4095),
        (64, 4096, (16 << 20) + 1),
        ((1 << 20) + 1, 4 << 20, 16 << 20),
    ],
)
def test_sizes_out_of_bounds_are_refused(least: int, average: int, most: int) -> None:
    with pytest.raises(ObjectCorrupt, match="out of bounds"):
        check_params(ChunkerParams(min_len=least, avg_len=average, max_len=most), "config")


@pytest.mark.parametrize("shift", range(12, 23))
def test_every_average_on_offer_can_be_cut_with(shift: int) -> None:
    params = ChunkerParams.for_average(1 << shift)

    check_params(params, "config")
    assert next(iter(Chunker(params, SEED).cut(b"x", is_last=True))) == (0, 1)
