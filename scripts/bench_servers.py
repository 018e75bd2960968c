"""The stores that `scripts/bench stores` measures, each with the server it needs.

The servers are those of the tests, started by the tests' own code; beside each store stands
a plain client of the same server (bench_bare.py).
"""

from __future__ import annotations

import getpass
import importlib
import os
import shlex
import shutil
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import bench_bare

from coopfs.dirs import Dirs
from coopfs.errors import UsageError
from coopfs.format.invitation import parse_endpoint
from coopfs.identity import load_identity
from coopfs.store.open import absolute_address
from coopfs.store.partners import identity_path, load_access, save_access

TESTS = Path(__file__).resolve().parent.parent / "tests"


class Missing(Exception):
    """This kind of store cannot be started here; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that runs."""

    address: str | None  # of a new store; None: no store of ours is there
    make_bare: Callable[[], bench_bare.Bare] | None = None  # once the store is made


@dataclass(frozen=True, slots=True)
class LongLine:
    """What lies between client and server."""

    rtt_ms: float = 0.0
    mbit_per_s: float | None = None  # each way

    @property
    def is_there(self) -> bool:
        """Whether there is anything."""
        return self.rtt_ms > 0 or self.mbit_per_s is not None


@contextmanager
def started(kind: str, folder: Path, line: LongLine) -> Iterator[Started]:
    """Start what *kind* needs, with its files below *folder*, at the end of *line*.

    Raises:
        Missing: the server's or the client's part is not there.
    """
    # Skipped is what the tests' starters raise where a program is missing.
    import pytest

    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    if line.is_there and kind not in _WITH_LINES:
        raise Missing("is not reached over any line here")
    try:
        starter = (
            _WITH_LINES[kind](folder, line) if kind in _WITH_LINES else _STARTERS[kind](folder)
        )
        server = starter.__enter__()
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        raise Missing(str(exc).strip()) from exc
    except ModuleNotFoundError as exc:
        raise Missing(f"no module {exc.name}") from exc
    with _left(starter):
        try:
            if server.address is not None:
                absolute_address(server.address)
        except UsageError as exc:
            raise Missing(str(exc)) from exc
        yield server


@contextmanager
def _left(starter: AbstractContextManager[Started]) -> Iterator[None]:
    """Leave *starter*, which has been entered, at the end."""
    try:
        yield
    finally:
        starter.__exit__(None, None, None)


def _module(name: str) -> Any:
    """Return a module of the tests."""
    return importlib.import_module(name)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _folder(folder: Path) -> Iterator[Started]:
    yield Started(str(folder / "store"))


@contextmanager
def _front(port: int, line: LongLine) -> Iterator[int]:
    """Yield the port at which *port* is reached over the line."""
    if not line.is_there:
        yield port
        return
    bytes_per_s = None if line.mbit_per_s is None else line.mbit_per_s * 1e6 / 8
    with _module("slowline").SlowLine(port, line.rtt_ms / 2000, bytes_per_s) as slow:
        yield slow.port


