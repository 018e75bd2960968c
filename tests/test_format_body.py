"""Sealed bodies: signature, compression and padding around one structure."""

from __future__ import annotations

import hashlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import DataError, ObjectCorrupt, ObjectKeyMismatch, SignatureInvalid
from coopfs.format import body as b
from coopfs.format.codec import Codec
from coopfs.format.keys import SIGN_BODY, SIGN_PACK, Role
from coopfs.format.sealing import HEADER_LEN, TAG_LEN, Sealer, Section, make_salt, padded_len

BODY_ROLES = tuple(role for role in Role if role not in (Role.DATA, Role.META))
SEALED = s.sealed(Role.SNAPSHOT, b"the body of an object", s.WRITER)


def open_as(data: bytes, *roles: Role) -> b.OpenedBody:
    return b.open_body(s.KEYS, data, roles, "object")


def seal_inner(inner: bytes, role: Role = Role.SNAPSHOT) -> bytes:
    """Seal *inner* as it is, as a hacked writer could."""
    salt = make_salt(s.KEYS, role, bytes(32), [(Section.BODY, 0, inner)])
    sealer = Sealer(s.KEYS, role, salt)
    return sealer.header_bytes + sealer.seal(Section.BODY, 0, inner)


def framed(
    codec: int, plain_len: int, stored_len: int, stored: bytes, role: Role = Role.SNAPSHOT
) -> bytes:
    lengths = plain_len.to_bytes(8, "big") + stored_len.to_bytes(8, "big")
    return seal_inner(bytes(64) + bytes((codec,)) + lengths + stored, role)


@settings(max_examples=50)
@given(
    st.sampled_from(BODY_ROLES),
    st.binary(max_size=200) | st.binary(max_size=20).map(lambda part: part * 9000),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_sealed_opens_and_verifies(role: Role, body: bytes, random: bytes) -> None:
    sealed = b.seal_body(s.KEYS, s.WRITER, role, s.ARCHIVE_ID, body, random)

    opened = open_as(sealed.data, role)

    assert (opened.role, opened.body) == (role, body)
    b.verify_body(opened, s.ARCHIVE_ID, s.WRITER.public_key)
    assert sealed.object_id == hashlib.sha256(sealed.data).digest()
    assert len(sealed.data) == padded_len(len(sealed.data))


def test_a_long_body_is_compressed() -> None:
    sealed = s.sealed(Role.INDEX, bytes(10 << 20), s.WRITER)

    assert len(sealed.data) == 1 << 16
    assert open_as(sealed.data, Role.INDEX).body == bytes(10 << 20)


def test_a_body_too_long_to_be_read_is_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b, "MAX_BODY_LEN", 100)

    with pytest.raises(ValueError, match="write several"):
        s.sealed(Role.FORGET, bytes(101), s.ADMIN)


@pytest.mark.parametrize("role", [Role.INDEX, Role.SNAPSHOT, Role.AMENDMENT])
def test_what_any_writer_may_sign_is_refused_before_it_grows_large(role: Role) -> None:
    most = b.max_body_len(role)
    assert most <= 32 << 20
    bomb = zstandard.ZstdCompressor().compress(bytes(most + 1))
    assert len(bomb) < 8192

    with pytest.raises(ObjectCorrupt, match="out of bounds"):
        open_as(framed(Codec.ZSTD, most + 1, len(bomb), bomb, role), role)
    with pytest.raises(ObjectCorrupt, match="new one"):
        b.check_body_len(role, most + 1, "new one")
    b.check_body_len(role, most, "new one")


@given(st.integers(0, 8 * len(SEALED.data) - 1))
def test_no_bit_may_change(bit: int) -> None:
    data = bytearray(SEALED.data)
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DataError):
        open_as(bytes(data), *BODY_ROLES)


@pytest.mark.parametrize("length", [0, 63, 64, 79, 80, 160, 65535])
def test_a_truncated_body_is_refused(length: int) -> None:
    with pytest.raises(ObjectCorrupt):
        open_as(SEALED.data[:length], Role.SNAPSHOT)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(ObjectCorrupt):
        open_as(SEALED.data + b"\0", Role.SNAPSHOT)


def test_another_role_is_refused() -> None:
    for role in set(Role) - {Role.SNAPSHOT}:
        with pytest.raises(ObjectCorrupt, match="is a snapshot object"):
            open_as(SEALED.data, role)


