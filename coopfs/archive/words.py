"""Keys and fingerprints as words a person can read, type and compare.

BIP 39's English list: its words differ in their first four letters.  A key is 24
words with BIP 39's own checksum; a fingerprint six words of a hash.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from blake3 import blake3

from coopfs.archive.heads import Head
from coopfs.errors import UsageError
from coopfs.format.keys import KEY_LEN

KEY_WORDS: Final = 24  # 256 bits and an 8-bit checksum
FINGERPRINT_WORDS: Final = 6  # 66 bits: 2**65 tries for a store that would match one of them
_TYPED_MIN: Final = 4  # letters that tell the list's words apart
_HEADS_CONTEXT: Final = "coopfs 1 heads fingerprint"
_KEY_CONTEXT: Final = "coopfs 1 public key fingerprint"


@lru_cache(maxsize=1)
def _bip39() -> Any:
    from mnemonic import Mnemonic  # late: 20 ms with its list

    return Mnemonic("english")


def key_words(key: bytes) -> tuple[str, ...]:
    """Return the 24 words of a key (32 bytes)."""
    if len(key) != KEY_LEN:
        raise ValueError("a key has 32 bytes")
    words: str = _bip39().to_mnemonic(key)
    return tuple(words.split(" "))


def random_words(count: int) -> tuple[str, ...]:
    """Return words drawn from the list by chance, 11 bits each: a passphrase, no key."""
    known: list[str] = _bip39().wordlist
    return tuple(secrets.choice(known) for _ in range(count))


def parse_words(text: str) -> bytes:
    """Return the key (32 bytes) that 24 words stand for, however they were typed.

    Case, accents, spacing, numbering, commas and wide letters do not matter; the first
    four letters of a word are enough.

    Raises:
        UsageError: too few or many words, an unknown one, or a wrong checksum.
    """
    words = typed_words(text)
    if len(words) != KEY_WORDS:
        raise UsageError(
            f"{len(words)} words; a key has {KEY_WORDS}, as numbered on its sheet of the "
            "recovery kit"
        )
    try:
        return bytes(_bip39().to_entropy(words))
    except ValueError:
        raise UsageError(
            "the checksum of the 24 words does not match: every word is in the list, but "
            "one is another than on the sheet, or two changed places"
        ) from None


def typed_words(text: str, first: int = 1) -> list[str]:
    """Return the list's words that were typed, the *first* of them being that one of a key.

    Raises:
        UsageError: names the one that is not in the list.
    """
    plain = "".join(
        c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c)
    )
    return [_word(word, place) for place, word in enumerate(re.findall(r"[^\W\d_]+", plain), first)]


def _word(typed: str, place: int) -> str:
    known: list[str] = _bip39().wordlist
    if typed in known:
        return typed
    if len(typed) >= _TYPED_MIN:
        matches = [word for word in known if word.startswith(typed)]
        if len(matches) == 1:
            return matches[0]
    from difflib import get_close_matches

    close = get_close_matches(typed, known, n=3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    # The word is told: one is worth 11 of 256 bits, and without it nobody finds the slip.
    raise UsageError(f"word {place}, {typed!r}, is not one of BIP 39's{hint}")


def _six_words(digest: bytes) -> str:
    known: list[str] = _bip39().wordlist
    number = int.from_bytes(digest, "big") >> (8 * len(digest) - 11 * FINGERPRINT_WORDS)
    places = [number >> 11 * i & 0x7FF for i in reversed(range(FINGERPRINT_WORDS))]
    return " ".join(known[place] for place in places)


def digest_words(digest: bytes) -> str:
    """Return six words for a hash (32 bytes) that was made for nothing else."""
    return _six_words(digest)


def heads_fingerprint(heads: Iterable[Head]) -> str:
    """Return six words for the newest snapshots of all series, the same on every host."""
    ordered = sorted(heads, key=lambda head: (head.host, head.series))
    content = "".join(f"{h.host}\n{h.series}\n{h.snapshot_id.hex()}\n" for h in ordered)
    return _six_words(blake3(content.encode(), derive_key_context=_HEADS_CONTEXT).digest())


def key_fingerprint(public_key: bytes) -> str:
    """Return six words for a public key, to compare on two machines."""
    return _six_words(blake3(public_key, derive_key_context=_KEY_CONTEXT).digest())
