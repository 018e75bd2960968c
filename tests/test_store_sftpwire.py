from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.store import sftpwire as wire
from coopfs.store.sftpwire import Attrs, Limits, OpenFlag, WireError


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def test_requests_are_as_the_draft_has_them() -> None:
    flags = OpenFlag.WRITE | OpenFlag.CREATE | OpenFlag.EXCLUSIVE
    opened = wire.open_file("/a", flags, 0o600)
    assert opened.head(7).hex() == ("000000170300000007000000022f610000002a0000000400000180")
    payload = [memoryview(b"ab"), memoryview(b"c")]
    written = wire.write(b"h", 1 << 33, payload)
    assert written.head(1).hex() == ("0000001906000000010000000168000000020000000000000003")
    assert b"".join(written.payload) == b"abc"
    assert wire.read(b"h", 5, 6).head(2).hex() == (
        "0000001605000000020000000168000000000000000500000006"
    )
    linked = wire.hardlink("a", "b").head(3)
    assert linked[4:9].hex() == "c800000003"
    assert linked[9:] == string(b"hardlink@openssh.com") + string(b"a") + string(b"b")
    assert wire.init_packet().hex() == "000000050100000003"


def test_replies_are_taken_apart() -> None:
    attrs = struct.pack(">IQIIIII", 0x0F, 1 << 40, 1, 2, 0o100600, 3, 4)
    assert wire.parse_attrs(attrs) == Attrs(1 << 40, 0o100600, 4)
    extended = struct.pack(">II", 0x8000_0000, 1) + string(b"x") + string(b"y")
    assert wire.parse_attrs(extended) == Attrs(None, None, None)
    names = struct.pack(">I", 2) + b"".join(
        string(name) + string(b"-rw") + attrs for name in (b"a", b"\xff")
    )
    assert [name for name, _ in wire.parse_names(names)] == ["a", "\udcff"]
    assert wire.parse_status(struct.pack(">I", 4)) == (4, "")
    assert wire.parse_status(struct.pack(">I", 4) + string(b"no") + string(b"en")) == (4, "no")
    assert wire.parse_limits(struct.pack(">4Q", 1, 2, 3, 4)) == Limits(1, 2, 3, 4)
    assert wire.parse_room(struct.pack(">11Q", *range(1, 12))) == (2 * 5, 8)
    version = struct.pack(">I", 3) + string(b"fsync@openssh.com") + string(b"1")
    assert wire.parse_version(version) == {"fsync@openssh.com": b"1"}


@pytest.mark.parametrize(
    "parse",
    [
        wire.parse_version,
        wire.parse_status,
        wire.parse_handle,
        wire.parse_attrs,
        wire.parse_names,
        wire.parse_limits,
        wire.parse_room,
    ],
)
@given(body=st.binary(max_size=200))
def test_whatever_a_server_sends_parses_or_is_nonsense(
    parse: Callable[[bytes], object], body: bytes
) -> None:
    try:
        parse(body)
    except WireError:
        return


@pytest.mark.parametrize(
    ("parse", "body", "words"),
    [
        (wire.parse_version, struct.pack(">I", 2), "version 2"),
        (wire.parse_handle, string(bytes(257)), "257"),
        (wire.parse_handle, struct.pack(">I", 1 << 31), "cut off"),
        (wire.parse_names, struct.pack(">I", 1 << 31), "2147483648 names"),
        (wire.parse_attrs, b"", "cut off"),
    ],
)
def test_what_is_too_long_or_too_short_is_refused(
    parse: Callable[[bytes], object], body: bytes, words: str
) -> None:
    with pytest.raises(WireError, match=words):
        parse(body)


@given(st.lists(st.binary(max_size=30), max_size=10), st.integers(1, 20))
def test_payloads_are_the_pieces_cut_anew(pieces: list[bytes], length: int) -> None:
    payloads = wire.payloads([memoryview(piece) for piece in pieces], length)
    whole = [b"".join(payload) for payload in payloads]
    assert b"".join(whole) == b"".join(pieces)
    assert all(len(one) == length for one in whole[:-1])
    assert all(0 < len(one) <= length for one in whole[-1:])
