"""Key files: secrets of one archive, wrapped with a passphrase or in the clear.

They lie on the user's machines; one kind, always wrapped, may be put into the store on
purpose.  A plain checksum tells a damaged file from a wrong passphrase.  Byte table:
coopfs-format(5), "Key files".
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from blake3 import blake3

from coopfs.errors import FormatUnsupported, ObjectCorrupt, WrongKey
from coopfs.format import encoding
from coopfs.format.encoding import compact
from coopfs.format.keys import KEY_LEN, SALT_LEN
from coopfs.ids import ARCHIVE_ID_LEN, ArchiveId

MAGIC: Final = b"COOPFSK\n"
VERSION: Final = 1
MAX_LEN: Final = 16 << 10  # bytes; a real one has about 250
_CHECKSUM_LEN: Final = 32
_START: Final = len(MAGIC) + 1 + _CHECKSUM_LEN
_KNOWN = frozenset(range(5))
_KNOWN_SECRETS = frozenset(range(2))
_SALT_CONTEXT: Final = "coopfs 1 key file salt"

# A hostile file must not make its reader allocate or compute without end.
SCRYPT_MEMORY_MAX: Final = 512 << 20  # bytes: 128 * N * r
SCRYPT_WORK_MAX: Final = 1 << 23  # N * r * p; eight times what is written here


class KeyPurpose(IntEnum):
    """Whose secrets a key file holds."""

    HOST = 1  # the archive key and this host's writer key
    ADMIN = 2  # the admin key alone, so that it can be taken off a machine
    PUBLISHED = 3  # the archive key alone, for the store; never unwrapped


@dataclass(frozen=True, slots=True)
class ScryptParams:
    """Cost of a guess: RFC 7914; 128 * 2**log_n * r bytes of memory."""

    log_n: int = 17  # 128 MiB with r = 8: OWASP's recommendation for scrypt, 0.3 s here
    r: int = 8
    p: int = 1


SCRYPT_WRITTEN: Final = ScryptParams()
# Whoever keeps the store may guess at leisure: as dear as a reader allows, 256 MiB and 8
# times the work of a file here; 2.5 s once, when a machine is recovered.
SCRYPT_PUBLISHED: Final = ScryptParams(log_n=18, r=8, p=4)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key file as stored; what is wrapped in it needs :func:`unwrap`."""

    purpose: KeyPurpose
    archive_id: ArchiveId
    scrypt: ScryptParams | None  # None: not wrapped
    salt: bytes  # 32 bytes; empty if not wrapped
    payload: bytes = field(repr=False)  # sealed, or the secrets themselves


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets of one key file (32 bytes each)."""

    key: bytes = field(repr=False)  # the admin seed (ADMIN), else the archive key
    writer_seed: bytes | None = field(default=None, repr=False)  # HOST only


def encode_key_file(
    purpose: KeyPurpose,
    archive_id: ArchiveId,
    secrets: Secrets,
    passphrase: str | None,
    random: bytes,
    params: ScryptParams | None = None,
) -> bytes:
    """Return the bytes of a key file; *passphrase* None leaves the secrets in the clear.

    *random* is 32 fresh bytes.  The salt is hedged as every object's: were they not
    fresh, no nonce would be used twice for different secrets.
    """
    plaintext = _encode_secrets(secrets)
    if passphrase is None:
        if purpose is KeyPurpose.PUBLISHED:
            raise ValueError("a key is not published without a passphrase")
        return _frame(KeyFile(purpose, archive_id, None, b"", plaintext))
    params = params or (SCRYPT_PUBLISHED if purpose is KeyPurpose.PUBLISHED else SCRYPT_WRITTEN)
    salt = blake3(random + plaintext, derive_key_context=_SALT_CONTEXT).digest()
    unsealed = KeyFile(purpose, archive_id, params, salt, b"")
    cipher = _cipher(unsealed, passphrase)
    ciphertext, tag = cipher.encrypt_and_digest(plaintext)
    return _frame(KeyFile(purpose, archive_id, params, salt, ciphertext + tag))


def decode_key_file(data: bytes, what: str) -> KeyFile:
    """Parse a key file; nothing is unwrapped yet.

    Raises:
        ObjectCorrupt: damaged, or no key file.
        FormatUnsupported: written by a newer coopfs, or with absurd scrypt parameters.
    """
    if not data.startswith(MAGIC):
        raise ObjectCorrupt(f"{what}: is no key file of coopfs")
    if len(data) <= _START or len(data) > MAX_LEN:
        raise ObjectCorrupt(f"{what}: {len(data)} bytes; the key file is truncated or damaged")
    if data[len(MAGIC)] != VERSION:
        raise FormatUnsupported(
            f"{what}: key file version {data[len(MAGIC)]}; this coopfs knows {VERSION}, update it"
        )
    body = data[_START:]
    if blake3(body).digest() != data[len(MAGIC) + 1 : _START]:
        raise ObjectCorrupt(
            f"{what}: the key file is damaged; restore it from a copy or from the recovery kit"
        )
    fields = encoding.fields_of(encoding.decode(body, what), what, _KNOWN)
    purpose = encoding.u64(fields, 0, what)
    if purpose not in list(KeyPurpose):
        raise FormatUnsupported(f"{what}: unknown purpose {purpose}; update coopfs")
    params = _decode_params(fields[2], what) if 2 in fields else None
    if purpose == KeyPurpose.PUBLISHED and params is None:
        # Anybody can put one; opened without a passphrase it would prove nothing.
        raise ObjectCorrupt(f"{what}: a published key without a passphrase; do not trust it")
    return KeyFile(
        purpose=KeyPurpose(purpose),
        archive_id=ArchiveId(encoding.bin_(fields, 1, what, size=ARCHIVE_ID_LEN)),
        scrypt=params,
        salt=encoding.bin_(fields, 3, what, size=SALT_LEN) if params else b"",
        payload=encoding.bin_(fields, 4, what, limit=MAX_LEN),
    )


def unwrap(key_file: KeyFile, passphrase: str | None, what: str) -> Secrets:
    """Return the secrets; *passphrase* is not looked at when the file is not wrapped.

    Raises:
        WrongKey: the passphrase is not the file's, or it has one and none was given.
        ObjectCorrupt: malformed inside.
    """
    plaintext = key_file.payload
    if key_file.scrypt is not None:
        if passphrase is None:
            raise WrongKey(f"{what}: is wrapped with a passphrase, and none was given")
        sealed = key_file.payload
        cipher = _cipher(key_file, passphrase)
        try:
            plaintext = cipher.decrypt_and_verify(sealed[:-16], sealed[-16:])
        except ValueError:
            raise WrongKey(f"{what}: wrong passphrase") from None
    fields = encoding.fields_of(encoding.decode(plaintext, what), what, _KNOWN_SECRETS)
    has_writer = key_file.purpose is KeyPurpose.HOST
    return Secrets(
        key=encoding.bin_(fields, 0, what, size=KEY_LEN),
        writer_seed=encoding.bin_(fields, 1, what, size=KEY_LEN) if has_writer else None,
    )


def _encode_secrets(secrets: Secrets) -> bytes:
    return encoding.encode(compact({0: secrets.key, 1: secrets.writer_seed}))


def _frame(key_file: KeyFile) -> bytes:
    body = encoding.encode(_fields(key_file) | {4: key_file.payload})
    return MAGIC + bytes((VERSION,)) + blake3(body).digest() + body


def _fields(key_file: KeyFile) -> encoding.Fields:
    params = key_file.scrypt
    return compact(
        {
            0: int(key_file.purpose),
            1: key_file.archive_id,
            2: params and [params.log_n, params.r, params.p],
            3: key_file.salt or None,
        }
    )


def _decode_params(value: Any, what: str) -> ScryptParams:
    if (
        type(value) is not list
        or len(value) != 3
        or any(type(number) is not int or number < 1 for number in value)
    ):
        raise ObjectCorrupt(f"{what}: malformed scrypt parameters")
    log_n, r, p = value
    # Bounded one by one first: 1 << log_n is itself an allocation.
    if log_n > 24 or r > 64 or p > 64 or 128 * r << log_n > SCRYPT_MEMORY_MAX:
        raise FormatUnsupported(
            f"{what}: scrypt with N=2^{log_n}, r={r}, p={p} would take more than "
            f"{SCRYPT_MEMORY_MAX >> 20} MiB of memory; refused"
        )
    if r * p << log_n > SCRYPT_WORK_MAX:
        raise FormatUnsupported(
            f"{what}: scrypt with N=2^{log_n}, r={r}, p={p} would take too long; refused"
        )
    return ScryptParams(log_n, r, p)


def _cipher(key_file: KeyFile, passphrase: str) -> Any:
    from coopfs.format.ciphers import AES  # late: an unwrapped file needs none

    params = key_file.scrypt
    if params is None:
        raise ValueError("an unwrapped key file has no cipher")
    # One passphrase, one spelling: what an accent is made of depends on the keyboard.
    secret = unicodedata.normalize("NFC", passphrase).encode("utf-8", "surrogateescape")
    memory = 128 * params.r * ((1 << params.log_n) + params.p + 2)
    key = hashlib.scrypt(
        secret,
        salt=key_file.salt,
        n=1 << params.log_n,
        r=params.r,
        p=params.p,
        maxmem=memory + (1 << 20),
        dklen=KEY_LEN,
    )
    # The key serves this one message (fresh salt each time), so the nonce may be fixed.
    cipher = AES.new(key, AES.MODE_GCM, nonce=bytes(12), mac_len=16)
    cipher.update(MAGIC + bytes((VERSION,)) + encoding.encode(_fields(key_file)))
    return cipher
