"""Write the golden vectors beside this file: `PYTHONPATH=.:tests python -m vectors.make`.

They are committed; a test compares what this makes with what is there.  Run it
only for a change of the format that is meant, together with coopfs-format(5).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from ssl import PEM_cert_to_DER_cert
from typing import Any

from vectors import rejects
from vectors import samples as s

from coopfs.format import audit, config, index, pack, receipt, records, snapshot
from coopfs.format.chunker import Chunker, ChunkerParams
from coopfs.format.keys import SIGN_BODY, SIGN_PACK, Role, owner_identity_seed
from coopfs.format.sealing import Sealer, Section, make_salt, padded_len
from coopfs.format.wrapping import KeyPurpose, ScryptParams, Secrets, encode_key_file
from coopfs.identity import make_identity


def keys_vector() -> dict[str, Any]:
    """What is derived from the archive key, and the two signatures."""
    keys = s.KEYS
    salt = s.digest_of("salt")
    owner = make_identity(owner_identity_seed(s.ADMIN.seed))
    return {
        "archive_key": keys.archive_key.hex(),
        "derived": {
            "coopfs 1 chunk id": keys.chunk_id_key.hex(),
            "coopfs 1 tree node id": keys.tree_id_key.hex(),
            "coopfs 1 span node id": keys.span_id_key.hex(),
            "coopfs 1 record id": keys.record_id_key.hex(),
            "coopfs 1 chunker": keys.chunker_key.hex(),
            "coopfs 1 audit": keys.audit_key.hex(),
            "coopfs 1 hedge": keys.hedge_key.hex(),
            "coopfs 1 config": keys.config_key.hex(),
        },
        "role_keys": {role.name: keys.role_key(role).hex() for role in Role},
        "chunker_seed": keys.chunker_seed(),
        "salt": salt.hex(),
        "object_keys": {
            role.name: [part.hex() for part in keys.object_key(role, salt)] for role in Role
        },
        "writer_seed": s.WRITER.seed.hex(),
        "writer_public_key": s.WRITER.public_key.hex(),
        "writer_id": s.WRITER.writer_id.hex(),
        "message": b"message".hex(),
        "signature_pack": s.WRITER.sign(SIGN_PACK, b"message").hex(),
        "signature_body": s.WRITER.sign(SIGN_BODY, b"message").hex(),
        "admin_key": s.ADMIN.seed.hex(),
        "owner_identity_seed": owner_identity_seed(s.ADMIN.seed).hex(),
        "owner_identity_certificate": PEM_cert_to_DER_cert(owner.cert_pem).hex(),
        "owner_identity_pin": owner.pin,
    }


def ids_vector() -> list[dict[str, str]]:
    """Ids of the same bytes as a chunk, a tree node and a span node."""
    return [
        {
            "plaintext": content.hex(),
            "chunk_id": s.KEYS.chunk_id(content).hex(),
            "tree_id": s.KEYS.tree_id(content).hex(),
            "span_node_id": s.KEYS.span_node_id(content).hex(),
        }
        for content in (b"", b"a", b"hello, partner\n", s.stream("noise", 200))
    ]


HERE = Path(__file__).resolve().parent
CHUNKER_PARAMS = ((4, 16, 64), (16, 64, 256), (2, 8, 32), (64, 256, 1024), (1, 4, 4))  # KiB
CHUNKER_INPUTS = ("stream", "zeros", "text")


def chunker_input(name: str, length: int) -> bytes:
    """Return the input called *name*: noise, zeros, or lines of text."""
    if name == "stream":
        return s.stream("chunker", length)
    if name == "zeros":
        return bytes(length)
    lines: bytes = b"".join(b"%d %d\n" % (number, number * number) for number in range(length // 8))
    return lines[:length]


def chunker_vector() -> list[dict[str, Any]]:
    """Chunk lengths for several parameters, two seeds and three inputs."""
    cases: list[dict[str, Any]] = []
    for least, average, most in CHUNKER_PARAMS:
        params = ChunkerParams(min_len=least << 10, avg_len=average << 10, max_len=most << 10)
        for seed in (s.KEYS.chunker_seed(), 0):
            for name in CHUNKER_INPUTS:
                length = (most << 10) * 4 + 12345
                cuts = Chunker(params, seed).cut(chunker_input(name, length), is_last=True)
                cases.append(
                    {
                        "min": params.min_len,
                        "avg": params.avg_len,
                        "max": params.max_len,
                        "seed": seed,
                        "input": name,
                        "length": length,
                        "chunks": [size for _, size in cuts],
                    }
                )
    odd = ChunkerParams(min_len=4097, avg_len=10001, max_len=40001)
    data = chunker_input("stream", 300_000)
    cuts = Chunker(odd, 12345).cut(data, is_last=True)
    cases.append(
        {"min": 4097, "avg": 10001, "max": 40001, "seed": 12345, "input": "stream"}
        | {"length": len(data), "chunks": [size for _, size in cuts]}
    )
    return cases


def sealing_vector() -> list[dict[str, Any]]:
    """One section of each kind in an object of each role."""
    cases = []
    for role in Role:
        for section in Section:
            ordinal = 3 if section is Section.BLOCK else 0
            plain = f"{role.name} {section.name}".encode()
            salt = make_salt(s.KEYS, role, s.random_of("section"), [(section, ordinal, plain)])
            sealer = Sealer(s.KEYS, role, salt)
            cases.append(
                {
                    "role": int(role),
                    "section": int(section),
                    "ordinal": ordinal,
                    "random": s.random_of("section").hex(),
                    "plaintext": plain.hex(),
                    "header": sealer.header_bytes.hex(),
                    "sealed": sealer.seal(section, ordinal, plain).hex(),
                }
            )
    return cases


def structures() -> dict[str, bytes]:
    """Every structure's canonical bytes, by name."""
    folder_root, folder_nodes = s.large_folder(3000)
    span_root, span_nodes = s.span_tree(s.many_spans(3000))
    return {
        "tree-node": next(iter(s.tree_nodes().values())),
        "tree-inner-node": folder_nodes[folder_root],
        "span-node": next(iter(s.span_nodes().values())),
        "span-inner-node": span_nodes[span_root],
        "directory": s.data_pack().directory.body,
        "index-of-writer": index.encode_index(s.writer_index()),
        "index-of-admin": index.encode_index(s.admin_index()),
        "snapshot": snapshot.encode_snapshot(s.SNAPSHOT),
        "snapshot-partial": snapshot.encode_snapshot(s.PARTIAL),
        "enrolment": records.encode_enrolment(s.ENROLMENT),
        "amendment": records.encode_amendment(s.AMENDMENT),
        "amendment-of-nothing": records.encode_amendment(s.AMENDMENT_OF_NOTHING),
        "forget": records.encode_forget(s.FORGET),
        "forget-with-chains": records.encode_forget(s.FORGET_WITH_CHAINS),
        "distrust": records.encode_distrust(s.DISTRUST),
        "distrust-taken-back": records.encode_distrust(s.DISTRUST_TAKEN_BACK),
        "config": config.encode_config_body(s.CONFIG),
        **{name: case.data for name, case in rejects.ACCEPTED.items()},
    }


