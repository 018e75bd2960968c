from __future__ import annotations

import os
import select
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fakessh
import pytest
from remotesides import object_path, others_in, plant
from servers import Server, accepts, free_port, program
from slowline import SlowLine
from sshservers import SshServer
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
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreIdentity,
    StoreUnavailable,
    UsageError,
)
from coopfs.store import sftpsession, sftpwire, sshchild
from coopfs.store.base import KINDS, Kind
from coopfs.store.local import LocalStore
from coopfs.store.open import absolute_address, create_store, open_store
from coopfs.store.remotefolder import RemoteFolderStore
from coopfs.store.sftp import create_sftp_store, sftp_store
from coopfs.store.sftpchannel import SftpChannel
from coopfs.store.sshchild import COMMAND_VARIABLE


@pytest.fixture
def server(ssh_server: SshServer) -> SshServer:
    return ssh_server


@pytest.fixture(autouse=True)
def command(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, server.command)
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")


class TestSftpStore(StoreSuite):
    @pytest.fixture
    def rig(self, tmp_path: Path, server: SshServer, monkeypatch: pytest.MonkeyPatch) -> StoreRig:
        root = tmp_path / "store"
        address = server.address(root)
        # One connection for all, by the user's own configuration: a new one takes 0.2 s.
        monkeypatch.setenv(COMMAND_VARIABLE, server.shared_command)
        create_sftp_store(address).close()
        return StoreRig(lambda: sftp_store(address), partial(plant, root), address)


# --- the folder at the other side ---------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(server: SshServer, root: Path) -> Iterator[RemoteFolderStore]:
    with create_sftp_store(server.address(root)) as store:
        store.put_config(b"config")
        yield store


