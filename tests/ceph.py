"""A Ceph cluster with an object gateway for tests: one monitor, three OSDs in memory.

From Debian's radosgw, ceph-mon, ceph-osd and ceph-common, which scripts/setup does not
install: they are for whoever sets COOPFS_TEST_CEPH=1.  Everything listens on loopback.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from s3service import ACCESS_KEY, SECRET_KEY, client_environ, free_ports, request

OSDS = 3
_START_S = 120
_COMMANDS = ("radosgw", "radosgw-admin", "ceph", "ceph-authtool", "ceph-mon", "ceph-osd")


class NoCeph(Exception):
    """A command of Ceph is missing."""


class CephCluster:
    """The processes of one cluster, with everything they write below *folder*."""

    def __init__(self, folder: Path) -> None:
        for command in _COMMANDS:
            if shutil.which(command) is None:
                raise NoCeph(f"no {command} here (Debian: radosgw ceph-mon ceph-osd ceph-common)")
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._monitor_port, port = free_ports(2)
        self.host = f"127.0.0.1:{port}"

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return client_environ(self.host)

    def start(self) -> None:
        """Start everything and wait until S3 answers."""
        cluster_id = str(uuid.uuid4())
        self._path("ceph.conf").write_text(self._configuration(cluster_id))
        self._make_keys()
        self._do(
            *("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{self._monitor_port}]"),
            *("--fsid", cluster_id, self._path("monmap")),
        )
        monitor = ("ceph-mon", "-i", "a")
        self._do(
            *(*monitor, "--mkfs", "--monmap", self._path("monmap")),
            *("--keyring", self._path("keyring")),
        )
        self._run("monitor", *monitor)
        for number in range(OSDS):
            osd_id = str(uuid.uuid4())
            self._do("ceph", "osd", "new", osd_id, str(number))
            self._path(f"osd.{number}").mkdir()
            self._do("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", osd_id)
            self._run(f"osd{number}", "ceph-osd", "-i", str(number))
        self._run("gateway", "radosgw", "-n", "client.rgw.a")
        self._do(
            *("radosgw-admin", "user", "create", "--uid=coopfs", "--display-name=coopfs"),
            *(f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"),
        )
        deadline = time.monotonic() + _START_S
        while request(self.host, "GET", "/") != 200:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    said = self._path(f"{name}.out").read_text(errors="replace")
                    raise RuntimeError(f"{name} of Ceph ended: {said[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {_START_S} s for Ceph's gateway")
            time.sleep(0.1)

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        status = request(self.host, "PUT", f"/{name}")
        assert status == 200, f"bucket {name}: HTTP {status}"

    def kill_osd(self, number: int) -> None:
        """Kill an OSD as a power cut would; its memory is gone with it."""
        process = self._processes.pop(f"osd{number}")
        process.kill()
        process.wait()

    def stop(self) -> None:
        """Kill everything; nothing of it is needed any more."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _configuration(self, cluster_id: str) -> str:
        # $id and $name are Ceph's own.
        lines = [
            "[global]",
            f"fsid = {cluster_id}",
            f"mon host = [v2:127.0.0.1:{self._monitor_port}/0]",
            "ms bind msgr1 = false",
            "public addr = 127.0.0.1",
            "cluster addr = 127.0.0.1",
            f"run dir = {self._folder}",
            f"pid file = {self._folder}/$name.pid",
            f"log file = {self._folder}/$name.log",
            f"admin socket = {self._folder}/$name.asok",
            f"keyring = {self._folder}/keyring",
            f"mon data = {self._folder}/mon.$id",
            f"osd data = {self._folder}/osd.$id",
            "mon data avail crit = 1",
            "osd objectstore = memstore",
            "memstore device bytes = 2147483648",
            f"osd pool default size = {OSDS}",
            "osd pool default min size = 2",
            "osd pool default pg num = 4",
            "osd pool default pgp num = 4",
            "osd crush chooseleaf type = 0",  # copies on other OSDs, not on other hosts
            "osd heartbeat interval = 1",
            "osd heartbeat grace = 5",
            "mon osd min down reporters = 1",
            "rgw thread pool size = 32",
            f"rgw frontends = beast endpoint={self.host}",
        ]
        return "\n".join(lines) + "\n"

    def _make_keys(self) -> None:
        keyring = self._path("keyring")
        keyring.touch(0o600)
        rights = {
            "mon.": ("mon", "allow *"),
            "client.admin": ("mon", "allow *", "osd", "allow *"),
            "client.rgw.a": ("mon", "allow rw", "osd", "allow rwx"),
            **{f"osd.{n}": ("mon", "allow profile osd", "osd", "allow *") for n in range(OSDS)},
        }
        for name, pairs in rights.items():
            caps = [
                part
                for place, right in zip(pairs[::2], pairs[1::2], strict=True)
                for part in ("--cap", place, right)
            ]
            self._do("ceph-authtool", keyring, "--gen-key", "-n", name, *caps, configured=False)

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _command(self, command: str, *arguments: object) -> list[str]:
        return [command, "-c", str(self._path("ceph.conf")), *map(str, arguments)]

    def _do(self, command: str, *arguments: object, configured: bool = True) -> None:
        line = self._command(command, *arguments)
        if not configured or command == "monmaptool":
            line = [command, *map(str, arguments)]
        ran = subprocess.run(line, capture_output=True, text=True, timeout=_START_S, check=False)
        assert ran.returncode == 0, f"{' '.join(line)}: {ran.stdout}{ran.stderr}"

    def _run(self, name: str, command: str, *arguments: object) -> None:
        with self._path(f"{name}.out").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [*self._command(command, *arguments), "-f"], stdout=log, stderr=log
            )


@contextmanager
def ceph_cluster(folder: Path) -> Iterator[CephCluster]:
    """Run a cluster below *folder*; NoCeph where a command is missing."""
    cluster = CephCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
