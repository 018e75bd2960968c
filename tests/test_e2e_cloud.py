"""The whole way with the archive in a bucket: init, snapshot, check, mount, restore."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, everything_below
from mounting import mounted, needs_fuse
from seaweed import SeaweedCluster

STORE = "s3://shared/e2e/archive"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, seaweed: SeaweedCluster) -> Iterator[Host]:
    """A host whose archive is in a bucket and has two snapshots."""
    base = tmp_path_factory.mktemp("cloud")
    source = base / "source"
    (source / "folder").mkdir(parents=True)
    (source / "large").write_bytes(random.Random(1).randbytes(20 << 20))
    for number in range(200):
        (source / "folder" / f"file {number}").write_text(f"{number}\n" * number)
    host = Host(base)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environ.items():
            patch.setenv(name, value)
        host.ok("init", STORE, "--no-passphrase", "--host", host.name)
        host.ok("snapshot", source, "--series", "s")
        (source / "folder/file 7").write_text("changed")
        host.ok("snapshot", source, "--series", "s")
        yield host


def test_every_byte_in_the_bucket_is_right(host: Host) -> None:
    ran = host.ok("check", "--read-data", "--json")
    assert ran.lines()[-1]["is_whole"], ran.out


def test_a_doctor_finds_it_well_and_names_wrong_credentials(host: Host) -> None:
    seen = host.ok("doctor").out
    assert f"{STORE} answers" in seen and "warning" not in seen
    ran = host.run("doctor", AWS_SECRET_ACCESS_KEY="wrong")
    assert ran.code == 1
    assert "does not accept the credentials" in ran.out


def test_a_second_archive_is_not_put_over_the_first(host: Host, tmp_path: Path) -> None:
    ran = Host(tmp_path, "ben").run("init", STORE, "--no-passphrase", "--host", "ben")
    assert ran.code == 1
    assert "holds an archive already" in ran.err
    assert host.ok("snapshots", "--json").lines()[-1]["snapshots"] == 2


@needs_fuse
def test_the_mount_shows_what_was_in_the_source(host: Host, tmp_path: Path) -> None:
    with mounted(host, tmp_path / "mnt") as mount:
        shown = mount.path / "by-host/anna/s/latest" / str(host.base / "source").lstrip("/")
        assert everything_below(shown) == everything_below(host.base / "source")


def test_restore_brings_it_back_on_a_host_without_cache(host: Host, tmp_path: Path) -> None:
    for path in (host.dirs.cache, host.dirs.state):
        if path.exists():
            os.rename(path, tmp_path / path.name)
    host.ok("restore", f"latest:{host.base}/source", "--target", tmp_path / "out", "--verify")
    assert everything_below(tmp_path / "out") == everything_below(host.base / "source")


def test_a_service_out_of_reach_is_an_error_without_a_traceback(host: Host, tmp_path: Path) -> None:
    ran = host.run("check", AWS_ENDPOINT_URL="http://127.0.0.1:1", COOPFS_STORE_TIMEOUT="0")
    assert ran.code == 1
    assert "refuses connections" in ran.err
    assert "Traceback" not in ran.err
    ran = Host(tmp_path, "ben").run(
        "init", "s3://no-such-bucket/x", "--no-passphrase", "--host", "ben"
    )
    assert ran.code == 10
    assert "there is no such bucket" in ran.err