def _below(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


@contextmanager
def _rest_server(folder: Path, line: LongLine) -> Iterator[Started]:
    servers = _module("servers")
    behind = servers.free_port()
    with servers.rest_server(folder, behind), _front(behind, line) as port:
        yield Started(
            f"rest+http://127.0.0.1:{port}/store",
            lambda: bench_bare.BareHttp(bench_bare.plain_pool(port), _below("/store/data/")),
        )


@contextmanager
def _rclone(folder: Path) -> Iterator[Started]:
    servers = _module("servers")
    path = folder / "socket"
    # Debian's own, where it is older, knows no unix sockets.
    newest = os.pathsep.join([str(servers.TOOLS), os.environ["PATH"]])
    with _environment(PATH=newest), servers.rclone_server(folder / "store", str(path)):
        yield Started(
            f"rest+http+unix://{path}:/",
            lambda: bench_bare.BareHttp(bench_bare.unix_pool(str(path)), _below("/data/")),
        )


@contextmanager
def _sftp(folder: Path, line: LongLine) -> Iterator[Started]:
    with (
        _module("sshservers").SshServer(folder / "ssh") as server,
        _environment(COOPFS_SSH_COMMAND=server.command),
        _front(server.port, line) as port,
    ):
        login = ["-p", str(port), "-l", getpass.getuser(), "-s", "127.0.0.1", "sftp"]
        command = [*shlex.split(server.command), *login]
        yield Started(
            server.address(folder / "store", port),
            lambda: bench_bare.BareSftp(command, str(folder / "store/data")),
        )


@contextmanager
def _ftps(folder: Path) -> Iterator[Started]:
    with _module("ftpservers").VsftpdServer(folder / "ftp") as server:
        context = ssl.create_default_context(cafile=server.made.certificate)
        # Its address names the folder as this machine does; logins there begin at the same.
        yield Started(
            server.address(folder / "ftp/store"),
            lambda: bench_bare.BareFtps(
                server.port, "anonymous", "", context, str(folder / "ftp/store/data")
            ),
        )


@contextmanager
def _coop(folder: Path, line: LongLine) -> Iterator[Started]:
    partners = _module("partners")
    server = partners.Partner(folder / "server", "server")
    client = partners.Partner(folder / "client", "client")
    with server.inviting() as code:
        client.accept(code)
    with server.serving(), client.as_environment(), _front(server.port, line) as port:
        dirs = Dirs.from_environment()
        access = load_access(dirs, "server")
        save_access(dirs, replace(access, endpoint=parse_endpoint(f"127.0.0.1:{port}", "line")))
        yield Started("coop://server", _bare_coop)


@contextmanager
def _dialled(folder: Path) -> Iterator[Started]:
    """Have the partner's server dial out to ours, which the client goes through."""
    partners = _module("partners")
    client = partners.Partner(folder / "client", "client")
    server = partners.Partner(folder / "server", "server")
    with client.inviting() as code:
        server.accept(code, "--dial")
    with client.serving(), server.serving(is_reachable=False), client.as_environment():
        access = load_access(Dirs.from_environment(), "server")
        if access.socket is None:
            raise AssertionError("it dials in")
        _module("mounting").wait_until(Path(access.socket).exists, "a dialled line")
        yield Started("coop://server")


def _bare_coop() -> bench_bare.Bare:
    dirs = Dirs.from_environment()
    access = load_access(dirs, "server")
    if access.endpoint is None:
        raise AssertionError("it listens")
    context = bench_bare.client_context(access.certificate)
    load_identity(identity_path(dirs, access)).load_into(context)
    pool = bench_bare.tls_pool(access.endpoint.port, context)
    return bench_bare.BareHttp(pool, _below(f"/{access.path}/data/"))


_NGINX_CONF: Final = """
daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/log; {user}
events {{ worker_connections 64; }}
http {{
    access_log off; keepalive_requests 1000000; tcp_nodelay on; sendfile on;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/1;
    fastcgi_temp_path {folder}/2; uwsgi_temp_path {folder}/3; scgi_temp_path {folder}/4;
    client_max_body_size 1g;
    server {{
        listen 127.0.0.1:{port} ssl; ssl_protocols TLSv1.3;
        ssl_certificate {made.certificate}; ssl_certificate_key {made.key};
        root {folder}/store; location / {{ dav_methods PUT; create_full_put_path on; }}
    }}
}}
"""


@contextmanager
def _nginx(folder: Path) -> Iterator[Started]:
    """Have nginx as a measure of this machine: over TLS, it verifies and fsyncs nothing."""
    servers = _module("servers")
    program = os.environ.get("COOPFS_BENCH_NGINX") or shutil.which(
        "nginx", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    )
    if program is None:
        raise Missing("nginx is not installed (Debian: nginx-light); COOPFS_BENCH_NGINX names one")
    port, made = servers.free_port(), servers.make_certificate(folder)
    (folder / "store").mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    config = _NGINX_CONF.format(folder=folder, port=port, made=made, user=user)
    (folder / "nginx.conf").write_text(config)
    command = [program, "-p", folder, "-e", folder / "log", "-c", folder / "nginx.conf"]
    with servers.Server(command, lambda: servers.accepts(port)):
        trusted = Path(made.certificate).read_text()
        yield Started(
            None,
            lambda: bench_bare.BareHttp(
                bench_bare.tls_pool(port, bench_bare.client_context(trusted)),
                _below("/"),
                method="PUT",
            ),
        )


@contextmanager
def _s3(folder: Path) -> Iterator[Started]:
    seaweed = _module("seaweed")
    try:
        seaweed.find_weed()
    except seaweed.NoWeed as exc:
        raise Missing(str(exc)) from exc
    with seaweed.seaweed_cluster(folder) as cluster, _environment(**cluster.environ):
        cluster.make_bucket("bench")
        yield Started("s3://bench/store", lambda: bench_bare.BareBucket("bench", "bare"))


_STARTERS: Final[dict[str, Callable[[Path], AbstractContextManager[Started]]]] = {
    "folder": _folder,
    "rclone": _rclone,
    "ftps": _ftps,
    "s3": _s3,
    "dialled": _dialled,
    "nginx": _nginx,
}
_WITH_LINES: Final[dict[str, Callable[[Path, LongLine], AbstractContextManager[Started]]]] = {
    "rest-server": _rest_server,
    "sftp": _sftp,
    "coop": _coop,
}

# What the table calls them.
KINDS: Final = {
    "folder": "folder",
    "rest-server": "rest-server, HTTP",
    "rclone": "rclone, unix socket",
    "sftp": "sftp, OpenSSH",
    "ftps": "ftps, vsftpd",
    "s3": "s3, SeaweedFS, three copies",
    "coop": "coop, coopfs serve",
    "dialled": "coop, dialled line",
    "nginx": "nginx, TLS (no store)",
}
