"""Snapshots of one archive in another: the same to look at, sealed under other keys."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import Lab, archived_picture, keep_above_still, no_passphrase, write
from rich_source import make_rich_source

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.settings import load_settings
from coopfs.archive.snapshots import Snapshot
from coopfs.format.snapshot import OriginKind, State
from coopfs.ops.copy_snapshots import copy_snapshots, plan_copy
from coopfs.ops.progress import NoProgress
from coopfs.ops.suspicion import suspicions
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore, SimulatedCrash
from coopfs.store.open import open_store


class Pair:
    """A host with two archives, "first" and "second", each with a store of its own."""

    def __init__(self, base: Path) -> None:
        self.lab = Lab(base).init("--archive", "first")
        self.host = self.lab.host
        self.other_path = base / "other store"
        self.host.init(self.other_path, "--archive", "second")
        self.source = self.lab.source
        self.host.environ["COOPFS_ARCHIVE"] = "first"

    def take(self, **options: Any) -> Snapshot:
        self.host.ok("snapshot", self.source, "--series", options.get("series", "main"))
        return self.snapshots("first")[-1]

    def open(self, name: str) -> Archive:
        settings = load_settings(self.host.dirs, name)
        ring = load_keyring(self.host.dirs, settings, no_passphrase)
        archive = Archive.open(
            self.host.dirs, settings, ring, FaultyStore(open_store(settings.store))
        )
        archive.refresh()
        assert archive.warnings == []
        return archive

    def snapshots(self, name: str) -> list[Snapshot]:
        with self.open(name) as archive:
            return list(archive.snapshots())

    def copy(self, *args: object) -> dict[str, Any]:
        summary: dict[str, Any] = self.host.ok("copy", "--to", "second", "--json", *args).lines()[
            -1
        ]
        return summary

    def expect_same(self, theirs: Snapshot, ours: Snapshot) -> None:
        with self.open("first") as first, self.open("second") as second:
            found = archived_picture(second, ours.facts.root)
            real = archived_picture(first, theirs.facts.root)
        assert found.entries == real.entries
        assert found.links == real.links


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    keep_above_still(monkeypatch)
    return Pair(tmp_path)


def test_everything_is_the_same_and_sealed_anew(pair: Pair) -> None:
    shutil.rmtree(pair.source)
    make_rich_source(pair.source)
    theirs = pair.take()
    pair.host.ok("tag", "latest", "--add", "paper")
    pair.host.ok("describe", "latest", "the one for the accountant")
    pair.host.ok("hold", "latest")
    theirs = pair.snapshots("first")[-1]
    assert pair.copy()["snapshots"] == 1

    (ours,) = pair.snapshots("second")
    pair.expect_same(theirs, ours)
    mine, copied = theirs.facts, ours.facts
    for name in (
        *("host", "series", "time_ns", "end_ns", "zone_name", "zone_offset_s", "clock"),
        *("sources", "excludes", "counts", "problems", "problem_count", "state"),
    ):
        assert getattr(copied, name) == getattr(mine, name), name
    assert (ours.tags, ours.description) == (("paper",), "the one for the accountant")
    assert ours.is_held
    origin = copied.origin
    assert origin is not None
    assert (origin.kind, origin.snapshot_id, origin.number) == (
        OriginKind.COPIED,
        theirs.snapshot_id,
        mine.number,
    )
    assert copied.root != mine.root
    packs = [
        {p.name for p in (s / "data").rglob("*/*")} for s in (pair.lab.store_path, pair.other_path)
    ]
    assert packs[0].isdisjoint(packs[1])
    pair.host.ok("check", "--read-data", "--archive", "second")
    pair.host.ok("prune", "--archive", "second")


def test_what_is_there_is_neither_read_nor_sent_again(pair: Pair) -> None:
    rng = random.Random(1)
    write(pair.source / "large", rng.randbytes(2_000_000))
    pair.take()
    first = pair.copy()
    assert first["new"] > 2_000_000
    write(pair.source / "small", rng.randbytes(10_000))
    pair.take()
    second = pair.copy()
    assert (second["snapshots"], second["there_already"], second["read"]) == (1, 1, 10_000)
    assert second["new"] < 20_000
    again = pair.copy()
    assert (again["snapshots"], again["there_already"], again["stored"]) == (0, 2, 0)
    ours = pair.snapshots("second")
    assert [s.facts.number for s in ours] == [1, 2]
    assert ours[1].facts.previous == (ours[0].snapshot_id,)


def test_what_was_copied_dedups_without_the_hint_too(pair: Pair) -> None:
    write(pair.source / "large", random.Random(1).randbytes(2_000_000))
    pair.take()
    pair.copy()
    for hint in pair.host.dirs.state.rglob("copied-*"):
        hint.unlink()
    write(pair.source / "small", b"x" * 1000)
    pair.take()
    summary = pair.copy()
    assert summary["read"] == 2_001_000  # once more
    assert summary["new"] < 10_000


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.INDEX, Kind.SNAPSHOTS])
def test_killed_anywhere_the_next_run_sends_nothing_twice(
    pair: Pair, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write(pair.source / f"file{number}", random.Random(number).randbytes(1_500_000))
    theirs = pair.take()
    with pair.open("first") as source, pair.open("second") as target:
        store = target.store
        assert isinstance(store, FaultyStore)
        store.crash("put", kind, when="after" if kind is Kind.DATA else "before")
        plan = plan_copy(source, target, source.snapshots(), is_named=False)
        with pytest.raises(SimulatedCrash):
            copy_snapshots(source, target, plan.wanted, None, NoProgress())
        store.mend()
        there = {info.name: info.size for info in store.list(Kind.DATA)}
    assert sum(there.values()) > 4_000_000 or kind is Kind.DATA
    summary = pair.copy()
    assert summary["snapshots"] == 1
    if kind is not Kind.DATA:
        assert summary["read"] == 0
        assert summary["stored"] < 500_000
    packs = list((pair.other_path / "data").rglob("*/*"))
    # A pack that was put, and of which nobody could note that it was, is sent again.
    most = 10_000_000 if kind is Kind.DATA else 5_000_000
    assert sum(p.stat().st_size for p in packs) < most
    (ours,) = pair.snapshots("second")
    pair.expect_same(theirs, ours)


def test_a_choice_of_snapshots_and_a_dry_run(pair: Pair) -> None:
    write(pair.source / "a", "a")
    first = pair.take()
    pair.take(series="other")
    last = pair.take()
    said = pair.host.ok("copy", "--to", "second", "-n").out
    assert said.count("would copy") == 3
    assert pair.snapshots("second") == []
    assert pair.copy("--series", "other")["snapshots"] == 1
    assert pair.copy(last.snapshot_id.hex()[:12])["snapshots"] == 1
    assert pair.copy()["snapshots"] == 1
    origins = {s.facts.origin.snapshot_id for s in pair.snapshots("second") if s.facts.origin}
    assert {first.snapshot_id, last.snapshot_id} < origins


def test_late_copies_are_in_order_and_count_for_the_rules(pair: Pair) -> None:
    ids = []
    for number in range(3):
        write(pair.source / "a", str(number))
        ids.append(pair.take().snapshot_id.hex()[:12])
    pair.copy(ids[2])
    pair.copy(ids[0], ids[1])  # older ones, with higher numbers
    ours = pair.snapshots("second")
    assert [s.facts.number for s in ours] == [2, 3, 1]
    assert all(s.is_vouched for s in ours)  # the admin key is on this machine
    now_ns = ours[-1].facts.time_ns
    assert suspicions(ours, now_ns, {s.snapshot_id: now_ns + 10**18 for s in ours}) == {}
    # A writer's own word that it is a copy does not free it from the order.
    alone = [replace(s, is_vouched=False) for s in ours]
    assert len(suspicions(alone, now_ns, {})) > 0
    told = pair.host.ok("forget", "--archive", "second", "--keep-last", "1", "-n", "--json").lines()
    kept = [item["number"] for item in told if item.get("is_kept")]
    assert kept == [1]  # the newest where they come from


def test_snapshots_of_another_host_need_the_admin_key(pair: Pair, tmp_path: Path) -> None:
    write(pair.source / "a", "a")
    pair.take()
    bob = Lab(tmp_path, "bob")
    for archive, store in (("first", pair.lab.store_path), ("second", pair.other_path)):
        sheets = pair.host.ok("--json", "key", "export", "--archive", archive).lines()[0]
        asked = bob.host.ok(
            *("--json", "writer", "request", store, "--host", "bob", "--no-passphrase"),
            *("--archive", archive),
            stdin=sheets["archive_key_words"],
        )
        pair.host.ok("writer", "enrol", asked.lines()[0]["code"], "--archive", archive)
    bob.host.ok("snapshot", bob.source, "--series", "bobs", "--archive", "first")
    ran = bob.host.run("copy", "--to", "second", "--archive", "first")
    assert ran.code == 12
    assert "snapshots of anna" in ran.err
    assert pair.snapshots("second") == []
    bob.host.ok("copy", "--to", "second", "--archive", "first", "--host", "bob")
    (ours,) = pair.snapshots("second")
    assert (ours.facts.host, ours.is_vouched) == ("bob", False)
    assert pair.copy()["snapshots"] == 1
    assert {(s.facts.host, s.is_vouched) for s in pair.snapshots("second")} == {
        ("bob", False),
        ("anna", True),
    }


def test_a_forged_copy_of_another_host_does_not_count(pair: Pair, tmp_path: Path) -> None:
    """A writer may say "copied", but not of another host: that takes the admin key."""
    from coopfs.format.body import seal_body
    from coopfs.format.keys import Role
    from coopfs.format.snapshot import encode_snapshot

    write(pair.source / "a", "a")
    pair.take()
    pair.copy()
    with pair.open("second") as second:
        (ours,) = second.snapshots()
        writer = second.ring.writer()
        assert writer is not None
        facts = replace(ours.facts, host="bob", writer_id=writer.writer_id)
        sealed = seal_body(
            second.keys,
            writer,
            Role.SNAPSHOT,
            second.config.archive_id,
            encode_snapshot(facts),
            bytes(32),
        )
        second.store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)
        second.refresh()
        assert [s.snapshot_id for s in second.snapshots()] == [ours.snapshot_id]
        assert any("of host bob, but its writer" in warning for warning in second.warnings)
        # Nor may the admin's signature stand under what is no copy.
        admin = second.ring.admin()
        assert admin is not None
        facts = replace(facts, origin=None, writer_id=admin.writer_id)
        sealed = seal_body(
            second.keys,
            admin,
            Role.SNAPSHOT,
            second.config.archive_id,
            encode_snapshot(facts),
            bytes(32),
        )
        second.store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)
        second.refresh()
        assert len(second.snapshots()) == 1


def test_a_damaged_snapshot_is_left_out_and_named(pair: Pair) -> None:
    write(pair.source / "good", random.Random(0).randbytes(700_000))
    pair.take()
    write(pair.source / "bad", random.Random(1).randbytes(700_000))
    before = {p.name for p in (pair.lab.store_path / "data").rglob("*/*")}
    pair.take()
    new = [p for p in (pair.lab.store_path / "data").rglob("*/*") if p.name not in before]
    max(new, key=lambda p: p.stat().st_size).unlink()
    ran = pair.host.run("copy", "--to", "second")
    assert ran.code == 1
    assert "INCOMPLETE: 1 snapshot could not be copied" in ran.out
    assert "was not copied" in ran.err
    assert [s.facts.number for s in pair.snapshots("second")] == [1]
    pair.host.ok("check", "--read-data", "--archive", "second")


def test_a_copy_of_a_copy_keeps_its_origin_and_comes_home_to_nothing(pair: Pair) -> None:
    write(pair.source / "a", "a")
    theirs = pair.take()
    pair.copy()
    back = pair.host.ok("copy", "--archive", "second", "--to", "first", "--json").lines()[-1]
    assert (back["snapshots"], back["there_already"]) == (0, 1)
    pair.host.init(pair.lab.base / "third store", "--archive", "third")
    pair.host.ok("copy", "--archive", "second", "--to", "third")
    (third,) = pair.snapshots("third")
    assert third.facts.origin is not None
    assert third.facts.origin.snapshot_id == theirs.snapshot_id


def test_partial_snapshots_are_copied_only_by_name(pair: Pair) -> None:
    write(pair.source / "a", "a")
    pair.take()
    with pair.open("first") as first, pair.open("second") as second:
        (whole,) = first.snapshots()
        partial = replace(whole, facts=replace(whole.facts, state=State.PARTIAL))
        assert plan_copy(first, second, [partial], is_named=False).partial == 1
        assert plan_copy(first, second, [partial], is_named=True).wanted == (partial,)


def test_native_snapshots_go_on_after_copies(pair: Pair) -> None:
    write(pair.source / "a", random.Random(3).randbytes(6_000))
    pair.take()
    pair.copy()
    pair.host.ok("snapshot", pair.source, "--series", "main", "--archive", "second")
    first, second = pair.snapshots("second")
    assert (second.facts.number, second.facts.previous) == (2, (first.snapshot_id,))
    assert second.facts.counts.new < 5_000  # a file of one chunk is known by its copy
