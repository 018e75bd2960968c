"""Stock restic against ``coopfs serve``: over TLS with client certificates, and over plain HTTP."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hosts import everything_below
from mounting import needs_fuse, wait_until
from serving import ADMIN, STRANGER, WRITER, Serving, admit_anna

needs_restic = pytest.mark.skipif(
    shutil.which("restic") is None, reason="no restic here: IT IS NOT TESTED AGAINST THE SERVER"
)
pytestmark = needs_restic


def host_certificate(path: Path) -> tuple[Path, Path]:
    """Write a certificate that names 127.0.0.1; return (with its key, alone)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "backup.example.org")])
    now = datetime.now(UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(addresses, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "host.pem").write_bytes(secret + pem)
    (path / "ca.pem").write_bytes(pem)
    return path / "host.pem", path / "ca.pem"


class Restic:
    """restic with one repository and one key."""

    def __init__(self, base: Path, repository: str, *options: str) -> None:
        self.base = base
        self.options = ["-r", repository, *options]

    def command(self, *args: object) -> tuple[list[str], dict[str, str]]:
        """Return a command line and its environment."""
        environ = {
            **os.environ,
            "RESTIC_PASSWORD": "correct horse",
            "RESTIC_CACHE_DIR": str(self.base / "cache"),
            "RESTIC_PROGRESS_FPS": "0",
        }
        return ["restic", *self.options, *map(str, args)], environ

    def run(self, *args: object) -> subprocess.CompletedProcess[str]:
        """Run it."""
        command, environ = self.command(*args)
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=100, check=False
        )

    def is_refused(self, *args: object, says: str = "") -> bool:
        """Run it until it says so, or ends; it would repeat what is refused for 15 minutes."""
        command, environ = self.command(*args)
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if says and says in line:
                process.send_signal(signal.SIGINT)  # it takes its lock away
                break
        process.communicate(timeout=60)
        return process.returncode != 0 and says in said

    def ok(self, *args: object) -> str:
        """Run it; anything but success fails the test."""
        ran = self.run(*args)
        assert ran.returncode == 0, f"restic {args}: {ran.returncode}\n{ran.stdout}{ran.stderr}"
        return ran.stdout


def make_source(base: Path) -> Path:
    source = base / "source"
    for number in range(40):
        path = source / f"folder{number % 7}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 * number + 1))
    (source / "large").write_bytes(os.urandom(20 << 20))
    return source


def restored(restic: Restic, base: Path, source: Path) -> dict[str, bytes]:
    target = base / "restored"
    shutil.rmtree(target, ignore_errors=True)
    restic.ok("restore", "latest", "--target", target)
    return everything_below(target / str(source).lstrip("/"))


def test_restic_lives_on_the_server(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    admit_anna(root)
    server_pem, ca = host_certificate(tmp_path)
    source = make_source(tmp_path)
    options = ("--restic-listen", "127.0.0.1:0", "--restic-certificate", server_pem)
    with Serving(root, *options, listen=False) as server:
        repository = f"rest:https://{server.addresses['restic']}/anna/"

        def as_(identity_pem: str, name: str) -> Restic:
            path = tmp_path / f"{name}.pem"
            path.write_text(identity_pem)
            return Restic(tmp_path, repository, "--tls-client-cert", str(path), "--cacert", str(ca))

        writer = as_(WRITER.key_pem + WRITER.cert_pem, "writer")
        admin = as_(ADMIN.key_pem + ADMIN.cert_pem, "admin")
        writer.ok("init")
        writer.ok("backup", source)
        (source / "folder1" / "file1").write_bytes(b"changed")
        writer.ok("backup", source)
        shutil.rmtree(source / "folder2")
        writer.ok("backup", source)
        assert len(json.loads(writer.ok("snapshots", "--json"))) == 3
        writer.ok("check", "--read-data")
        assert restored(writer, tmp_path, source) == everything_below(source)
        assert list((root / "partners/anna/objects/locks").iterdir()) == []

        # What takes away is the admin's: a writer's forget is refused and changes nothing.
        assert writer.is_refused("forget", "--keep-last", "1", says="403")
        assert list((root / "partners/anna/objects/locks").iterdir()) == []
        assert len(json.loads(writer.ok("snapshots", "--json"))) == 3
        before = len(list((root / "partners/anna/objects/data").rglob("?" * 64)))
        admin.ok("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
        assert len(json.loads(writer.ok("snapshots", "--json"))) == 1
        after = len(list((root / "partners/anna/objects/data").rglob("?" * 64)))
        assert after != before
        status = server.status_through(tmp_path / "admin.pem", ca)
        assert status["trash_objects"] > 0
        admin.ok("check", "--read-data")
        assert restored(writer, tmp_path, source) == everything_below(source)

        other = Restic(
            tmp_path,
            repository.replace("anna", "berta"),
            *("--tls-client-cert", str(tmp_path / "writer.pem"), "--cacert", str(ca)),
        )
        assert other.is_refused("snapshots")
        stranger = as_(STRANGER.key_pem + STRANGER.cert_pem, "stranger")
        assert stranger.is_refused("snapshots", says="certificate")


@needs_fuse
def test_restic_mounts_from_the_server_over_plain_http(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    admit_anna(root)
    source = make_source(tmp_path)
    made = subprocess.run(
        [*Serving.coopfs(), "serve", "--root", str(root), "token", "anna"],
        capture_output=True,
        text=True,
        check=True,
    )
    token = made.stdout.strip()
    with Serving(root, "--http", "127.0.0.1:0", listen=False) as server:
        address = server.addresses["http"]
        restic = Restic(tmp_path, f"rest:http://anna:{token}@{address}/anna/")
        restic.ok("init")
        restic.ok("backup", source)
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        command, environ = restic.command("mount", mountpoint)
        mount = subprocess.Popen(
            command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            latest = mountpoint / "snapshots" / "latest"
            wait_until(lambda: mount.poll() is not None or latest.exists(), "restic's mount")
            shown = everything_below(latest / str(source).lstrip("/"))
            assert shown == everything_below(source)
        finally:
            mount.terminate()
            mount.wait(timeout=30)
            subprocess.run(["umount", "-l", str(mountpoint)], capture_output=True, check=False)
        for wrong in (f"anna:{token}x@", f"berta:{token}@"):
            restic = Restic(tmp_path, f"rest:http://{wrong}{address}/anna/")
            assert restic.is_refused("snapshots", says="401")
        assert token not in server.log()
