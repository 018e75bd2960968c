"""A second reader, written from coopfs-format(5) alone: it must read the same vectors.

It shares no code with coopfs.  What it needs that the page does not say is a
defect of the page.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from backports import zstd
from blake3 import blake3
from Crypto.Cipher import AES
from Crypto.PublicKey import ECC
from Crypto.Signature import eddsa

VECTORS = Path(__file__).parent / "vectors"
ARCHIVE_KEY = bytes(range(32))
ROLE_KEYS = {1: "data", 2: "meta", 3: "index", 4: "snapshot", 5: "snapshot"}
BLOCK, PADDING, DIRECTORY, TRAILER, BODY = range(5)


def table(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def derive(role: str) -> bytes:
    return blake3(ARCHIVE_KEY, derive_key_context=f"coopfs 1 {role}").digest()


def unseal(header: bytes, section: int, ordinal: int, sealed: bytes) -> bytes:
    magic, version, role, epoch, wrapping, reserved = struct.unpack(">8sBBHB3s", header[:16])
    assert (magic, version, epoch, wrapping, reserved) == (b"COOPFS\r\n", 1, 0, 0, bytes(3))
    stream = blake3(header[16:48], key=derive(ROLE_KEYS[role])).digest(48)
    assert stream[32:] == header[48:64]
    nonce = bytes([section]) + ordinal.to_bytes(11, "big")
    cipher = AES.new(stream[:32], AES.MODE_GCM, nonce=nonce)
    cipher.update(header + struct.pack(">BQQ", section, ordinal, len(sealed) - 16))
    return cipher.decrypt_and_verify(sealed[:-16], sealed[-16:])


def check_signature(seed: bytes, message: bytes, signature: bytes) -> None:
    public = ECC.construct(curve="Ed25519", seed=seed).public_key()
    eddsa.new(public, "rfc8032").verify(message, signature)


def read_body(name: str) -> tuple[bytes, bytes]:
    """Return (signature, body) of a sealed body."""
    data = (VECTORS / f"{name}.bin").read_bytes()
    assert hashlib.sha256(data).hexdigest() == table("objects.json")[name]
    inner = unseal(data[:64], BODY, 0, data[64:])
    codec, plain_len, stored_len = struct.unpack_from(">BQQ", inner, 64)
    stored, padding = inner[81 : 81 + stored_len], inner[81 + stored_len :]
    assert not padding.strip(b"\0")
    body = zstd.decompress(stored) if codec else stored
    assert len(body) == plain_len
    return inner[:64], body


def test_pack_can_be_read_from_its_last_bytes() -> None:
    data = (VECTORS / "pack-data.bin").read_bytes()
    header, trailer = data[:64], data[-96:]
    assert trailer[:64] == header
    offset, length = struct.unpack(">QQ", unseal(trailer[:64], TRAILER, 0, trailer[64:]))
    assert offset + length + 96 == len(data)
    plain = unseal(header, DIRECTORY, 0, data[offset : offset + length])
    directory, signature = msgpack.unpackb(plain[:-64], strict_map_key=False), plain[-64:]
    check_signature(b"w" * 32, b"coopfs 1 sign pack directory\0" + plain[:-64], signature)
    assert directory[4] == blake3(data[:offset]).digest()

    place = 64
    chunk_lens = iter(directory[2])
    found: list[list[Any]] = []
    ids = [directory[1][i : i + 32] for i in range(0, len(directory[1]), 32)]
    for ordinal, (sealed_len, plain_len, codec, count) in enumerate(directory[0]):
        stored = unseal(header, BLOCK, ordinal, data[place : place + sealed_len])
        block = zstd.decompress(stored) if codec else stored
        assert len(block) == plain_len
        for _ in range(count):
            chunk_len = next(chunk_lens)
            chunk, block = block[:chunk_len], block[chunk_len:]
            assert ids[len(found)] == blake3(chunk, key=derive("chunk id")).digest()
            found.append([ids[len(found)].hex(), chunk_len])
        place += sealed_len

    assert not unseal(header, PADDING, 0, data[place:offset]).strip(b"\0")
    assert found == table("layout.json")["chunks"]
    assert hashlib.sha256(data).hexdigest() == table("layout.json")["pack_id"]


def test_index_leads_to_the_pack() -> None:
    signature, body = read_body("index")
    archive_id = bytes(range(0x40, 0x50))
    check_signature(b"w" * 32, b"coopfs 1 sign body\0" + b"\3" + archive_id + body, signature)

    packs = msgpack.unpackb(body, strict_map_key=False)[0]

    pack = (VECTORS / "pack-data.bin").read_bytes()
    assert packs[0][0] == hashlib.sha256(pack).digest()
    assert packs[0][1] == len(pack)
    assert packs[0][2] == pack[:64]


def test_snapshot_says_what_it_is() -> None:
    signature, body = read_body("snapshot")
    archive_id = bytes(range(0x40, 0x50))
    check_signature(b"w" * 32, b"coopfs 1 sign body\0" + b"\4" + archive_id + body, signature)

    facts = msgpack.unpackb(body, strict_map_key=False)

    assert (facts[0], facts[1], facts[2]) == ("wren.example", "home", 7)
    assert facts[4] == 1_795_408_111_123_456_789


def test_config_has_a_keyed_checksum() -> None:
    data = (VECTORS / "config.bin").read_bytes()

    assert data[:9] == b"COOPFSC\n\1"
    assert data[9:41] == blake3(data[41:], key=derive("config")).digest()
    assert msgpack.unpackb(data[41:], strict_map_key=False)[2] == "fastcdc2020-nc1"


def test_salt_is_hedged_over_what_is_sealed() -> None:
    for case in table("sealing.json"):
        header, plain = bytes.fromhex(case["header"]), bytes.fromhex(case["plaintext"])
        hashed = bytes.fromhex(case["random"]) + header[:16]
        hashed += struct.pack(">BQQ", case["section"], case["ordinal"], len(plain)) + plain
        assert header[16:48] == blake3(hashed, key=derive("hedge")).digest()


def test_keys_follow_from_the_archive_key() -> None:
    vector = table("keys.json")

    assert vector["archive_key"] == ARCHIVE_KEY.hex()
    for context, key in vector["derived"].items():
        assert blake3(ARCHIVE_KEY, derive_key_context=context).hexdigest() == key
    seed = int.from_bytes(derive("chunker")[:8], "big") // 2
    assert vector["chunker_seed"] == seed
    public = bytes.fromhex(vector["writer_public_key"])
    assert vector["writer_id"] == blake3(public).hexdigest()[:32]


def test_the_owners_identity_follows_from_the_admin_key() -> None:
    vector = table("keys.json")

    admin_key = bytes.fromhex(vector["admin_key"])
    seed = blake3(admin_key, derive_key_context="coopfs 1 owner identity").hexdigest()
    assert vector["owner_identity_seed"] == seed
    certificate = bytes.fromhex(vector["owner_identity_certificate"])
    assert vector["owner_identity_pin"] == hashlib.sha256(certificate).hexdigest()
    key = ECC.construct(curve="Ed25519", seed=bytes.fromhex(seed))
    public_key = key.public_key().export_key(format="raw")
    assert public_key in certificate
    # TBSCertificate, then an AlgorithmIdentifier of 7 bytes, then a bit string of 67.
    signed, signature = certificate[4:-74], certificate[-64:]
    check_signature(bytes.fromhex(seed), signed, signature)


# --- the chunker ---------------------------------------------------------------

GEAR = [int.from_bytes(hashlib.md5(bytes([i]) * 64).digest()[:8], "big") for i in range(256)]  # noqa: S324  # the table's origin
MASKS = {
    11: 0x0000D90003530000, 12: 0x0000D90103530000, 13: 0x0000D90303530000,
    14: 0x0000D90313530000, 15: 0x0000D90F03530000, 16: 0x0000D90303537000,
    17: 0x0000D90703537000, 18: 0x0000D90707537000, 19: 0x0000D91707537000,
}  # fmt: skip


def cut(data: bytes, least: int, average: int, most: int, seed: int) -> list[int]:
    """Return chunk lengths as coopfs-format(5), "Chunker", says; one byte at a time."""
    bits = round(math.log2(average))
    strict, lax = MASKS[bits + 1], MASKS[bits - 1]
    table_ = [value ^ seed for value in GEAR]
    lengths = []
    start = 0
    while start < len(data):
        left = len(data) - start
        length = min(left, most)
        if left > least:
            middle, end = min(average, length) & ~1, length & ~1
            state = 0
            for place in range(least & ~1, end):
                state = (state << 1) + table_[data[start + place]] & (1 << 64) - 1
                if not state & (strict if place < middle else lax):
                    length = place
                    break
        lengths.append(length)
        start += length
    return lengths


def chunker_input(name: str, length: int) -> bytes:
    if name == "stream":
        return blake3(b"chunker").digest(length)
    if name == "zeros":
        return bytes(length)
    return b"".join(b"%d %d\n" % (n, n * n) for n in range(length // 8))[:length]


@pytest.mark.parametrize(
    "case",
    [case for case in table("chunker.json") if case["length"] <= 300_000],
    ids=lambda case: f"{case['avg']} {case['input']}",
)
def test_chunker_cuts_where_the_page_says(case: dict[str, Any]) -> None:
    data = chunker_input(case["input"], case["length"])

    lengths = cut(data, case["min"], case["avg"], case["max"], case["seed"])

    assert lengths == case["chunks"]


def test_a_receipt_and_answers_of_a_server() -> None:
    server = table("server.json")
    receipt = bytes.fromhex(server["receipt"])
    body, signature = receipt[:-64], receipt[-64:]
    check_signature(b"w" * 32, b"coopfs 1 sign receipt\0" + body, signature)
    kind, name, size, time_ns = (
        msgpack.unpackb(body, strict_map_key=False)[key] for key in range(4)
    )
    assert (kind, len(name), size, time_ns) == ("data", 32, 16 << 20, 1_795_408_111_123_456_789)

    pack = (VECTORS / "pack-data.bin").read_bytes()
    pack_id = hashlib.sha256(pack).digest()
    for number, question in zip((0, 1, 2**40), server["questions"], strict=True):
        asked = blake3(pack_id + struct.pack(">Q", number), key=derive("audit")).digest()
        assert asked.hex() == question
    for question, answer in zip(server["questions"], server["answers"], strict=False):
        assert blake3(pack, key=bytes.fromhex(question)).hexdigest() == answer
