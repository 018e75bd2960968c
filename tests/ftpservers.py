"""FTP servers for tests: vsftpd with TLS and pyftpdlib without, on loopback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from servers import Server, accepts, free_port, program

PASSWORD = "a:b@c/d e"


def make_certificate(base: Path) -> Path:
    """Make a self-signed certificate for 127.0.0.1; return the file with it and its key."""
    path = base / "cert.pem"
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-nodes", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=test"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", path, "-out", base / "cert.crt"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + (base / "cert.crt").read_text())
    return path


class VsftpdServer(Server):
    """vsftpd for anybody, TLS required, sessions of data connections to be reused."""

    def __init__(self, base: Path, *settings: str, port: int | None = None) -> None:
        """Make certificate and configuration in *base*; *settings* are lines of vsftpd.conf."""
        base.mkdir(exist_ok=True)
        self.certificate = base / "cert.pem"
        if not self.certificate.exists():
            make_certificate(base)
        self.port = port or free_port()
        lines = [
            *("listen=YES", "listen_address=127.0.0.1", f"listen_port={self.port}"),
            *("background=NO", "run_as_launching_user=YES", "seccomp_sandbox=NO"),
            *("anonymous_enable=YES", "no_anon_password=YES", f"anon_root={base}"),
            *("write_enable=YES", "anon_upload_enable=YES", "anon_mkdir_write_enable=YES"),
            *("anon_other_write_enable=YES", "anon_umask=077", "anon_world_readable_only=NO"),
            *("ssl_enable=YES", "allow_anon_ssl=YES", f"rsa_cert_file={self.certificate}"),
            *("force_anon_logins_ssl=YES", "force_anon_data_ssl=YES", "require_ssl_reuse=YES"),
            *("ssl_ciphers=HIGH", "connect_from_port_20=NO", "xferlog_enable=NO"),
            *settings,
        ]
        (base / "vsftpd.conf").write_text("\n".join(lines) + "\n")
        super().__init__(
            [program("vsftpd", "/usr/sbin/vsftpd"), base / "vsftpd.conf"],
            lambda: accepts(self.port),
        )

    def address(self, path: Path) -> str:
        """Return the address of the store in the folder *path* there."""
        return f"ftps://127.0.0.1:{self.port}{path}?ca={self.certificate.with_suffix('.crt')}"


_PYFTPDLIB = """
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
port, password, rights = int(sys.argv[1]), sys.argv[2], sys.argv[3]
authorizer = DummyAuthorizer()
authorizer.add_user("anna", password, "/", perm=rights)
FTPHandler.authorizer = authorizer
FTPHandler.auth_failed_timeout = 0.1
FTPServer(("127.0.0.1", port), FTPHandler).serve_forever()
"""


class PyftpdlibServer(Server):
    """pyftpdlib without TLS for the user anna; *rights* are pyftpdlib's letters."""

    def __init__(self, rights: str = "elradfmwMT", port: int | None = None) -> None:
        pytest.importorskip("pyftpdlib", reason="PLAIN FTP IS NOT TESTED", exc_type=ImportError)
        self.port = port or free_port()
        super().__init__(
            [sys.executable, "-W", "ignore", "-c", _PYFTPDLIB, str(self.port), PASSWORD, rights],
            lambda: accepts(self.port),
        )

    def address(self, path: Path) -> str:
        """Return the address of the store in the folder *path* there."""
        return f"ftp://anna:a%3Ab%40c%2Fd%20e@127.0.0.1:{self.port}{path}"
