"""Packs: what was put in comes out, and no change goes unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import samples as s

from coopfs.errors import DataError, FormatUnsupported, ObjectCorrupt, SignatureInvalid
from coopfs.format import pack as p
from coopfs.format.codec import Codec, Compressor
from coopfs.format.keys import PACK_ROLES, SIGN_PACK, Role
from coopfs.format.sealing import HEADER_LEN, TAG_LEN, Opener, Sealer, Section, padded_len

PACK = s.data_pack()
DATA = bytes(PACK.data)
DIRECTORY_AT = p.decode_trailer(s.KEYS, DATA, len(DATA), "pack")[1:]


def build(drafts: Sequence[p.BlockDraft], label: str = "test") -> tuple[p.BuiltPack, bytes]:
    built = p.build_pack(s.KEYS, s.WRITER, Role.DATA, drafts, s.random_of(label))
    return built, bytes(built.data)


def read_blocks(data: bytes) -> list[bytes]:
    parsed = p.parse_pack(s.KEYS, data, "pack")
    return [
        p.open_block(
            parsed.opener, i, block, data[block.offset : block.offset + block.sealed_len], "pack"
        )
        for i, block in enumerate(parsed.directory.blocks)
    ]


chunks = st.binary(min_size=1, max_size=50)
blocks = st.lists(st.lists(chunks, min_size=1, max_size=5), max_size=6)


@settings(max_examples=50)
@given(blocks, st.binary(min_size=32, max_size=32), st.sampled_from(PACK_ROLES))
def test_what_is_packed_comes_back(content: list[list[bytes]], random: bytes, role: Role) -> None:
    drafts = []
    for block in content:
        codec, stored = Compressor().compress(b"".join(block) * 9)
        ids = tuple((bytes(s.KEYS.chunk_id(chunk)), len(chunk)) for chunk in block * 9)
        drafts.append(p.BlockDraft(codec, stored, len(b"".join(block)) * 9, ids))

    built = p.build_pack(s.KEYS, s.WRITER, role, drafts, random)
    data = bytes(built.data)

    assert read_blocks(data) == [b"".join(block) * 9 for block in content]
    parsed = p.parse_pack(s.KEYS, data, "pack")
    assert parsed.directory == built.directory
    assert len(built.data) == len(data) == padded_len(len(data))
    p.verify_directory(parsed.directory, s.WRITER.public_key, "pack")


def test_the_same_arguments_give_the_same_bytes() -> None:
    drafts = [s.draft(b"x")]

    assert build(drafts)[1] == build(drafts)[1]
    assert build(drafts)[1] != build(drafts, "other random")[1]
    by_other = p.build_pack(s.KEYS, s.OTHER_WRITER, Role.DATA, drafts, s.random_of("test"))
    assert by_other.header.salt != build(drafts)[0].header.salt


@settings(max_examples=300)
@given(st.integers(0, 8 * len(DATA) - 1))
def test_no_bit_of_a_pack_may_change(bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, bytes(data), "pack")


REGIONS = {
    "magic": 0,
    "version": 8,
    "role": 9,
    "reserved": 15,
    "salt": 16,
    "commitment": 48,
    "first block": HEADER_LEN,
    "first block's tag": PACK.directory.blocks[1].offset - 1,
    "last block": PACK.directory.blocks[2].offset,
    "padding": PACK.directory.blocks[2].offset + PACK.directory.blocks[2].sealed_len,
    "padding's tag": DIRECTORY_AT[0] - 1,
    "directory": DIRECTORY_AT[0],
    "signature": DIRECTORY_AT[0] + DIRECTORY_AT[1] - TAG_LEN - 1,
    "trailer's header": len(DATA) - p.TRAILER_LEN,
    "trailer's salt": len(DATA) - p.TRAILER_LEN + 16,
    "position": len(DATA) - TAG_LEN - 1,
    "trailer's tag": len(DATA) - 1,
}


@pytest.mark.parametrize("region", REGIONS)
def test_damage_in_each_region_is_found(region: str) -> None:
    data = bytearray(DATA)
    data[REGIONS[region]] ^= 1

    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, bytes(data), "pack")


@pytest.mark.parametrize("bit", range(8))
def test_a_damaged_block_gives_no_byte(bit: int) -> None:
    parsed = p.parse_pack(s.KEYS, DATA, "pack")
    block = parsed.directory.blocks[1]
    sealed = bytearray(DATA[block.offset : block.offset + block.sealed_len])
    sealed[3] ^= 1 << bit

    with pytest.raises(ObjectCorrupt, match="block 1 is damaged"):
        p.open_block(parsed.opener, 1, block, bytes(sealed), "pack")


@pytest.mark.parametrize("length", [0, 1, 63, 64, 95, 96, 160, 4096, 65535])
def test_a_truncated_pack_is_refused(length: int) -> None:
    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, DATA[:length], "pack")
    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, DATA[-length:] if length else b"", "pack")


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, DATA + b"\0", "pack")
    with pytest.raises(ObjectCorrupt, match="its trailer says otherwise"):
        p.decode_trailer(s.KEYS, DATA, len(DATA) + 1, "pack")


def test_a_pack_longer_than_any_is_refused_by_its_size_alone() -> None:
    with pytest.raises(ObjectCorrupt, match="more than a pack may have"):
        p.decode_trailer(s.KEYS, DATA, p.MAX_PACK_LEN + 1, "pack")


def test_blocks_swapped_within_a_pack_are_refused() -> None:
    drafts = [s.draft(b"first"), s.draft(b"other")]  # of one length
    built, data = build(drafts)
    one, two = built.directory.blocks
    swapped = (
        data[: one.offset]
        + data[two.offset : two.offset + two.sealed_len]
        + data[one.offset : one.offset + one.sealed_len]
        + data[two.offset + two.sealed_len :]
    )

    with pytest.raises(ObjectCorrupt, match="not the ones its writer signed"):
        p.parse_pack(s.KEYS, swapped, "pack")
    opener = Opener(s.KEYS, built.header, "pack")
    moved = swapped[one.offset : one.offset + one.sealed_len]
    with pytest.raises(ObjectCorrupt, match="block 0 is damaged"):
        p.open_block(opener, 0, one, moved, "pack")


def test_blocks_swapped_between_packs_are_refused() -> None:
    drafts = [s.draft(b"first")]
    built, data = build(drafts, "one")
    _, other = build(drafts, "two")
    block = built.directory.blocks[0]
    end = block.offset + block.sealed_len
    swapped = data[: block.offset] + other[block.offset : end] + data[end:]

    with pytest.raises(ObjectCorrupt):
        p.parse_pack(s.KEYS, swapped, "pack")
    opener = Opener(s.KEYS, built.header, "pack")
    with pytest.raises(ObjectCorrupt, match="block 0 is damaged"):
        p.open_block(opener, 0, block, other[block.offset : end], "pack")


def test_directories_swapped_between_packs_are_refused() -> None:
    _, one = build([s.draft(b"first")], "one")
    _, two = build([s.draft(b"first")], "two")
    at, length = p.decode_trailer(s.KEYS, one, len(one), "pack")[1:]

    with pytest.raises(ObjectCorrupt):
        p.parse_pack(s.KEYS, one[:at] + two[at : at + length] + one[at + length :], "pack")
    with pytest.raises(ObjectCorrupt, match="header and trailer differ"):
        p.parse_pack(s.KEYS, one[: -p.TRAILER_LEN] + two[-p.TRAILER_LEN :], "pack")


def test_another_archives_key_does_not_open_it() -> None:
    with pytest.raises(DataError, match="sealed with another key"):
        p.parse_pack(s.OTHER_KEYS, DATA, "pack")


def test_a_body_does_not_pass_as_a_pack() -> None:
    body = s.sealed(Role.INDEX, b"", s.WRITER).data

    with pytest.raises(DataError):
        p.parse_pack(s.KEYS, body, "pack")


# --- signatures ------------------------------------------------------------------


def test_another_writers_key_does_not_verify_it() -> None:
    with pytest.raises(SignatureInvalid):
        p.verify_directory(PACK.directory, s.OTHER_WRITER.public_key, "pack")


@given(st.integers(0, 511))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    signature = bytearray(PACK.directory.signature)
    signature[bit // 8] ^= 1 << bit % 8
    forged = p.decode_directory(PACK.directory.body, bytes(signature), "pack")

    with pytest.raises(SignatureInvalid):
        p.verify_directory(forged, s.WRITER.public_key, "pack")


def test_a_missing_signature_is_refused() -> None:
    unsigned = p.decode_directory(PACK.directory.body, bytes(64), "pack")

    with pytest.raises(SignatureInvalid):
        p.verify_directory(unsigned, s.WRITER.public_key, "pack")
    with pytest.raises(ObjectCorrupt):
        p.decode_directory(PACK.directory.body, b"", "pack")


def test_a_signature_for_another_purpose_does_not_count() -> None:
    body = PACK.directory.body
    misused = p.decode_directory(body, s.WRITER.sign(b"coopfs 1 sign body\0", body), "pack")

    with pytest.raises(SignatureInvalid):
        p.verify_directory(misused, s.WRITER.public_key, "pack")


def reseal(data: bytes, body: bytes, signature: bytes) -> bytes:
    """What a hacked writer can do: another directory of the same length, sealed well."""
    opener, at, length = p.decode_trailer(s.KEYS, data, len(data), "pack")
    sealer = Sealer(s.KEYS, opener.header.role, opener.header.salt)
    sealed = sealer.seal(Section.DIRECTORY, 0, body + signature)
    assert len(sealed) == length
    return data[:at] + sealed + data[at + length :]


def test_blocks_that_are_not_the_signed_ones_are_refused_even_when_well_sealed() -> None:
    sealer = Sealer(s.KEYS, PACK.header.role, PACK.header.salt)
    block = PACK.directory.blocks[0]
    other = sealer.seal(Section.BLOCK, 0, bytes(block.sealed_len - TAG_LEN))
    forged = DATA[: block.offset] + other + DATA[block.offset + block.sealed_len :]

    with pytest.raises(ObjectCorrupt, match="not the ones its writer signed"):
        p.parse_pack(s.KEYS, forged, "pack")


def test_a_directory_signed_by_another_names_the_other() -> None:
    body = PACK.directory.body.replace(s.WRITER.writer_id, s.OTHER_WRITER.writer_id)
    forged = reseal(DATA, body, s.OTHER_WRITER.sign(SIGN_PACK, body))

    directory = p.parse_pack(s.KEYS, forged, "pack").directory

    assert directory.writer_id == s.OTHER_WRITER.writer_id
    with pytest.raises(SignatureInvalid):
        p.verify_directory(directory, s.WRITER.public_key, "pack")


def test_padding_that_is_not_zero_is_refused() -> None:
    start = PACK.directory.blocks[2].offset + PACK.directory.blocks[2].sealed_len
    end = DIRECTORY_AT[0]
    sealer = Sealer(s.KEYS, PACK.header.role, PACK.header.salt)
    padding = sealer.seal(Section.PADDING, 0, b"\1" + bytes(end - start - TAG_LEN - 1))
    data = DATA[:start] + padding + DATA[end:]
    digest = p.blake3(data[:end]).digest()
    body = PACK.directory.body.replace(PACK.directory.digest, digest)

    with pytest.raises(ObjectCorrupt, match="padding is not zero"):
        p.parse_pack(s.KEYS, reseal(data, body, s.WRITER.sign(SIGN_PACK, body)), "pack")


# --- what a block decodes to -------------------------------------------------------


def test_an_unknown_codec_hurts_its_block_alone() -> None:
    drafts = [p.BlockDraft(9, b"?", 1, ((s.digest_of("x"), 1),)), s.draft(b"fine")]
    built, data = build(drafts)
    parsed = p.parse_pack(s.KEYS, data, "pack")
    odd, fine = built.directory.blocks

    with pytest.raises(FormatUnsupported, match="unknown codec 9"):
        p.open_block(parsed.opener, 0, odd, data[odd.offset : odd.offset + odd.sealed_len], "pack")
    assert p.open_block(parsed.opener, 1, fine, data[fine.offset :][: fine.sealed_len], "pack")


def test_a_block_that_decodes_to_more_than_its_directory_says_is_refused() -> None:
    bomb = s.zstd_of_xs(1 << 20, declared=5)
    built, data = build([p.BlockDraft(Codec.ZSTD, bomb, 5, ((s.digest_of("x"), 5),))])
    block = built.directory.blocks[0]

    with pytest.raises(ObjectCorrupt, match="block 0"):
        p.open_block(
            Opener(s.KEYS, built.header, "pack"),
            0,
            block,
            data[block.offset : block.offset + block.sealed_len],
            "pack",
        )


def test_a_block_of_the_wrong_length_says_truncated() -> None:
    opener = Opener(s.KEYS, PACK.header, "pack")
    block = PACK.directory.blocks[0]

    with pytest.raises(ObjectCorrupt, match="truncated"):
        p.open_block(opener, 0, block, DATA[block.offset : block.offset + 5], "pack")


def test_a_pack_that_could_not_be_read_again_is_not_built() -> None:
    with pytest.raises(ObjectCorrupt):
        build([p.BlockDraft(Codec.RAW, b"", 0, ((s.digest_of("x"), 0),))])
