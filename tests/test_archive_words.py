from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.archive.heads import Head
from coopfs.archive.words import heads_fingerprint, key_fingerprint, key_words, parse_words
from coopfs.errors import UsageError
from coopfs.ids import SnapshotId

KEY = bytes(range(32))
WORDS = key_words(KEY)


@given(key=st.binary(min_size=32, max_size=32))
def test_words_stand_for_their_key(key: bytes) -> None:
    words = key_words(key)
    assert len(words) == 24
    assert parse_words(" ".join(words)) == key


def test_words_are_those_of_bip_39() -> None:
    # Test vectors of https://github.com/trezor/python-mnemonic.
    assert key_words(bytes(32)) == (*["abandon"] * 23, "art")
    assert key_words(b"\x80" * 32)[:3] == ("letter", "advice", "cage")


@pytest.mark.parametrize(
    "typed",
    [
        " ".join(WORDS).upper(),
        "\n".join(f"  {i}. {word}" for i, word in enumerate(WORDS, 1)),
        "\t".join(f"{i:02}) {word.title()}," for i, word in enumerate(WORDS, 1)),
        "\u3000".join(WORDS) + "\r\n",
        " ".join(word[:4] for word in WORDS),
        " ".join("".join(chr(ord(c) + 0xFEE0) for c in word) for word in WORDS),  # full width
        " ".join(word.replace("a", "ä").replace("o", "o\u0308") for word in WORDS),
        "-".join(WORDS),
    ],
    ids=["upper", "numbered", "titled", "spaces", "four", "wide", "accents", "dashes"],
)
def test_however_they_are_typed(typed: str) -> None:
    assert parse_words(typed) == KEY


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25, 48])
def test_too_few_or_too_many_words_are_counted(count: int) -> None:
    with pytest.raises(UsageError, match=f"^{count} words; a key has 24"):
        parse_words(" ".join((WORDS * 3)[:count]))


def test_a_word_that_is_not_in_the_list_is_told_with_its_place() -> None:
    typed = [*WORDS[:6], "abandom", *WORDS[7:]]
    with pytest.raises(UsageError, match=r"word 7, 'abandom', .* did you mean abandon"):
        parse_words(" ".join(typed))


def test_three_letters_are_not_enough() -> None:
    with pytest.raises(UsageError, match="word 1, 'aba'"):
        parse_words(" ".join(["aba", *WORDS[1:]]))


def test_words_that_changed_places_or_were_mistaken_are_noticed() -> None:
    assert WORDS[0] != WORDS[1]
    with pytest.raises(UsageError, match="checksum"):
        parse_words(" ".join([WORDS[1], WORDS[0], *WORDS[2:]]))
    with pytest.raises(UsageError, match="checksum"):
        parse_words(" ".join(["zoo"] * 24))


def head(host: str, series: str, fill: int) -> Head:
    return Head(host, series, 1, SnapshotId(bytes([fill]) * 32))


def test_the_fingerprint_is_six_words_whatever_the_order() -> None:
    heads = [head("anna", "home", 1), head("bob", "home", 2), head("anna", "db", 3)]
    words = heads_fingerprint(heads)
    assert len(words.split()) == 6
    assert heads_fingerprint(reversed(heads)) == words


def test_the_fingerprint_changes_with_every_head() -> None:
    heads = [head("anna", "home", 1), head("bob", "home", 2)]
    others = [
        [],
        heads[:1],
        [head("anna", "home", 9), heads[1]],
        [head("anna", "home", 2), head("bob", "home", 1)],
        [head("annah", "ome", 1), heads[1]],
    ]
    assert len({heads_fingerprint(heads), *map(heads_fingerprint, others)}) == 6


def test_the_fingerprint_of_a_head_stays_the_same_for_ever() -> None:
    assert heads_fingerprint([head("anna", "home", 1)]) == "absorb alter swamp salmon door kitten"
    assert key_fingerprint(KEY) == "sunny sunset rival coconut choose affair"
