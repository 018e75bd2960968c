"""Check finds what is wrong, and names exactly the files that a reader cannot read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checked import (
    Checked,
    check,
    copy_host,
    make_source,
    names,
    opened,
    put_under_false_id,
    unreadable,
)
from hosts import Host
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coopfs.archive.archive import Archive
from coopfs.archive.kept_config import KEPT_CONFIG
from coopfs.archive.select import entry_at
from coopfs.archive.writer import ArchiveWriter
from coopfs.errors import ObjectCorrupt, SignatureInvalid, StoreUnavailable
from coopfs.format import encoding
from coopfs.format.body import seal_body
from coopfs.format.config import encode_config
from coopfs.format.index import IndexObject, encode_index
from coopfs.format.keys import Role
from coopfs.format.nodes import SpanTreeBuilder, TreeBuilder
from coopfs.format.snapshot import encode_snapshot
from coopfs.format.tree import Entry, Span, Totals, encode_entry
from coopfs.format.tree import Kind as EntryKind
from coopfs.ids import ChunkId, SpanNodeId, TreeId
from coopfs.ops.browse import list_entries
from coopfs.ops.check_findings import Subject
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with an archive of two snapshots, to be copied."""
    base = tmp_path_factory.mktemp("pattern")
    host = Host(base / "host")
    host.init(base / "store", "--chunk-size", "64K")
    make_source(base / "source")
    host.ok("snapshot", base / "source", "--series", "s")
    (base / "source" / "folder1" / "new").write_bytes(b"n" * 5000)
    (base / "source" / "inline").write_bytes(b"shorter")
    host.ok("snapshot", base / "source", "--series", "s")
    return base


@pytest.fixture
def host(pattern: Path, tmp_path: Path) -> Iterator[Host]:
    """A copy of the pattern that a test may change; its store stays where it is."""
    shutil.copytree(pattern / "host", tmp_path / "host")
    yield Host(tmp_path / "host")


@pytest.fixture
def archive(host: Host) -> Iterator[Archive]:
    """The host's archive, refreshed, on a faulty store."""
    with opened(host) as (archive, _):
        archive.refresh()
        yield archive


@pytest.fixture
def store(archive: Archive) -> FaultyStore:
    assert isinstance(archive.store, FaultyStore)
    return archive.store


def packs_of(archive: Archive, *, is_meta: bool) -> list[bytes]:
    return [pack.pack_id for pack in archive.index.packs() if pack.is_meta is is_meta]


def path_of(pattern: Path, name: str) -> bytes:
    return str(pattern / "source" / name).encode()


# --- nothing wrong -------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_archive_in_order_is_whole(archive: Archive, share: float) -> None:
    checked = check(archive, share)
    totals = checked.totals
    assert (checked.findings, checked.hurt) == ([], [])
    assert totals.is_whole
    assert totals.snapshots == 2
    assert totals.packs == len(list(archive.index.packs()))
    assert totals.unneeded_chunks == 0
    assert totals.unindexed_packs == 0
    assert totals.packs_read == (totals.packs if share else 0)
    assert totals.read_len == (totals.pack_len if share else 0)


def test_a_share_of_the_packs_is_read(archive: Archive) -> None:
    totals = check(archive, 0.5).totals
    assert totals.packs_read == round(totals.packs / 2)


def test_a_pack_in_no_index_is_counted_and_harmless(archive: Archive, store: FaultyStore) -> None:
    data = b"left by an interrupted run" * 1000
    store.replace(Kind.DATA, hashlib.sha256(data).digest(), data)
    totals = check(archive).totals
    assert totals.is_whole
    assert (totals.unindexed_packs, totals.unindexed_len) == (1, len(data))


def test_chunks_of_no_snapshot_are_counted(archive: Archive) -> None:
    signer = archive.ring.writer()
    assert signer is not None
    with ArchiveWriter(archive, signer) as writer:
        writer.save_chunk(b"nobody needs this" * 100)
        writer.flush()
    pack = list(archive.index.packs())[-1]
    try:
        totals = check(archive).totals
        assert totals.is_whole
        assert (totals.unneeded_chunks, totals.unneeded_len) == (1, 1700)
    finally:  # the store is shared
        inner = archive.store.inner  # type: ignore[attr-defined]  # a FaultyStore
        inner.delete(Kind.DATA, pack.pack_id)
        for name in names(archive.store, Kind.INDEX):  # type: ignore[arg-type]
            if pack.pack_id in {p.pack_id for p in archive.read_index_object(name).packs}:
                inner.delete(Kind.INDEX, name)


