"""The system's ssh as a child process: started, listened to, its complaints understood.

Owns what is given to ssh and what its words mean.  The user's configuration, agent,
jump hosts and known hosts apply, since it is the user's ssh; COOPFS_SSH_COMMAND names
another one or adds options, as GIT_SSH_COMMAND does.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from coopfs.errors import (
    StoreDenied,
    StoreError,
    StoreIdentity,
    StoreUnavailable,
    UsageError,
)

COMMAND_VARIABLE: Final = "COOPFS_SSH_COMMAND"
WORDS_MAX: Final = 16 << 10  # bytes of ssh's complaints kept, the last ones
_WORDS_QUOTED: Final = 400  # characters of them in a message
_END_S: Final = 3.0  # seconds for a process to end and its last words to arrive

# ssh(1) notices a dead line within half a minute, so that reading is tried again while
# somebody still waits.  The rest is what sftp(1) itself turns off: none of it is wanted.
_OPTIONS: Final = (
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4"),
    *("-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "ClearAllForwardings=yes"),
    *("-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none", "-T"),
)

_URL = re.compile(
    r"sftp://(?:([^@/]*)@)?(\[[^\]/@]+\]|[^:@/\[\]]+)(?::([0-9]+))?(/.*)", re.I | re.S
)

# What ssh says when the machine is not the one its known_hosts has; then when we are
# not let in; then when it or its line is away.  Anything else is not going to pass.
_IDENTITY = re.compile(r"host key verification failed|remote host identification has changed", re.I)
_UNKNOWN_HOST = re.compile(r"no \S+ host key is known for|authenticity of host", re.I)
_DENIED = re.compile(
    r"permission denied|too many authentication failures|no more authentication methods|"
    r"account (?:is )?(?:currently )?(?:locked|expired|not available)",
    re.I,
)
_AWAY = re.compile(
    r"could not resolve hostname|connection refused|no route to host|unreachable|timed out|"
    r"connection (?:to .* )?(?:closed|reset|aborted)|broken pipe|not responding|"
    r"kex_exchange_identification|banner exchange|stdio forwarding failed|open failed|"
    r"temporary failure|connection corrupted|client_loop: |software caused connection abort",
    re.I,
)
_NO_SUBSYSTEM = re.compile(r"subsystem request failed", re.I)
_BANNER_NOISE = re.compile(r"^(?:@+|Warning: Permanently added .*|)\s*$")


@dataclass(frozen=True, slots=True)
class SshTarget:
    """Whom to call and where the store is."""

    host: str
    user: str | None
    port: int | None
    path: str  # absolute, or relative to where the login leads to

    @property
    def where(self) -> str:
        """How messages name the machine."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        return f"{user}{self.host}{port}"


def parse_sftp_address(address: str) -> SshTarget:
    """Return what ``sftp://[USER@]HOST[:PORT]/PATH`` says; ``/~/`` begins at the login's folder.

    Raises:
        UsageError: it is not such an address.
    """
    found = _URL.fullmatch(address)
    if found is None:
        raise UsageError(
            "an sftp address names a machine and a folder there: sftp://USER@HOST:PORT/PATH, "
            "or sftp://USER@HOST/~/PATH from the login's own folder"
        )
    user, host, port, path = found.groups()
    user = None if user is None else unquote(user)
    if user is not None and ":" in user:
        raise UsageError(
            "an sftp address holds no password: ssh uses keys, its agent, or asks; "
            "write sftp://USER@HOST/PATH"
        )
    host = unquote(host.strip("[]"))
    path = unquote(path, errors="surrogateescape")
    for what, text in (("user", user or "x"), ("host", host)):
        # Neither may become an option of ssh, or a word of a shell at the other side.
        if not text or text.startswith("-") or not text.isprintable() or " " in text:
            raise UsageError(f"an sftp address with this {what} reaches nobody: {text!r}")
    if port is not None and not 0 < int(port) < 65536:
        raise UsageError(f"an sftp address has a port from 1 to 65535, not {port}")
    if "\0" in path:
        raise UsageError("an sftp address with a NUL in it names no folder")
    if path == "/~" or path.startswith("/~/"):
        path = path[3:].lstrip("/") or "."
    path = path.rstrip("/") or "/"
    return SshTarget(host, user, None if port is None else int(port), path)


