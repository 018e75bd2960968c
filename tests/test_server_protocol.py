"""Targets, ranges and heads as text: strict, and never a traceback."""

from __future__ import annotations

from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.objects import KINDS
from coopfs.server.protocol import (
    Head,
    Refused,
    Target,
    answer_head,
    parse_range,
    parse_target,
)

NAME = "ab" * 32


def test_targets_of_every_shape_are_read() -> None:
    assert parse_target(b"/anna/") == Target("anna", None, None, "")
    assert parse_target(b"/anna/?create=true") == Target("anna", None, None, "create=true")
    assert parse_target(b"/anna/config") == Target("anna", "config", None, "")
    for kind in KINDS:
        assert parse_target(f"/a.b-c_1/{kind}/".encode()) == Target("a.b-c_1", kind, None, "")
        found = parse_target(f"/anna/{kind}/{NAME}".encode())
        assert found == Target("anna", kind, NAME, "")
        assert str(found) == f"{kind}/{NAME[:16]}"


@given(st.binary(max_size=300))
def test_any_bytes_are_a_target_of_known_shape_or_none(data: bytes) -> None:
    target = parse_target(b"/" + data)
    if target is not None:
        assert ".." not in target.partner.split("/") and "/" not in target.partner
        assert target.kind in (*KINDS, "config", None)
        assert target.name is None or (len(target.name) == 64 and bytes.fromhex(target.name))


@given(st.text(max_size=40), st.integers(0, 10_000))
def test_any_range_lies_within_the_object_or_is_refused(text: str, size: int) -> None:
    for header in (text, f"bytes={text}", f"bytes={size}-{text}"):
        try:
            part = parse_range(header, size)
        except Refused as refused:
            assert refused.status == 416
            continue
        if part is not None:
            offset, length = part
            assert 0 <= offset < size and 0 < length <= size - offset


def test_digits_of_other_scripts_are_no_range() -> None:
    assert parse_range("bytes=٣-٤", 100) is None


def test_head_of_an_answer_can_be_read_back() -> None:
    status = HTTPStatus.INSUFFICIENT_STORAGE
    data = answer_head(status, [("Content-Length", "0")], closes=True)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(data)
    event = client.next_event()
    assert isinstance(event, h11.Response) and event.status_code == 507
    headers = dict(event.headers)
    assert headers[b"x-coopfs"] == b"1" and headers[b"connection"] == b"close"
    assert b"date" in headers


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_no_header_has_a_line_break_in_it(value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        answer_head(HTTPStatus.OK, [("X", value)], closes=False)


@pytest.mark.parametrize(
    ("headers", "keeps", "waits"),
    [
        ({}, True, False),
        ({"connection": "close"}, False, False),
        ({"connection": "Keep-Alive, Close"}, False, False),
        ({"expect": "100-Continue"}, True, True),
    ],
)
def test_head_says_whether_the_connection_goes_on(
    headers: dict[str, str], keeps: bool, waits: bool
) -> None:
    head = Head("POST", b"/", headers, True)
    assert (head.keeps_alive, head.awaits_continue) == (keeps, waits)
    old = Head("POST", b"/", headers, False)
    assert not old.keeps_alive and not old.awaits_continue