def objects() -> dict[str, bytes]:
    """Whole objects as they lie in a store, by file name."""
    parts = structures()
    sealed = {
        "index": (Role.INDEX, parts["index-of-writer"], s.WRITER),
        "index-of-admin": (Role.INDEX, parts["index-of-admin"], s.ADMIN),
        "snapshot": (Role.SNAPSHOT, parts["snapshot"], s.WRITER),
        "enrolment": (Role.ENROLMENT, parts["enrolment"], s.ADMIN),
        "amendment": (Role.AMENDMENT, parts["amendment"], s.WRITER),
        "forget": (Role.FORGET, parts["forget"], s.ADMIN),
        "distrust": (Role.DISTRUST, parts["distrust"], s.ADMIN),
        "config-copy": (Role.CONFIG, parts["config"], s.ADMIN),
    }
    found = {name: s.sealed(*arguments).data for name, arguments in sealed.items()}
    found["pack-data"] = bytes(s.data_pack().data)
    found["pack-meta"] = bytes(s.meta_pack().data)
    found["config"] = config.encode_config(s.KEYS, s.CONFIG)
    return found


# Kept whole, for readers in other languages; of the others the SHA-256 says as much.
WHOLE = ("config", "pack-data", "index", "snapshot")


def key_files() -> dict[str, str]:
    """A wrapped (cheap parameters) and an unwrapped key file, and one for a store."""
    secrets = Secrets(s.KEYS.archive_key, s.WRITER.seed)
    cheap = ScryptParams(log_n=4, r=8, p=1)
    arguments = (KeyPurpose.HOST, s.ARCHIVE_ID, secrets)
    return {
        "passphrase": "pässword",
        "wrapped": encode_key_file(*arguments, "pässword", s.random_of("key"), cheap).hex(),
        "unwrapped": encode_key_file(*arguments, None, s.random_of("key")).hex(),
        "published": encode_key_file(
            KeyPurpose.PUBLISHED,
            s.ARCHIVE_ID,
            Secrets(s.KEYS.archive_key),
            "pässword",
            s.random_of("key"),
            cheap,
        ).hex(),
    }


