"""Sealing: every bit is bound to its key, role, object, section and place."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import DataError, FormatUnsupported, ObjectCorrupt, ObjectKeyMismatch, WrongKey
from coopfs.format.keys import Role
from coopfs.format.sealing import (
    HEADER_LEN,
    TAG_LEN,
    Header,
    Opener,
    Sealer,
    Section,
    decode_header,
    make_salt,
    padded_len,
)

ROLES = tuple(Role)
PLAIN = b"some plaintext of a section"


def seal(role: Role = Role.DATA, random: bytes = bytes(32)) -> tuple[bytes, bytes]:
    """Return (header, sealed block 0)."""
    salt = make_salt(s.KEYS, role, random, [(Section.BLOCK, 0, PLAIN)])
    sealer = Sealer(s.KEYS, role, salt)
    return sealer.header_bytes, sealer.seal(Section.BLOCK, 0, PLAIN)


def open_with(header: bytes, section: Section, ordinal: int, sealed: bytes) -> bytes:
    opener = Opener(s.KEYS, decode_header(header, "object", ROLES), "object")
    return opener.open(section, ordinal, sealed)


@given(
    st.sampled_from(Role),
    st.sampled_from(Section),
    st.integers(0, (1 << 64) - 1),
    st.binary(max_size=1000),
)
def test_what_is_sealed_opens_at_its_place(
    role: Role, section: Section, ordinal: int, plain: bytes
) -> None:
    sealer = Sealer(s.KEYS, role, make_salt(s.KEYS, role, bytes(32), [(section, ordinal, plain)]))
    sealed = sealer.seal(section, ordinal, plain)

    assert len(sealed) == len(plain) + TAG_LEN
    assert open_with(sealer.header_bytes, section, ordinal, sealed) == plain


@given(st.integers(0, 8 * (HEADER_LEN + len(PLAIN) + TAG_LEN) - 1))
def test_no_bit_may_change(bit: int) -> None:
    header, sealed = seal()
    data = bytearray(header + sealed)
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DataError):
        open_with(bytes(data[:HEADER_LEN]), Section.BLOCK, 0, bytes(data[HEADER_LEN:]))


@pytest.mark.parametrize("length", range(len(PLAIN) + TAG_LEN))
def test_cut_anywhere_it_does_not_open(length: int) -> None:
    header, sealed = seal()

    with pytest.raises(ObjectCorrupt):
        open_with(header, Section.BLOCK, 0, sealed[:length])


def test_a_section_does_not_open_at_another_place() -> None:
    header, sealed = seal()

    with pytest.raises(ObjectCorrupt, match="block 1 is damaged"):
        open_with(header, Section.BLOCK, 1, sealed)
    for section in set(Section) - {Section.BLOCK}:
        with pytest.raises(ObjectCorrupt):
            open_with(header, section, 0, sealed)


def test_a_section_does_not_open_in_another_object() -> None:
    _, sealed = seal(random=b"1" * 32)
    header, _ = seal(random=b"2" * 32)

    with pytest.raises(ObjectCorrupt):
        open_with(header, Section.BLOCK, 0, sealed)


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.DATA])
def test_an_object_does_not_pass_as_another_role(role: Role) -> None:
    header, sealed = seal(Role.DATA)
    salt = header[16:48]
    disguised = Sealer(s.KEYS, role, salt).header_bytes  # even with a fitting commitment

    with pytest.raises(ObjectCorrupt):
        open_with(disguised, Section.BLOCK, 0, sealed)


def test_roles_that_share_a_key_do_not_pass_for_each_other() -> None:
    assert s.KEYS.role_key(Role.SNAPSHOT) == s.KEYS.role_key(Role.FORGET)
    header, sealed = seal(Role.SNAPSHOT)
    as_forget = header[:9] + bytes((Role.FORGET,)) + header[10:]

    with pytest.raises(ObjectCorrupt):
        open_with(as_forget, Section.BLOCK, 0, sealed)


def test_a_role_that_does_not_belong_there_is_named() -> None:
    header, _ = seal(Role.META)

    with pytest.raises(ObjectCorrupt, match="is a meta object"):
        decode_header(header, "object", (Role.DATA,))


def test_a_wrong_key_is_named_before_anything_is_opened() -> None:
    header, _ = seal()

    with pytest.raises(ObjectKeyMismatch, match="sealed with another key") as caught:
        Opener(s.OTHER_KEYS, decode_header(header, "object", ROLES), "object")
    assert isinstance(caught.value, WrongKey)  # exit code 12
    assert caught.value.exit_code == WrongKey.exit_code
    assert isinstance(caught.value, DataError)  # so that readers fall back to another location


@given(st.binary(min_size=0, max_size=HEADER_LEN + 8))
def test_a_header_of_noise_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        decode_header(data, "object", ROLES)


@given(
    st.sampled_from(Role), st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16)
)
def test_a_header_is_64_bytes_and_comes_back(role: Role, salt: bytes, commitment: bytes) -> None:
    header = Header(role, salt, commitment)

    assert len(header.encode()) == HEADER_LEN
    assert decode_header(header.encode() + b"more", "object", ROLES) == header


@pytest.mark.parametrize(("epoch", "wrapping"), [(1, 0), (0, 1), (0, 255), (65535, 0)])
def test_kept_numbers_say_update_not_damaged(epoch: int, wrapping: int) -> None:
    header = Header(Role.DATA, bytes(32), bytes(16), epoch, wrapping).encode()

    with pytest.raises(FormatUnsupported, match="update coopfs"):
        decode_header(header, "object", ROLES)


# --- the salt --------------------------------------------------------------------


def test_a_dead_random_source_repeats_a_salt_only_for_the_same_object() -> None:
    sections = [(Section.BLOCK, 0, b"ab"), (Section.BLOCK, 1, b"c")]
    variants = [
        (Role.DATA, sections),
        (Role.META, sections),
        (Role.DATA, sections[:1]),
        (Role.DATA, sections[::-1]),
        (Role.DATA, [(Section.BLOCK, 0, b"a"), (Section.BLOCK, 1, b"bc")]),
        (Role.DATA, [(Section.BLOCK, 0, b"abc"), (Section.BLOCK, 1, b"")]),
        (Role.DATA, [(Section.BODY, 0, b"ab"), (Section.BLOCK, 1, b"c")]),
        (Role.DATA, [(Section.BLOCK, 0, b"ab"), (Section.BLOCK, 2, b"c")]),
        (Role.DATA, []),
    ]

    salts = [make_salt(s.KEYS, role, bytes(32), parts) for role, parts in variants]

    assert len(set(salts)) == len(variants)
    assert salts[0] == make_salt(s.KEYS, Role.DATA, bytes(32), sections)
    assert salts[0] != make_salt(s.KEYS, Role.DATA, b"\1" * 32, sections)
    assert salts[0] != make_salt(s.OTHER_KEYS, Role.DATA, bytes(32), sections)


# --- padding ---------------------------------------------------------------------


@given(st.integers(0, 1 << 45))
def test_padding_never_shrinks_and_adds_less_than_a_32nd_to_a_mebibyte(length: int) -> None:
    padded = padded_len(length)

    assert padded >= max(length, 1 << 16)
    assert padded_len(padded) == padded
    if length > 1 << 20:
        assert padded - length < length / 32
    else:
        assert padded & (padded - 1) == 0


def test_padded_sizes_are_few() -> None:
    sizes = {padded_len(length) for length in range(1 << 20, 32 << 20, 997)}

    assert len(sizes) <= 32 * 5 + 1  # at most 2^5 between two powers of two


def test_the_ciphers_start_no_other_program() -> None:
    code = (
        "import sys\n"
        "started = []\n"
        "sys.addaudithook(lambda event, _: event == 'subprocess.Popen' and started.append(event))\n"
        "import coopfs.format.sealing\n"
        "sys.exit(len(started))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
