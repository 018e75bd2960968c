"""Of two listings of a pack that differ, the one that the pack itself gives counts."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from archive_fixtures import Lab, lab
from checked import check, unreadable
from clocks import Clocks, clocks
from pruning import DAY_S, expect_all_readable, forget, packs_in_store, prune, take_two

from coopfs.archive import archive as archive_module
from coopfs.archive.archive import Archive
from coopfs.format.body import seal_body
from coopfs.format.index import IndexedPack, IndexObject, encode_index
from coopfs.format.keys import Role, writer_id_of
from coopfs.format.pack import BlockDraft, decode_directory, encode_directory_body
from coopfs.ids import PackId
from coopfs.ops import prune_index
from coopfs.ops.audit import AuditRequest, audit_archive
from coopfs.ops.progress import NoProgress
from coopfs.store.base import Kind

__all__ = ["clocks", "lab"]  # fixtures


def put_listing(archive: Archive, *packs: IndexedPack) -> None:
    """Put an index object of this host that says so of *packs*."""
    signer = archive.ring.writer()
    assert signer is not None
    body = encode_index(IndexObject(packs, (), (), signer.writer_id, 0))
    archive_id = archive.config.archive_id
    sealed = seal_body(archive.keys, signer, Role.INDEX, archive_id, body, os.urandom(32))
    archive.store.put(Kind.INDEX, sealed.object_id, sealed.data)


def listed(archive: Archive) -> list[IndexedPack]:
    """Return all packs as the store's index objects list them."""
    names = [info.name for info in archive.store.list(Kind.INDEX)]
    return [pack for name in names for pack in archive.read_index_object(name).packs]


def contradicted(archive: Archive) -> list[PackId]:
    return archive.index.contradicted(writer_id_of(archive.config.admin_public_key))


def emptied(archive: Archive, pack: IndexedPack) -> IndexedPack:
    """Return a listing by this host: that pack holds one chunk, which nobody needs."""
    signer = archive.ring.writer()
    assert signer is not None
    body = encode_directory_body([], signer.writer_id, bytes(32))
    return replace(pack, directory=decode_directory(body, bytes(64), "false listing"))


@pytest.fixture
def bob(lab: Lab) -> Lab:
    """Anna has taken two snapshots, Bob is enrolled and hacked."""
    take_two(lab)
    return lab.second_host()


@pytest.mark.parametrize("what", ["size", "directory"])
def test_a_check_names_the_writer_and_believes_the_packs(lab: Lab, bob: Lab, what: str) -> None:
    with bob.open() as (archive, _):
        bob_id = archive.ring.writer_id
        false = [
            replace(pack, size=pack.size + 4096) if what == "size" else emptied(archive, pack)
            for pack in listed(archive)
        ]
        for _ in range(4):  # some are read before the true ones
            put_listing(archive, *false)
    with lab.open() as (archive, _):
        checked = check(archive, 1.0)
        assert len(checked.damages) == 4 * len(false)
        for damage in checked.damages:
            assert f"writer {bob_id.hex()[:8]} says of it what it does not" in damage.message
        assert (checked.hurt, archive.index.lost()) == ([], {})


@pytest.mark.parametrize("what", ["size", "directory"])
def test_a_false_listing_harms_neither_audit_nor_check_nor_dedup(
    lab: Lab, bob: Lab, what: str
) -> None:
    with bob.open() as (archive, _):
        false = [
            replace(pack, size=pack.size + 4096) if what == "size" else emptied(archive, pack)
            for pack in listed(archive)
        ]
        put_listing(archive, *false)
        bob_id = archive.ring.writer_id
    with lab.open() as (archive, _):
        assert contradicted(archive) == []
        (warning,) = archive.warnings
        assert f"writer {bob_id.hex()[:8]} says of {len(false)} packs" in warning
        result, bad = audit_archive(archive, AuditRequest(), NoProgress())
        assert (result.is_passed, bad, archive.index.lost()) == (True, {}, {})
        for snapshot in archive.snapshots():
            assert unreadable(archive, snapshot) == set()
    assert lab.take().facts.counts.new == 0
    third = lab.second_host("carol")  # whichever of the two it reads first
    with third.open() as (archive, _):
        assert contradicted(archive) == []
        assert audit_archive(archive, AuditRequest(), NoProgress())[0].is_passed


