"""An sshd for tests: on loopback, on a free port, with keys and configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

_DEADLINE_S = 20
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """Return a port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until *process* listens on *port*; fail the test if it ends instead."""
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            said = log.read_text(errors="replace") if log.exists() else ""
            assert process.poll() is None, f"the server ended: {said}"
            assert time.monotonic() < deadline, f"nobody listens on {port}: {said}"
            time.sleep(0.01)


class SshServer:
    """sshd with internal-sftp for the current user; ``command`` is the ssh that gets in."""

    def __init__(self, base: Path, *settings: str, sftp: str = "internal-sftp") -> None:
        """Make keys and configuration in *base*; *settings* are lines of sshd_config."""
        if SSHD is None or not shutil.which("ssh"):
            pytest.skip("no sshd or no ssh here (openssh-server): SFTP IS NOT TESTED")
        self.base = base
        base.mkdir()
        self.port = free_port()
        for name in ("host_key", "client_key"):
            self.make_key(name)
        shutil.copy(base / "client_key.pub", base / "authorized_keys")
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {base}/host_key",
            f"AuthorizedKeysFile {base}/authorized_keys",
            f"PidFile {base}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin yes",
            "MaxStartups 200",
            *settings,
        ]
        if not any(line.startswith("Subsystem") for line in settings):
            lines.append(f"Subsystem sftp {sftp}")
        (base / "sshd_config").write_text("\n".join(lines) + "\n")
        self.known_hosts(base / "host_key.pub")
        self.config = base / "ssh_config"
        self.config.write_text(
            f"Host *\n  IdentityFile {base}/client_key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {base}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
            f"  StrictHostKeyChecking yes\n  IdentityAgent none\n  BatchMode yes\n"
        )
        self.command = f"ssh -F {self.config}"
        self.process: subprocess.Popen[bytes] | None = None
        self.log = base / "sshd.log"

    def make_key(self, name: str) -> None:
        """Make the key pair *name*, anew if it is there."""
        path = self.base / name
        path.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True
        )

    def known_hosts(self, *public_keys: Path) -> None:
        """Have the client know the server by these keys."""
        lines = [f"[127.0.0.1]:{self.port} {' '.join(key.read_text().split()[:2])}\n"
                 for key in public_keys]  # fmt: skip
        (self.base / "known_hosts").write_text("".join(lines))

    def start(self) -> None:
        """Start it, or start it again."""
        assert SSHD is not None
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a boot would have made it
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", self.base / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for_port(self.port, self.process, self.log)

    def sessions(self) -> list[int]:
        """Return the processes of the connections that are open."""
        assert self.process is not None
        return _descendants(self.process.pid)

    def kill_sessions(self) -> None:
        """Cut every connection, as a crash of the machine would; go on serving new ones."""
        for pid in self.sessions():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def stop(self) -> None:
        """Stop it and cut its connections."""
        if self.process is None:
            return
        children = self.sessions()
        self.process.kill()
        self.process.wait()
        self.process = None
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def address(self, path: Path | str) -> str:
        """Return the address of the store in the folder *path* there."""
        return f"sftp://{getpass.getuser()}@127.0.0.1:{self.port}{path}"


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    for child in map(int, children):
        found += [child, *_descendants(child)]
    return found