# --- damaged packs ---------------------------------------------------------------


def assert_named_exactly(archive: Archive, checked: Checked) -> None:
    for snapshot in archive.snapshots():
        assert checked.paths(snapshot) == unreadable(archive, snapshot)


def test_a_missing_pack_hurts_exactly_the_files_with_chunks_in_it(
    archive: Archive, store: FaultyStore, pattern: Path
) -> None:
    store.lose(Kind.DATA, packs_of(archive, is_meta=False)[0])
    checked = check(archive)
    assert checked.subjects == [Subject.PACK]
    assert checked.totals.hurt_snapshots == 2
    assert_named_exactly(archive, checked)
    first = archive.snapshots()[0]
    assert path_of(pattern, "long") in checked.paths(first)
    assert path_of(pattern, "inline") not in checked.paths(first)


def test_a_hurt_file_says_how_much_of_it_is_lost(
    archive: Archive, store: FaultyStore, pattern: Path
) -> None:
    snapshot = archive.snapshots()[-1]
    entry = entry_at(archive, snapshot, path_of(pattern, "long"))
    spans = list(archive.iter_spans(entry))
    assert len(spans) > 64
    chunk_id = spans[10].chunk_id
    assert chunk_id is not None
    block = archive.index.block(archive.index.locate(chunk_id)[0].block_no)
    pack = archive.index.pack(block.pack_no)
    store.flip(Kind.DATA, pack.pack_id, block.offset + 1000)
    (hurt,) = [h for h in check(archive, 1.0).hurt if h.path.endswith(b"/long")][:1]
    lost = [span.length for span in spans if span.chunk_id in block.chunk_ids]
    first = min(i for i, span in enumerate(spans) if span.chunk_id in block.chunk_ids)
    assert hurt.size == 9_000_000
    assert hurt.lost_len == sum(lost)
    assert hurt.first_lost == sum(span.length for span in spans[:first])


def test_a_flipped_bit_in_data_is_found_only_by_reading(
    archive: Archive, store: FaultyStore
) -> None:
    store.flip(Kind.DATA, packs_of(archive, is_meta=False)[0], 5000)
    assert check(archive).totals.is_whole
    assert check(archive, 1.0).hurt


def test_damaged_trees_are_found_without_reading_data(archive: Archive, store: FaultyStore) -> None:
    for pack_id in packs_of(archive, is_meta=True):
        store.flip(Kind.DATA, pack_id, 100)
    checked = check(archive)
    assert Subject.TREE in checked.subjects
    assert_named_exactly(archive, checked)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 100), place=st.floats(0, 1), kind=st.sampled_from(["flip", "cut"]))
@example(which=0, place=1.0, kind="flip")
@example(which=1, place=0.0, kind="cut")
def test_damage_anywhere_in_a_pack_is_found_and_names_what_a_reader_cannot_read(
    archive: Archive, store: FaultyStore, which: int, place: float, kind: str
) -> None:
    packs = list(archive.index.packs())
    pack = packs[which % len(packs)]
    offset = min(int(pack.size * place), pack.size - 1)
    try:
        if kind == "flip":
            store.flip(Kind.DATA, pack.pack_id, offset)
        else:
            store.truncate(Kind.DATA, pack.pack_id, offset)
        checked = check(archive, 1.0)
        assert [f.object_id for f in checked.damages if f.subject is Subject.PACK] == [pack.pack_id]
        assert_named_exactly(archive, checked)
    finally:
        store.mend()


def test_a_lost_pack_is_stored_again_by_the_next_snapshot(host: Host, tmp_path: Path) -> None:
    make_source(tmp_path / "source", seed=2)
    own = Host(tmp_path / "own")
    own.init(tmp_path / "store")
    own.ok("snapshot", tmp_path / "source")
    for pack in (tmp_path / "store" / "data").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 1_000_000:
            pack.unlink()
    assert own.run("check").code == 1
    own.ok("snapshot", tmp_path / "source")
    with opened(own) as (archive, _):
        checked = check(archive)
        # It stays missing, but no file needs it any more.
        assert checked.subjects == [Subject.PACK]
        assert checked.hurt == []


def test_a_pack_that_is_back_is_relied_on_again(archive: Archive, store: FaultyStore) -> None:
    pack_id = packs_of(archive, is_meta=False)[0]
    store.lose(Kind.DATA, pack_id)
    check(archive)
    assert pack_id in archive.index.lost()
    store.mend()
    checked = check(archive)
    assert checked.totals.is_whole
    assert [f.object_id for f in checked.findings] == [pack_id]
    assert archive.index.lost() == {}