PADDED: tuple[int, ...] = (
    0,
    1,
    65535,
    65536,
    65537,
    131072,
    131073,
    524289,
    1 << 20,
    (1 << 20) + 1,
    1234567,
)
PADDED += (16 << 20, (16 << 20) + 1, 17_000_000, 1 << 30, (1 << 40) - 1)


def build() -> dict[str, bytes]:
    """Return every vector file's bytes by name."""
    whole = objects()
    tables: dict[str, Any] = {
        "keys.json": keys_vector(),
        "ids.json": ids_vector(),
        "chunker.json": chunker_vector(),
        "sealing.json": sealing_vector(),
        "padded_len.json": {str(length): padded_len(length) for length in PADDED},
        "structures.json": {name: data.hex() for name, data in structures().items()},
        "objects.json": {name: hashlib.sha256(d).hexdigest() for name, d in whole.items()},
        "key_files.json": key_files(),
        "rejects.json": rejects.cases(),
        "layout.json": layout(),
        "server.json": server(),
    }
    files = {name: _json(table) for name, table in tables.items()}
    return files | {f"{name}.bin": whole[name] for name in WHOLE}


def server() -> dict[str, Any]:
    """What a partner's server signs and answers."""
    pack_id, data = s.data_pack().pack_id, s.data_pack().data
    return {
        "receipt": receipt.sign_receipt(s.RECEIPT, s.WRITER).hex(),
        "public_key": s.WRITER.public_key.hex(),
        "questions": [
            audit.audit_question(s.KEYS.audit_key, pack_id, n).hex() for n in (0, 1, 2**40)
        ],
        "answers": [
            answer.hex() for answer in audit.audit_answers(s.KEYS.audit_key, pack_id, [data], 2)
        ],
    }


def layout() -> dict[str, Any]:
    """Where things lie in pack-data.bin."""
    built = s.data_pack()
    return {
        "blocks": [
            [block.offset, block.sealed_len, block.plain_len, block.codec]
            for block in built.directory.blocks
        ],
        "trailer_len": pack.TRAILER_LEN,
        "size": len(built.data),
        "pack_id": built.pack_id.hex(),
        "chunks": [
            [chunk_id.hex(), length]
            for chunk_id, length in zip(
                built.directory.chunk_ids, built.directory.chunk_lens, strict=True
            )
        ],
    }


def _json(table: Any) -> bytes:
    return (json.dumps(table, indent=1, ensure_ascii=False) + "\n").encode()


def main() -> None:
    """Write all files."""
    for name, data in build().items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
