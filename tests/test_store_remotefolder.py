"""Folders on a server: what holds over SFTP and over FTP, with TLS and without, alike."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ftpservers import PyftpdlibServer, VsftpdServer
from mounting import wait_until
from remotesides import FtpSide, FtpsSide, SftpSide, Side, object_path, others_in
from sshservers import SshServer
from store_suite import put_new, sizes, some_bytes

from coopfs.errors import NotAStore, StoreDenied, StoreError, StoreFull, StoreUnavailable
from coopfs.store.base import KINDS, Kind
from coopfs.store.local import LocalStore
from coopfs.store.open import create_store, open_store


@pytest.fixture(params=["sftp", "ftp", "ftps"])
def side(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")
    if request.param == "sftp":
        server: SshServer = request.getfixturevalue("ssh_server")
        return SftpSide(server, tmp_path, monkeypatch)
    plain: PyftpdlibServer = request.getfixturevalue("plain_ftp")
    if request.param == "ftp":
        return FtpSide(plain)
    vsftpd: VsftpdServer = request.getfixturevalue("vsftpd")
    return FtpsSide(vsftpd, plain, tmp_path)


# Where the fault is made in front of the server it is the same whoever serves.
faulty_sides = pytest.mark.parametrize("side", ["sftp", "ftp"], indirect=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def make_local(root: Path) -> bytes:
    """Make a store in *root* with one object, and return its name."""
    with LocalStore.create(root) as local:
        local.put_config(b"config")
        return put_new(local, b"01234567")


def test_a_new_store_is_private_and_laid_out_as_a_local_one(side: Side, root: Path) -> None:
    where = root / "and" / "deep"  # parents are made
    with create_store(side.address(where)) as store:
        name = put_new(store, b"pack")
        put_new(store, b"index", Kind.INDEX)
        store.put_config(b"config")
    assert {path.name for path in where.iterdir()} == {*KINDS, "config"}
    assert others_in(root) == set()
    with LocalStore(where) as local:
        assert local.get(Kind.DATA, name) == b"pack"
        assert list(sizes(local, Kind.INDEX).values()) == [5]


def test_what_is_there_is_never_made_a_store(side: Side, root: Path) -> None:
    root.mkdir()
    (root / "letter.txt").write_text("mine")
    with pytest.raises(NotAStore, match=r"not empty.*letter\.txt"):
        create_store(side.address(root))
    # Without MLSD a file is listed as if it were a folder with itself in it.
    with pytest.raises(NotAStore, match=r"not a folder|not empty"):
        create_store(side.address(root / "letter.txt"))
    (root / "letter.txt").unlink()
    with create_store(side.address(root)) as store:
        put_new(store, b"x")
    with pytest.raises(NotAStore, match="objects in data/ but no config"):
        create_store(side.address(root))
    with open_store(side.address(root)) as store:
        store.put_config(b"config")
    with pytest.raises(StoreError, match="holds a store already"):
        create_store(side.address(root))


def test_a_folder_that_is_not_there_is_not_a_store(side: Side, root: Path) -> None:
    with open_store(side.address(root)) as store:
        calls: list[Callable[[], object]] = [
            store.get_config,
            lambda: list(store.list(Kind.DATA)),
            lambda: put_new(store, b"x"),
        ]
        for call in calls:
            with pytest.raises(NotAStore, match="no such folder"):
                call()
    assert not root.exists()


@faulty_sides  # without MLSD a listing has no dates, and all temporaries may be in use
def test_temporaries_of_broken_uploads_go_once_they_are_old(side: Side, root: Path) -> None:
    make_local(root)
    old, young = root / "index" / ".tmp-1-ab", root / "index" / ".tmp-2-cd"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with open_store(side.address(root)) as store:
        list(store.list(Kind.INDEX))
        put_new(store, b"y", Kind.INDEX)
    assert others_in(root) == {".tmp-2-cd"}


@faulty_sides
def test_an_upload_whose_answer_was_lost_is_done(side: Side, root: Path) -> None:
    make_local(root)
    with side.losing(root) as store:
        name = put_new(store, b"arrived all the same")  # the second try finds it there
        assert object_path(root, Kind.DATA, name).read_bytes() == b"arrived all the same"
        put_new(store, b"what comes next takes the rest away")
        assert store.get(Kind.DATA, name) == b"arrived all the same"
    assert others_in(root) == set()


@faulty_sides
def test_a_listing_that_is_cut_is_never_taken_for_whole(
    side: Side, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    make_local(root)
    with side.cutting(root) as store, pytest.raises(StoreUnavailable):
        list(store.list(Kind.INDEX))


@faulty_sides
def test_a_closed_store_wakes_who_waits(side: Side, root: Path) -> None:
    name = make_local(root)
    with side.silent(root) as store, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.get, Kind.DATA, name)
        wait_until(waiting.running, "the read to begin")
        store.close()
        with pytest.raises(StoreUnavailable):
            waiting.result(timeout=10)


def test_what_may_only_be_read_is_denied(side: Side, root: Path) -> None:
    name = make_local(root)
    with side.read_only(root) as store:
        assert store.get(Kind.DATA, name) == b"01234567"
        store.put(Kind.DATA, name, b"01234567")  # done already
        for call in (lambda: put_new(store, b"y"), lambda: store.delete(Kind.DATA, name)):
            with pytest.raises(StoreDenied):
                call()


@faulty_sides
def test_nobody_there_is_unavailable(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "0")
    for address in side.nowhere():
        with open_store(address) as store, pytest.raises(StoreUnavailable, match=side.nobody):
            store.get_config()


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_named_and_nothing_of_it_stays(side: Side, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=True)
    try:
        with create_store(side.address(disk / "store")) as store:
            small = put_new(store, some_bytes(1 << 20))
            with pytest.raises(StoreFull, match="no room left"):
                put_new(store, some_bytes(8 << 20))
            assert others_in(disk / "store") == set()
            free = store.free_bytes()
            assert free is None or 2 << 20 < free <= 3 << 20
            assert (free is None) == isinstance(side, FtpSide)
            put_new(store, some_bytes(100_000, 2))
            assert store.size(Kind.DATA, small) == 1 << 20
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
