"""Servers for tests: started on loopback, waited for, stopped; skipped where missing."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Where scripts/setup puts what this machine's Debian does not have.
TOOLS = ROOT / ".venv" / "tools" / "usr" / "bin"
DEADLINE_S = 60


def program(*names: str) -> str:
    """Return the path of the first program there is; skip the test where there is none."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(TOOLS)])
    for name in names:
        if found := shutil.which(name, path=path):
            return found
    pytest.skip(f"{' or '.join(names)} is not installed: WHAT NEEDS IT IS NOT TESTED")


def free_port() -> int:
    """Return a TCP port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Tell whether somebody listens on the port."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def accepts_at(path: Path) -> bool:
    """Tell whether somebody listens on the unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


class Server:
    """A server process; ``with`` starts it and stops it."""

    def __init__(
        self, command: Sequence[str | Path], is_up: Callable[[], bool], **environ: str
    ) -> None:
        self._command = [str(part) for part in command]
        self._is_up = is_up
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the server; no pipe fills

    def start(self) -> None:
        """Start it, and return when it can be reached."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env={**os.environ, **self._environ},
        )
        deadline = time.monotonic() + DEADLINE_S
        while not self._is_up():
            if self._process.poll() is not None:
                pytest.fail(f"{self._command[0]} ended: {self.log()}")
            assert time.monotonic() < deadline, f"{self._command[0]} does not start"
            time.sleep(0.01)

    def log(self) -> str:
        """Return what it has written on stderr."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let it fall silent, its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self.go_on()
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()


def rest_server(root: Path, port: int, *options: str | Path) -> Server:
    """Return a stock rest-server for the folder *root*, not yet started."""
    return Server(
        [
            program("rest-server", "restic-rest-server"),
            *("--path", root, "--listen", f"127.0.0.1:{port}"),
            *(() if "--htpasswd-file" in options else ("--no-auth",)),
            *options,
        ],
        lambda: accepts(port),
    )


def rclone_server(root: Path, listen: str, *options: str) -> Server:
    """Return ``rclone serve restic`` for the folder *root*; *listen*: a socket or HOST:PORT."""
    if listen.startswith("/"):
        path = Path(listen)

        def is_up() -> bool:
            return accepts_at(path)
    else:
        port = int(listen.rpartition(":")[2])

        def is_up() -> bool:
            return accepts(port)

    return Server(
        [program("rclone"), "serve", "restic", f":local:{root}", "--addr", listen, *options],
        is_up,
        RCLONE_CONFIG="/dev/null",
    )
