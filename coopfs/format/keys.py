"""Keys: what is derived from the archive key, and who signs what.

Owns the derivation contexts, the keyed ids of chunks and nodes, and the two
kinds of Ed25519 keys.  coopfs-format(5), "Keys".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from blake3 import blake3

from coopfs.errors import SignatureInvalid
from coopfs.ids import WRITER_ID_LEN, ChunkId, SpanNodeId, TreeId, WriterId

KEY_LEN: Final = 32
SIGNATURE_LEN: Final = 64  # Ed25519, RFC 8032
PUBLIC_KEY_LEN: Final = 32
SALT_LEN: Final = 32
COMMITMENT_LEN: Final = 16
EPOCH: Final = 0  # the only key epoch this version writes and reads


class Role(IntEnum):
    """What a sealed object is; in its header, its key and every tag."""

    DATA = 1  # a pack of file content
    META = 2  # a pack of tree and span nodes
    INDEX = 3
    SNAPSHOT = 4
    CONFIG = 5  # the sealed copy of the store's config
    ENROLMENT = 6
    AMENDMENT = 7
    FORGET = 8
    DISTRUST = 9


PACK_ROLES: Final = (Role.DATA, Role.META)

# Roles that share the key named "snapshot": all lie under snapshots/ in the store.
_ROLE_KEY: Final = {Role.DATA: "data", Role.META: "meta", Role.INDEX: "index"}


def _derive(archive_key: bytes, role: str) -> bytes:
    # BLAKE3's key derivation mode; the context strings are fixed for ever.
    return blake3(archive_key, derive_key_context=f"coopfs 1 {role}").digest()


@dataclass(frozen=True, slots=True, repr=False)
class ArchiveKeys:
    """All secrets derived from one archive key (32 bytes each)."""

    archive_key: bytes
    chunk_id_key: bytes
    tree_id_key: bytes
    span_id_key: bytes
    record_id_key: bytes
    chunker_key: bytes
    audit_key: bytes
    hedge_key: bytes
    config_key: bytes
    _role_keys: dict[Role, bytes] = field(compare=False)

    @classmethod
    def derive(cls, archive_key: bytes) -> ArchiveKeys:
        """Derive every key from *archive_key* (32 bytes)."""
        if len(archive_key) != KEY_LEN:
            raise ValueError("an archive key has 32 bytes")
        by_name = {
            name: _derive(archive_key, name) for name in ("data", "meta", "index", "snapshot")
        }
        return cls(
            archive_key=archive_key,
            chunk_id_key=_derive(archive_key, "chunk id"),
            tree_id_key=_derive(archive_key, "tree node id"),
            span_id_key=_derive(archive_key, "span node id"),
            record_id_key=_derive(archive_key, "record id"),
            chunker_key=_derive(archive_key, "chunker"),
            audit_key=_derive(archive_key, "audit"),
            hedge_key=_derive(archive_key, "hedge"),
            config_key=_derive(archive_key, "config"),
            _role_keys={role: by_name[_ROLE_KEY.get(role, "snapshot")] for role in Role},
        )

    def role_key(self, role: Role) -> bytes:
        """Return the key that object keys of *role* are derived from."""
        return self._role_keys[role]

    def chunk_id(self, plaintext: bytes | memoryview) -> ChunkId:
        """Return the id of file content."""
        return ChunkId(blake3(plaintext, key=self.chunk_id_key).digest())

    def tree_id(self, node: bytes) -> TreeId:
        """Return the id of an encoded tree node; no file content can have it."""
        return TreeId(blake3(node, key=self.tree_id_key).digest())

    def span_node_id(self, node: bytes) -> SpanNodeId:
        """Return the id of an encoded span node."""
        return SpanNodeId(blake3(node, key=self.span_id_key).digest())

    def chunker_seed(self) -> int:
        """Return the chunker's 63-bit seed, so that cut points tell the partner nothing."""
        return int.from_bytes(self.chunker_key[:8], "big") >> 1  # pyfastcdc doubles it in 64 bits

    def object_key(self, role: Role, salt: bytes) -> tuple[bytes, bytes]:
        """Return (object key, key commitment) for an object of *role* with *salt*."""
        stream = blake3(salt, key=self.role_key(role)).digest(KEY_LEN + COMMITMENT_LEN)
        return stream[:KEY_LEN], stream[KEY_LEN:]


def owner_identity_seed(admin_key: bytes) -> bytes:
    """Return the seed (32 bytes) of the identity with which an owner knocks at the partner's.

    It follows from the admin key, so that the recovery kit alone opens the door.
    """
    return _derive(admin_key, "owner identity")


def writer_id_of(public_key: bytes) -> WriterId:
    """Return the id of a writer: the first 16 bytes of BLAKE3 of its public key."""
    return WriterId(blake3(public_key).digest(WRITER_ID_LEN))


# What a signature is for goes into what is signed, so that none passes for another.
SIGN_PACK: Final = b"coopfs 1 sign pack directory\0"
SIGN_BODY: Final = b"coopfs 1 sign body\0"


class SigningKey:
    """An Ed25519 key pair made from a 32-byte seed (a writer's or the admin's)."""

    __slots__ = ("_signer", "public_key", "seed", "writer_id")

    def __init__(self, seed: bytes) -> None:
        """Expand *seed* (32 random bytes, RFC 8032 section 5.1.5)."""
        # Imported late: `coopfs --help` or a mount of a local store never signs.
        from coopfs.format.ciphers import load_ed25519

        ECC, eddsa = load_ed25519()
        key = ECC.construct(curve="Ed25519", seed=seed)
        self.seed = seed
        self.public_key: bytes = key.public_key().export_key(format="raw")
        self.writer_id = writer_id_of(self.public_key)
        self._signer = eddsa.new(key, "rfc8032")

    def sign(self, context: bytes, message: bytes) -> bytes:
        """Return the 64-byte signature of *message* for the purpose *context*."""
        signature: bytes = self._signer.sign(context + message)
        return signature


def verify_signature(
    public_key: bytes, context: bytes, message: bytes, signature: bytes, what: str
) -> None:
    """Check an Ed25519 signature.

    Raises:
        SignatureInvalid: it is not *public_key*'s over *context* and *message*.
    """
    from coopfs.format.ciphers import load_ed25519

    _, eddsa = load_ed25519()
    try:
        key = eddsa.import_public_key(public_key)
        eddsa.new(key, "rfc8032").verify(context + message, signature)
    except ValueError as exc:
        raise SignatureInvalid(
            f"{what}: the signature is not its writer's; it was forged or altered, do not trust it"
        ) from exc
