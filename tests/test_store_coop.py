"""A partner's store, by ``coopfs serve``: directly, and over a line that it dials itself."""

from __future__ import annotations

import base64
import itertools
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import pytest
from blake3 import blake3
from mounting import wait_until
from partners import Partner
from slowline import SlowLine
from store_suite import StoreRig, StoreSuite, name_of, put_new, some_bytes

from coopfs.errors import (
    ConfigError,
    NotAStore,
    NotFound,
    ObjectNotFound,
    StoreDenied,
    StoreFull,
    StoreIdentity,
    StoreUnavailable,
    UsageError,
)
from coopfs.format.invitation import parse_endpoint
from coopfs.format.keys import SigningKey
from coopfs.format.receipt import sign_receipt
from coopfs.identity import Identity, make_identity, save_identity
from coopfs.ops.pairing import dial_socket, server_identity
from coopfs.server.dialling import DialPlace, save_dial_place
from coopfs.server.settings import PartnerSettings, load_partner, partner_folder, save_partner
from coopfs.store.base import Kind
from coopfs.store.coop import CoopStore, Right, open_coop
from coopfs.store.coopstatus import load_contact
from coopfs.store.open import absolute_address, create_store, open_store
from coopfs.store.partners import PartnerAccess, identity_path, save_access
from coopfs.store.receipts import ReceiptBook

_numbers = itertools.count()


@dataclass
class Served:
    """A running server, and the machine whose stores it keeps."""

    server: Partner
    process: subprocess.Popen[str]
    client: Partner
    socket: str | None = None  # where a server that dials is reached

    def new_access(self, **grants: object) -> tuple[PartnerAccess, Identity]:
        """Grant a new store; return how it is reached, and the identity of its owner."""
        name = f"store-{next(_numbers)}"
        writer, owner = make_identity(), make_identity()
        settings = PartnerSettings(name, writers=(writer.cert_pem,), admins=(owner.cert_pem,))
        save_partner(self.server.root, replace(settings, **grants))  # type: ignore[arg-type]
        access = PartnerAccess(
            name=name,
            endpoint=None if self.socket else parse_endpoint(self.server.address, "server"),
            socket=self.socket,
            certificate=server_identity(self.server.root).cert_pem,
            path=name,
            identity=f"identity/{name}.pem",
        )
        save_access(self.client.dirs, access)
        save_identity(writer, identity_path(self.client.dirs, access))
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: is_let_in(name), f"the server to know {name}")
        return access, owner

    def rig(self) -> StoreRig:
        """Return a rig for a new store."""
        access, owner = self.new_access()
        address = f"coop://{access.name}"
        create_store(address).close()
        objects = partner_folder(self.server.root, access.name) / "objects"

        def plant(kind: Kind, filename: str, data: bytes) -> None:
            folder = objects / kind
            folders = [path for path in folder.iterdir() if path.is_dir()] or [folder]
            for place in folders:
                (place / filename).write_bytes(data)

        def open_as_owner() -> CoopStore:
            store = open_coop(address)
            store.lend_owner(lambda: owner)
            return store

        return StoreRig(open_as_owner, plant, address)


def is_let_in(name: str) -> bool:
    with suppress(StoreDenied, StoreUnavailable), open_coop(f"coop://{name}") as store:
        store.status()
        return True
    return False


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Partner]:
    partner = Partner(tmp_path_factory.mktemp("client"), "anna")
    environ = {**partner.environ, "COOPFS_STORE_TIMEOUT": "60"}
    with mock.patch.dict(os.environ, environ):
        yield partner


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, client: Partner) -> Iterator[Served]:
    server = Partner(tmp_path_factory.mktemp("server"), "berta")
    with server.serving() as process:
        yield Served(server, process, client)


