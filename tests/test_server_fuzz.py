"""What a hostile partner may say: the server answers or hangs up, and goes on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import Serving, admit_anna, admit_berta, name_of, raw_answers, statuses

from coopfs.format import encoding

ANSWERS = {200, 206, 400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 416, 431, 501, 505}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root: Path = tmp_path_factory.mktemp("serve") / "root"
    root.mkdir()
    admit_anna(root)
    admit_berta(root)
    (root / "serve.toml").write_text("head_s = 1\nstall_s = 1\nslow_bytes_per_s = 100000\n")
    with Serving(root) as serving:
        yield serving


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.binary(min_size=32, max_size=32)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(0, 5) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
KEYS = st.sampled_from(["name", "key", "kind", "names", "since_ns", "days", 0, 1])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["prove", "undelete", "enrol", "retention", "status", "nothing"]),
    st.dictionaries(KEYS, VALUES, max_size=4) | VALUES,
)
def test_any_structure_is_answered(server: Serving, what: str, value: object) -> None:
    reply = server.ask("POST", f"/anna/?coopfs={what}", encoding.encode(value))
    assert reply.status in ANSWERS and b"internal" not in reply.body


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["prove", "undelete", "enrol", "retention"]), st.binary(max_size=200))
def test_any_bytes_are_answered(server: Serving, what: str, body: bytes) -> None:
    assert server.ask("POST", f"/anna/?coopfs={what}", body).status in ANSWERS


def test_requests_with_changed_bytes_never_hurt_the_server(server: Serving) -> None:
    seeded = random.Random(20261126)
    data = b"an object of some bytes" * 50
    name = server.put(data)
    requests = [
        f"GET /anna/data/{name} HTTP/1.1\r\nHost: x\r\nRange: bytes=5-90\r\n\r\n".encode(),
        f"POST /anna/data/{name} HTTP/1.1\r\nHost: x\r\n".encode()
        + f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data,
        b"GET /anna/snapshots/ HTTP/1.1\r\nHost: x\r\nAccept: a/b\r\nConnection: close\r\n\r\n",
        b"POST /anna/?create=true HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n",
        f"DELETE /anna/locks/{name} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode(),
    ]
    for _ in range(120):
        request = bytearray(seeded.choice(requests))
        for _ in range(seeded.randint(1, 4)):
            place = seeded.randrange(min(len(request), 140))
            match seeded.randrange(3):
                case 0:
                    request[place] = seeded.randrange(256)
                case 1:
                    del request[place : place + seeded.randint(1, 8)]
                case 2:
                    request[place:place] = seeded.choice([b"\r\n", b"\0", b"%2e", b"../", b"\xff"])
        with server.connect() as sock:
            sock.settimeout(30)
            sock.sendall(bytes(request))
            with suppress(OSError):
                sock.unwrap().shutdown(socket.SHUT_WR)
            assert server.is_running()
    assert server.ask("GET", f"/anna/data/{name}").body == data
    listing = server.ask("GET", "/anna/data/").json()
    assert all(len(found) == 64 for found in listing)
    with server.connect() as sock:
        assert statuses(raw_answers(sock, b"\0" * 100)) == [400]
    assert name_of(data) in listing