def test_a_store_that_goes_away_is_no_damage(archive: Archive, store: FaultyStore) -> None:
    store.go_away()
    with pytest.raises(StoreUnavailable):
        check(archive)
    store.come_back()
    assert check(archive).totals.is_whole


# --- index, snapshots, config ------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 40, 1000, -1])
def test_a_damaged_index_object_is_named(archive: Archive, store: FaultyStore, offset: int) -> None:
    name = names(store, Kind.INDEX)[0]
    store.flip(Kind.INDEX, name, offset)
    checked = check(archive)
    assert name in [f.object_id for f in checked.damages if f.subject is Subject.INDEX]
    assert not checked.totals.is_whole


def test_an_index_object_that_was_exchanged_for_another_is_named(
    archive: Archive, store: FaultyStore
) -> None:
    first, second = names(store, Kind.INDEX)[:2]
    store.replace(Kind.INDEX, first, store.inner.get(Kind.INDEX, second))
    checked = check(archive)
    assert first in [f.object_id for f in checked.damages if f.subject is Subject.INDEX]


def test_an_old_snapshot_under_the_name_of_a_new_one_does_not_pass(
    archive: Archive, store: FaultyStore
) -> None:
    old, new = (snapshot.snapshot_id for snapshot in archive.snapshots())
    store.replace(Kind.SNAPSHOTS, new, store.inner.get(Kind.SNAPSHOTS, old))
    checked = check(archive)
    assert any("name stands for" in f.message for f in checked.damages)
    assert new in [f.object_id for f in checked.damages]


def test_a_newest_snapshot_that_is_withheld_is_named(archive: Archive, store: FaultyStore) -> None:
    newest = archive.snapshots()[-1]
    store.lose(Kind.SNAPSHOTS, newest.snapshot_id)
    checked = check(archive)
    assert [f.object_id for f in checked.damages] == [newest.snapshot_id]


def test_an_older_snapshot_that_is_gone_without_a_record_is_named(
    archive: Archive, store: FaultyStore
) -> None:
    oldest = archive.snapshots()[0]
    store.lose(Kind.SNAPSHOTS, oldest.snapshot_id)
    checked = check(archive)
    assert [f.object_id for f in checked.damages] == [oldest.snapshot_id]
    assert "nobody with the admin key" in checked.damages[0].message


def test_a_config_changed_by_somebody_with_the_archive_key_is_named(
    host: Host, store: FaultyStore, archive: Archive
) -> None:
    chunker = replace(archive.config.chunker, max_len=archive.config.chunker.max_len * 2)
    store.replace_config(encode_config(archive.keys, replace(archive.config, chunker=chunker)))
    settings_, ring = archive.settings, archive.ring
    with pytest.raises(SignatureInvalid, match="its config is another"):
        Archive.open(host.dirs, settings_, ring, store)
    (archive.state_folder / KEPT_CONFIG).unlink()  # as if it were seen for the first time
    other = Archive.open(host.dirs, settings_, ring, store)
    assert check(other).subjects == [Subject.CONFIG]
    other.state.close()


def test_a_local_index_that_differs_from_the_store_is_named(archive: Archive) -> None:
    with archive.state.transaction() as connection:
        connection.execute("UPDATE blocks SET offset = offset + 1 WHERE block_no = 1")
    checked = check(archive)
    assert checked.subjects == [Subject.LOCAL]
    assert checked.hurt == []


def test_replaced_index_objects_do_not_count(archive: Archive, store: FaultyStore) -> None:
    admin = archive.ring.admin()
    assert admin is not None
    old = names(store, Kind.INDEX)
    packs = tuple(pack for name in old for pack in archive.read_index_object(name).packs)
    content = IndexObject(packs, (), tuple(old), admin.writer_id, 0)
    sealed = seal_body(
        archive.keys,
        admin,
        Role.INDEX,
        archive.config.archive_id,
        encode_index(content),
        bytes(32),
    )
    store.replace(Kind.INDEX, sealed.object_id, sealed.data)
    totals = check(archive).totals
    assert totals.is_whole
    assert totals.index_objects == 1


# --- what a hacked writer could store -------------------------------------------------


