"""Keys: derivation is fixed for ever, ids and roles never meet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import make
from vectors import samples as s

from coopfs.errors import SignatureInvalid
from coopfs.format.keys import SIGN_BODY, SIGN_PACK, ArchiveKeys, Role, SigningKey, verify_signature

VECTORS = Path(make.__file__).parent


def table(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def test_keys_are_those_of_the_vectors() -> None:
    assert make.keys_vector() == table("keys.json")


def test_all_derived_keys_differ() -> None:
    vector = table("keys.json")
    role_keys = {vector["role_keys"][name] for name in ("DATA", "META", "INDEX", "SNAPSHOT")}

    assert len(set(vector["derived"].values()) | role_keys | {vector["archive_key"]}) == 13


def test_object_keys_differ_by_salt_and_key() -> None:
    keys = {
        s.KEYS.object_key(Role.DATA, bytes(32)),
        s.KEYS.object_key(Role.DATA, b"\1" * 32),
        s.KEYS.object_key(Role.META, bytes(32)),
        s.OTHER_KEYS.object_key(Role.DATA, bytes(32)),
    }

    assert len({part for pair in keys for part in pair}) == 8


@pytest.mark.parametrize("case", table("ids.json"), ids=lambda case: case["plaintext"][:8])
def test_ids_are_those_of_the_vectors_and_never_meet(case: dict[str, str]) -> None:
    content = bytes.fromhex(case["plaintext"])

    ids = [s.KEYS.chunk_id(content), s.KEYS.tree_id(content), s.KEYS.span_node_id(content)]

    assert [i.hex() for i in ids] == [case["chunk_id"], case["tree_id"], case["span_node_id"]]
    assert len(set(ids)) == 3
    assert s.KEYS.chunk_id(memoryview(content)) == ids[0]
    assert s.OTHER_KEYS.chunk_id(content) not in ids


@pytest.mark.parametrize("length", [0, 31, 33])
def test_an_archive_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ArchiveKeys.derive(bytes(length))


def test_secrets_are_not_shown() -> None:
    assert s.KEYS.archive_key.hex() not in repr(s.KEYS)
    assert repr(s.KEYS.archive_key) not in repr(s.KEYS)
    assert s.WRITER.seed.hex() not in repr(s.WRITER)


@given(st.binary(max_size=100))
def test_a_signature_holds_for_its_context_and_message_alone(message: bytes) -> None:
    signature = s.WRITER.sign(SIGN_PACK, message)

    verify_signature(s.WRITER.public_key, SIGN_PACK, message, signature, "object")
    for public_key, context, changed in (
        (s.ADMIN.public_key, SIGN_PACK, message),
        (s.WRITER.public_key, SIGN_BODY, message),
        (s.WRITER.public_key, SIGN_PACK, message + b"\0"),
    ):
        with pytest.raises(SignatureInvalid, match="object"):
            verify_signature(public_key, context, changed, signature, "object")


def test_ed25519_is_that_of_rfc_8032() -> None:
    """Section 7.1, test 2."""
    seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = SigningKey(bytes.fromhex(seed))

    assert key.public_key.hex() == public
    assert key.sign(b"", b"\x72").hex() == signature
