"""Packs are judged alike by whichever process reads them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from checked import copy_host, opened, put_under_false_id
from hosts import Host

from coopfs.archive.archive import Archive
from coopfs.archive.child import Child
from coopfs.errors import CoopfsError, StoreUnavailable
from coopfs.ids import ChunkId
from coopfs.ops import check_reading
from coopfs.ops.check_packs import PackFacts, PackReport, pack_facts, verify_pack
from coopfs.ops.check_reading import read_packs
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore

NIGHTS = 6


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with a pack of data and one of metadata for each of some snapshots."""
    base = tmp_path_factory.mktemp("pattern")
    host = Host(base / "host")
    host.init(base / "store")
    (base / "source").mkdir()
    for night in range(NIGHTS):
        content = random.Random(night).randbytes(200_000)
        (base / "source" / f"{night}").write_bytes(content)
        (base / "source" / f"text{night}").write_bytes(b"all work %d" % night * 20_000)
        host.ok("snapshot", base / "source", "--series", "s")
    return base


@pytest.fixture
def archive(
    pattern: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Archive, FaultyStore]]:
    """A copy of its archive; any number of packs is worth two processes."""
    monkeypatch.setattr(check_reading, "LEAST_LEN", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    with opened(copy_host(pattern, tmp_path)) as (archive, store):
        archive.refresh()
        yield archive, store


def facts_of(archive: Archive) -> list[PackFacts]:
    return [
        pack_facts(pack, name)
        for name in sorted(archive.index.known_objects())
        for pack in archive.read_index_object(name).packs
    ]


def said(archive: Archive) -> dict[bytes, PackReport]:
    reports = list(read_packs(archive.keys, archive.store, facts_of(archive)))
    by_pack: dict[bytes, PackReport] = {report.facts.pack_id: report for report in reports}
    assert len(by_pack) == len(reports)
    return by_pack


def alone(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, PackReport]:
    with monkeypatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        return said(archive)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[PackFacts]:
    """What was verified by this process."""
    verified: list[PackFacts] = []

    def noted(keys: object, facts: PackFacts, data: bytes) -> PackReport:
        verified.append(facts)
        return verify_pack(keys, facts, data)  # type: ignore[arg-type]

    monkeypatch.setattr(check_reading, "verify_pack", noted)
    return verified


def damage(archive: Archive, store: FaultyStore) -> None:
    """Hurt every pack but the last two in a way of its own."""
    packs = [pack for pack in archive.index.packs() if not pack.is_meta]
    assert len(packs) == NIGHTS
    store.flip(Kind.DATA, packs[0].pack_id, 70)
    store.flip(Kind.DATA, packs[1].pack_id, packs[1].size - 10)
    store.truncate(Kind.DATA, packs[2].pack_id, 1000)
    store.lose(Kind.DATA, packs[3].pack_id)
    meta = [pack for pack in archive.index.packs() if pack.is_meta]
    store.flip(Kind.DATA, meta[0].pack_id, 100)


def test_processes_say_what_this_one_would(
    archive: tuple[Archive, FaultyStore], here: list[PackFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = said(archive[0])
    assert len(found) == 2 * NIGHTS
    assert len(here) < len(found)
    assert found == alone(archive[0], monkeypatch)
    assert not any(report.problems for report in found.values())
    assert all(report.read_len == report.facts.size for report in found.values())


@pytest.mark.parametrize("is_served", [True, False])
def test_damage_is_found_by_any_of_them(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    damage(*archive)
    poisoned = put_under_false_id(archive[0], ChunkId(bytes(32)), b"not what it says")
    archive[0].refresh()
    expected = alone(archive[0], monkeypatch)
    assert sum(bool(report.problems) for report in expected.values()) == 6
    if is_served:  # all by the others: this one waits for them
        place = vars(check_reading._PackProcess)["has_room"].fget

        def when_free(self: check_reading._PackProcess) -> bool:
            while not place(self):
                kept.extend(self.news())
            return True

        kept: list[PackReport] = []
        monkeypatch.setattr(check_reading._PackProcess, "has_room", property(when_free))
        found = said(archive[0]) | {report.facts.pack_id: report for report in kept}
    else:
        found = said(archive[0])
    assert found == expected
    assert "do not trust that writer" in str(found[poisoned].problems)


@pytest.mark.parametrize("when", ["start", "later"])
def test_a_process_that_dies_changes_nothing(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    damage(*archive)
    expected = alone(archive[0], monkeypatch)
    send = check_reading._PackProcess.send

    def failing(self: check_reading._PackProcess, facts: PackFacts, data: bytes) -> None:
        if when == "later":
            send(self, facts, data)
        self._child.process.kill()
        if when == "start":
            send(self, facts, data)

    monkeypatch.setattr(check_reading._PackProcess, "send", failing)
    assert said(archive[0]) == expected


def test_processes_that_cannot_be_started_are_done_without(
    archive: tuple[Archive, FaultyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(archive[0], monkeypatch)

    def refuse(self: Child, *args: object) -> None:
        raise CoopfsError("no more processes")

    monkeypatch.setattr(Child, "__init__", refuse)
    assert said(archive[0]) == expected


def test_a_store_that_goes_away_is_no_damage(archive: tuple[Archive, FaultyStore]) -> None:
    facts = facts_of(archive[0])
    reports = read_packs(archive[0].keys, archive[0].store, facts)
    assert not next(reports).problems
    archive[1].go_away()
    with pytest.raises(StoreUnavailable):
        list(reports)
