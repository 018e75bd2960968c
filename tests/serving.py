"""``coopfs serve`` for tests: a process of its own, its partners, and a plain client."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from coopfs.identity import Identity, load_identity, make_identity
from coopfs.server.settings import PartnerSettings, save_partner

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 60

WRITER = make_identity(b"w" * 32)  # anna's
SECOND_WRITER = make_identity(b"2" * 32)  # anna's, too
ADMIN = make_identity(b"a" * 32)  # anna's
BERTA = make_identity(b"b" * 32)  # another partner's writer
STRANGER = make_identity(b"x" * 32)


@dataclass(frozen=True)
class Reply:
    """What the server said."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes

    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)


def name_of(data: bytes) -> str:
    """Return the object's name."""
    return hashlib.sha256(data).hexdigest()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait until *condition* holds; fail the test, saying *what*, after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S} s for: {what}"
        time.sleep(0.01)


def admit_anna(root: Path, **changes: Any) -> None:
    """Make the partner "anna" with her three keys, or change what she may."""
    save_partner(
        root,
        PartnerSettings(
            "anna",
            writers=(WRITER.cert_pem, SECOND_WRITER.cert_pem),
            admins=(ADMIN.cert_pem,),
            **changes,
        ),
    )


def admit_berta(root: Path, **changes: Any) -> None:
    """Make the partner "berta" with one key."""
    save_partner(root, PartnerSettings("berta", writers=(BERTA.cert_pem,), **changes))


class Serving:
    """A server process; ``with`` starts it and stops it, :meth:`kill` kills it."""

    def __init__(self, root: Path, *args: object, listen: bool = True, prelude: str = "") -> None:
        """*prelude* is Python that runs in the process before the command."""
        self.root = root
        listen_args = ("--listen", "127.0.0.1:0") if listen else ()
        self._args = [str(arg) for arg in ("serve", "--root", root, *listen_args, *args)]
        self._prelude = prelude
        self._process: subprocess.Popen[bytes] | None = None
        self._log = root.parent / f"{root.name}.log"
        self.addresses: dict[str, str] = {}  # purpose -> the last address

    # --- the process ----------------------------------------------------------------

    def start(self, **options: Any) -> None:
        """Start it, and return when it says that it listens."""
        code = f"{self._prelude}\nfrom coopfs.cli.main import main\nmain()"
        log = self._log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, "-v", "--json", *self._args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environ", {})},
            **options,
        )
        log.close()
        stdout = self._process.stdout
        assert stdout is not None
        wanted = sum(arg in _LISTENING for arg in self._args)
        for _ in range(max(wanted, 1)):
            line = stdout.readline()
            if not line:
                self.wait()
                raise AssertionError(f"the server ended:\n{self.log()}")
            told = json.loads(line)
            self.addresses[told["purpose"]] = told["address"]

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def wait(self) -> int:
        """Wait for its end; return the exit code."""
        assert self._process is not None
        code = self._process.wait(timeout=DEADLINE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code

    def stop(self) -> int:
        """Have it end gracefully; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.is_running():
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                if exc is None:
                    pytest.fail(f"the server does not stop:\n{self.log()}")
        # What a user never should see; tests that want it look themselves.
        if exc is None:
            assert "Traceback" not in self.log(), self.log()

    # --- clients --------------------------------------------------------------------

    @staticmethod
    def coopfs() -> list[str]:
        """Return how the command is run from this checkout."""
        return [sys.executable, "-m", "coopfs.cli.main"]

    def status_through(self, identity_pem: Path, ca: Path) -> Any:
        """Ask for the status where restic comes to, as who *identity_pem* is."""
        context = ssl.create_default_context(cafile=ca)
        context.load_cert_chain(identity_pem)
        host, _, port = self.addresses["restic"].rpartition(":")
        connection = http.client.HTTPSConnection(host, int(port), context=context)
        try:
            connection.request("GET", "/anna/?coopfs=status")
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    @property
    def port(self) -> int:
        """Where partners come to."""
        return int(self.addresses["coopfs"].rpartition(":")[2])

    @property
    def identity(self) -> Identity:
        """The server's own."""
        return load_identity(self.root / "identity.pem")

    def context(self, who: Identity | None) -> ssl.SSLContext:
        """Return TLS as *who*, with the server pinned."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.load_verify_locations(cadata=self.identity.cert_pem)
        if who is not None:
            who.load_into(context)
        return context

    def connect(self, who: Identity | None = WRITER) -> ssl.SSLSocket:
        """Return a connection as *who*, after the handshake as the client sees it."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        return self.context(who).wrap_socket(sock)

    @contextmanager
    def client(self, who: Identity | None = WRITER) -> Iterator[Client]:
        """Connect as *who*; one connection for several requests."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=self.context(who), timeout=DEADLINE_S
        )
        try:
            yield Client(connection)
        finally:
            connection.close()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        who: Identity = WRITER,
        **headers: str,
    ) -> Reply:
        """Do one request on a connection of its own."""
        with self.client(who) as client:
            return client.ask(method, path, body, **headers)

    def put(self, data: bytes, kind: str = "data", who: Identity = WRITER) -> str:
        """Put an object of anna's and return its name; anything but 200 fails the test."""
        reply = self.ask("POST", f"/anna/{kind}/{name_of(data)}", data, who)
        assert reply.status == 200, reply
        return name_of(data)


_LISTENING = frozenset({"--listen", "--http", "--restic-listen", "--metrics"})


class Client:
    """One connection."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        """Do one request."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body=body, headers=named)
        answer = self.connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, found, answer.read())


def raw_answers(sock: socket.socket, data: bytes) -> bytes:
    """Send *data* as it is and return all that comes back until the server hangs up."""
    sock.settimeout(DEADLINE_S)
    received = b""
    with suppress(OSError):  # it may have had enough before the end
        sock.sendall(data)
    with suppress(ConnectionResetError, ssl.SSLError):
        while piece := sock.recv(1 << 16):
            received += piece
    return received


def statuses(raw: bytes) -> list[int]:
    """Return the statuses of the answers in *raw*."""
    return [int(number) for number in re.findall(rb"HTTP/1\.1 (\d{3})", raw)]
