"""``rclone:REMOTE:PATH``: whatever rclone can reach, through ``rclone serve restic``.

Owns the rclone process: started when first needed, started again should it end, and
ended with the store or with us, however we end.  It listens on a unix socket in a
folder of our own; versions before 1.61 cannot, and get a port of the loopback device
and a password.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from coopfs.errors import StoreError, StoreUnavailable, UsageError
from coopfs.store.base import Payload, created
from coopfs.store.http import Answer, Endpoint, HttpPool, stall_s
from coopfs.store.line import FREE_LINE
from coopfs.store.rest import RestStore
from coopfs.store.retry import Patience
from coopfs.store.shown import shown_address

_START_TIMEOUT_S: Final = 30.0  # some remotes are asked for a token before rclone listens
_FOLDER_LEN_MAX: Final = 80  # bytes; a socket's path may have 107
_LOG_STAMP: Final = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ")
_LOG_SHOWN: Final = 300  # characters of rclone's own words that a message repeats
_LOG_READ: Final = 4096
# Settings of the user's own servers; here they would lock us out.
_FOREIGN_VARIABLES: Final = (
    *("RCLONE_HTPASSWD", "RCLONE_BASEURL", "RCLONE_CERT", "RCLONE_KEY", "RCLONE_CLIENT_CA"),
    *("RCLONE_STDIO", "RCLONE_PRIVATE_REPOS", "RCLONE_CACHE_OBJECTS", "RCLONE_ADDR"),
    *("RCLONE_LOG_FILE", "RCLONE_USE_JSON_LOG", "RCLONE_AUTH_PROXY", "RCLONE_DAEMON"),
)
_NO_UNIX_SOCKETS: Final = "listen tcp"  # how a version before 1.61 fails
# Runs "$@" until it ends or standard input does, which happens when we are gone; leaves
# nothing of the folder $0 behind.
_KEEPER: Final = """
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
(cat <&3 >/dev/null; kill $child) 2>/dev/null &
keeper=$!
exec 3<&-
wait $child
status=$?
kill $keeper 2>/dev/null
rm -rf -- "$0"
exit $status
"""


def check_rclone(address: str) -> str:
    """Return what rclone calls ``REMOTE:PATH``.

    Raises:
        UsageError: *address* is not of the form ``rclone:REMOTE:PATH``.
    """
    scheme, _, remote = address.partition(":")
    if scheme.lower() != "rclone" or ":" not in remote or not remote.isprintable():
        raise UsageError(
            "not the address of a store behind rclone: expected rclone:REMOTE:PATH, where "
            'REMOTE is one of those that "rclone listremotes" shows'
        )
    if remote.startswith("//"):
        raise UsageError("an address of rclone's has no slashes in front: rclone:REMOTE:PATH")
    return remote


def open_rclone(address: str) -> RestStore:
    """Open the store at *address*; rclone is started when it is first used (UsageError)."""
    patience = Patience.from_environment()
    remote = check_rclone(address)
    shown = shown_address(address)
    return RcloneStore(shown, RcloneServer(remote, shown, patience), "/", patience)


def create_rclone(address: str) -> RestStore:
    """Make a new store at *address*; see ``create_store`` for the errors."""
    return created(open_rclone(address))


class RcloneStore(RestStore):
    """See :class:`Store`.  Whether a put survives a power cut is up to the remote."""

    is_durable = False
    is_guarded = False


class RcloneServer:
    """The process, and the connections to it; any number of threads may use it."""

    def __init__(self, remote: str, shown: str, patience: Patience) -> None:
        """*remote* is for rclone, *shown* for messages."""
        self._remote = remote
        self._shown = shown
        self._stall_s = stall_s(patience)
        self._password = secrets.token_urlsafe(24)
        self._lock = threading.Lock()  # guards what follows
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._pool: HttpPool | None = None
        self._has_unix_sockets = True  # until we know better
        self._has_served = False
        self._is_closed = False
        self.line = FREE_LINE

    def request(
        self,
        method: str,
        path: str,
        label: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Payload | None = None,
    ) -> Answer:
        """See :meth:`HttpPool.request`; starts rclone if it is not running.

        Raises:
            StoreError: rclone cannot serve that remote.
        """
        pool = self._running(label)
        pool.line = self.line
        return pool.request(method, path, label, headers=headers, body=body)

    def close(self) -> None:
        """End rclone; requests under way fail.  May be called again."""
        with self._lock:
            self._is_closed = True
            self._stop()

    # --- within, all of it under the lock -------------------------------------------

    def _running(self, label: str) -> HttpPool:
        with self._lock:
            if self._is_closed:
                raise StoreUnavailable(f"{label}: the store {self._shown} has been closed")
            if self._pool is not None and self._process and self._process.poll() is None:
                return self._pool
            self._stop()
            program = shutil.which("rclone")
            if program is None:
                raise UsageError(
                    f"{self._shown}: rclone is not installed; Debian's package is called rclone"
                )
            try:
                return self._start(program)
            except BaseException:
                self._stop()
                raise

    def _start(self, program: str) -> HttpPool:
        if self._has_unix_sockets:
            self._make_folder()
            path = os.path.join(self._folder, "s")
            try:
                return self._serve(program, Endpoint("http", "localhost", 80, path))
            except StoreError as exc:
                if _NO_UNIX_SOCKETS not in str(exc):
                    raise
                self._has_unix_sockets = False
                self._stop()
        self._make_folder()
        return self._serve(program, Endpoint("http", "127.0.0.1", _free_port()))

    def _make_folder(self) -> None:
        try:
            folder = tempfile.gettempdir()
            if len(os.fsencode(folder)) > _FOLDER_LEN_MAX:
                folder = "/tmp"  # noqa: S108 - mkdtemp makes a private one in it, 0700
            self._folder = tempfile.mkdtemp(prefix="coopfs-rclone-", dir=folder)
        except OSError as exc:
            raise StoreError(f"{self._shown}: no folder for rclone's socket: {exc}") from exc

    def _serve(self, program: str, endpoint: Endpoint) -> HttpPool:
        """Start rclone at *endpoint* and return the connections to it once it listens."""
        listen = endpoint.socket_path or f"{endpoint.host}:{endpoint.port}"
        if endpoint.socket_path:
            listen = f"unix://{listen}"
        command = [program, "serve", "restic", "--addr", listen, "--cache-objects=false"]
        # What another client has deleted would still be there for an rclone that caches.
        command += ["--ask-password=false", "--log-level", "ERROR", "--", self._remote]
        environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN_VARIABLES}
        environment |= {"RCLONE_USER": "coopfs", "RCLONE_PASS": self._password}
        with tempfile.TemporaryFile() as log:
            try:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _KEEPER, self._folder, *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment,
                    process_group=0,  # Ctrl-C is ours to handle: uploads are being completed
                )
            except OSError as exc:
                raise StoreError(f"{self._shown}: cannot be started: {exc}") from exc
            self._wait_until_it_listens(self._process, endpoint, log.fileno())
        self._has_served = True
        token = base64.b64encode(f"coopfs:{self._password}".encode()).decode()
        self._pool = HttpPool(
            endpoint,
            self._shown,
            headers={"Authorization": f"Basic {token}"},
            stall_s=self._stall_s,
        )
        return self._pool

    def _wait_until_it_listens(
        self, process: subprocess.Popen[bytes], endpoint: Endpoint, log: int
    ) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while process.poll() is None:
            if _listens(endpoint):
                return
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"{self._shown}: rclone has not begun to serve within "
                    f"{_START_TIMEOUT_S:.0f} s{self._last_words(log)}"
                )
            time.sleep(0.01)
        # Once it did serve: something that passes.  The first time: nothing that will.
        error = StoreUnavailable if self._has_served else StoreError
        raise error(f"{self._shown}: rclone ended instead of serving it{self._last_words(log)}")

    def _last_words(self, log: int) -> str:
        """Return the end of what rclone has logged, for a message, without its secrets."""
        size = os.fstat(log).st_size
        text = os.pread(log, _LOG_READ, max(0, size - _LOG_READ)).decode(errors="replace")
        if options := self._remote.partition(",")[2]:
            text = text.replace(options, "…")
        said = " ".join(_LOG_STAMP.sub("", text).split())[-_LOG_SHOWN:]
        return f": {said}" if said.isprintable() and said else ""

    def _stop(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._process is not None:
            if self._process.stdin:
                self._process.stdin.close()  # the keeper sees to the rest
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""


def _listens(endpoint: Endpoint) -> bool:
    if endpoint.socket_path:
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(endpoint.socket_path) == 0
    with socket.socket() as sock:
        return sock.connect_ex((endpoint.host, endpoint.port)) == 0


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
