"""Invitations: a code that cannot be mistyped unnoticed, and messages that come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.errors import CoopfsError, ObjectCorrupt, UsageError
from coopfs.format import encoding
from coopfs.format.invitation import (
    MESSAGE_LEN_MAX,
    Answer,
    Endpoint,
    Introduction,
    Invitation,
    Request,
    decode_answer,
    decode_invitation,
    decode_request,
    encode_answer,
    encode_invitation,
    encode_request,
    introduction_digest,
    parse_endpoint,
)

INVITATION = Invitation(
    endpoint=Endpoint("backup.example.org", 8765),
    pin=bytes(range(32)),
    token=bytes(range(16)),
    expires_s=1_800_000_000,
    name="anna",
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
hosts = st.sampled_from(["a", "backup.example.org", "192.0.2.1", "2001:db8::1", "fe80::1%eth0"])
endpoints = st.builds(Endpoint, hosts, st.integers(1, 65535))
certificates = st.binary(max_size=400)
introductions = st.builds(
    Introduction,
    name=names,
    path=names,
    server_certificate=certificates,
    writer_certificate=certificates,
    owner_certificates=st.lists(certificates, max_size=3).map(tuple),
    endpoint=st.none() | endpoints,
    quota=st.integers(0, 1 << 62),
    retention_days=st.integers(0, 3650),
    receive_rate=st.sampled_from(["", "10m", "10m, full 20:00-07:00, full sat-sun"]),
    send_rate=st.sampled_from(["", "full"]),
)
invitations = st.builds(
    Invitation,
    endpoint=endpoints,
    pin=st.binary(min_size=32, max_size=32),
    token=st.binary(min_size=16, max_size=16),
    expires_s=st.integers(0, (1 << 64) - 1),
    name=names,
)


@given(invitations)
def test_a_code_is_read_back(invitation: Invitation) -> None:
    assert decode_invitation(encode_invitation(invitation)) == invitation


def test_a_code_survives_mail_and_phones() -> None:
    code = encode_invitation(INVITATION)
    assert len(code) < 180
    typed = "\n".join(code[i : i + 20] for i in range(0, len(code), 20)).upper()
    assert decode_invitation(f"  {typed.replace('A', 'a')}- ") == INVITATION


def test_no_single_slip_passes() -> None:
    code = encode_invitation(INVITATION)
    for place in range(len(code)):
        other = "b" if code[place] == "a" else "a"
        with pytest.raises(UsageError):
            decode_invitation(code[:place] + other + code[place + 1 :])
        with pytest.raises(UsageError):
            decode_invitation(code[:place] + code[place + 1 :])


@pytest.mark.parametrize("code", ["", "a", "hello", "ä" * 50, "a" * 5000, "7" * 160, "\0"])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(UsageError, match="not a whole invitation"):
        decode_invitation(code)


def test_the_token_is_not_shown() -> None:
    assert repr(INVITATION.token) not in repr(INVITATION)
    request = Request(INVITATION.token, _introduction())
    assert repr(INVITATION.token) not in repr(request)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.org:8765", Endpoint("example.org", 8765)),
        ("[2001:db8::1]:1", Endpoint("2001:db8::1", 1)),
        ("127.0.0.1:65535", Endpoint("127.0.0.1", 65535)),
    ],
)
def test_an_endpoint_is_read_and_shown(text: str, expected: Endpoint) -> None:
    assert parse_endpoint(text, "--listen") == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:x",
        "a:1e3",
        "2001:db8::1:1",
        "a b:1",
        "a/b:1",
        "a:٣",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        parse_endpoint(text, "--listen")


def _introduction() -> Introduction:
    return Introduction("anna", "berta", b"s", b"w", (b"o",), Endpoint("a", 1), 7, 30)


@given(introductions, st.binary(min_size=16, max_size=16))
def test_messages_come_back(told: Introduction, token: bytes) -> None:
    assert decode_request(encode_request(Request(token, told))) == Request(token, told)
    assert decode_answer(encode_answer(Answer(told))) == Answer(told)


def test_a_refusal_comes_back() -> None:
    assert decode_answer(encode_answer(Answer(None, "no"))) == Answer(None, "no")


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    for decode in (decode_request, decode_answer):
        with pytest.raises(CoopfsError):
            decode(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (0, "../etc"),
        (0, ""),
        (1, "a/b"),
        (2, b"x" * 5000),
        (3, "text"),
        (4, [b"x"] * 17),
        (4, ["x"]),
        (5, "nowhere"),
        (6, -1),
        (6, 1 << 63),
        (7, 100_000),
        (64, 1),
    ],
)
def test_what_nobody_would_say_is_refused(key: int, value: object) -> None:
    request = encoding.decode(encode_request(Request(bytes(16), _introduction())), "request")
    request[2][key] = value
    with pytest.raises(CoopfsError):
        decode_request(encoding.encode(request))


def test_a_message_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ObjectCorrupt, match="over the limit"):
        decode_request(bytes(MESSAGE_LEN_MAX + 1))


@given(introductions, introductions)
def test_the_words_are_of_all_that_was_told(one: Introduction, other: Introduction) -> None:
    digest = introduction_digest(one, other)
    assert len(digest) == 32
    assert (introduction_digest(other, one) == digest) == (one == other)