@pytest.fixture
def faulty(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., RemoteFolderStore]]:
    """Yield a function that opens the store through a server with a fault."""
    LocalStore.create(root).close()
    opened = []

    def open_with(fault: str, *, is_once: bool = False) -> RemoteFolderStore:
        once = tmp_path / "once" if is_once else None
        monkeypatch.setenv(COMMAND_VARIABLE, fakessh.command(fault, once=once))
        opened.append(sftp_store(f"sftp://anna@partner.example{root}"))
        return opened[-1]

    yield open_with
    for store in opened:
        store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried twice."""
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")


def test_nobody_else_may_look_into_a_new_store(root: Path, store: RemoteFolderStore) -> None:
    put_new(store, b"pack")
    for path in [root, *root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_relative_path_begins_at_the_logins_folder(server: SshServer, tmp_path: Path) -> None:
    with create_sftp_store(server.address(tmp_path / "a" / "b" / "c")) as store:
        put_new(store, b"x")
    assert (tmp_path / "a/b/c/data").is_dir()
    target = sshchild.parse_sftp_address("sftp://host/~/x/y")
    assert target.path == "x/y"
    home = Path.home()
    with sftp_store(server.address(f"/~/{os.path.relpath(tmp_path / 'a/b/c', home)}")) as store:
        assert sizes(store, Kind.DATA) == {name_of(b"x"): 1}


def test_a_folder_that_went_away_is_not_made_anew(
    root: Path, store: RemoteFolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close()
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    with sftp_store(store.address) as again:
        again.get_config()
        for kind in KINDS:
            (root / kind).rmdir()
        (root / "config").unlink()  # as when its disk is unmounted
        calls: list[Callable[[], object]] = [
            lambda: put_new(again, b"x"),
            lambda: list(again.list(Kind.DATA)),
            lambda: again.get(Kind.DATA, name_of(b"x")),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable, match="gone"):
                call()
    assert list(root.iterdir()) == []


def test_a_symlink_or_a_folder_is_no_object(root: Path, store: RemoteFolderStore) -> None:
    names = [name_of(b"1"), name_of(b"2")]
    paths = [object_path(root, Kind.INDEX, name) for name in names]
    paths[0].symlink_to(root / "config")
    paths[1].mkdir()
    for name in names:
        with pytest.raises((StoreError, ObjectCorrupt)):
            store.get(Kind.INDEX, name)
        with pytest.raises(ObjectCorrupt, match="not a plain file"):
            store.size(Kind.INDEX, name)
        with pytest.raises(ObjectCorrupt, match="not a plain file"):
            store.put(Kind.INDEX, name, b"1")
    assert sizes(store, Kind.INDEX) == {}


def test_an_object_replaced_under_a_kept_handle_is_read_anew(
    root: Path, store: RemoteFolderStore
) -> None:
    name = put_new(store, b"long enough")
    assert store.get(Kind.DATA, name, 0, 4) == b"long"
    path = object_path(root, Kind.DATA, name)
    path.with_name("new").write_bytes(b"other")
    path.with_name("new").rename(path)
    assert store.get(Kind.DATA, name) == b"other"


def test_what_a_kept_handle_reads_was_seen_to_be_there_a_moment_ago(
    root: Path, store: RemoteFolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(path: str) -> sftpwire.Request:
        looks.append(path)
        return lstat(path)

    lstat = sftpwire.lstat
    monkeypatch.setattr(sftpwire, "lstat", look)
    name = put_new(store, b"long enough")
    looks.clear()
    for offset in range(5):
        assert store.get(Kind.DATA, name, offset, 4) == b"long enough"[offset : offset + 4]
    path = object_path(root, Kind.DATA, name)
    assert looks == [str(path)]  # when it was opened
    path.unlink()
    monkeypatch.setattr(sftpsession, "LOOK_AGAIN_S", 0.0)
    with pytest.raises(ObjectNotFound):
        store.get(Kind.DATA, name, 0, 4)
    assert looks.count(str(path)) == 3  # of the kept one, then of what is there now


# --- faults of the line ----------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_an_upload_cut_in_the_middle_is_completed(
    server: SshServer, store: RemoteFolderStore, root: Path, share: float
) -> None:
    data = some_bytes(8 << 20)
    with SlowLine(server.port) as line, sftp_store(server.address(root, line.port)) as other:
        other.get_config()
        line.cut_after(up=int(share * len(data)))
        name = put_new(other, data)
        assert line.was_cut
        assert line.connections == 2
        put_new(other, b"whatever comes next takes the rest away")
    assert store.get(Kind.DATA, name) == data
    assert others_in(root) == set()


def test_a_read_cut_in_the_middle_is_completed(
    server: SshServer, store: RemoteFolderStore, root: Path
) -> None:
    data = some_bytes(8 << 20)
    name = put_new(store, data)
    with SlowLine(server.port) as line, sftp_store(server.address(root, line.port)) as other:
        other.get_config()
        line.cut_after(down=3 << 20)
        assert other.get(Kind.DATA, name) == data
        assert line.was_cut


def test_many_threads_go_on_after_the_server_was_killed(
    server: SshServer, store: RemoteFolderStore
) -> None:
    objects = [some_bytes(300_000, seed) for seed in range(3 * THREADS)]

    def work(number: int) -> None:
        if number == THREADS:
            server.kill_sessions()
        name = put_new(store, objects[number])
        assert store.get(Kind.DATA, name, 7, 100_000) == objects[number][7:100_007]

    in_threads(work, range(len(objects)))
    assert len(sizes(store, Kind.DATA)) == len(objects)


def test_a_server_that_stays_away_is_unavailable(
    server: SshServer, root: Path, store: RemoteFolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "1")
    with SlowLine(server.port) as line:
        other = sftp_store(server.address(root, line.port))
        other.get_config()
    with other, pytest.raises(StoreUnavailable, match=r"refused.*given up .* after [2-9] tries"):
        other.get_config()


@pytest.mark.parametrize("length", [16 << 10, 200 << 10])
def test_a_range_of_a_kept_handle_costs_one_round_trip(
    server: SshServer, store: RemoteFolderStore, root: Path, length: int
) -> None:
    data = some_bytes(1 << 20)
    name = put_new(store, data)
    with (
        SlowLine(server.port, delay_s=0.015) as line,
        sftp_store(server.address(root, line.port)) as other,
    ):
        other.get(Kind.DATA, name, 0, 1)
        times = []
        for offset in range(5, 300_005, 50_000):
            begun = time.monotonic()
            assert other.get(Kind.DATA, name, offset, length) == data[offset : offset + length]
            times.append(time.monotonic() - begun)
        assert 0.029 < min(times) < 0.055, times
        begun = time.monotonic()
        put_new(other, b"small")
        assert time.monotonic() - begun < 0.2  # three, and slack


# --- faults of the server -----------------------------------------------------------------


def test_what_a_broken_upload_left_is_taken_away_by_the_next(
    faulty: Callable[..., RemoteFolderStore], root: Path
) -> None:
    store = faulty("die-writing=500000", is_once=True)
    data = some_bytes(1 << 20)
    name = put_new(store, data)
    assert store.get(Kind.DATA, name) == data
    assert others_in(root) == set()


@pytest.mark.parametrize("fault", ["no-links", "no-extensions", "short-reads", "linked-lies"])
def test_a_server_that_can_less_is_a_store_all_the_same(
    faulty: Callable[..., RemoteFolderStore], root: Path, fault: str
) -> None:
    store = faulty(fault)
    data = some_bytes(700_000)
    name = put_new(store, data)
    assert store.get(Kind.DATA, name) == data
    assert store.get(Kind.DATA, name, 5, 300_000) == data[5:300_005]
    put_new(store, data)
    with pytest.raises(ObjectCorrupt):
        store.put(Kind.DATA, name, b"another size")
    assert store.get(Kind.DATA, name) == data
    assert sizes(store, Kind.DATA) == {name: len(data)}
    assert store.is_durable == (fault in ("no-links", "short-reads"))
    assert (store.free_bytes() is None) == (fault == "no-extensions")
    assert others_in(root) == set()


def test_a_server_of_another_make_is_a_store_too(
    tmp_path: Path, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    key = server.base / "client_key"
    rclone = Server(
        [
            *(program("rclone"), "serve", "sftp", tmp_path, "--addr", f"127.0.0.1:{port}"),
            *("--authorized-keys", f"{key}.pub", "--key", server.base / "host_key"),
        ],
        lambda: accepts(port),
        RCLONE_CONFIG="/dev/null",
    )
    monkeypatch.setenv(COMMAND_VARIABLE, server.command)
    with rclone, create_sftp_store(server.address("/store", port)) as store:
        data = some_bytes(3 << 20)
        name = put_new(store, data)
        put_new(store, data)
        assert store.get(Kind.DATA, name) == data
        assert store.get(Kind.DATA, name, 70_000, 1 << 20) == data[70_000 : 70_000 + (1 << 20)]
        assert sizes(store, Kind.DATA) == {name: len(data)}
        assert not store.is_durable
        store.put_config(b"config")
        with pytest.raises(StoreError, match="config"):
            store.put_config(b"another")
    assert object_path(tmp_path / "store", Kind.DATA, name).read_bytes() == data
    assert others_in(tmp_path / "store") == set()


def test_a_kept_handle_the_server_has_forgotten_is_opened_anew(
    faulty: Callable[..., RemoteFolderStore],
) -> None:
    store = faulty("stale-handle=2")
    name = put_new(store, b"0123456789")
    assert store.get(Kind.DATA, name, 0, 5) == b"01234"
    assert store.get(Kind.DATA, name, 5, 5) == b"56789"


def test_an_answer_that_comes_after_the_end_is_not_taken_for_nonsense(
    server: SshServer, root: Path
) -> None:
    """One thread finds the connection broken while another reads: for both it is unavailable."""
    channel = SftpChannel(sshchild.parse_sftp_address(server.address(root)), may_ask=False)
    with channel._using():  # as the thread that reads: the socket stays
        channel.send([sftpwire.lstat(str(root))])
        poll = select.poll()
        poll.register(channel._socket, select.POLLIN)
        assert poll.poll(10_000)
        channel.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            channel._read_reply()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("die-reading", StoreUnavailable, "the connection broke"),
        ("much-data", StoreError, "more data than was asked for"),
        ("no-data", StoreError, "with nothing"),
        ("wrong-id", StoreError, "nothing that was asked"),
        ("short-attrs", StoreError, "nonsense"),
        ("prints=Welcome to this machine, which is no SFTP server!", StoreError, "Welcome"),
        ("old-version", StoreError, "version 2"),
    ],
)
def test_nonsense_is_an_error_that_says_so(
    faulty: Callable[..., RemoteFolderStore],
    root: Path,
    fault: str,
    error: type[StoreError],
    words: str,
) -> None:
    with LocalStore(root, is_new=True) as local:
        name = put_new(local, b"0123456789")
    with pytest.raises(error, match=words) as caught:
        faulty(fault).get(Kind.DATA, name)
    assert type(caught.value) is error


@pytest.mark.usefixtures("impatient")
def test_a_listing_without_an_end_is_refused(
    faulty: Callable[..., RemoteFolderStore], root: Path
) -> None:
    with LocalStore(root, is_new=True) as local:
        put_new(local, b"x", Kind.INDEX)
    with pytest.raises(StoreError):
        list(faulty("endless-names").list(Kind.INDEX))


def test_a_listing_cut_once_is_listed_again(
    faulty: Callable[..., RemoteFolderStore], root: Path
) -> None:
    with LocalStore(root, is_new=True) as local:
        names = {put_new(local, some_bytes(100, n), Kind.INDEX) for n in range(300)}
    assert {*sizes(faulty("cut-listing", is_once=True), Kind.INDEX)} == names


# --- not let in ---------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_another_host_key_is_another_machine(tmp_path: Path, server: SshServer) -> None:
    other = tmp_path / "other.pub"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True
    )
    store = sftp_store(server.address(tmp_path))
    server.known_hosts(other)
    try:
        with store, pytest.raises(StoreIdentity, match="another than the known one") as caught:
            store.get_config()
        assert "host key verification failed" in str(caught.value).lower()
        server.known_hosts()
        with (
            sftp_store(server.address(tmp_path)) as store,
            pytest.raises(StoreIdentity, match="not known here yet"),
        ):
            store.get_config()
    finally:
        server.known_hosts(server.base / "host_key.pub")


@pytest.mark.usefixtures("impatient")
def test_a_key_that_is_not_authorized_is_denied(tmp_path: Path, server: SshServer) -> None:
    authorized = server.base / "authorized_keys"
    kept = authorized.read_bytes()
    authorized.write_bytes(b"")
    try:
        with (
            sftp_store(server.address(tmp_path)) as store,
            pytest.raises(StoreDenied, match=r"does not let us in.*Permission denied"),
        ):
            store.get_config()
    finally:
        authorized.write_bytes(kept)


def test_a_machine_without_sftp_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SshServer(tmp_path / "ssh", sftp="") as server:
        monkeypatch.setenv(COMMAND_VARIABLE, server.command)
        with (
            sftp_store(server.address(tmp_path)) as store,
            pytest.raises(StoreError, match="offers no SFTP"),
        ):
            store.get_config()


def test_no_ssh_on_this_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "/nowhere/ssh")
    with sftp_store("sftp://host/x") as store, pytest.raises(StoreError, match="openssh-client"):
        store.get_config()
    for command in ("ssh 'half", " "):
        monkeypatch.setenv(COMMAND_VARIABLE, command)
        with sftp_store("sftp://host/x") as store, pytest.raises(UsageError, match="SSH_COMMAND"):
            store.get_config()


def test_what_ssh_says_is_understood(faulty: Callable[..., RemoteFolderStore]) -> None:
    cases: list[tuple[str, type[StoreError]]] = [
        ("Bad owner or permissions on /home/anna/.ssh/config", StoreError),
        ("anna@partner: Permission denied (publickey).", StoreDenied),
        ("Received disconnect: 2: Too many authentication failures", StoreDenied),
        ("ssh: connect to host partner port 22: No route to host", StoreUnavailable),
        ("ssh: connect to host partner port 22: Connection timed out", StoreUnavailable),
        ("kex_exchange_identification: Connection closed by remote host", StoreUnavailable),
        ("channel 0: open failed: connect failed\nstdio forwarding failed", StoreUnavailable),
        ("", StoreUnavailable),
        ("Host key verification failed.", StoreIdentity),
    ]
    for words, error in cases:
        found = sshchild.explain("anna@partner", "no connection", words)
        assert type(found) is error, words
        assert words.partition("\n")[0] in str(found)


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host", "user", "port", "path"),
    [
        ("sftp://host/srv/store", "host", None, None, "/srv/store"),
        ("SFTP://anna@host:2222/srv/store/", "host", "anna", 2222, "/srv/store"),
        ("sftp://a%40b@[fe80::1%25eth0]/x%20y", "fe80::1%eth0", "a@b", None, "/x y"),
        ("sftp://host/~/backup", "host", None, None, "backup"),
        ("sftp://host/~", "host", None, None, "."),
        ("sftp://host/", "host", None, None, "/"),
        ("sftp://host/~anna/x", "host", None, None, "/~anna/x"),
    ],
)
def test_an_address_is_taken_apart(
    address: str, host: str, user: str | None, port: int | None, path: str
) -> None:
    assert sshchild.parse_sftp_address(address) == sshchild.SshTarget(host, user, port, path)


@pytest.mark.parametrize(
    "address",
    [
        "sftp://",
        "sftp://host",
        "sftp:///path",
        "sftp://host:0/x",
        "sftp://host:99999/x",
        "sftp://host:ssh/x",
        "sftp://-oProxyCommand=evil/x",
        "sftp://-l@host/x",
        "sftp://host%20name/x",
        "sftp://anna:hunter2@host/x",
        "sftp://host/a%00b",
    ],
)
def test_a_mistaken_address_is_refused_and_no_secret_shown(address: str) -> None:
    for call in (open_store, create_store, absolute_address):
        with pytest.raises(UsageError, match="sftp") as caught:
            call(address)
        assert "hunter2" not in str(caught.value)


def test_the_command_leaves_the_users_options_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMMAND_VARIABLE, "ssh -o ServerAliveInterval=60")
    target = sshchild.SshTarget("host", "anna", 2222, "/x")
    words = sshchild.ssh_command(target, may_ask=False)
    assert words[:3] == ["ssh", "-o", "ServerAliveInterval=60"]
    assert words[-4:] == ["-s", "--", "host", "sftp"]
    assert "BatchMode=yes" in words
    asking = sshchild.ssh_command(target, may_ask=True)
    assert "BatchMode=yes" not in asking
