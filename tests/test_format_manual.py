"""coopfs-format(5) says what the code does: its tables against the constants."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from docutils import nodes as rst
from docutils.core import publish_doctree
from vectors import samples as s

from coopfs.format import (
    body,
    chunker,
    codec,
    config,
    encoding,
    index,
    nodes,
    pack,
    receipt,
    sealing,
    snapshot,
    tree,
)
from coopfs.format.index import encode_index
from coopfs.format.keys import SIGN_BODY, SIGN_PACK, Role
from coopfs.format.records import encode_amendment
from coopfs.format.snapshot import encode_snapshot

PAGE = Path(__file__).parents[1] / "man" / "coopfs-format.5.rst"


@pytest.fixture(scope="module")
def page() -> rst.document:
    settings = {"report_level": 2, "halt_level": 2, "_disable_config": True}
    return publish_doctree(PAGE.read_text(encoding="utf-8"), settings_overrides=settings)


def table(page: rst.document, section: str, place: int = 0) -> list[list[str]]:
    """Return the rows (without the head) of a section's own table."""
    for candidate in page.findall(rst.section):
        if candidate.next_node(rst.title).astext() == section:
            tables = [child for child in candidate.children if isinstance(child, rst.table)]
            body_rows = tables[place].next_node(rst.tbody).findall(rst.row)
            return [[cell.astext() for cell in row.children] for row in body_rows]
    raise AssertionError(f"no section {section}")


LIMITS = {
    "object header, bytes": sealing.HEADER_LEN,
    "tag, bytes": sealing.TAG_LEN,
    "pack trailer, bytes": pack.TRAILER_LEN,
    "pack, bytes": pack.MAX_PACK_LEN,
    "blocks in a pack": pack.MAX_BLOCKS,
    "chunks in a pack": pack.MAX_CHUNKS,
    "block, bytes": pack.MAX_BLOCK_LEN,
    "chunk, bytes": pack.MAX_CHUNK_LEN,
    "zstd window, log2 of bytes": codec.WINDOW_LOG_MAX,
    "body, bytes": body.MAX_BODY_LEN,
    "config, bytes": config.MAX_LEN,
    "packs in an index object": index.MAX_PACKS,
    "names in a list of names": index.MAX_NAMES,
    "audit answers of a pack": index.MAX_AUDIT_ANSWERS,
    "items of a node": nodes.MAX_ITEMS,
    "levels of nodes": nodes.MAX_LEVEL,
    "name, bytes": tree.NAME_MAX,
    "symlink target, bytes": tree.TARGET_MAX,
    "owner name, bytes": tree.OWNER_MAX,
    "extended attributes": tree.XATTRS_MAX,
    "extended attribute, bytes": tree.XATTR_VALUE_MAX,
    "extended attributes, bytes": tree.XATTRS_LEN_MAX,
    "nesting under unknown keys": encoding.MAX_DEPTH,
    "first critical key": encoding.CRITICAL_KEY,
    "problems in a snapshot": snapshot.PROBLEMS_MAX,
    "receipt, bytes": receipt.RECEIPT_LEN_MAX,
}
CHOICES = {
    "pack closed at, bytes": pack.PACK_TARGET,
    "block closed at, bytes": pack.BLOCK_TARGET,
    "body compressed from, bytes": body.COMPRESS_MIN,
    "content kept in an entry, bytes": tree.INLINE_MAX,
    "spans kept in an entry": tree.SPANS_MAX,
    "items of a node, least": nodes.ENTRY_MIN,
    "items of a node, most": nodes.ENTRY_MAX,
    "node, bytes": nodes.NODE_BYTES_MAX,
}


def test_the_limits_are_those_of_the_code(page: rst.document) -> None:
    assert {row[0]: int(row[1]) for row in table(page, "Limits")} == LIMITS
    assert {row[0]: int(row[1]) for row in table(page, "Limits", 1)} == CHOICES
    assert (nodes.SPAN_MIN, nodes.SPAN_MAX) == (nodes.ENTRY_MIN, nodes.ENTRY_MAX)
    assert nodes.SPAN_MASK == nodes.ENTRY_MASK == (1 << 10) - 1


