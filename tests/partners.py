"""A partner for tests: a host with a server of its own on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from hosts import Host
from mounting import DEADLINE_S, ROOT, command
from servers import free_port

GIB = 1 << 30


class Partner(Host):
    """One of the machines that become partners."""

    def __init__(self, base: Path, name: str) -> None:
        super().__init__(base, name)
        self.port = free_port()
        self.root = base / "served"

    @property
    def address(self) -> str:
        """Where its server is."""
        return f"127.0.0.1:{self.port}"

    def as_environment(self) -> Any:
        """Let this process find this host's folders, as a context manager."""
        return mock.patch.dict(os.environ, self.environ)

    @contextmanager
    def serving(self, *args: object, is_reachable: bool = True) -> Iterator[subprocess.Popen[str]]:
        """Run its server; an unreachable one listens where its partner never comes."""
        listen = self.address if is_reachable else "127.0.0.1:0"
        line = ["serve", "--json", "--listen", listen, "--root", self.root, *args]
        # Into a file: nobody reads a pipe meanwhile, and a full one would stop the server.
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "coopfs.cli.main", *map(str, line)],
                env={**os.environ, **self.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                assert process.stdout is not None
                said = process.stdout.readline()
                assert said, self._ended(process, log)
                assert json.loads(said)["type"] == "listening"
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                text = self._ended(process, log)
            assert process.returncode in (0, 130), text

    def _ended(self, process: subprocess.Popen[str], log: TextIO) -> str:
        """Wait for the end of the server; return what it has logged."""
        try:
            process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        log.seek(0)
        return log.read()

    @contextmanager
    def inviting(self, *args: object) -> Iterator[str]:
        """Invite a partner; yields the code, and waits at the end until it was used."""
        process = command(
            self,
            *("pair", "invite", "--json", "--as", self.name, "--root", self.root),
            *("--listen", self.address, "--quota", "1G", "--retention", "30d"),
            *args,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate(timeout=DEADLINE_S)
            yield json.loads(line)["code"]
            out, err = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, err
            self.paired: dict[str, Any] = json.loads(out.splitlines()[-1])
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def accept(self, code: str, *args: object) -> dict[str, Any]:
        """Accept an invitation; returns what the command says."""
        place = () if "--dial" in args else ("--listen", self.address)
        ran = self.ok(
            *("pair", "accept", code, "--json", "--as", self.name, "--root", self.root),
            *("--quota", "2G", *place, *args),
        )
        facts: dict[str, Any] = ran.lines()[-1]
        return facts
