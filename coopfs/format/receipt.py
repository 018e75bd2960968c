"""Receipts: a server's signed word that an object is durable on its disk.

Pure functions.  Byte table: coopfs-format(5), "Receipt".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coopfs.errors import ObjectCorrupt
from coopfs.format import encoding
from coopfs.format.keys import SIGNATURE_LEN, SigningKey, verify_signature
from coopfs.ids import ID_LEN, ObjectId

SIGN_RECEIPT: Final = b"coopfs 1 sign receipt\0"
RECEIPT_LEN_MAX: Final = 256  # bytes, signature included; a real one has about 125
_KIND_LEN_MAX: Final = 16  # characters
_KNOWN = frozenset(range(4))


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a server says it holds, and since when."""

    kind: str  # data, index, snapshots, keys or locks
    name: ObjectId
    size: int  # bytes
    time_ns: int  # by the server's clock, when the object was durable


def receipt_body(receipt: Receipt) -> bytes:
    """Return the canonical bytes that are signed."""
    return encoding.encode({0: receipt.kind, 1: receipt.name, 2: receipt.size, 3: receipt.time_ns})


def sign_receipt(receipt: Receipt, signer: SigningKey) -> bytes:
    """Return *receipt* as it is sent: its canonical body, then the server's signature."""
    body = receipt_body(receipt)
    return body + signer.sign(SIGN_RECEIPT, body)


def open_receipt(data: bytes, public_key: bytes, what: str) -> Receipt:
    """Return the receipt in *data*, which must be signed by the server's *public_key*.

    Raises:
        SignatureInvalid: it is not signed by that key.
        ObjectCorrupt, FormatUnsupported: not a receipt this version can read.
    """
    if not SIGNATURE_LEN < len(data) <= RECEIPT_LEN_MAX:
        raise ObjectCorrupt(f"{what}: {len(data)} bytes are no receipt")
    body, signature = data[:-SIGNATURE_LEN], data[-SIGNATURE_LEN:]
    verify_signature(public_key, SIGN_RECEIPT, body, signature, what)
    fields = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)
    return Receipt(
        kind=encoding.text(fields, 0, what, limit=_KIND_LEN_MAX),
        name=ObjectId(encoding.bin_(fields, 1, what, size=ID_LEN)),
        size=encoding.u64(fields, 2, what, limit=encoding.I64_MAX),
        time_ns=encoding.i64(fields, 3, what),
    )