def test_roles_and_sections_are_those_of_the_code(page: rst.document) -> None:
    roles = {row[1]: int(row[0]) for row in table(page, "Sealing", 1)}
    sections = {row[1]: int(row[0]) for row in table(page, "Sealing", 3)}

    assert roles == {role.name: int(role) for role in Role}
    assert sections == {section.name: int(section) for section in sealing.Section}


def test_the_header_is_laid_out_as_the_table_says(page: rst.document) -> None:
    header = sealing.Header(Role.META, b"s" * 32, b"c" * 16).encode()
    fields = [header[int(row[0]) :][: int(row[1])] for row in table(page, "Sealing")]

    assert fields == [
        b"COOPFS\r\n", b"\1", b"\2", b"\0\0", b"\0", bytes(3), b"s" * 32, b"c" * 16
    ]  # fmt: skip
    assert b"".join(fields) == header


def test_contexts_are_those_of_the_vectors(page: rst.document) -> None:
    from test_format_spec import table as vector

    named = {row[0] for row in table(page, "Keys", 1)}

    roles = {"coopfs 1 data", "coopfs 1 meta", "coopfs 1 index", "coopfs 1 snapshot"}
    assert named == roles | set(vector("keys.json")["derived"])
    signed = " ".join(row[1] for row in table(page, "Keys", 2))
    for context in (SIGN_PACK, SIGN_BODY, receipt.SIGN_RECEIPT):
        assert f"{context[:-1].decode()} ‖ 00 ‖" in signed


def keys_of(rows: list[list[str]]) -> set[int]:
    return {int(row[0]) for row in rows}


@pytest.mark.parametrize(
    ("section", "place", "known"),
    [
        ("Pack", 1, set(pack._KNOWN)),
        ("Config", 1, set(config._KNOWN)),
        ("Index object", 0, set(index._KNOWN)),
        ("Index object", 1, set(index._KNOWN_PACK)),
        ("Tree", 0, set(nodes._KNOWN)),
        ("Tree", 1, set(tree._KNOWN) | {64}),
        ("Snapshot", 0, set(snapshot._KNOWN)),
        ("Records", 0, set(range(8))),
        ("Receipt", 0, set(receipt._KNOWN)),
    ],
)
def test_every_field_is_in_its_table(
    page: rst.document, section: str, place: int, known: set[int]
) -> None:
    assert keys_of(table(page, section, place)) == known


@pytest.mark.parametrize(
    ("section", "place", "data"),
    [
        ("Pack", 1, s.data_pack().directory.body),
        ("Config", 1, config.encode_config_body(s.CONFIG)),
        ("Index object", 0, encode_index(s.writer_index())),
        ("Snapshot", 0, encode_snapshot(s.SNAPSHOT)),
        ("Snapshot", 0, encode_snapshot(s.PARTIAL)),
        ("Records", 0, encode_amendment(s.AMENDMENT)),
        ("Receipt", 0, receipt.sign_receipt(s.RECEIPT, s.WRITER)[:-64]),
    ],
)
def test_fields_have_the_types_their_tables_say(
    page: rst.document, section: str, place: int, data: bytes
) -> None:
    rows = {int(row[0]): row[1] for row in table(page, section, place)}
    types = {int: "int", bytes: "bin", str: "str", list: "list", dict: "map", bool: "bool"}

    fields: dict[int, Any] = encoding.decode(data, "sample")

    for key, value in fields.items():
        said = rows[key]
        assert said.startswith(types[type(value)]), f"{section}, key {key}: {said}"
        exact = re.fullmatch(r"bin \((16|32|64)\).*", said)
        assert not exact or len(value) == int(exact[1])
    for key in rows.keys() - fields.keys():
        assert "optional" in rows[key]


def test_the_chunker_table_has_the_default_in_it(page: rst.document) -> None:
    rows = [list(map(float, row)) for row in table(page, "Chunk sizes")]
    default = chunker.ChunkerParams.for_average(chunker.AVG_DEFAULT)

    assert any(
        row[:3] == [size / 1024 for size in (default.avg_len, default.min_len, default.max_len)]
        for row in rows
    )
    text = PAGE.read_text(encoding="utf-8")
    assert f"The default is an average of {chunker.AVG_DEFAULT >> 10} KiB" in text


def test_magic_numbers_stand_in_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert "28 B5 2F FD" in text
    assert zstd.compress(b"")[:4] == bytes.fromhex("28B52FFD")
    assert chunker.CHUNKER_NAME in text
