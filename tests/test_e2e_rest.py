"""An archive behind a stock rest-server, from init to restore, by the real commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts import Host
from lines import Line
from mounting import mounted, needs_fuse
from rich_source import differences, make_rich_source
from servers import Server, free_port, make_certificate, rest_server, write_htpasswd

PASSWORD = "hunter2"


@dataclass
class Site:
    """A host, its source, and the server it keeps its archive on."""

    host: Host
    source: Path
    server: Server
    address: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One whose only snapshot is of one of everything; TLS, password, append-only."""
    base = tmp_path_factory.mktemp("rest")
    source = base / "source"
    make_rich_source(source)
    made, port = make_certificate(base), free_port()
    users = write_htpasswd(base, "ann", PASSWORD)
    options = (*made.options, "--append-only", "--private-repos", "--htpasswd-file", users)
    with rest_server(base / "served", port, *options) as server:
        address = f"rest+https://ann:{PASSWORD}@127.0.0.1:{port}/ann/archive?pin={made.pin}"
        site = Site(Host(base), source, server, address)
        ran = site.host.init(address)
        assert PASSWORD not in ran.err
        ran = site.host.ok("snapshot", source, "--series", "s")
        assert PASSWORD not in ran.out + ran.err
        yield site


def test_everything_comes_back_as_it_was(site: Site, tmp_path: Path) -> None:
    ran = site.host.ok("restore", f"latest:{site.source}", "--target", tmp_path / "out", "--verify")
    assert differences(site.source, tmp_path / "out") == []
    assert PASSWORD not in ran.out + ran.err


def test_all_is_well(site: Site) -> None:
    ran = site.host.ok("check", "--read-data")
    assert "all is well" in ran.out
    ran = site.host.ok("stats")
    assert "ann:***@127.0.0.1" in ran.out
    assert PASSWORD not in ran.out + ran.err


@needs_fuse
def test_the_mount_shows_what_was_taken(site: Site, tmp_path: Path) -> None:
    with mounted(site.host, tmp_path / "mnt") as mount:
        shown = mount.path / "by-host/anna/s/latest" / str(site.source).lstrip("/")
        assert differences(site.source, shown) == []
        subprocess.run(["tar", "-cf", "/dev/null", "-C", shown, "."], check=True)
        _, log = mount.stop()
    assert PASSWORD not in log


@needs_fuse
def test_a_read_fails_soon_while_the_server_is_away_and_works_when_it_is_back(
    site: Site, tmp_path: Path
) -> None:
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "file").write_bytes(os.urandom(3 << 20))
    site.host.ok("snapshot", folder, "--series", "big")
    for cached in site.host.dirs.cache.rglob("blocks*"):
        subprocess.run(["rm", "-rf", cached], check=True)
    environ = {"COOPFS_STORE_TIMEOUT": "4"}
    site.host.environ |= environ
    try:
        with mounted(site.host, tmp_path / "mnt") as mount:
            shown = mount.path / "by-host/anna/big/latest" / str(folder).lstrip("/") / "file"
            assert shown.stat().st_size == 3 << 20
            site.server.kill()
            try:
                with pytest.raises(OSError, match=r"Host is down|Input/output"):
                    shown.read_bytes()
                assert shown.stat().st_size == 3 << 20
            finally:
                site.server.start()
            assert shown.read_bytes() == (folder / "file").read_bytes()
    finally:
        del site.host.environ["COOPFS_STORE_TIMEOUT"]


def test_another_init_there_is_refused_and_shows_no_password(site: Site, tmp_path: Path) -> None:
    ran = Host(tmp_path).run("init", site.address, "--no-passphrase")
    assert ran.code == 1
    assert "holds an archive already" in ran.err
    assert "ann:***@" in ran.err
    assert PASSWORD not in ran.out + ran.err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ((PASSWORD, "wrong"), 1, "who we are"),
        (("pin=", "pin=" + "0" * 64 + "&x="), 2, "option"),
        (("/ann/archive", "/ann/other"), 0, ""),
        (("rest+https", "rest+http"), 2, "without TLS"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_before_keys_are_made(
    site: Site, tmp_path: Path, change: tuple[str, str], code: int, message: str
) -> None:
    host = Host(tmp_path)
    ran = host.run("init", site.address.replace(*change), "--no-passphrase")
    assert ran.code == code, ran.err
    assert message in ran.err
    assert PASSWORD not in ran.err
    assert (host.dirs.archives / "default").exists() == (code == 0)


def test_a_snapshot_goes_on_when_the_line_and_the_server_come_back(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / f"file{number}").write_bytes(os.urandom(8 << 20))
    host, port = Host(tmp_path), free_port()
    with rest_server(tmp_path / "served", port) as server, Line(port) as line:

        def restart() -> None:
            server.kill()
            server.start()

        host.init(f"rest+http://127.0.0.1:{line.port}/a")
        line.on_cut, line.cut_after = restart, 10 << 20
        host.ok("snapshot", source)
        assert line.cuts == 1
        line.on_cut, line.lose_answers = lambda: None, 2
        (source / "more").write_bytes(os.urandom(8 << 20))
        host.ok("snapshot", source)
        assert line.cuts == 3
        host.ok("check", "--read-data")
        host.ok("restore", f"latest:{source}", "--target", tmp_path / "out", "--verify")
        assert differences(source, tmp_path / "out") == []
