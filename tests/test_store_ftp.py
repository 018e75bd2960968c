from __future__ import annotations

import ftplib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ftpservers import ControlLine, FtpWords, PyftpdlibServer, VsftpdServer
from mounting import wait_until
from remotesides import object_path, others_in, plant
from servers import make_certificate
from store_suite import (
    THREADS,
    StoreRig,
    StoreSuite,
    in_threads,
    name_of,
    put_new,
    sizes,
    some_bytes,
)

from coopfs.errors import (
    ConfigError,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreIdentity,
    StoreUnavailable,
    UsageError,
)
from coopfs.store import ftpconnection, ftppool
from coopfs.store.base import Kind
from coopfs.store.ftp import create_ftp_store, ftp_store
from coopfs.store.ftpaddress import parse_ftp_address
from coopfs.store.ftplisting import parse_mlsd, parse_nlst
from coopfs.store.local import LocalStore
from coopfs.store.open import absolute_address, create_store, open_store
from coopfs.store.remotefiles import FileInfo


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")


def make_rig(root: Path, address: str) -> StoreRig:
    create_ftp_store(address).close()
    return StoreRig(lambda: ftp_store(address), partial(plant, root), address)


class TestFtpsStore(StoreSuite):
    """Over TLS, without MLSD."""

    @pytest.fixture
    def rig(self, tmp_path: Path, vsftpd: VsftpdServer) -> StoreRig:
        return make_rig(tmp_path / "store", vsftpd.address(tmp_path / "store"))


