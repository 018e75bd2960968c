"""A SeaweedFS cluster for tests: real S3, four volume servers, three copies of everything.

Four, so that three copies can still be made while one of them is dead.  Everything
listens on loopback only; ``weed`` comes from tests/requirements-cloud.txt.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from s3service import ACCESS_KEY, SECRET_KEY, client_environ, free_ports, request

VOLUME_SERVERS = 4
COPIES = "002"  # two more, on other servers of the same rack
READER_KEY, READER_SECRET = "reader", "reads-only"
GRPC_ABOVE = 10_000  # fixed: its S3 part finds the filer by no other way
_START_S = 120


class NoWeed(Exception):
    """There is no ``weed`` command."""


def find_weed() -> Path:
    """Return the ``weed`` command: this environment's, else the first in PATH (NoWeed)."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise NoWeed("no weed command here (scripts/setup installs it)")
    return Path(found)


class SeaweedCluster:
    """The processes of one cluster, with everything they write below *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._weed = find_weed()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._master, self._filer, self._s3, *self._volumes = free_ports(
            VOLUME_SERVERS + 3, GRPC_ABOVE
        )
        self.host = f"127.0.0.1:{self._s3}"  # of the S3 interface

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return client_environ(self.host)

    def start(self) -> None:
        """Start everything and wait until S3 can take an object."""
        users = [
            _user(ACCESS_KEY, SECRET_KEY, "Admin", "Read", "Write", "List"),
            _user(READER_KEY, READER_SECRET, "Read", "List"),
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": users}))
        self._run(
            "master",
            self._master,
            f"-mdir={self._made('master')}",
            f"-defaultReplication={COPIES}",
            "-volumeSizeLimitMB=256",
            "-telemetry=false",
        )
        # Volume servers that come too early wait for five seconds.
        self._wait("the master", self._has_leader)
        for number in range(VOLUME_SERVERS):
            self.start_volume_server(number)
        self._run(
            "filer",
            self._filer,
            f"-master=127.0.0.1:{self._master}",
            f"-defaultStoreDir={self._made('filer')}",
            "-s3",
            f"-s3.port={self._s3}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.ip.bind=127.0.0.1",
            "-s3.autoCreateBucket=false",
            f"-s3.config={self._folder / 's3.json'}",
        )
        self._wait("S3 to answer", lambda: request(self.host, "GET", "/") == 200)
        self._wait("all volume servers", lambda: self.volume_servers() == VOLUME_SERVERS)

    def start_volume_server(self, number: int) -> None:
        """Start the volume server *number*, the first time or after :meth:`kill`."""
        self._run(
            f"volume{number}",
            self._volumes[number],
            f"-master=127.0.0.1:{self._master}",
            f"-dir={self._made(f'volume{number}')}",
            "-max=60",
            "-minFreeSpacePercent=1",
        )

    def kill_volume_server(self, number: int) -> None:
        """Kill the volume server *number* as a power cut would."""
        process = self._processes.pop(f"volume{number}")
        process.kill()
        process.wait()

    def volume_servers(self) -> int:
        """Return how many volume servers the master knows to be there."""
        centers = self._ask_master("/dir/status").get("Topology", {}).get("DataCenters") or []
        racks = [rack for center in centers for rack in center["Racks"]]
        return sum(len(rack["DataNodes"] or ()) for rack in racks)

    def wait_for_volume_servers(self, number: int) -> None:
        """Wait until the master knows *number* volume servers."""
        self._wait(f"{number} volume servers", lambda: self.volume_servers() == number)

    def bytes_at(self, number: int) -> int:
        """Return how many bytes the volume server *number* has on its disk."""
        folder = self._made(f"volume{number}")
        return sum(path.stat().st_size for path in folder.glob("*.dat"))

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        # The first volumes grow while the servers are still reporting themselves.
        self._wait(f"bucket {name}", lambda: request(self.host, "PUT", f"/{name}") == 200)

    def stop(self) -> None:
        """Kill everything; nothing of it is needed any more."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _has_leader(self) -> bool:
        return bool(self._ask_master("/cluster/status").get("IsLeader"))

    def _ask_master(self, path: str) -> dict[str, Any]:
        with suppress(OSError, http.client.HTTPException, ValueError):
            connection = http.client.HTTPConnection("127.0.0.1", self._master, timeout=10)
            connection.request("GET", path)
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            connection.close()
            return answer
        return {}

    def _run(self, name: str, port: int, *options: str) -> None:
        command = [
            *(str(self._weed), name.rstrip("0123456789")),
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-port={port}", *options),
        ]
        with (self._folder / f"{name}.log").open("ab") as log:
            # Its own home: weed looks for configuration there.
            environ = {**os.environ, "HOME": str(self._folder)}
            self._processes[name] = subprocess.Popen(
                command, cwd=self._folder, env=environ, stdout=log, stderr=log
            )

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")[-2000:]

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_S
        while not condition():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"weed {name} ended: {self._log(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"{name}: {self._log(name)}" for name in self._processes)
                raise RuntimeError(f"waited {_START_S} s for {what}\n{logs}")
            time.sleep(0.05)


@contextmanager
def seaweed_cluster(folder: Path) -> Iterator[SeaweedCluster]:
    """Run a cluster below *folder*; NoWeed where the command is missing."""
    cluster = SeaweedCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _user(key: str, secret: str, *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": key, "secretKey": secret}]
    return {"name": key, "credentials": credentials, "actions": [*actions]}
