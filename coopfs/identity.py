"""Who a machine is on the line: an Ed25519 key and its self-signed certificate.

Owns the certificate's content, which follows from a 32-byte seed alone: the same
seed gives the same bytes on every machine and in every year, so that a pin that was
printed stays true.  Partners pin each other's certificate by the SHA-256 of its DER;
no authority is asked, no name and no date in it is believed.  coopfs-format(5),
"Identities".
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from coopfs.dirs import make_private_folder, write_private
from coopfs.errors import ConfigError, UsageError

SEED_LEN: Final = 32  # bytes; an Ed25519 private key, RFC 8032 section 5.1.5
PIN_HEX_LEN: Final = 64
PEM_LEN_MAX: Final = 16 << 10  # bytes; a certificate of ours has about 600
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
# RFC 5280, section 4.1.2.5: "no well-defined expiration date".  Who may come is
# decided by pins, which are taken away when they should no longer hold.
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_PIN = re.compile(rf"[0-9a-f]{{{PIN_HEX_LEN}}}\Z")


@dataclass(frozen=True, slots=True)
class Identity:
    """A key pair with its certificate; made by :func:`make_identity`."""

    seed: bytes = field(repr=False)  # 32 bytes; the key itself
    cert_pem: str
    key_pem: str = field(repr=False)  # PKCS #8, not wrapped
    pin: str  # SHA-256 of the certificate's DER, 64 lower-case hex digits
    public_key: bytes  # 32 bytes, Ed25519

    def load_into(self, context: ssl.SSLContext) -> None:
        """Let *context* show this certificate; the key touches no disk."""
        # ssl reads files only; one in memory has no other name than its descriptor.
        fd = os.memfd_create("coopfs-identity", os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(fd), "wb") as file:
                file.write((self.key_pem + self.cert_pem).encode())
            context.load_cert_chain(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)


def make_identity(seed: bytes | None = None) -> Identity:
    """Return the identity of *seed* (32 bytes), or a new one from random bytes."""
    # Late: 50 ms, and only what talks to a partner's server needs it.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    seed = os.urandom(SEED_LEN) if seed is None else seed
    if len(seed) != SEED_LEN:
        raise ValueError(f"an identity's seed has {SEED_LEN} bytes")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    cert_der = _certificate(seed)
    return Identity(
        seed=seed,
        cert_pem=ssl.DER_cert_to_PEM_cert(cert_der),
        key_pem=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        pin=pin_of(cert_der),
        public_key=key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw),
    )


def _certificate(seed: bytes) -> bytes:
    """Return the DER of the certificate; nothing in it but the key varies."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509.oid import NameOID

    key = Ed25519PrivateKey.from_private_bytes(seed)
    public_key = key.public_key()
    raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    digest = hashlib.sha256(raw).digest()
    # A name and a number of its own for each: OpenSSL looks trusted certificates up by
    # name.  The number is positive and has 16 bytes at most (RFC 5280, section 4.1.2.2).
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"coopfs {digest.hex()[:16]}")])
    serial = int.from_bytes(digest[16:], "big") >> 1 | 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(serial)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        # No authority: what it signs, itself apart, convinces nobody.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    # Ed25519 signatures are deterministic (RFC 8032), so the bytes are.
    return builder.sign(key, None).public_bytes(Encoding.DER)


def pin_of(cert_der: bytes) -> str:
    """Return the pin of a certificate: the SHA-256 of its DER in hex."""
    return hashlib.sha256(cert_der).hexdigest()


def parse_pin(text: str, what: str) -> str:
    """Return *text* if it is a pin (UsageError, which names *what*)."""
    if not _PIN.match(text):
        raise UsageError(f"{what}: expected {PIN_HEX_LEN} lower-case hex digits, found {text!r}")
    return text


def parse_certificate(pem: str, what: str) -> bytes:
    """Return the DER of a partner's certificate, which must be one of an Ed25519 key.

    Nothing in it is believed; it is only compared, and trusted as it is.

    Raises:
        UsageError: not one certificate in PEM, or none that an identity has.
    """
    return _parse(pem, what)[0]


def public_key_of(pem: str, what: str) -> bytes:
    """Return the 32 bytes of the key that a partner's certificate is of (UsageError)."""
    return _parse(pem, what)[1]


def _parse(pem: str, what: str) -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if len(pem) > PEM_LEN_MAX:
            raise ValueError("too long")
        der = ssl.PEM_cert_to_DER_cert(pem)
        certificate = x509.load_der_x509_certificate(der)
        public_key = certificate.public_key()
        if not isinstance(public_key, Ed25519PublicKey):
            raise ValueError("its key is not an Ed25519 key")
        public_key.verify(certificate.signature, certificate.tbs_certificate_bytes)
    except (ValueError, InvalidSignature, x509.UnsupportedGeneralNameType) as exc:
        raise UsageError(
            f"{what}: expected the certificate of a coopfs identity in PEM: "
            f"{str(exc) or 'its signature is wrong'}"
        ) from exc
    return der, public_key.public_bytes_raw()


def save_identity(identity: Identity, path: Path) -> None:
    """Write key and certificate as a new file (0600, durable); its folder is made if need be.

    Raises:
        ConfigError: it cannot be written, or exists already.
    """
    make_private_folder(path.parent)
    write_private(path, (identity.key_pem + identity.cert_pem).encode(), replace=False)


def load_identity(path: Path) -> Identity:
    """Read what :func:`save_identity` wrote.

    Raises:
        ConfigError: it is missing, unreadable or damaged.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with path.open("rb") as file:
            data = file.read(PEM_LEN_MAX)
    except OSError as exc:
        raise ConfigError(f"{path}: the identity cannot be read: {exc.strerror}") from exc
    try:
        key = load_pem_private_key(data, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("its key is not an Ed25519 key")
        identity = make_identity(key.private_bytes_raw())
        if identity.cert_pem.encode() not in data:
            raise ValueError("its certificate is not the key's")
    except (ValueError, TypeError) as exc:
        raise ConfigError(
            f"{path}: not an identity of coopfs: {exc}; restore it from a copy of its folder"
        ) from exc
    return identity


def load_or_make_identity(path: Path) -> Identity:
    """Return the identity in *path*, made now if there is none (ConfigError)."""
    if not path.exists():
        try:
            save_identity(make_identity(), path)
        except ConfigError:
            if not path.exists():  # else another process was faster: its identity it is
                raise
    return load_identity(path)