def has_terminal() -> bool:
    """Tell whether ssh can ask somebody: the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def ssh_command(target: SshTarget, *, may_ask: bool) -> list[str]:
    """Return the words of the command that connects to the SFTP server of *target*.

    Raises:
        UsageError: COOPFS_SSH_COMMAND is no command.
    """
    text = os.environ.get(COMMAND_VARIABLE) or "ssh"
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words:
        raise UsageError(f"{COMMAND_VARIABLE} is {text!r}; expected a command such as: ssh -F FILE")
    # The user's own options come first: of several, ssh takes the first.
    words += _OPTIONS
    if not may_ask:
        words += ["-o", "BatchMode=yes"]
    if target.port is not None:
        words += ["-p", str(target.port)]
    if target.user is not None:
        words += ["-l", target.user]
    words += ["-s", "--", target.host, "sftp"]
    if may_ask:
        # It must stay in the terminal's foreground to ask, but Ctrl-C is ours to handle.
        return ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *words]
    return words


class SshChild:
    """One ssh process; ``socket`` is its standard input and output."""

    def __init__(self, target: SshTarget, *, may_ask: bool) -> None:
        """Start it; whether it connects shows later.

        Raises:
            StoreError: it cannot be started.
            UsageError: COOPFS_SSH_COMMAND is no command.
        """
        command = ssh_command(target, may_ask=may_ask)
        self._where = target.where
        self.socket, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                # Out of reach of the terminal's Ctrl-C; not another session, as in the
                # helping processes (sched(7), autogroup).
                process_group=None if may_ask else 0,
            )
        except OSError as exc:
            self.socket.close()
            raise StoreError(
                f"{self._where}: {command[0]} cannot be started: {exc.strerror}; stores at "
                f"sftp:// need OpenSSH's client (Debian: openssh-client)"
            ) from exc
        finally:
            theirs.close()
        self._words = bytearray()
        self._listener = threading.Thread(target=self._listen, name="ssh words", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        stream = self._process.stderr
        if stream is None:
            raise AssertionError("it was asked for")
        with stream, suppress(OSError, ValueError):
            while piece := os.read(stream.fileno(), 4096):
                self._words += piece
                del self._words[:-WORDS_MAX]

    @property
    def pid(self) -> int:
        """The process, for messages and tests."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process at once; whoever waits at the socket wakes up."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._process.kill()
        self._process.wait()
        # A master of shared connections (ControlPersist) may keep the stream open for hours.
        self._listener.join(timeout=0.2)

    def complaint(self, what: str, *, is_passing: bool = False) -> StoreError:
        """Return the error for a connection that ended: *what* happened, and ssh's reasons.

        Waits a moment for the process to end and its last words.  With *is_passing* it is
        temporary whatever they are: we were connected, or nobody answered.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_END_S)
            self._listener.join(timeout=_END_S)
        words = self._words.decode("utf-8", "replace")
        return explain(self._where, what, words, is_passing=is_passing)


def explain(where: str, what: str, words: str, *, is_passing: bool = False) -> StoreError:
    """Return the error that *words*, all ssh has said, stand for; see ``complaint``."""
    lines = [line.strip() for line in words.splitlines()]
    said = "; ".join(line for line in lines if not _BANNER_NOISE.match(line))
    quoted = ascii(said[-_WORDS_QUOTED:])[1:-1] if said else "nothing"
    if is_passing:
        return StoreUnavailable(f"{where}: {what} (ssh said: {quoted})")
    if _IDENTITY.search(said):
        if _UNKNOWN_HOST.search(said):
            return StoreIdentity(
                f"{where}: this machine's host key is not known here yet, nothing was sent; "
                f"connect to it once with ssh, compare the key, and accept it (ssh said: {quoted})"
            )
        return StoreIdentity(
            f"{where}: not the machine that was expected: its host key is another than the known "
            f"one, nothing was sent; ask its owner before you change known_hosts "
            f"(ssh said: {quoted})"
        )
    if _DENIED.search(said):
        return StoreDenied(
            f"{where}: does not let us in; is the public key in its authorized_keys, and the "
            f"private one without passphrase or in the agent? (ssh said: {quoted})"
        )
    if _NO_SUBSYSTEM.search(said):
        return StoreError(f"{where}: offers no SFTP (ssh said: {quoted})")
    if not said or _AWAY.search(said):
        return StoreUnavailable(f"{where}: {what} (ssh said: {quoted})")
    return StoreError(f"{where}: {what}; ssh said: {quoted}")
