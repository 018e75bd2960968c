from __future__ import annotations

import json
from pathlib import Path

import pytest
from vectors import samples as s

from coopfs.errors import CoopfsError, FormatUnsupported, ObjectCorrupt, SignatureInvalid
from coopfs.format import encoding
from coopfs.format.keys import SIGN_BODY, SIGNATURE_LEN
from coopfs.format.receipt import (
    RECEIPT_LEN_MAX,
    SIGN_RECEIPT,
    Receipt,
    open_receipt,
    sign_receipt,
)
from coopfs.ids import ObjectId

VECTOR = json.loads((Path(__file__).parent / "vectors" / "server.json").read_text())


def opened(data: bytes, public_key: bytes = s.WRITER.public_key) -> Receipt:
    return open_receipt(data, public_key, "receipt of data/ab")


def signed(fields: object) -> bytes:
    body = encoding.encode(fields)
    return body + s.WRITER.sign(SIGN_RECEIPT, body)


def test_what_was_signed_is_read() -> None:
    assert opened(sign_receipt(s.RECEIPT, s.WRITER)) == s.RECEIPT


def test_the_committed_receipt_is_read() -> None:
    assert opened(bytes.fromhex(VECTOR["receipt"])) == s.RECEIPT


def test_the_longest_receipt_is_within_the_limit() -> None:
    longest = Receipt("k" * 16, ObjectId(bytes(32)), encoding.I64_MAX, encoding.I64_MIN)

    assert len(sign_receipt(longest, s.WRITER)) <= RECEIPT_LEN_MAX
    assert opened(sign_receipt(longest, s.WRITER)) == longest


def test_any_changed_byte_is_noticed() -> None:
    data = sign_receipt(s.RECEIPT, s.WRITER)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(SignatureInvalid, match="receipt of data/ab"):
            opened(bytes(changed))


def test_another_servers_receipt_is_none() -> None:
    with pytest.raises(SignatureInvalid):
        opened(sign_receipt(s.RECEIPT, s.OTHER_WRITER))


def test_a_signature_for_another_purpose_is_none() -> None:
    body = sign_receipt(s.RECEIPT, s.WRITER)[:-SIGNATURE_LEN]
    with pytest.raises(SignatureInvalid):
        opened(body + s.WRITER.sign(SIGN_BODY, body))


@pytest.mark.parametrize("length", [0, 1, 63, 64, RECEIPT_LEN_MAX + 1, 100_000])
def test_absurd_lengths_are_refused(length: int) -> None:
    with pytest.raises(ObjectCorrupt, match=f"{length} bytes are no receipt"):
        opened(bytes(length))


GOOD = {0: "data", 1: bytes(32), 2: 5, 3: 7}


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({**GOOD, 0: "k" * 17}, ObjectCorrupt),
        ({**GOOD, 0: b"data"}, ObjectCorrupt),
        ({**GOOD, 1: bytes(31)}, ObjectCorrupt),
        ({**GOOD, 2: -1}, ObjectCorrupt),
        ({**GOOD, 2: 1 << 63}, ObjectCorrupt),
        ({**GOOD, 3: "now"}, ObjectCorrupt),
        ({0: "data", 1: bytes(32), 2: 5}, ObjectCorrupt),
        ([1, 2, 3, 4], ObjectCorrupt),
        ({**GOOD, 64: 1}, FormatUnsupported),
    ],
)
def test_signed_nonsense_is_refused(fields: object, error: type[CoopfsError]) -> None:
    with pytest.raises(error, match="receipt of data/ab"):
        opened(signed(fields))


def test_a_newer_field_that_is_not_critical_is_ignored() -> None:
    assert opened(signed({**GOOD, 9: "more"})) == Receipt("data", ObjectId(bytes(32)), 5, 7)
