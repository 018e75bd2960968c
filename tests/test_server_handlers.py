"""The REST protocol as a partner sees it: every verb, for every right."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import (
    ADMIN,
    BERTA,
    SECOND_WRITER,
    WRITER,
    Serving,
    admit_anna,
    admit_berta,
    name_of,
    wait_until,
)

from coopfs.format import encoding
from coopfs.format.audit import audit_answer
from coopfs.format.receipt import open_receipt
from coopfs.objects import KINDS
from coopfs.server.protocol import LISTING_V1, LISTING_V2

V2 = {"Accept": LISTING_V2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("serve") / "root"
    root.mkdir()
    admit_anna(root)
    admit_berta(root)
    with Serving(root) as serving:
        yield serving


def test_put_object_comes_back_whole_and_in_parts(server: Serving) -> None:
    data = bytes(range(256)) * 4000
    path = f"/anna/data/{server.put(data)}"
    with server.client() as client:
        whole = client.ask("GET", path)
        assert (whole.status, whole.body) == (200, data)
        assert whole.headers["x-coopfs"] == "1"
        for text, part in (
            ("bytes=0-0", data[:1]),
            ("bytes=100-1099", data[100:1100]),
            ("bytes=1023000-", data[1023000:]),
            ("bytes=1023999-9999999", data[1023999:]),
            ("bytes=-5", data[-5:]),
            ("bytes=-99999999", data),
        ):
            reply = client.ask("GET", path, Range=text)
            assert (reply.status, reply.body) == (206, part), text
            assert reply.headers["content-range"].endswith(f"/{len(data)}")
        for text in ("bytes=1-0", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b"):
            assert client.ask("GET", path, Range=text).body == data, text
        for text in ("bytes=1024000-", "bytes=5000000-6000000", "bytes=-0"):
            reply = client.ask("GET", path, Range=text)
            assert reply.status == 416 and reply.headers["content-range"] == "bytes */1024000"
        head = client.ask("HEAD", path)
        assert (head.status, head.headers["content-length"], head.body) == (200, "1024000", b"")


def test_put_answers_with_a_receipt_that_the_server_signed(server: Serving) -> None:
    data = b"worth a receipt"
    for _ in range(2):  # the second put of the same object, too
        reply = server.ask("POST", f"/anna/index/{name_of(data)}", data)
        receipt = open_receipt(
            base64.b64decode(reply.headers["x-coopfs-receipt"]), server.identity.public_key, "it"
        )
        assert (receipt.kind, receipt.name.hex(), receipt.size) == ("index", name_of(data), 15)
        assert abs(receipt.time_ns - time.time_ns()) < 60e9


@pytest.mark.parametrize("kind", KINDS)
def test_listing_names_what_was_put_in_both_versions(server: Serving, kind: str) -> None:
    data = f"of kind {kind}".encode()
    name = server.put(data, kind)
    reply = server.ask("GET", f"/anna/{kind}/", **V2)
    assert {"name": name, "size": len(data)} in reply.json()
    assert reply.headers["content-type"] == LISTING_V2
    reply = server.ask("GET", f"/anna/{kind}/")
    assert name in reply.json() and reply.headers["content-type"] == LISTING_V1
    assert reply.headers["transfer-encoding"] == "chunked"


def test_listing_of_many_objects_is_whole(server: Serving) -> None:
    folder = server.root / "partners/anna/objects/snapshots"
    names = {name_of(str(i).encode()) for i in range(5000)}
    for name in names:
        (folder / name).write_bytes(b"")
    try:
        with server.client() as client:
            reply = client.ask("GET", "/anna/snapshots/", **V2)
            assert names <= {entry["name"] for entry in reply.json()}
            assert client.ask("HEAD", "/anna/config").status == 404  # the connection goes on
    finally:
        for name in names:
            (folder / name).unlink()


def test_empty_kind_lists_as_an_empty_array(server: Serving) -> None:
    assert server.ask("GET", "/berta/keys/", who=BERTA, **V2).body == b"[]"


def test_bytes_that_are_not_the_name_are_refused_and_leave_nothing(server: Serving) -> None:
    data = b"this is not what it is called"
    wrong = name_of(b"something else")
    reply = server.ask("POST", f"/anna/data/{wrong}", data)
    assert reply.status == 400 and name_of(data) in reply.body.decode()
    assert server.ask("HEAD", f"/anna/data/{wrong}").status == 404
    assert list((server.root / "partners/anna/incoming").iterdir()) == []


def test_put_of_another_size_is_a_conflict_and_overwrites_nothing(server: Serving) -> None:
    name = server.put(b"the right bytes")
    reply = server.ask("POST", f"/anna/data/{name}", b"longer than the right bytes")
    assert reply.status == 409 and b"15 bytes" in reply.body
    assert server.ask("GET", f"/anna/data/{name}").body == b"the right bytes"


def test_config_is_put_once_and_never_deleted(server: Serving) -> None:
    with server.client(BERTA) as client:
        assert client.ask("HEAD", "/berta/config").status == 404
        assert client.ask("POST", "/berta/?create=true", b"").status == 200
        for _ in range(2):
            assert client.ask("POST", "/berta/config", b"the config").status == 200
        assert client.ask("GET", "/berta/config").body == b"the config"
        head = client.ask("HEAD", "/berta/config")
        assert head.headers["content-length"] == "10" and head.body == b""
        assert client.ask("POST", "/berta/config", b"another one").status == 409
        assert client.ask("DELETE", "/berta/config").status == 403
        assert client.ask("GET", "/berta/config").body == b"the config"


def test_writer_can_neither_delete_objects_nor_the_archive(server: Serving) -> None:
    for kind in ("data", "index", "snapshots", "keys"):
        name = server.put(f"to stay in {kind}".encode(), kind)
        reply = server.ask("DELETE", f"/anna/{kind}/{name}")
        assert reply.status == 403 and b"admin key" in reply.body
        assert server.ask("HEAD", f"/anna/{kind}/{name}").status == 200
    assert server.ask("DELETE", "/anna/").status == 403
    assert server.ask("DELETE", "/anna/", who=ADMIN).status == 501


def test_admin_deletes_into_the_trash_and_putting_restores(server: Serving) -> None:
    data = b"deleted, then missed"
    name = server.put(data)
    path = f"/anna/data/{name}"
    assert server.ask("DELETE", path, who=ADMIN).status == 200
    assert server.ask("DELETE", path, who=ADMIN).status == 404
    assert server.ask("GET", path).status == 404
    before = server.ask("GET", "/anna/?coopfs=status").json()
    assert before["trash_objects"] >= 1 and before["trash_used"] >= len(data)
    server.put(data)
    assert server.ask("GET", path).body == data


def test_nothing_stays_of_a_lock_that_never_comes(server: Serving) -> None:
    owners = server.root / "partners/anna/lock-owners"
    before = set(owners.iterdir())
    wrong = name_of(b"a lock")
    refused = server.ask("POST", f"/anna/locks/{wrong}", body=b"something else")
    assert refused.status == 400
    assert set(owners.iterdir()) == before
    with server.client() as client:  # gone in the middle
        client.connection.putrequest("POST", f"/anna/locks/{wrong}")
        client.connection.putheader("Content-Length", "100")
        client.connection.endheaders(b"so far")
        wait_until(lambda: set(owners.iterdir()) != before, "the lock's owner to be noted")
    wait_until(lambda: set(owners.iterdir()) == before, "the lock's owner to be forgotten")


def test_writer_deletes_its_own_locks_only(server: Serving) -> None:
    mine, other = server.put(b"mine", "locks"), server.put(b"hers", "locks", SECOND_WRITER)
    # Putting somebody else's lock again does not make it one's own.
    server.put(b"hers", "locks", WRITER)
    assert server.ask("DELETE", f"/anna/locks/{other}").status == 403
    assert server.ask("DELETE", f"/anna/locks/{mine}").status == 200
    assert server.ask("DELETE", f"/anna/locks/{mine}").status == 404
    assert server.ask("DELETE", f"/anna/locks/{other}", who=SECOND_WRITER).status == 200
    adm = server.put(b"admin's", "locks", ADMIN)
    assert server.ask("DELETE", f"/anna/locks/{adm}").status == 403
    assert server.ask("DELETE", f"/anna/locks/{adm}", who=ADMIN).status == 200
    noted = {path.name for path in (server.root / "partners/anna/lock-owners").iterdir()}
    assert noted.isdisjoint({mine, other, adm})


def test_partner_is_told_nothing_about_another(server: Serving) -> None:
    name = server.put(b"anna's own")
    asked = [
        ("GET", f"/anna/data/{name}"),
        ("HEAD", f"/anna/data/{name}"),
        ("GET", "/anna/data/"),
        ("GET", "/anna/config"),
        ("GET", "/anna/?coopfs=status"),
        ("POST", f"/anna/data/{name_of(b'x')}"),
        ("DELETE", f"/anna/data/{name}"),
        ("POST", "/anna/?create=true"),
    ]
    for method, path in asked:
        theirs = server.ask(method, path, b"x" if method == "POST" else None, BERTA)
        nobodys = server.ask(
            method, path.replace("anna", "nobody"), b"x" if method == "POST" else None, BERTA
        )
        assert theirs.status == nobodys.status == 404, path
        assert theirs.body == nobodys.body
        headers = [{**r.headers, "date": ""} for r in (theirs, nobodys)]
        assert headers[0] == headers[1]
    assert server.ask("GET", f"/anna/data/{name}").body == b"anna's own"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/anna",
        "/anna//config",
        "/anna/data",
        "/anna/data/..",
        "/anna/data/../config",
        "/anna/../berta/config",
        "/anna/%2e%2e/berta/config",
        "/anna/data/" + "0" * 63,
        "/anna/data/" + "0" * 65,
        "/anna/data/" + "A" * 64,
        "/anna/data/" + "0" * 64 + "/",
        "/anna/data/" + "0" * 64 + "%00",
        "/anna/objects/" + "0" * 64,
        "/anna/trash/",
        "/anna/state.db",
        "/anna/partner.toml",
        "/anna/data/" + "../" * 20 + "etc/passwd",
        "/anna/config?x=%00",
        "//etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_path_that_names_no_object_leads_nowhere(server: Serving, path: str, method: str) -> None:
    body = b"x" if method == "POST" else None
    assert server.ask(method, path, body, ADMIN).status == 404


def test_methods_that_mean_nothing_are_refused_by_name(server: Serving) -> None:
    assert server.ask("PUT", "/anna/config", b"x").headers["allow"] == "GET, HEAD, POST, DELETE"
    assert server.ask("POST", "/anna/data/", b"x").status == 405
    assert server.ask("PATCH", "/anna/", b"x").status == 405
    assert server.ask("GET", "/anna/").status == 400
    assert server.ask("GET", "/anna/?coopfs=everything").status == 501


def test_prove_answers_for_whole_packs_only(server: Serving) -> None:
    data = bytes(range(256)) * 9000
    name = bytes.fromhex(server.put(data))
    key = b"k" * 32
    ask = encoding.encode({"name": name, "key": key})
    reply = server.ask("POST", "/anna/?coopfs=prove", ask)
    assert (reply.status, reply.body) == (200, audit_answer(key, [data]))
    for body, status in (
        (encoding.encode({"name": b"n" * 32, "key": key}), 404),
        (encoding.encode({"name": name, "key": b"short"}), 400),
        (encoding.encode({"name": "../../config", "key": key}), 400),
        (encoding.encode([name, key]), 400),
        (b"\xc1", 400),
        (b"", 400),
        (b"\x93" * 1000, 400),
    ):
        assert server.ask("POST", "/anna/?coopfs=prove", body).status == status, body[:20]


def test_undelete_brings_back_what_was_deleted(server: Serving) -> None:
    names = [server.put(f"gone {i}".encode()) for i in range(3)]
    kept_out = server.put(b"gone, too, but not asked for")
    for name in (*names, kept_out):
        assert server.ask("DELETE", f"/anna/data/{name}", who=ADMIN).status == 200
    ask = encoding.encode({"kind": "data", "names": [bytes.fromhex(name) for name in names]})
    reply = server.ask("POST", "/anna/?coopfs=undelete", ask)
    assert encoding.decode(reply.body, "it")["restored"] == 3
    assert {server.ask("HEAD", f"/anna/data/{name}").status for name in names} == {200}
    assert server.ask("HEAD", f"/anna/data/{kept_out}").status == 404
    for body in ({}, {"names": "all"}, {"names": [b"short"]}, {"since_ns": "now"}):
        reply = server.ask("POST", "/anna/?coopfs=undelete", encoding.encode(body))
        assert reply.status == 400, body
    ask = encoding.encode({"since_ns": 0})
    reply = server.ask("POST", "/anna/?coopfs=undelete", ask)
    assert encoding.decode(reply.body, "it")["restored"] >= 1
    assert server.ask("HEAD", f"/anna/data/{kept_out}").status == 200


def test_status_tells_the_partner_what_it_has_here(server: Serving) -> None:
    server.put(b"counted")
    status = server.ask("GET", "/anna/?coopfs=status").json()
    assert status["partner"] == "anna" and status["role"] == "writer"
    assert status["used"] > 0 and status["left"] > 0 and status["retention_days"] == 30
    assert abs(status["time_ns"] - time.time_ns()) < 60e9
    assert status["clock_jump"] is None and status["findings"] == []


def test_objects_lie_where_a_stock_server_would_look(server: Serving, tmp_path: Path) -> None:
    name = server.put(b"in its place")
    found = server.root / "partners/anna/objects/data" / name[:2] / name
    assert found.read_bytes() == b"in its place"
    assert found.stat().st_mode & 0o777 == 0o600
