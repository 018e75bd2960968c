from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import wait_until
from servers import program
from store_suite import name_of, put_new, sizes, some_bytes, start_writer

from coopfs.errors import NotAStore, ObjectNotFound, StoreError, StoreUnavailable, UsageError
from coopfs.store.base import Kind, Store
from coopfs.store.open import absolute_address, create_store, open_store


def servers_of(root: Path) -> list[int]:
    """Return the processes that serve *root*."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f":local:{root}".encode() in arguments and b"rclone" in arguments[0]:
                found.append(int(entry.name))
    return found


@pytest.fixture(params=["installed", "newest"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Yield a folder to be reached by rclone, and see that none is left running."""
    rclone = program("rclone", newest=request.param == "newest")
    monkeypatch.setenv("PATH", f"{Path(rclone).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RCLONE_CONFIG", "/dev/null")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    root = tmp_path / "remote"
    yield root
    wait_until(lambda: not servers_of(root), "rclone to end")
    wait_until(lambda: not list(tmp_path.glob("coopfs-rclone-*")), "its folder to go")


@pytest.fixture
def store(root: Path) -> Iterator[Store]:
    with create_store(f"rclone::local:{root}") as store:
        yield store


def test_what_is_put_lies_where_rclone_was_told(store: Store, root: Path) -> None:
    data = some_bytes(3 << 20)
    name = put_new(store, data)
    store.put_config(b"config")
    assert (root / "data" / name.hex()[:2] / name.hex()).read_bytes() == data
    assert (root / "config").read_bytes() == store.get_config() == b"config"
    assert store.get(Kind.DATA, name, 12345, 678) == data[12345 : 12345 + 678]
    assert sizes(store, Kind.DATA) == {name: 3 << 20}
    assert not store.is_local
    assert not store.is_durable
    store.delete(Kind.DATA, name)
    with pytest.raises(ObjectNotFound):
        store.size(Kind.DATA, name)


def test_what_another_rclone_deletes_is_gone_here_too(store: Store, root: Path) -> None:
    name = put_new(store, b"shared")
    assert sizes(store, Kind.DATA) == {name: 6}
    with open_store(f"rclone::local:{root}") as other:
        assert other.get(Kind.DATA, name) == b"shared"
        other.delete(Kind.DATA, name)
    with pytest.raises(ObjectNotFound):
        store.get(Kind.DATA, name)
    put_new(store, b"shared")  # not taken for there because it was
    assert (root / "data" / name.hex()[:2] / name.hex()).read_bytes() == b"shared"


def test_an_rclone_that_was_killed_is_started_again(store: Store, root: Path) -> None:
    name = put_new(store, b"stays")
    for _ in range(2):
        (server,) = servers_of(root)
        os.kill(server, signal.SIGKILL)
        assert store.get(Kind.DATA, name) == b"stays"


def test_nothing_runs_before_it_is_needed_or_after_it_is_closed(root: Path) -> None:
    root.mkdir()
    store = open_store(f"rclone::local:{root}")
    assert servers_of(root) == []
    with pytest.raises(ObjectNotFound):
        store.get_config()
    assert len(servers_of(root)) == 1
    store.close()
    wait_until(lambda: not servers_of(root), "rclone to end")
    with pytest.raises(StoreUnavailable, match="closed"):
        store.get_config()
    assert servers_of(root) == []


_WAITING = """
import sys
from coopfs.store.open import create_store
store = create_store(sys.argv[1])
print("up", flush=True)
sys.stdin.read()
"""


def test_rclone_ends_with_a_client_that_is_killed(root: Path) -> None:
    with start_writer(_WAITING, f"rclone::local:{root}") as client:
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == b"up\n"
            assert len(servers_of(root)) == 1
        finally:
            client.kill()
    wait_until(lambda: not servers_of(root), "rclone to end")


def test_a_deep_folder_for_temporary_files_is_no_hindrance(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr("tempfile.tempdir", None)
    with create_store(f"rclone::local:{root}") as store:
        assert store.get(Kind.DATA, put_new(store, b"found")) == b"found"


def test_ctrl_c_is_ours_alone(store: Store, root: Path) -> None:
    name = put_new(store, b"x")
    (server,) = servers_of(root)
    assert os.getpgid(server) != os.getpgrp()
    assert store.get(Kind.DATA, name) == b"x"


def test_the_users_own_settings_for_servers_are_no_hindrance(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "RCLONE_ADDR": "127.0.0.1:1",
        "RCLONE_USER": "ann",
        "RCLONE_PASS": "other",
        "RCLONE_BASEURL": "elsewhere",
        "RCLONE_LOG_FILE": "/nonexistent/log",
    }.items():
        monkeypatch.setenv(name, value)
    with create_store(f"rclone::local:{root}") as store:
        assert store.get(Kind.DATA, put_new(store, b"mine")) == b"mine"


def test_a_remote_that_does_not_exist_is_reported_in_rclones_words(root: Path) -> None:
    with (
        open_store("rclone:nowhere:path") as store,
        pytest.raises(StoreError, match=r"rclone:nowhere:path: rclone ended.*section") as caught,
    ):
        store.get_config()
    assert not isinstance(caught.value, StoreUnavailable)
    assert str(caught.value).isprintable()


def test_a_store_is_not_made_where_one_is(store: Store, root: Path) -> None:
    store.put_config(b"config")
    with pytest.raises(StoreError, match="holds a store already"):
        create_store(f"rclone::local:{root}")
    (root / "config").unlink()
    put_new(store, b"x", Kind.SNAPSHOTS)
    with pytest.raises(NotAStore, match="no config"):
        create_store(f"rclone::local:{root}")


def test_without_rclone_its_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        open_store("rclone:remote:path") as store,
        pytest.raises(UsageError, match="not installed"),
    ):
        store.get(Kind.DATA, name_of(b""))


def test_secrets_of_a_connection_string_are_not_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "1")
    address = "rclone::nosuchbackend,user=ann,pass=hunter2:path"
    assert absolute_address(address) == address
    with open_store(address) as store, pytest.raises(StoreError) as caught:
        store.get_config()
    assert "rclone::nosuchbackend,…" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("address", ["rclone:", "rclone:/srv/x", "rclone:remote", "rclone://r:p"])
def test_a_mistaken_address_says_what_is_expected(address: str) -> None:
    for call in (open_store, create_store, absolute_address):
        with pytest.raises(UsageError, match="rclone:REMOTE:PATH"):
            call(address)


def test_no_password_is_on_the_command_line(store: Store, root: Path) -> None:
    put_new(store, b"x")
    (server,) = servers_of(root)
    shown = subprocess.run(
        ["cat", f"/proc/{server}/cmdline"], capture_output=True, check=True
    ).stdout.decode()
    environment = Path(f"/proc/{server}/environ").read_text()
    (password,) = [
        entry.partition("=")[2]
        for entry in environment.split("\0")
        if entry.startswith("RCLONE_PASS=")
    ]
    assert len(password) >= 24
    assert password not in shown
