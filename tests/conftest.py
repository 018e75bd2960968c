"""What every test shares: nothing of the user's own is ever touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import pytest
import segno
from ftpservers import PyftpdlibServer, VsftpdServer
from hypothesis import settings
from seaweed import NoWeed, SeaweedCluster, seaweed_cluster
from sshservers import SshServer
from timeservers import fake_chronyc

from coopfs.format import wrapping

# No deadline: tests share the machine with whatever else runs on it.  CI runs the same
# examples each time: what it says of a change must not depend on luck; here they differ.
settings.register_profile("coopfs", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("coopfs")


class HasFileno(Protocol):
    """What fsync() takes beside a number."""

    def fileno(self) -> int: ...


@pytest.fixture(scope="session", autouse=True)
def _own_directories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep config, state and cache of every test away from the user's."""
    base = tmp_path_factory.mktemp("coopfs-home")
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("COOPFS_")]:
            patch.delenv(variable)
        for kind in ("CONFIG", "STATE", "CACHE"):
            patch.setenv(f"COOPFS_{kind}_DIR", str(base / kind.lower()))
        yield


@pytest.fixture(scope="session", autouse=True)
def _right_clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have a local daemon say that the clock is right, whatever keeps this machine's."""
    programs = tmp_path_factory.mktemp("coopfs-programs")
    fake_chronyc(programs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="session", autouse=True)
def _cheap_qr_codes() -> Iterator[None]:
    """Draw QR codes under the first mask: choosing the best of eight takes 10 ms a code.

    Any of them is a valid code, and every archive that a test makes shows two.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segno, "make", partial(segno.make, mask=0))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Let fsync() in this process do nothing: an archive is made with 24 of them.

    What it is for no test can see that does not cut the power: those that do, by counting
    calls, put their own in its place; and commands that run as processes call the real one.
    """

    def fsync(fd: int | HasFileno) -> None:
        os.fstat(fd if isinstance(fd, int) else fd.fileno())  # EBADF all the same

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.fixture
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrap keys at a cost that suits tests; what is written otherwise takes 0.3 s a file."""
    for name in ("SCRYPT_WRITTEN", "SCRYPT_PUBLISHED"):
        monkeypatch.setattr(wrapping, name, wrapping.ScryptParams(log_n=4))


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedCluster]:
    """Yield a SeaweedFS cluster, shared by all tests: each takes a prefix of its own."""
    try:
        with seaweed_cluster(tmp_path_factory.mktemp("seaweed")) as cluster:
            cluster.make_bucket("shared")
            yield cluster
    except NoWeed as exc:
        pytest.skip(f"{exc}: OBJECT STORES ARE NOT TESTED")


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """Yield an sshd, shared by all tests: each has a folder of its own."""
    with SshServer(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.fixture(scope="session")
def vsftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VsftpdServer]:
    """Yield an FTP server that wants TLS, shared as the sshd."""
    with VsftpdServer(tmp_path_factory.mktemp("vsftpd")) as server:
        yield server


@pytest.fixture(scope="session")
def plain_ftp() -> Iterator[PyftpdlibServer]:
    """Yield an FTP server without TLS, shared as the sshd."""
    with PyftpdlibServer() as server:
        yield server


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after many bytes: they may hold a time, or what chance has drawn.

    The processes of one run must all find the same tests, or none is run.
    """
    return argname if isinstance(val, bytes) and len(val) > 16 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, what needs root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
