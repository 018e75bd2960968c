"""FTP for tests, on loopback: vsftpd with TLS, pyftpdlib without, a line, and mere words."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from lines import Listener
from servers import Server, accepts, free_port, make_certificate, program

PASSWORD = "a:b@c/d e"
_QUOTED = "a%3Ab%40c%2Fd%20e"


class VsftpdServer(Server):
    """vsftpd for anybody, TLS required, sessions of data connections to be reused."""

    def __init__(self, base: Path, *settings: str) -> None:
        """Make certificate and configuration in *base*; *settings* are lines of vsftpd.conf."""
        base.mkdir(exist_ok=True)
        self.made = make_certificate(base)
        self.port = free_port()
        lines = [
            *("listen=YES", "listen_address=127.0.0.1", f"listen_port={self.port}"),
            *("background=NO", "run_as_launching_user=YES", "seccomp_sandbox=NO"),
            *("anonymous_enable=YES", "no_anon_password=YES", f"anon_root={base}"),
            *("write_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES"),
            *("anon_other_write_enable=YES", "anon_umask=077", "anon_world_readable_only=NO"),
            *("ssl_enable=YES", "allow_anon_ssl=YES", f"rsa_cert_file={self.made.certificate}"),
            *(f"rsa_private_key_file={self.made.key}", "ssl_ciphers=HIGH"),
            *("force_anon_logins_ssl=YES", "force_anon_data_ssl=YES", "require_ssl_reuse=YES"),
            *("connect_from_port_20=NO", "xferlog_enable=NO"),
            *settings,
        ]
        (base / "vsftpd.conf").write_text("\n".join(lines) + "\n")
        super().__init__(
            [program("vsftpd", "/usr/sbin/vsftpd"), base / "vsftpd.conf"],
            lambda: accepts(self.port),
        )

    def address(self, path: Path, query: str | None = None) -> str:
        """Return the address of the store in the folder *path* there."""
        query = f"ca={self.made.certificate}" if query is None else query
        return f"ftps://127.0.0.1:{self.port}{path}?{query}".removesuffix("?")


_PYFTPDLIB = """
import io, sys, time
from pathlib import Path
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
port, password, rights, hold = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
class File(io.FileIO):
    # Without a buffer: what is left in one when the disk is full fails once more when the
    # file is closed; pyftpdlib then forgets to answer.
    def write(self, data):
        return self._held(super().write(data))
    def read(self, size=-1):
        return self._held(super().read(size))
    def _held(self, moved):
        while moved and hold.exists():
            hold.write_text("held")
            time.sleep(0.01)
        return moved
class Files(AbstractedFS):
    def open(self, filename, mode):
        return File(filename, mode) if "b" in mode else open(filename, mode)
authorizer = DummyAuthorizer()
authorizer.add_user("anna", password, "/", perm=rights)
FTPHandler.authorizer = authorizer
FTPHandler.abstracted_fs = Files
FTPHandler.auth_failed_timeout = 0.1
FTPHandler.use_sendfile = False
FTPServer(("127.0.0.1", port), FTPHandler).serve_forever()
"""


class PyftpdlibServer(Server):
    """pyftpdlib without TLS, for the user anna.

    *rights* are pyftpdlib's letters. While the file *hold* exists, a transfer stops after its
    first bytes, which is then written into that file.
    """

    def __init__(self, rights: str = "elradfmwMT", hold: Path = Path("/nonexistent")) -> None:
        pytest.importorskip("pyftpdlib", reason="PLAIN FTP IS NOT TESTED", exc_type=ImportError)
        self.port = free_port()
        arguments = [self.port, PASSWORD, rights, hold]
        super().__init__(
            [sys.executable, "-W", "ignore", "-c", _PYFTPDLIB, *map(str, arguments)],
            lambda: accepts(self.port),
        )

    def address(self, path: Path, port: int | None = None) -> str:
        """Return the address of the store in the folder *path* there; *port*: a line's."""
        return f"ftp://anna:{_QUOTED}@127.0.0.1:{port or self.port}{path}"


class ControlLine(Listener):
    """A line that carries control connections to *port*, and knows the commands.

    - ``lose``: the next command with this verb arrives and is done; then the line is cut.
    - ``replies``: what is answered to a verb, in place of the (last) reply of the server.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self._target = port
        self.commands: Counter[str] = Counter()
        self.lose: str | None = None
        self.replies: dict[str, str] = {}
        self.cuts = 0

    def handle(self, sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            self.adopt(server)
            verbs = [""]
            back = threading.Thread(target=self._carry_back, args=(server, sock, verbs))
            back.start()
            with sock.makefile("rb") as reader:
                for line in reader:
                    verbs.append(line.split()[0].decode().upper())
                    self.commands[verbs[-1]] += 1
                    server.sendall(line)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(10)

    def _carry_back(self, server: socket.socket, sock: socket.socket, verbs: list[str]) -> None:
        with suppress(OSError), server.makefile("rb") as reader:
            for line in reader:
                if verbs[-1] == self.lose and not line.startswith(b"1"):
                    self.lose = None
                    self.cuts += 1
                    break
                if verbs[-1] in self.replies and not line.startswith(b"1"):
                    line = f"{self.replies[verbs[-1]]}\r\n".encode()
                sock.sendall(line)
            sock.shutdown(socket.SHUT_RDWR)


class FtpWords(Listener):
    """A server that says what it is told to say.

    *replies* by verb; ``data`` is what any transfer brings; *context*: over TLS, where
    the transfers end without the word that TLS has for an end.
    """

    def __init__(
        self, replies: Mapping[str, str], data: bytes = b"", context: ssl.SSLContext | None = None
    ) -> None:
        super().__init__()
        self.replies = {
            "": "220 hello",
            **{verb: "200 yes" for verb in ("USER", "PBSZ", "PROT", "TYPE", "CWD", "AUTH")},
            **{"FEAT": "211-\r\n MLST\r\n211 end", "PWD": '257 "/"', "USER": "230 in"},
            **{"SIZE": "213 8", "MLSD": "226 done", "RETR": "226 done"},
            **replies,
        }
        self.data = data
        self._context = context

    def handle(self, sock: socket.socket) -> None:
        sock.sendall(f"{self.replies['']}\r\n".encode())
        if secure := self._talk(sock):
            with secure, suppress(OSError):
                self._talk(secure)

    def _talk(self, sock: socket.socket) -> ssl.SSLSocket | None:
        """Answer commands until the end, or until TLS is to begin, over what is returned."""
        listener: socket.socket | None = None
        while line := _line_of(sock):
            verb = line.split()[0].decode(errors="replace").upper()
            if verb == "PASV":
                listener = socket.create_server(("127.0.0.1", 0))
                high, low = divmod(listener.getsockname()[1], 256)
                sock.sendall(f"227 here (127,0,0,1,{high},{low})\r\n".encode())
                continue
            if listener is not None and verb in ("MLSD", "NLST", "RETR"):
                with listener, listener.accept()[0] as data:
                    sock.sendall(b"150 here it comes\r\n")
                    secure = self._context and self._context.wrap_socket(data, server_side=True)
                    with suppress(OSError):
                        (secure or data).sendall(self.data)
                    if secure:
                        secure.close()
                listener = None
            sock.sendall(f"{self.replies.get(verb, '500 what?')}\r\n".encode())
            if verb == "AUTH" and self._context:
                return self._context.wrap_socket(sock, server_side=True)
        return None


def _line_of(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            return b""
        line += piece
    return line