class Forger:
    """Stores trees as no honest writer would, signed with this host's key."""

    def __init__(self, archive: Archive, store: FaultyStore) -> None:
        self._archive = archive
        signer = archive.ring.writer()
        assert signer is not None
        self._signer = signer
        self._store = store
        self.writer = ArchiveWriter(archive, signer)

    def tree(self, *entries: Entry) -> TreeId:
        builder = TreeBuilder(self._archive.keys.tree_id_key, self.writer.save_tree_node)
        for entry in entries:
            builder.add(entry)
        return builder.finish()

    def commit(self, root: TreeId) -> None:
        """Put a snapshot of *root*; packs and index go to the faulty layer's inner store."""
        self.writer.flush()
        self.writer.close()
        facts = replace(self._archive.snapshots()[-1].facts, root=root, series="forged", number=1)
        facts = replace(facts, previous=())
        sealed = seal_body(
            self._archive.keys,
            self._signer,
            Role.SNAPSHOT,
            self._archive.config.archive_id,
            encode_snapshot(facts),
            bytes(32),
        )
        self._store.replace(Kind.SNAPSHOTS, sealed.object_id, sealed.data)


@pytest.fixture
def forger(pattern: Path, tmp_path: Path) -> Iterator[tuple[Archive, Forger]]:
    """A forger with a store of its own."""
    with opened(copy_host(pattern, tmp_path)) as (archive, store):
        archive.refresh()
        assert store.address == str(tmp_path / "store")
        yield archive, Forger(archive, store)


def file_entry(name: bytes, size: int, **content: object) -> Entry:
    return Entry(name, EntryKind.FILE, 0o644, 0, 0, 0, size=size)._replace(**content)


def test_a_folder_with_wrong_totals_is_named(forger: tuple[Archive, Forger]) -> None:
    archive, forge = forger
    below = forge.tree(file_entry(b"f", 3, inline=b"abc"))
    folder = Entry(b"d", EntryKind.FOLDER, 0o755, 0, 0, 0, tree=below, totals=Totals(1, 0, 4))
    forge.commit(forge.tree(folder))
    checked = check(archive)
    assert checked.subjects == [Subject.TREE]
    assert "Totals(files=1, folders=0, size=3)" in checked.damages[0].message


