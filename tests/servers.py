"""Servers for tests: started on loopback, waited for, stopped; skipped where missing."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parent.parent
# Where scripts/setup puts what this machine's Debian does not have.
TOOLS = ROOT / ".venv" / "tools" / "usr" / "bin"
DEADLINE_S = 60


def program(*names: str, newest: bool = False) -> str:
    """Return the path of the first program there is; skip the test where there is none.

    *newest*: rather what scripts/setup has fetched than what is installed.
    """
    folders = [os.environ.get("PATH", ""), str(TOOLS)]
    path = os.pathsep.join(reversed(folders) if newest else folders)
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
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would fill up

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
                if "listen tcp: address" in self.log():
                    pytest.skip("rclone is too old for unix sockets: THEY ARE NOT TESTED")
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
        threads = Path(f"/proc/{self._process.pid}/task")
        while any(") T" not in (task / "stat").read_text() for task in threads.iterdir()):
            time.sleep(0.001)

    def go_on(self) -> None:
        """End a :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.go_on()
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._log.close()


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 on disk, with its key."""

    folder: Path
    certificate: Path
    key: Path
    pin: str  # SHA-256 of its DER, in hex

    @property
    def options(self) -> tuple[str | Path, ...]:
        """What rest-server is told."""
        return ("--tls", "--tls-cert", self.certificate, "--tls-key", self.key)

    def context(self) -> ssl.SSLContext:
        """What a server of our own shows it with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path, address: str = "127.0.0.1") -> Certificate:
    """Write a new certificate for the IP address *address* into *folder*."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    found = Certificate(
        folder, folder / "cert.pem", folder / "key.pem", made.fingerprint(hashes.SHA256()).hex()
    )
    found.certificate.write_bytes(made.public_bytes(pem))
    found.key.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return found


def write_htpasswd(folder: Path, user: str, password: str) -> Path:
    """Write a file of rest-server's with one user."""
    digest = hashlib.sha1(password.encode()).digest()  # noqa: S324 - one of the two it reads
    path = folder / "htpasswd"
    path.write_text(f"{user}:{{SHA}}{base64.b64encode(digest).decode()}\n")
    return path


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
    is_socket = listen.startswith("/")
    if is_socket:
        path, shown = Path(listen), f"unix://{listen}"

        def is_up() -> bool:
            return accepts_at(path)
    else:
        port, shown = int(listen.rpartition(":")[2]), listen

        def is_up() -> bool:
            return accepts(port)

    return Server(
        [
            program("rclone", newest=is_socket),
            *("serve", "restic", f":local:{root}", "--addr", shown),
            *options,
        ],
        is_up,
        RCLONE_CONFIG="/dev/null",
    )
