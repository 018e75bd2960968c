"""Codes that people copy from one machine to another: one word, with a checksum.

Pure functions.  Lower-case letters and digits (base32, RFC 4648); the last five bytes
are a BLAKE3 of what precedes, under a context of the kind of code, so that a slip, or a code
of another kind, is noticed.
"""

from __future__ import annotations

import base64
import hmac
import re
from typing import Final

from blake3 import blake3

CODE_LEN_MAX: Final = 1000  # characters; the longest real one has 290
_CHECKSUM_LEN: Final = 5  # bytes


def encode_code(body: bytes, context: str) -> str:
    """Return the code of *body*; *context* names the kind of code."""
    return base64.b32encode(body + _checksum(body, context)).decode().rstrip("=").lower()


def decode_code(code: str, context: str) -> bytes:
    """Return the body of *code*; nothing where it is not a whole code of that kind.

    Case, spaces, line ends and dashes do not matter.
    """
    text = re.sub(r"[\s-]+", "", code).upper()
    try:
        if len(text) > CODE_LEN_MAX:
            raise ValueError("too long")
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return b""
    body, checksum = data[:-_CHECKSUM_LEN], data[-_CHECKSUM_LEN:]
    return body if hmac.compare_digest(checksum, _checksum(body, context)) else b""


def _checksum(body: bytes, context: str) -> bytes:
    return blake3(body, derive_key_context=context).digest(_CHECKSUM_LEN)