def test_a_file_that_refers_to_a_chunk_of_another_length_is_hurt(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    chunk_id = forge.writer.save_chunk(b"c" * 1000)
    root = forge.tree(
        file_entry(b"longer", 1001, spans=(Span(1001, chunk_id),)),
        file_entry(b"right", 1000, spans=(Span(1000, chunk_id),)),
        file_entry(b"shorter", 999, spans=(Span(999, chunk_id),)),
        file_entry(b"unknown", 9, spans=(Span(9, ChunkId(b"?" * 32)),)),
    )
    forge.commit(root)
    assert [h.path for h in check(archive).hurt] == [b"/longer", b"/shorter", b"/unknown"]


def test_a_span_tree_of_another_length_than_its_file_is_hurt(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    builder = SpanTreeBuilder(forge.writer.save_span_node)
    for _ in range(10_000):
        builder.add(Span(1000, forge.writer.save_chunk(b"c" * 1000)))
    span_root = builder.finish()
    root = forge.tree(
        file_entry(b"right", 10_000_000, span_root=span_root),
        file_entry(b"wrong", 10_000_001, span_root=span_root),
    )
    forge.commit(root)
    (hurt,) = check(archive).hurt
    assert hurt.path == b"/wrong"
    assert "10000001" in hurt.reason


def test_names_that_a_look_up_would_not_find_are_named(forger: tuple[Archive, Forger]) -> None:
    archive, forge = forger
    leaves = [
        forge.writer.save_tree_node(
            encoding.encode({0: 0, 1: [encode_entry(file_entry(name, 0, inline=b""))]})
        )
        for name in (b"a", b"z", b"m")
    ]
    pointers = [[b"a", leaves[0], 1], [b"b", leaves[1], 1], [b"m", leaves[2], 2]]
    forge.commit(forge.writer.save_tree_node(encoding.encode({0: 1, 1: pointers})))
    messages = [f.message for f in check(archive).damages]
    assert len([m for m in messages if "names are not those" in m]) == 1
    assert len([m for m in messages if "2 entries, it has 1" in m]) == 1


def test_a_folder_with_a_node_at_the_wrong_level_is_hurt(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    leaf = forge.tree(file_entry(b"f", 0, inline=b""))
    top = TreeId(forge.writer.save_tree_node(encoding.encode({0: 2, 1: [[b"f", leaf, 1]]})))
    folder = Entry(b"d", EntryKind.FOLDER, 0o755, 0, 0, 0, tree=top, totals=Totals(1, 0, 0))
    forge.commit(forge.tree(folder))
    (hurt,) = check(archive).hurt
    assert (hurt.path, hurt.is_folder) == (b"/d", True)
    with pytest.raises(ObjectCorrupt):
        list(archive.iter_entries(top))


def folder_entry(name: bytes, tree: TreeId, totals: Totals | None = None) -> Entry:
    return Entry(name, EntryKind.FOLDER, 0o755, 0, 0, 0, tree=tree, totals=totals)


def test_more_paths_than_there_are_numbers_for_end_in_findings(
    forger: tuple[Archive, Forger], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, forge = forger
    monkeypatch.setattr("coopfs.ops.check_trees.HURT_MAX", 20)
    tree = forge.tree(file_entry(b"lost", 9, spans=(Span(9, ChunkId(b"?" * 32)),)))
    for _ in range(70):  # 2^70 paths
        tree = forge.tree(folder_entry(b"a", tree), folder_entry(b"b", tree))
    forge.commit(tree)
    hurt = check(archive).hurt
    assert len(hurt) == 22
    assert "the rest is not named" in hurt[-1].reason


def test_a_long_file_of_one_lost_chunk_again_and_again_is_hurt_at_once(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    whole = forge.writer.save_chunk(b"c" * 7)
    spans = [7, whole, 9, b"?" * 32] * 500
    node_id = forge.writer.save_span_node(encoding.encode({0: 0, 1: spans}))
    size = 16 * 500
    for level in range(1, 5):  # 10^12 spans
        pointers = [size, node_id] * 100
        node_id = forge.writer.save_span_node(encoding.encode({0: level, 1: pointers}))
        size *= 100
    forge.commit(forge.tree(file_entry(b"f", size, span_root=SpanNodeId(node_id))))
    (hurt,) = check(archive).hurt
    assert (hurt.lost_len, hurt.size, hurt.first_lost) == (size // 16 * 9, size, 7)


def test_a_false_pointer_to_a_node_hurts_no_file_but_its_own(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    spans = [7, forge.writer.save_chunk(b"c" * 7)] * 10
    leaf = forge.writer.save_span_node(encoding.encode({0: 0, 1: spans}))
    too_high = forge.writer.save_span_node(encoding.encode({0: 2, 1: [70, leaf]}))
    root = forge.tree(
        file_entry(b"a", 70, span_root=SpanNodeId(too_high)),
        file_entry(b"b", 70, span_root=SpanNodeId(leaf)),
    )
    forge.commit(root)
    assert [(h.path, h.lost_len) for h in check(archive).hurt] == [(b"/a", 70)]


def test_a_walk_ends_where_folders_are_nested_absurdly(
    forger: tuple[Archive, Forger], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, forge = forger
    monkeypatch.setattr("coopfs.ops.selection.LEVELS_MAX", 10)
    tree = forge.tree(file_entry(b"f", 0, inline=b""))
    for _ in range(30):
        tree = forge.tree(folder_entry(b"d", tree), file_entry(b"f", 0, inline=b""))
    forge.commit(tree)
    archive.refresh()
    (snapshot,) = [s for s in archive.snapshots() if s.facts.root == tree]
    said: list[tuple[bytes, str]] = []
    found = list_entries(
        archive, snapshot, b"", is_recursive=True, on_unreadable=lambda *what: said.append(what)
    )
    assert len(list(found)) == 9 + 10
    assert said == [(b"/d" * 10, "more than 10 folders within each other")]


def test_an_entry_only_a_newer_version_can_read_is_named(
    forger: tuple[Archive, Forger],
) -> None:
    archive, forge = forger
    fields = encode_entry(file_entry(b"new", 0, inline=b"")) | {64: b"recipe"}
    forge.commit(forge.writer.save_tree_node(encoding.encode({0: 0, 1: [fields]})))
    (hurt,) = check(archive).hurt
    assert hurt.path == b"/new"
    assert "newer" in hurt.reason


def test_content_under_a_false_id_is_found_by_reading(forger: tuple[Archive, Forger]) -> None:
    archive, forge = forger
    false_id = archive.keys.chunk_id(b"what was promised")
    put_under_false_id(archive, false_id, b"something else...")
    forge.commit(forge.tree(file_entry(b"f", 17, spans=(Span(17, false_id),))))
    assert check(archive).totals.is_whole
    checked = check(archive, 1.0)
    assert [h.path for h in checked.hurt] == [b"/f"]
    assert "do not trust that writer" in checked.damages[0].message
