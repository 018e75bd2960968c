"""Key files: what goes in comes out, and nothing altered does."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from Crypto.Cipher import AES
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import CoopfsError, FormatUnsupported, ObjectCorrupt, WrongKey
from coopfs.format import encoding, wrapping
from coopfs.format.wrapping import (
    KeyPurpose,
    ScryptParams,
    Secrets,
    decode_key_file,
    encode_key_file,
    unwrap,
)
from coopfs.ids import ArchiveId

ARCHIVE_ID = ArchiveId(bytes(range(16)))
SECRETS = Secrets(bytes(range(32)), bytes(range(32, 64)))
CHEAP = ScryptParams(log_n=4)
RANDOM = bytes(32)
BODY = len(wrapping.MAGIC) + 1 + 32
RIGHT = "correct horse"


def wrapped(passphrase: str | None = RIGHT, **kwargs: Any) -> bytes:
    return encode_key_file(
        kwargs.get("purpose", KeyPurpose.HOST),
        ARCHIVE_ID,
        kwargs.get("secrets", SECRETS),
        passphrase,
        kwargs.get("random", RANDOM),
        kwargs.get("params", CHEAP),
    )


def reframed(body: bytes) -> bytes:
    """A file whose checksum is right, as an attacker would make it."""
    return wrapping.MAGIC + b"\x01" + blake3(body).digest() + body


def with_fields(data: bytes, **changed: Any) -> bytes:
    fields = encoding.decode(data[BODY:], "test")
    fields |= {int(key[1:]): value for key, value in changed.items()}
    return reframed(encoding.encode({k: fields[k] for k in sorted(fields)}))


@pytest.mark.parametrize("passphrase", [None, "correct horse", "", "päss wörd", "\udcff raw"])
def test_secrets_come_back(passphrase: str | None) -> None:
    key_file = decode_key_file(wrapped(passphrase), "test")
    assert key_file.purpose is KeyPurpose.HOST
    assert key_file.archive_id == ARCHIVE_ID
    assert (key_file.scrypt is None) == (passphrase is None)
    assert unwrap(key_file, passphrase, "test") == SECRETS


def test_an_admin_key_file_holds_one_secret() -> None:
    data = wrapped(purpose=KeyPurpose.ADMIN, secrets=Secrets(bytes(32)))
    key_file = decode_key_file(data, "test")
    assert key_file.purpose is KeyPurpose.ADMIN
    assert unwrap(key_file, "correct horse", "test") == Secrets(bytes(32), None)


def test_neither_secret_nor_passphrase_is_in_a_wrapped_file() -> None:
    data = wrapped()
    assert SECRETS.key not in data
    assert SECRETS.writer_seed is not None
    assert SECRETS.writer_seed not in data
    assert b"horse" not in data


def test_another_passphrase_is_the_wrong_one() -> None:
    key_file = decode_key_file(wrapped(), "host.key")
    for wrong in ("correct horse ", "Correct horse", ""):
        with pytest.raises(WrongKey, match=r"host\.key: wrong passphrase"):
            unwrap(key_file, wrong, "host.key")
    with pytest.raises(WrongKey, match="none was given"):
        unwrap(key_file, None, "host.key")


def test_an_accent_is_the_same_however_the_keyboard_makes_it() -> None:
    key_file = decode_key_file(wrapped("p\u00e4ss"), "test")
    assert unwrap(key_file, "pa\u0308ss", "test") == SECRETS


def test_the_salt_hangs_on_the_secrets_even_without_randomness() -> None:
    salts = {
        decode_key_file(wrapped(secrets=Secrets(bytes([i]) * 32, bytes(32))), "t").salt
        for i in range(4)
    }
    assert len(salts) == 4
    assert decode_key_file(wrapped(random=b"\x01" * 32), "t").salt not in salts


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(passphrase: str | None, data: st.DataObject) -> None:
    good = bytearray(wrapped(passphrase))
    place = data.draw(st.integers(0, 8 * len(good) - 1))
    good[place // 8] ^= 1 << place % 8
    with pytest.raises((ObjectCorrupt, FormatUnsupported)):
        decode_key_file(bytes(good), "test")


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_every_truncation_and_any_tail_is_refused(passphrase: str | None) -> None:
    good = wrapped(passphrase)
    for length in range(len(good)):
        with pytest.raises(ObjectCorrupt):
            decode_key_file(good[:length], "test")
    for tail in (b"\0", b"\n", good):
        with pytest.raises(ObjectCorrupt):
            decode_key_file(good + tail, "test")
    with pytest.raises(ObjectCorrupt):
        decode_key_file(good + bytes(wrapping.MAX_LEN), "test")


def test_a_damaged_file_is_not_mistaken_for_a_wrong_passphrase() -> None:
    damaged = bytearray(wrapped())
    damaged[-1] ^= 1
    with pytest.raises(ObjectCorrupt, match="damaged"):
        decode_key_file(bytes(damaged), "test")


@pytest.mark.parametrize(
    "changed",
    [{"f0": int(KeyPurpose.ADMIN)}, {"f1": bytes(16)}, {"f2": [5, 8, 1]}, {"f3": bytes(32)}],
    ids=["purpose", "archive", "scrypt", "salt"],
)
def test_what_stands_beside_the_secret_is_bound_to_it(changed: dict[str, Any]) -> None:
    key_file = decode_key_file(with_fields(wrapped(), **changed), "test")
    with pytest.raises(WrongKey):
        unwrap(key_file, "correct horse", "test")


def test_a_published_key_is_never_unwrapped() -> None:
    published = {"purpose": KeyPurpose.PUBLISHED, "secrets": Secrets(bytes(32))}
    data = wrapped(**published)
    assert unwrap(decode_key_file(data, "test"), RIGHT, "test") == Secrets(bytes(32))
    assert b"\x00" * 32 not in data
    with pytest.raises(ValueError, match="without a passphrase"):
        wrapped(None, **published)
    # Anybody may put an object into a store: one that asks for no passphrase proves nothing.
    forged = with_fields(wrapped(None, secrets=Secrets(bytes(32))), f0=3)
    with pytest.raises(ObjectCorrupt, match="without a passphrase"):
        decode_key_file(forged, "test")


def test_a_newer_version_or_purpose_says_update() -> None:
    newer = bytearray(wrapped())
    newer[len(wrapping.MAGIC)] = 2
    with pytest.raises(FormatUnsupported, match="update"):
        decode_key_file(bytes(newer), "test")
    with pytest.raises(FormatUnsupported, match="update"):
        decode_key_file(with_fields(wrapped(), f0=4), "test")
    with pytest.raises(FormatUnsupported, match="newer"):
        decode_key_file(with_fields(wrapped(), f64=1), "test")


@pytest.mark.parametrize(
    "scrypt",
    [
        [63, 8, 1],
        [1 << 62, 8, 1],
        [20, 8, 1],
        [17, 1 << 40, 1],
        [17, 8, 1 << 40],
        [17, 8, 64],
        [24, 1, 1],
    ],
)
def test_absurd_scrypt_parameters_are_refused_before_any_work(
    scrypt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> bytes:
        raise AssertionError("scrypt was run")

    data = with_fields(wrapped(), f2=scrypt)
    monkeypatch.setattr(hashlib, "scrypt", never)
    with pytest.raises(FormatUnsupported, match="refused"):
        unwrap(decode_key_file(data, "test"), "x", "test")


@pytest.mark.parametrize("scrypt", [[], [17, 8], [17, 8, True], [0, 8, 1], [17, -8, 1], 17, b"x"])
def test_malformed_scrypt_parameters_are_refused(scrypt: object) -> None:
    with pytest.raises(ObjectCorrupt):
        decode_key_file(with_fields(wrapped(), f2=scrypt), "test")


@given(body=st.binary(max_size=300))
def test_any_body_with_a_right_checksum_is_parsed_or_refused(body: bytes) -> None:
    with contextlib.suppress(CoopfsError):
        unwrap(decode_key_file(reframed(body), "test"), None, "test")


def test_what_is_written_costs_what_the_manual_says() -> None:
    key_file = decode_key_file(
        encode_key_file(KeyPurpose.HOST, ARCHIVE_ID, SECRETS, "x", RANDOM), "t"
    )
    assert key_file.scrypt == ScryptParams(17, 8, 1)
    assert unwrap(key_file, "x", "t") == SECRETS


def test_the_bytes_are_those_of_the_format() -> None:
    """Golden: a change here makes existing key files unreadable."""
    assert wrapped(None).hex() == (
        "434f4f5046534b0a01734db48c8ded879e92f754a6b412520e403278ff9a3636f2a7fb4216fa4c0d"
        "c083000101c410000102030405060708090a0b0c0d0e0f04c4478200c42000010203040506070809"
        "0a0b0c0d0e0f101112131415161718191a1b1c1d1e1f01c420202122232425262728292a2b2c2d2e"
        "2f303132333435363738393a3b3c3d3e3f"
    )
    assert hashlib.sha256(wrapped()).hexdigest() == (
        "467132c29fd7efd28730c57be17805b2d2bd422e2aebe1f7065b60286294f36a"
    )


def test_a_reader_written_from_the_manual_opens_it() -> None:
    """Offsets and derivations as coopfs-format(5), "Key files", has them, with no code of ours."""
    data = wrapped("p\u00e4ss")
    assert data[:9] == b"COOPFSK\n\x01"
    assert blake3(data[41:]).digest() == data[9:41]
    fields = msgpack.unpackb(data[41:], strict_map_key=False)
    assert (fields[0], fields[1], fields[2]) == (1, bytes(ARCHIVE_ID), [4, 8, 1])
    plaintext = msgpack.packb({0: SECRETS.key, 1: SECRETS.writer_seed})
    hasher = blake3(derive_key_context="coopfs 1 key file salt")
    assert fields[3] == hasher.update(RANDOM + plaintext).digest()
    key = hashlib.scrypt("p\u00e4ss".encode(), salt=fields[3], n=16, r=8, p=1, dklen=32)
    cipher = AES.new(key, AES.MODE_GCM, nonce=bytes(12))
    cipher.update(data[:9] + msgpack.packb({k: fields[k] for k in range(4)}))
    assert cipher.decrypt_and_verify(fields[4][:-16], fields[4][-16:]) == plaintext