class TestFtpStore(StoreSuite):
    """In the clear, with MLSD."""

    @pytest.fixture
    def rig(self, tmp_path: Path, plain_ftp: PyftpdlibServer) -> StoreRig:
        return make_rig(tmp_path / "store", plain_ftp.address(tmp_path / "store"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried twice."""
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")


def make_local(root: Path) -> bytes:
    """Make a store in *root* with one object, and return its name."""
    with LocalStore.create(root) as local:
        local.put_config(b"config")
        return put_new(local, b"01234567")


# --- the folder ----------------------------------------------------------------------


def test_no_server_says_whether_it_is_durable_or_has_room(
    root: Path, vsftpd: VsftpdServer, plain_ftp: PyftpdlibServer
) -> None:
    make_local(root)
    for server in (vsftpd, plain_ftp):
        with ftp_store(server.address(root)) as store:
            assert not store.is_durable
            assert store.free_bytes() is None


def test_the_address_shown_has_no_password(root: Path, plain_ftp: PyftpdlibServer) -> None:
    with ftp_store(plain_ftp.address(root)) as store:
        assert store.address == f"ftp://anna:***@127.0.0.1:{plain_ftp.port}{root}"


# --- transfers ------------------------------------------------------------------------


def test_the_server_does_insist_on_the_session(
    root: Path, vsftpd: VsftpdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_local(root)
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    monkeypatch.setattr(ftpconnection._Ftp, "ntransfercmd", ftplib.FTP_TLS.ntransfercmd)
    with ftp_store(vsftpd.address(root)) as store, pytest.raises(StoreError):
        put_new(store, b"whatever the suite shows is by a session that is used again")


def test_ranges_in_a_row_are_one_transfer(
    root: Path, plain_ftp: PyftpdlibServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_local(root)
    data = some_bytes(3 << 20)
    with (
        ControlLine(plain_ftp.port) as line,
        ftp_store(plain_ftp.address(root, line.port)) as store,
    ):
        name = put_new(store, data)
        step = 200_000
        found = [store.get(Kind.DATA, name, at, step) for at in range(0, 10 * step, step)]
        assert b"".join(found) == data[: 10 * step]
        assert line.commands["RETR"] == 1
        assert store.get(Kind.DATA, name, 7, step) == data[7 : step + 7]
        assert line.commands["RETR"] == 2
        assert store.get(Kind.DATA, name, step + 7, step) == data[step + 7 : 2 * step + 7]
        assert line.commands["RETR"] == 2
        monkeypatch.setattr(ftppool, "PARKED_MAX_S", -1.0)  # too old to be trusted
        store.get(Kind.DATA, name, 2 * step + 7, step)
        assert line.commands["RETR"] == 3
        store.delete(Kind.DATA, name)
        with pytest.raises(ObjectNotFound):
            store.get(Kind.DATA, name, 3 * step + 7, step)


@pytest.mark.usefixtures("impatient")
def test_a_server_of_one_connection_serves_many_threads(root: Path, tmp_path: Path) -> None:
    make_local(root)
    with (
        VsftpdServer(tmp_path / "vsftpd", "max_per_ip=1") as server,
        ftp_store(server.address(root)) as store,
    ):
        in_threads(lambda n: put_new(store, some_bytes(1000, n)), range(2 * THREADS))
        assert len(sizes(store, Kind.DATA)) == 2 * THREADS + 1


def test_tls_from_the_first_byte_works_at_the_port_for_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_local(root)
    with VsftpdServer(tmp_path / "vsftpd", "implicit_ssl=YES") as server:
        monkeypatch.setattr(ftpconnection, "IMPLICIT_PORT", server.port)
        with ftp_store(server.address(root)) as store:
            assert store.get(Kind.DATA, name) == b"01234567"


# --- faults of the line and of the server --------------------------------------------------


def test_an_upload_of_which_any_answer_was_lost_is_done(
    root: Path, plain_ftp: PyftpdlibServer
) -> None:
    make_local(root)
    for verb in ("STOR", "RNFR"):
        with (
            ControlLine(plain_ftp.port) as line,
            ftp_store(plain_ftp.address(root, line.port)) as store,
        ):
            store.get_config()
            line.lose = verb
            name = put_new(store, verb.encode())
            assert line.cuts == 1
            assert line.commands["STOR"] == 2
            put_new(store, b"what comes next takes the rest away: " + verb.encode())
            assert store.get(Kind.DATA, name) == verb.encode()
        assert others_in(root) == set()


def test_a_server_killed_during_an_upload_and_a_read(root: Path, tmp_path: Path) -> None:
    make_local(root)
    data = some_bytes(4 << 20)
    hold = tmp_path / "hold"

    def in_which_the_server_dies(transfer: Callable[[], Any]) -> Any:
        hold.touch()
        done = pool.submit(transfer)
        wait_until(hold.read_text, "the transfer to begin")
        assert not done.done()
        server.kill()
        hold.unlink()
        server.start()
        return done.result(timeout=60)

    with (
        PyftpdlibServer(hold=hold) as server,
        ftp_store(server.address(root)) as store,
        ThreadPoolExecutor(1) as pool,
    ):
        name = in_which_the_server_dies(lambda: put_new(store, data))
        assert object_path(root, Kind.DATA, name).read_bytes() == data
        assert in_which_the_server_dies(lambda: store.get(Kind.DATA, name)) == data
        put_new(store, b"next")
    assert others_in(root) == set()


def test_connections_that_went_stale_are_made_anew_without_a_word(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_local(root)
    with PyftpdlibServer() as server, ftp_store(server.address(root)) as store:
        assert store.get(Kind.DATA, name) == b"01234567"
        server.kill()
        server.start()
        monkeypatch.setattr("coopfs.store.ftppool.IDLE_MAX_S", 0.0)
        monkeypatch.setattr("coopfs.store.retry.PAUSE_FIRST_S", 1e9)  # a retry would never come
        assert store.get(Kind.DATA, name) == b"01234567"


@pytest.mark.usefixtures("impatient")
def test_a_listing_cut_by_somebody_in_between_is_noticed_under_tls(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    listing = b"type=file;size=8; " + b"a" * 64 + b"\r\n"
    with FtpWords({}, listing, made.context()) as server:
        address = f"ftps://127.0.0.1:{server.port}/x?ca={made.certificate}"
        with ftp_store(address) as store, pytest.raises(StoreUnavailable, match="TLS broke"):
            list(store.list(Kind.INDEX))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("replies", "error", "words"),
    [
        ({"": "HTTP/1.1 400 Bad Request"}, StoreError, r"no FTP server.*HTTP"),
        ({"": "220 hi", "SIZE": "213 many"}, StoreError, "213 many"),
        ({"": "421 Too many connections"}, StoreUnavailable, "421"),
        ({"USER": "530 Not today"}, StoreDenied, "530 Not today"),
        ({"RETR": "426 cut"}, StoreUnavailable, "cut off"),
    ],
)
def test_nonsense_is_an_error_that_says_so(
    replies: dict[str, str], error: type[StoreError], words: str
) -> None:
    with FtpWords(replies, b"0123") as server:
        address = f"ftp://127.0.0.1:{server.port}/x"
        with ftp_store(address) as store, pytest.raises(error, match=words) as caught:
            store.get(Kind.DATA, name_of(b"x"), 0, 8)
        assert type(caught.value) is error


# --- not let in --------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_wrong_password_is_denied(root: Path, plain_ftp: PyftpdlibServer) -> None:
    address = f"ftp://anna:hunter2@127.0.0.1:{plain_ftp.port}{root}"
    with ftp_store(address) as store, pytest.raises(StoreDenied, match="'anna'") as caught:
        store.get_config()
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_without_tls_one_that_insists_on_it_is_denied(root: Path, vsftpd: VsftpdServer) -> None:
    with (
        ftp_store(f"ftp://127.0.0.1:{vsftpd.port}{root}") as store,
        pytest.raises(StoreDenied, match="ftps://"),
    ):
        store.get_config()


@pytest.mark.usefixtures("impatient")
def test_another_certificate_is_another_machine(
    root: Path, tmp_path: Path, vsftpd: VsftpdServer, plain_ftp: PyftpdlibServer
) -> None:
    name = make_local(root)
    pin = vsftpd.made.pin
    with ftp_store(vsftpd.address(root, f"pin={pin}")) as store:
        assert store.get(Kind.DATA, name) == b"01234567"
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    wrong: list[tuple[str, str]] = [
        (vsftpd.address(root, f"pin={other.pin}"), f"has SHA-256 {pin}"),
        (vsftpd.address(root, f"ca={other.certificate}"), "does not convince"),
        (vsftpd.address(root, ""), "does not convince"),
        (f"ftps://127.0.0.1:{plain_ftp.port}{root}", "offers no TLS"),
    ]
    for address, words in wrong:
        with ftp_store(address) as store, pytest.raises(StoreIdentity, match=words):
            store.get_config()


# --- addresses and listings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("ftp://host/srv", ("host", 21, False, "/srv", None, None)),
        ("FTPS://anna@host:2121/srv/", ("host", 2121, True, "/srv", "anna", None)),
        ("ftps://a%40b:c%3Ad@[::1]/x%20y", ("::1", 21, True, "/x y", "a@b", "c:d")),
        ("ftp://host/~/backup", ("host", 21, False, "backup", None, None)),
        ("ftp://host/~", ("host", 21, False, ".", None, None)),
        ("ftp://anna:@host/", ("host", 21, False, "/", "anna", "")),
    ],
)
def test_an_address_is_taken_apart(address: str, expected: tuple[object, ...]) -> None:
    found = parse_ftp_address(address)
    parts = (found.host, found.port, found.has_tls, found.path, found.user, found.password)
    assert parts == expected


@pytest.mark.parametrize(
    "address",
    [
        "ftp://",
        "ftp://host",
        "ftps:///path",
        "ftp://u:hunter2@host:0/x",
        "ftp://u:hunter2@host:ftp/x",
        "ftp://u:hunter2@host/a%0D%0ADELE%20x",
        "ftp://u%0A:hunter2@host/a",
        "ftp://u:hunter2@host/a/../b",
        "ftp://u:hunter2@host/x?pin=00",
        "ftps://u:hunter2@host/x?pin=00",
        "ftps://u:hunter2@host/x?ca=relative",
        "ftps://u:hunter2@host/x?what=1",
    ],
)
def test_a_mistaken_address_is_refused_and_no_secret_shown(address: str) -> None:
    for call in (open_store, create_store, absolute_address):
        with pytest.raises(UsageError, match=r"ftp|pin=|ca=") as caught:
            call(address)
        assert "hunter2" not in str(caught.value)


def test_user_and_password_come_from_address_environment_or_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    bare, named = parse_ftp_address("ftp://host/x"), parse_ftp_address("ftp://bob@host/x")
    assert bare.login({})[0] == "anonymous"
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine host login anna password secret\n")
    netrc.chmod(0o600)
    assert bare.login({}) == ("anna", "secret")
    assert named.login({}) == ("bob", "")
    assert named.login({"COOPFS_FTP_PASSWORD": "p"}) == ("bob", "p")
    both = {"COOPFS_FTP_USERNAME": "carl", "COOPFS_FTP_PASSWORD": "p"}
    assert bare.login(both) == ("carl", "p")
    assert parse_ftp_address("ftp://bob:q@host/x").login(both) == ("bob", "q")
    netrc.write_text("machinery host login\n")
    with pytest.raises(ConfigError, match="netrc"):
        bare.login({})


def test_listings_are_read_whatever_else_is_in_them() -> None:
    mlsd = (
        b"type=cdir;modify=20260102030405; .\r\n"
        b"Type=file;Size=12;Modify=20260102030405.123;UNIX.mode=0600; a b\n"
        b"type=dir;size=4096; sub\r\n"
        b"type=file;size=x; odd\r\n"
        b"type=OS.unix=slink:/x; link\r\n"
        b"nonsense\r\n \r\n"
        b"type=file;size=1; \xff\r\n"
    )
    assert parse_mlsd(mlsd) == [
        FileInfo("a b", 12, is_file=True, mtime_s=1767323045),
        FileInfo("sub", 4096, is_file=False, is_folder=True),
        FileInfo("odd", 0, is_file=False),
        FileInfo("link", 0, is_file=False),
        FileInfo("\udcff", 1, is_file=True),
    ]
    assert parse_nlst(b"a\r\n/x/b\r\nc/\n\r\n.\n") == ["a", "b", "c"]
