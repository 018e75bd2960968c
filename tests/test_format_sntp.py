"""SNTP answers: the arithmetic of four times, over the eras, and what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from timeservers import NTP_EPOCH_S, PACKET, answer, ntp_time

from coopfs.format.sntp import PACKET_LEN, TimeAnswer, decode_answer, encode_question

COOKIE = bytes(range(8))
QUESTION = encode_question(COOKIE)
NOW_S = 1_795_000_000.0  # 2026
NOW_NS = 1_795_000_000 * 10**9
ERA_ENDS_NS = (2**32 - NTP_EPOCH_S) * 10**9  # in 2036


def said(packet: bytes, sent_ns: int = NOW_NS, received_ns: int = NOW_NS) -> object:
    return decode_answer(packet, COOKIE, sent_ns, received_ns)


def four_times(sent: int, received: int, replied: int) -> bytes:
    return PACKET.pack(0o44, 1, 6, -20, 0, 0, b"PPS\0", COOKIE, sent, received, replied)


def test_the_question_is_version_4_of_a_client_and_tells_no_time() -> None:
    assert len(QUESTION) == PACKET_LEN
    assert QUESTION[0] == 0x23  # RFC 5905, figure 8: leap 0, version 4, mode 3
    assert QUESTION[1:40] == bytes(39)
    assert QUESTION[40:] == COOKIE


def test_golden_answer() -> None:
    """The example's figures worked out by hand: 1 s and 3 s there and back, 2 s in the server."""
    ours = 1_000_000_000  # s since 1970
    received, replied = ntp_time(ours + 11.0), ntp_time(ours + 13.0)
    packet = four_times(0, received, replied)
    found = said(packet, ours * 10**9, (ours + 6) * 10**9)
    # offset = ((11 - 0) + (13 - 6)) / 2, delay = (6 - 0) - (13 - 11): RFC 5905, section 8
    assert found == TimeAnswer(9_000_000_000, 4_000_000_000, 1, "PPS")


@given(
    ahead_ns=st.integers(-(2**40), 2**40),
    now_ns=st.integers(0, 2 * ERA_ENDS_NS),
)
def test_the_offset_is_found_whatever_the_era(ahead_ns: int, now_ns: int) -> None:
    theirs = now_ns + ahead_ns + NTP_EPOCH_S * 10**9
    stamp = (theirs * (1 << 32) // 10**9) & ((1 << 64) - 1)
    found = said(four_times(0, stamp or 1, stamp or 1), now_ns, now_ns)
    assert isinstance(found, TimeAnswer)
    assert abs(found.offset_ns - ahead_ns) <= 2


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (answer(QUESTION, stratum=0, refid=b"RATE"), "refuses (RATE)"),
        (answer(QUESTION, stratum=0, refid=b"\x1b[2J"), "refuses ([2J)"),
        (answer(QUESTION, stratum=16), "not synchronised itself"),
        (answer(QUESTION, leap=3), "not synchronised itself"),
        (four_times(0, 0, 1), "not synchronised itself"),
    ],
    # The packets say what time it is: in a test's name every process would have another.
    ids=["rate", "control", "stratum", "leap", "no time"],
)
def test_a_server_that_knows_no_time_says_why(packet: bytes, why: str) -> None:
    found = said(packet)
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize(
    "packet",
    [b"", QUESTION[:47], QUESTION, answer(encode_question(b"another!"))],
    ids=["empty", "short", "echo", "to another question"],
)
def test_what_is_no_answer(packet: bytes) -> None:
    assert said(packet) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_read_without_a_fault(data: bytes) -> None:
    said(data)
    said(data[:24] + COOKIE + data[24:])


def test_a_server_of_a_higher_stratum_names_whom_it_follows() -> None:
    found = said(answer(QUESTION, stratum=2, refid=bytes([192, 0, 2, 7]), now_s=NOW_S))
    assert isinstance(found, TimeAnswer)
    assert (found.stratum, found.reference) == (2, "192.0.2.7")
    assert abs(found.offset_ns) < 1_000_000