@pytest.fixture(scope="module")
def dialled(tmp_path_factory: pytest.TempPathFactory, client: Partner) -> Iterator[Served]:
    """A server that nobody reaches, and one to which it dials."""
    hidden = Partner(tmp_path_factory.mktemp("hidden"), "berta")
    reachable = Partner(tmp_path_factory.mktemp("reachable"), "anna")
    hidden_pem = server_identity(hidden.root).cert_pem
    save_partner(reachable.root, PartnerSettings("berta", diallers=(hidden_pem,)))
    save_dial_place(
        hidden.root,
        DialPlace(
            "anna",
            parse_endpoint(reachable.address, "server"),
            server_identity(reachable.root).cert_pem,
        ),
    )
    with reachable.serving(), hidden.serving(is_reachable=False) as process:
        path = dial_socket(reachable.root, "berta")
        wait_until(path.exists, "a dialled line")
        yield Served(hidden, process, client, str(path))


class TestCoop(StoreSuite):
    @pytest.fixture
    def rig(self, served: Served) -> StoreRig:
        return served.rig()


class TestCoopDialled(StoreSuite):
    """What the line could spoil; the rest is the server's, which is the same one."""

    @pytest.fixture
    def rig(self, dialled: Served) -> StoreRig:
        return dialled.rig()


_OF_THE_LINE = {
    "test_a_large_object_comes_back_whole",
    "test_a_range_is_exact",
    "test_a_listing_shows_every_object_with_its_size",
    "test_many_threads_read_more_objects_than_are_kept_open",
    "test_reading_while_deleting_gives_the_bytes_or_not_found",
    "test_a_writer_killed_in_the_middle_leaves_no_half_object",
}
assert set(dir(StoreSuite)) >= _OF_THE_LINE
for _name in dir(StoreSuite):
    if _name.startswith("test_") and _name not in _OF_THE_LINE:
        setattr(TestCoopDialled, _name, None)


# --- identities -------------------------------------------------------------------


def test_another_server_at_the_address_is_told_nothing(
    served: Served, tmp_path_factory: pytest.TempPathFactory
) -> None:
    access, _ = served.new_access()
    save_access(served.client.dirs, replace(access, certificate=make_identity().cert_pem))
    with (
        open_store(f"coop://{access.name}") as store,
        pytest.raises(StoreIdentity, match="nothing was sent"),
    ):
        store.get_config()


def test_a_client_that_nobody_knows_is_not_let_in(served: Served) -> None:
    access, _ = served.new_access()
    identity_path(served.client.dirs, access).unlink()
    save_identity(make_identity(), identity_path(served.client.dirs, access))
    with open_store(f"coop://{access.name}") as store, pytest.raises(StoreDenied):
        store.get_config()


def test_a_partner_cannot_tell_whether_there_is_another(served: Served) -> None:
    one, _ = served.new_access()
    other, _ = served.new_access()
    with open_coop(f"coop://{other.name}") as store:
        name = put_new(store, b"the other's")
    texts = []
    for path in (other.path, "nobody"):
        save_access(served.client.dirs, replace(one, path=path))
        with open_coop(f"coop://{one.name}") as store:
            with pytest.raises(ObjectNotFound) as caught:
                store.get(Kind.DATA, name)
            texts.append(str(caught.value))
    assert texts[0] == texts[1]


# --- rights -----------------------------------------------------------------------


def test_a_writer_cannot_delete_and_the_owner_can(served: Served) -> None:
    access, owner = served.new_access()
    with open_coop(f"coop://{access.name}") as store:
        name = put_new(store, b"keep me")
        with pytest.raises(StoreDenied, match="key online"):
            store.delete(Kind.DATA, name)
        store.lend_owner(lambda: make_identity())
        with pytest.raises(StoreDenied):
            store.delete(Kind.DATA, name)
    with open_coop(f"coop://{access.name}") as store:
        assert store.get(Kind.DATA, name) == b"keep me"
        store.lend_owner(lambda: owner)
        store.delete(Kind.DATA, name)
        assert list(store.list(Kind.DATA)) == []
        undeleted = store.undelete([name])
        assert (undeleted.objects, undeleted.size) == (1, 7)
        assert store.get(Kind.DATA, name) == b"keep me"
        assert store.undelete(since_ns=0).objects == 0


