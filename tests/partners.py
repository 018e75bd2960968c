"""Partners for tests: hosts with servers of their own, on loopback unless told otherwise."""

from __future__ import annotations

import json
import os
import random
import shutil
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

    def successor(self, base: Path) -> Partner:
        """Return the machine that takes its place, with nothing of its own yet."""
        return Partner(base, self.name)

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
            assert process.returncode in (0, 130, -signal.SIGKILL), text  # killed: by the test

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


def make_source(folder: Path, seed: int) -> None:
    """Fill *folder* with what two friends might have."""
    rng = random.Random(seed)
    for number in range(40):
        path = folder / f"folder {number % 4}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(60_000)))
    (folder / "large").write_bytes(rng.randbytes(5_000_000))
    (folder / "link").symlink_to("large")


def content(folder: Path) -> dict[str, bytes]:
    """Every file and link below *folder*."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    assert found
    return found


class Two:
    """Anna and Berta, each with a source of two snapshots."""

    def __init__(
        self, base: Path, anna: Partner | None = None, berta: Partner | None = None
    ) -> None:
        self.base = base
        self.anna = anna or Partner(base / "a", "anna")
        self.berta = berta or Partner(base / "b", "berta")
        for number, partner in enumerate((self.anna, self.berta)):
            make_source(self.source(partner), number)

    def source(self, partner: Partner) -> Path:
        return self.base / f"{partner.name}s"

    def kit(self, partner: Partner) -> Path:
        return self.base / f"{partner.name}s-kit"

    def pair(self, *args: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Become partners; returns what either side was told."""
        with self.anna.inviting() as code:
            there = self.berta.accept(code, *args)
        return self.anna.paired, there

    def back_up(self, partner: Partner, other: Partner) -> None:
        """Let *partner* make its archive at the *other*'s, and take two snapshots."""
        partner.init(f"coop://{other.name}", "--recovery-kit", self.kit(partner))  # type: ignore[arg-type]
        source = self.source(partner)
        partner.ok("snapshot", source)
        (source / "later").write_text("written between the two")
        partner.ok("snapshot", source)

    def lose(self, partner: Partner) -> Partner:
        """Destroy all that *partner* has, but its kit; return the machine that takes its place."""
        shutil.rmtree(partner.base)
        return partner.successor(self.base / "new")


def restored(partner: Partner, source: Path, target: Path) -> Path:
    """Restore the newest snapshot; return where *source* is now."""
    partner.ok("restore", f"latest:{source}", "--target", target)
    return target
