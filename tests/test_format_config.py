"""The store's config: readable without a key, not changeable without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import CoopfsError, NotAStore, ObjectCorrupt, WrongKey
from coopfs.format import config as c
from coopfs.format.chunker import ChunkerParams
from coopfs.ids import ArchiveId

DATA = c.encode_config(s.KEYS, s.CONFIG)


@given(
    st.binary(min_size=16, max_size=16).map(ArchiveId),
    st.sampled_from([1 << shift for shift in range(12, 23)]),
    st.binary(min_size=32, max_size=32),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(64 << 10, 16 << 20),
)
def test_a_config_comes_back(
    archive_id: ArchiveId, average: int, admin_key: bytes, created_ns: int, block_len: int
) -> None:
    config = c.ArchiveConfig(
        archive_id, ChunkerParams.for_average(average), admin_key, created_ns, block_len
    )

    assert c.decode_config(s.KEYS, c.encode_config(s.KEYS, config), "store") == config


@given(st.integers(0, 8 * len(DATA) - 1))
def test_no_bit_may_change_unnoticed(bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(CoopfsError):
        c.decode_config(s.KEYS, bytes(data), "store")


def test_parameters_changed_without_the_key_are_noticed_with_it() -> None:
    other = c.ArchiveConfig(s.ARCHIVE_ID, s.CONFIG.chunker, s.WRITER.public_key, 0)
    forged = DATA[:41] + c.encode_config_body(other)
    assert c.peek_config(forged, "store") == other

    with pytest.raises(WrongKey, match="store: its config was not made with this key"):
        c.decode_config(s.KEYS, forged, "store")


def test_another_archives_config_is_a_wrong_key() -> None:
    with pytest.raises(WrongKey):
        c.decode_config(s.OTHER_KEYS, DATA, "store")


@pytest.mark.parametrize("length", range(0, len(DATA)))
def test_a_torn_config_is_damage_not_another_program(length: int) -> None:
    with pytest.raises(ObjectCorrupt):
        c.peek_config(DATA[:length], "store")


@pytest.mark.parametrize("data", [b"\n", b"[config]\n", bytes(100), b"COOPFS\r\n" + bytes(100)])
def test_a_config_of_something_else_is_no_store(data: bytes) -> None:
    with pytest.raises(NotAStore, match="is the address right"):
        c.peek_config(data, "store")