def test_what_the_server_signed_is_kept_until_the_object_is_deleted(
    served: Served, client: Partner, caplog: pytest.LogCaptureFixture
) -> None:
    access, owner = served.new_access()
    create_store(f"coop://{access.name}").close()
    book = ReceiptBook(client.dirs, access.name)
    with open_coop(f"coop://{access.name}") as store:
        store.lend_owner(lambda: owner)
        names = [put_new(store, some_bytes(size), Kind.INDEX) for size in (3, 4)]
        assert sorted(kept.receipt.name for kept in book.receipts()) == sorted(names)
        assert {kept.receipt.size for kept in book.receipts()} == {3, 4}
        store.delete(Kind.INDEX, names[0])
        assert [kept.receipt.name for kept in book.receipts()] == [names[1]]

        # What another key signed, or about another object, is no receipt; the put is done.
        (kept,) = book.receipts()
        other = sign_receipt(kept.receipt, SigningKey(b"x" * 32))
        for data, name in ((other, names[1]), (kept.data, names[0]), (b"", names[1])):
            store._has_complained = False
            store._receive(base64.b64encode(data).decode(), Kind.INDEX, name, 4)
            assert "it is not kept" in caplog.messages[-1]
        assert book.receipts() == [kept]
    book.close()


def test_the_owner_lets_a_new_machine_in_at_once(served: Served) -> None:
    access, owner = served.new_access()
    new, stranger = make_identity(), make_identity()
    with open_coop(f"coop://{access.name}") as store, pytest.raises(StoreDenied):
        store.enrol(ssl.PEM_cert_to_DER_cert(new.cert_pem), Right.WRITER)
    with open_coop(f"coop://{access.name}") as store:
        name = put_new(store, b"old")
        store.lend_owner(lambda: owner)
        store.act_as_owner()
        store.enrol(ssl.PEM_cert_to_DER_cert(new.cert_pem), Right.WRITER)
    for identity, is_let in ((new, True), (stranger, False)):
        identity_path(served.client.dirs, access).unlink()
        save_identity(identity, identity_path(served.client.dirs, access))
        with open_coop(f"coop://{access.name}") as store:
            if is_let:
                assert store.get(Kind.DATA, name) == b"old"
            else:
                with pytest.raises(StoreDenied):
                    store.get(Kind.DATA, name)


def test_the_retention_is_raised_by_the_owner_and_never_lowered(served: Served) -> None:
    access, owner = served.new_access(retention_days=30)
    with open_coop(f"coop://{access.name}") as store:
        with pytest.raises(StoreDenied):
            store.raise_retention(60)
        store.lend_owner(lambda: owner)
        store.raise_retention(60)
        store.raise_retention(10)
        assert store.status().retention_days == 60
        with pytest.raises(Exception, match="1 to 3650 days"):
            store.raise_retention(100_000)
    assert load_partner(served.server.root, access.name).retention_days == 60


# --- what the partner says ----------------------------------------------------------


def test_a_proof_is_of_the_whole_pack(served: Served) -> None:
    access, _ = served.new_access()
    data, key = some_bytes(3_000_000), bytes(range(32))
    with open_coop(f"coop://{access.name}") as store:
        name = put_new(store, data)
        assert store.prove(name, key) == blake3(data, key=key).digest()
        with pytest.raises(ObjectNotFound):
            store.prove(name_of(b"never put"), key)


def test_a_range_over_a_long_line_costs_one_round_trip(served: Served) -> None:
    access, _ = served.new_access()
    data = some_bytes(300_000)
    with create_store(f"coop://{access.name}") as store:
        name = put_new(store, data)
    with SlowLine(served.server.port, delay_s=0.015) as line:
        endpoint = parse_endpoint(f"127.0.0.1:{line.port}", "line")
        save_access(served.client.dirs, replace(access, endpoint=endpoint))
        with open_coop(f"coop://{access.name}") as store:
            store.get(Kind.DATA, name, 0, 1)
            times = []
            for offset in range(0, 60_000, 10_000):
                begun = time.monotonic()
                got = store.get(Kind.DATA, name, offset, 200_000)
                times.append(time.monotonic() - begun)
                assert got == data[offset : offset + 200_000]
    assert 0.029 < min(times) < 0.055, times


