"""An sshd for tests: on loopback, on a free port, with keys and configuration of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from servers import Server, accepts, free_port, program


class SshServer(Server):
    """sshd with internal-sftp for the current user; ``command`` is the ssh that gets in."""

    def __init__(self, base: Path, *settings: str, sftp: str = "internal-sftp") -> None:
        """Make keys and configuration in *base*; *settings* are lines of sshd_config."""
        program("ssh")
        sshd = program("sshd", "/usr/sbin/sshd")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # a boot would have made it
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
        if sftp:
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
        # ControlPath has to be short: a socket's name has 108 bytes.
        self._shared = tempfile.mkdtemp(prefix="coopfs-ssh-")
        self.shared_command = (
            f"{self.command} -o ControlMaster=auto -o ControlPersist=60 "
            f"-o ControlPath={self._shared}/s"
        )
        command = [sshd, "-D", "-e", "-f", base / "sshd_config"]
        super().__init__(command, lambda: accepts(self.port))

    def make_key(self, name: str) -> None:
        """Make the key pair *name*, anew if it is there."""
        path = self.base / name
        path.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path], check=True
        )

    def known_hosts(self, *public_keys: Path) -> None:
        """Have the client know the server, behind whatever port, by these keys."""
        keys = [" ".join(key.read_text().split()[:2]) for key in public_keys]
        text = "".join(f"[127.0.0.1]:* {key}\n" for key in keys)
        (self.base / "known_hosts").write_text(text)

    def sessions(self) -> list[int]:
        """Return the processes of the connections that are open."""
        assert self._process is not None
        return _descendants(self._process.pid)

    def kill_sessions(self) -> None:
        """Cut every connection, as a crash of the machine would; go on serving new ones."""
        _kill(self.sessions())

    def kill(self) -> None:
        """Kill it with all its connections."""
        sessions = self.sessions()
        super().kill()
        _kill(sessions)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sessions = self.sessions()
        super().__exit__(exc_type, exc, traceback)
        _kill(sessions)
        shutil.rmtree(self._shared)

    def address(self, path: Path | str, port: int | None = None) -> str:
        """Return the address of the store in the folder *path* there; *port*: a proxy's."""
        return f"sftp://{getpass.getuser()}@127.0.0.1:{port or self.port}{path}"


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    for child in map(int, children):
        found += [child, *_descendants(child)]
    return found
