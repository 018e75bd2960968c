"""The committed vectors: what this version writes, reads and refuses, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vectors import make, node_cases, rejects
from vectors import samples as s

from coopfs import errors
from coopfs.format import config, index, nodes, records, snapshot
from coopfs.format.body import open_body, verify_body
from coopfs.format.keys import PACK_ROLES, Role
from coopfs.format.pack import decode_directory, open_block, parse_pack
from coopfs.format.sealing import decode_header
from coopfs.format.wrapping import KeyPurpose, Secrets, decode_key_file, unwrap

VECTORS = Path(make.__file__).parent

PARSERS: dict[str, Callable[[bytes], Any]] = {
    "tree-node": lambda data: nodes.decode_tree_node(data, "case"),
    "span-node": lambda data: nodes.decode_span_node(data, "case"),
    "directory": lambda data: decode_directory(data, bytes(64), "case"),
    "index": lambda data: index.decode_index(data, "case"),
    "snapshot": lambda data: snapshot.decode_snapshot(data, "case"),
    "enrolment": lambda data: records.decode_enrolment(data, "case"),
    "amendment": lambda data: records.decode_amendment(data, "case"),
    "forget": lambda data: records.decode_forget(data, "case"),
    "distrust": lambda data: records.decode_distrust(data, "case"),
    "config-body": lambda data: config.decode_config_body(data, "case"),
    "config": lambda data: config.peek_config(data, "case"),
    "pack-header": lambda data: decode_header(data, "case", PACK_ROLES),
}


def table(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def structure(name: str) -> bytes:
    return bytes.fromhex(table("structures.json")[name])


def whole_object(name: str) -> bytes:
    return (VECTORS / f"{name}.bin").read_bytes()


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    return make.build()


@pytest.mark.parametrize("name", sorted(p.name for p in VECTORS.glob("*.[jb]*[n]")))
def test_what_is_written_today_is_what_was_committed(name: str, made: dict[str, bytes]) -> None:
    committed = (VECTORS / name).read_bytes()

    # Compared as a bool: a diff of half a megabyte of hex helps nobody.
    assert (made.get(name) == committed) is True, f"{name} changed; is that meant? see make.py"


def test_no_vector_is_missing(made: dict[str, bytes]) -> None:
    assert sorted(made) == sorted(p.name for p in VECTORS.glob("*.[jb]*[n]"))


# --- what is committed parses to what it was made of ---------------------------


def test_committed_tree_node_has_every_kind_of_entry() -> None:
    node = nodes.decode_tree_node(structure("tree-node"), "vector")

    assert node == nodes.TreeNode(0, s.ENTRIES, ())
    assert {entry.kind for entry in node.entries} == set(s.Kind)


def test_committed_span_node_has_chunks_and_a_hole() -> None:
    assert nodes.decode_span_node(structure("span-node"), "vector").spans == s.SPANS


def test_committed_inner_nodes_lead_to_all_items() -> None:
    folder, tree_nodes = s.large_folder(3000)
    root, span_nodes = s.span_tree(s.many_spans(3000))
    tree_nodes[folder] = structure("tree-inner-node")
    span_nodes[root] = structure("span-inner-node")

    entries = nodes.iter_entries(folder, lambda i: nodes.decode_tree_node(tree_nodes[i], "vector"))
    spans = nodes.iter_spans(root, lambda i: nodes.decode_span_node(span_nodes[i], "vector"))

    assert [entry.name for entry in entries] == [b"%08d" % number for number in range(3000)]
    assert tuple(spans) == s.many_spans(3000)


def test_committed_directory_lists_the_chunks() -> None:
    directory = decode_directory(structure("directory"), bytes(64), "vector")

    assert directory.chunk_lens == tuple(map(len, s.CHUNKS))
    assert directory.chunk_ids == tuple(map(s.KEYS.chunk_id, s.CHUNKS))
    assert directory.writer_id == s.WRITER.writer_id


def test_committed_index_objects_parse() -> None:
    assert index.decode_index(structure("index-of-writer"), "vector") == s.writer_index()
    assert index.decode_index(structure("index-of-admin"), "vector") == s.admin_index()


def test_committed_snapshots_parse() -> None:
    assert snapshot.decode_snapshot(structure("snapshot"), "vector") == s.SNAPSHOT
    assert snapshot.decode_snapshot(structure("snapshot-partial"), "vector") == s.PARTIAL


def test_committed_records_parse() -> None:
    assert records.decode_enrolment(structure("enrolment"), "vector") == s.ENROLMENT
    assert records.decode_amendment(structure("amendment"), "vector") == s.AMENDMENT
    nothing = records.decode_amendment(structure("amendment-of-nothing"), "vector")
    assert nothing == s.AMENDMENT_OF_NOTHING
    assert records.decode_forget(structure("forget"), "vector") == s.FORGET
    chains = records.decode_forget(structure("forget-with-chains"), "vector")
    assert records.decode_distrust(structure("distrust"), "vector") == s.DISTRUST
    taken_back = records.decode_distrust(structure("distrust-taken-back"), "vector")
    assert taken_back == s.DISTRUST_TAKEN_BACK
    assert chains == s.FORGET_WITH_CHAINS


def test_committed_config_parses_with_and_without_the_key() -> None:
    data = whole_object("config")

    assert config.peek_config(data, "vector") == s.CONFIG
    assert config.decode_config(s.KEYS, data, "vector") == s.CONFIG
    assert config.decode_config_body(structure("config"), "vector") == s.CONFIG


def test_committed_pack_opens_to_its_chunks() -> None:
    data = whole_object("pack-data")
    layout = table("layout.json")

    parsed = parse_pack(s.KEYS, data, "vector")
    plain = b"".join(
        open_block(
            parsed.opener,
            ordinal,
            block,
            data[block.offset : block.offset + block.sealed_len],
            "vector",
        )
        for ordinal, block in enumerate(parsed.directory.blocks)
    )

    assert plain == b"".join(s.CHUNKS)
    assert len(data) == layout["size"]
    assert [
        [b.offset, b.sealed_len, b.plain_len, b.codec] for b in parsed.directory.blocks
    ] == layout["blocks"]


@pytest.mark.parametrize(("name", "role"), [("index", Role.INDEX), ("snapshot", Role.SNAPSHOT)])
def test_committed_bodies_open_and_verify(name: str, role: Role) -> None:
    opened = open_body(s.KEYS, whole_object(name), (role,), "vector")

    verify_body(opened, s.ARCHIVE_ID, s.WRITER.public_key)
    assert opened.body == structure("index-of-writer" if name == "index" else name)


def test_committed_key_files_unwrap() -> None:
    vector = table("key_files.json")
    secrets = Secrets(s.KEYS.archive_key, s.WRITER.seed)

    for form in ("wrapped", "unwrapped"):
        key_file = decode_key_file(bytes.fromhex(vector[form]), "vector")
        assert key_file.archive_id == s.ARCHIVE_ID
        assert unwrap(key_file, vector["passphrase"], "vector") == secrets
    published = decode_key_file(bytes.fromhex(vector["published"]), "vector")
    assert published.purpose is KeyPurpose.PUBLISHED
    assert unwrap(published, vector["passphrase"], "vector") == Secrets(s.KEYS.archive_key)


# --- what must be refused, and what must not ------------------------------------


def test_the_rejected_cases_cover_every_parser() -> None:
    assert {case.parser for case in rejects.REJECTED.values()} == set(PARSERS)


@pytest.mark.parametrize("name", rejects.REJECTED)
def test_rejected_case_raises_its_error_and_no_other(name: str) -> None:
    case = rejects.REJECTED[name]

    with pytest.raises(errors.CoopfsError) as caught:
        PARSERS[case.parser](case.data)

    assert type(caught.value) is getattr(errors, case.error)
    assert str(caught.value).startswith("case: ")  # the message names the object


def test_the_bytes_rejected_cases_deviate_from_are_accepted() -> None:
    good = (node_cases.FILE, node_cases.ONE_CHUNK, node_cases.FOLDER, node_cases.SYMLINK)
    for entry in (*good, node_cases.FIFO):
        node = node_cases.encoding.encode({0: 0, 1: [entry]})
        assert len(nodes.decode_tree_node(node, "case").entries) == 1


def test_unknown_keys_below_64_are_ignored() -> None:
    node = nodes.decode_tree_node(structure("tree-node-unknown-keys"), "vector")

    assert [(entry.name, entry.inline) for entry in node.entries] == [(b"name", b"hello")]
    assert not node.entries[0].unsupported


def test_an_unknown_critical_key_hurts_its_entry_alone() -> None:
    node = nodes.decode_tree_node(structure("tree-node-critical-key"), "vector")

    recipe, file = node.entries
    assert (recipe.name, recipe.size) == (b"a recipe", 5)
    assert "critical key 65" in recipe.unsupported
    assert recipe.inline is recipe.spans is recipe.span_root is recipe.tree is None
    assert file.spans is not None
    assert not file.unsupported