def test_another_archives_key_is_named() -> None:
    with pytest.raises(ObjectKeyMismatch):
        b.open_body(s.OTHER_KEYS, SEALED.data, (Role.SNAPSHOT,), "object")


# --- signatures --------------------------------------------------------------------


def test_another_writers_signature_does_not_count() -> None:
    with pytest.raises(SignatureInvalid, match="object"):
        b.verify_body(open_as(SEALED.data, Role.SNAPSHOT), s.ARCHIVE_ID, s.ADMIN.public_key)


def test_a_signature_for_another_archive_does_not_count() -> None:
    other = s.ArchiveId(bytes(16))

    with pytest.raises(SignatureInvalid):
        b.verify_body(open_as(SEALED.data, Role.SNAPSHOT), other, s.WRITER.public_key)


@pytest.mark.parametrize("role", BODY_ROLES)
def test_a_signature_for_another_role_does_not_count(role: Role) -> None:
    for signed_role in set(BODY_ROLES) - {role}:
        message = bytes((signed_role,)) + s.ARCHIVE_ID + b"body"
        signature = s.ADMIN.sign(SIGN_BODY, message)
        with pytest.raises(SignatureInvalid):
            opened = b.OpenedBody(role, b"body", signature, "object")
            b.verify_body(opened, s.ARCHIVE_ID, s.ADMIN.public_key)


def test_a_missing_or_misused_signature_does_not_count() -> None:
    message = bytes((Role.FORGET,)) + s.ARCHIVE_ID + b"body"
    for signature in (bytes(64), b"", s.ADMIN.sign(SIGN_PACK, message), s.ADMIN.sign(b"", message)):
        opened = b.OpenedBody(Role.FORGET, b"body", signature, "object")
        with pytest.raises(SignatureInvalid):
            b.verify_body(opened, s.ARCHIVE_ID, s.ADMIN.public_key)


def test_a_public_key_that_is_no_point_verifies_nothing() -> None:
    opened = open_as(SEALED.data, Role.SNAPSHOT)

    for public_key in (b"\2" + bytes(31), b"\xff" * 32, b""):
        with pytest.raises(SignatureInvalid):
            b.verify_body(opened, s.ARCHIVE_ID, public_key)


# --- the frame -----------------------------------------------------------------------


def test_the_frame_is_checked_before_anything_is_allocated() -> None:
    huge = (1 << 64) - 1
    for plain_len, stored_len, stored in (
        (huge, 0, b""),
        (b.MAX_BODY_LEN + 1, 4, b"body"),
        (4, huge, b"body"),
        (4, 5, b"body"),
    ):
        with pytest.raises(ObjectCorrupt, match="out of bounds"):
            open_as(framed(Codec.RAW, plain_len, stored_len, stored), Role.SNAPSHOT)


def test_a_raw_body_of_another_length_is_refused() -> None:
    with pytest.raises(ObjectCorrupt, match="3 expected"):
        open_as(framed(Codec.RAW, 3, 4, b"body"), Role.SNAPSHOT)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(ObjectCorrupt, match="padding is not zero"):
        open_as(framed(Codec.RAW, 4, 4, b"body\0\0\1\0"), Role.SNAPSHOT)


def test_a_body_that_decodes_to_more_than_it_says_is_refused() -> None:
    bomb = s.zstd_of_xs(1 << 20, declared=100)

    with pytest.raises(ObjectCorrupt):
        open_as(framed(Codec.ZSTD, 100, len(bomb), bomb), Role.SNAPSHOT)


@pytest.mark.parametrize("length", [0, 63, 80])
def test_an_object_too_short_for_its_frame_is_refused(length: int) -> None:
    with pytest.raises(ObjectCorrupt, match="too short"):
        open_as(seal_inner(bytes(length)), Role.SNAPSHOT)


def test_an_object_passes_under_its_own_name_alone() -> None:
    older = s.sealed(Role.SNAPSHOT, b"an older snapshot", s.WRITER)

    b.check_name(SEALED.data, SEALED.object_id, "object")
    with pytest.raises(ObjectCorrupt, match="object: its bytes are not the ones"):
        b.check_name(older.data, SEALED.object_id, "object")


def test_header_and_tag_are_all_that_sealing_adds() -> None:
    assert len(seal_inner(bytes(100))) == HEADER_LEN + 100 + TAG_LEN