def test_what_is_left_is_known_and_a_full_store_says_so(served: Served) -> None:
    access, _ = served.new_access(quota_bytes=100_000)
    with open_coop(f"coop://{access.name}") as store:
        assert store.free_bytes() == 100_000
        put_new(store, some_bytes(60_000))
        assert store.free_bytes() == 40_000
        with pytest.raises(StoreFull, match="40"):
            put_new(store, some_bytes(50_000, 1))
        status = store.status()
    assert (status.used, status.quota, status.objects) == (60_000, 100_000, 1)


def test_a_contact_is_remembered_once_the_store_is_closed(served: Served) -> None:
    access, _ = served.new_access(quota_bytes=1000)
    dirs = served.client.dirs
    before = load_contact(dirs, access.name).time_ns
    with open_coop(f"coop://{access.name}") as store:
        store.status()
    contact = load_contact(dirs, access.name)
    assert (contact.time_ns or 0) > (before or 0)
    assert contact.quota == 1000
    assert contact.clock_ahead_ms is not None and abs(contact.clock_ahead_ms) < 2000


# --- addresses ----------------------------------------------------------------------


def test_an_unknown_partner_is_named(client: Partner) -> None:
    with pytest.raises(NotFound, match="no partner is called 'nobody'"):
        open_store("coop://nobody")
    assert absolute_address("coop://nobody") == "coop://nobody"


@pytest.mark.parametrize("address", ["coop://", "coop://a/b", "coop://../x", "coop://a b"])
def test_what_names_no_partner_is_refused(client: Partner, address: str) -> None:
    with pytest.raises(UsageError):
        open_store(address)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", "update coopfs"),
        ("path = ", "paht = ", "path is missing"),
        ('address = "127', 'adress = "127', "either an address or"),
        ('pin = "', 'pin = "0', "expected 64"),
        ("version = 1", "version = 1\ncolour = 1", "unknown setting 'colour'"),
        ("-----BEGIN CERTIFICATE-----", "-----BEGIN-----", "certificate"),
    ],
)
def test_a_partners_file_that_cannot_be_used_is_named(
    served: Served, old: str, new: str, message: str
) -> None:
    access, _ = served.new_access()
    path = served.client.dirs.config / "partners" / f"{access.name}.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(Exception, match=message) as caught:
        open_store(f"coop://{access.name}")
    assert access.name in str(caught.value)


def test_a_partner_who_has_not_dialled_in_is_said_to_be_away(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    access, _ = served.new_access()
    hidden = replace(access, endpoint=None, socket=str(tmp_path / "dial.sock"))
    save_access(served.client.dirs, hidden)
    with (
        open_store(f"coop://{access.name}") as store,
        pytest.raises(StoreUnavailable, match="dials in to coopfs serve here"),
    ):
        store.get_config()


def test_a_partner_whose_lines_are_all_gone_is_said_to_be_away(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    access, _ = served.new_access()
    path = tmp_path / "dial.sock"
    save_access(served.client.dirs, replace(access, endpoint=None, socket=str(path)))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        hanging_up = threading.Thread(target=lambda: listener.accept()[0].close())
        hanging_up.start()
        with (
            open_store(f"coop://{access.name}") as store,
            pytest.raises(StoreUnavailable, match="no line of the partner's is there"),
        ):
            store.get_config()
        hanging_up.join()


def test_a_missing_identity_is_named(served: Served) -> None:
    access, _ = served.new_access()
    identity_path(served.client.dirs, access).unlink()
    with pytest.raises(ConfigError, match=rf"{access.name}\.pem"):
        open_store(f"coop://{access.name}")


def test_a_server_that_is_no_coopfs_is_no_partner(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, _ = served.new_access()
    monkeypatch.setattr("coopfs.store.coop.FEATURES_HEADER", "X-Somebody-Else")
    with open_store(f"coop://{access.name}") as store, pytest.raises(NotAStore):
        store.get_config()