def test_what_cannot_be_decided_stays_until_it_can(lab: Lab, bob: Lab) -> None:
    with bob.open() as (archive, _):
        put_listing(archive, *(replace(p, size=p.size + 1) for p in listed(archive)))
    with lab.open(refresh=False) as (archive, store):
        for pack_id in packs_in_store(archive):
            store.truncate(Kind.DATA, pack_id, 200)
        archive.refresh()
        assert archive.warnings == []
        assert set(contradicted(archive)) == packs_in_store(archive)
    with lab.open() as (archive, _):
        assert contradicted(archive) == []


def test_what_one_writer_says_of_packs_that_nobody_has_costs_nobody_requests(
    lab: Lab, bob: Lab
) -> None:
    with bob.open() as (archive, _):
        pack = listed(archive)[0]
        for size in (pack.size, pack.size + 1):
            put_listing(archive, *(replace(pack, pack_id=PackId(bytes([n]) * 32), size=size)
                                   for n in range(50)))  # fmt: skip
    with lab.open(refresh=False) as (archive, store):
        store.requests.clear()
        archive.refresh()
        assert store.requests["size", Kind.DATA] == store.requests["get", Kind.DATA] == 0
        assert archive.index.pack_count > 100


def test_a_prune_does_not_sign_a_false_listing(
    lab: Lab, bob: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bob.open() as (archive, _):
        put_listing(archive, *(replace(p, size=p.size + 4096) for p in listed(archive)))
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 1)
    with lab.open() as (archive, _):
        prune(archive)
        clocks.pass_(8 * DAY_S)
        prune(archive)
        sizes = {info.name: info.size for info in archive.store.list(Kind.DATA)}
        found = listed(archive)
        assert {pack.pack_id for pack in found} == sizes.keys()
        assert all(pack.size == sizes[pack.pack_id] for pack in found)
        assert check(archive).findings == []


def test_a_pack_said_to_be_empty_stays_while_something_in_it_cannot_be_read(
    lab: Lab, bob: Lab, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Even where nobody could ask the pack which of its two listings is right.
    monkeypatch.setattr(archive_module, "settle_contradictions", lambda *args: [])
    with bob.open() as (archive, _):
        put_listing(archive, *(emptied(archive, pack) for pack in listed(archive)))
    with lab.open() as (archive, store):
        forget(archive)
        packs = [pack for pack in archive.index.packs() if not pack.is_meta]
        (true,) = [pack for pack in packs if archive.index.blocks_of(pack.pack_no)]
        assert len(packs) == 2
        block = archive.index.blocks_of(true.pack_no)[-1]
        store.flip(Kind.DATA, true.pack_id, block.offset + 100)
        warnings: list[str] = []
        prune(archive, 0, warnings=warnings)
        assert any("cannot be read" in warning for warning in warnings)
        assert true.pack_id in packs_in_store(archive)
        assert true.pack_id not in archive.index.marked()
        store.mend()
        archive.blocks.forget_memory()
        prune(archive, 0, warnings=warnings)
        assert true.pack_id not in packs_in_store(archive)
    assert expect_all_readable(lab) == 1


def test_a_small_object_cannot_fill_the_local_index_of_all_others(lab: Lab, bob: Lab) -> None:
    number = 10_001
    with bob.open() as (archive, _):
        pack = listed(archive)[0]
        signer = archive.ring.writer()
        assert signer is not None
        again = [BlockDraft(0, b"c", 1, ((bytes(32), 1),))] * number
        directory = encode_directory_body(again, signer.writer_id, bytes(32))
        false = decode_directory(directory, bytes(64), "false listing")
        large = replace(pack, pack_id=PackId(bytes(32)), size=1 << 20, directory=false)
        put_listing(archive, large)
    with lab.open() as (archive, _):
        (warning,) = archive.warnings
        assert f"writer {signer.writer_id.hex()[:8]} lists the same chunks" in warning
        (blocks,) = archive.state.connection.execute("SELECT COUNT(*) FROM blocks").fetchone()
        assert blocks < number


def test_repair_finds_what_a_distrusted_writer_alone_lists_falsely(lab: Lab, bob: Lab) -> None:
    with bob.open() as (archive, store):
        false = [emptied(archive, pack) for pack in listed(archive)]
        known = [info.name for info in store.list(Kind.INDEX)]
        put_listing(archive, *false)
        for name in known:  # the store knows no rights
            store.delete(Kind.INDEX, name)
    lab.host.ok("repair", "--distrust", "bob")
    ran = lab.host.ok("--json", "repair").lines()[-1]
    assert len(ran["recovered"]) == len(false)
    with lab.open() as (archive, _):
        assert contradicted(archive) == []
        assert check(archive, 1.0).damages == []
        assert {p.directory.chunk_ids for p in listed(archive)} > {()}
    assert expect_all_readable(lab) == 2
