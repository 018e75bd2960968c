"""An audit draws by stored bytes, finds what is gone, and knows what that shows."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from archive_fixtures import Lab, lab, no_race, write
from checked import put_under_false_id
from hosts import Host
from hypothesis import given
from hypothesis import strategies as st
from pruning import key_of

from coopfs.archive.archive import Archive
from coopfs.errors import StoreUnavailable, UsageError
from coopfs.ops.audit import (
    AuditRequest,
    AuditResult,
    _Draw,
    audit_archive,
    past_audits,
)
from coopfs.ops.kept import Kept
from coopfs.ops.progress import NoProgress
from coopfs.ops.prune_index import put_marks
from coopfs.store.base import Kind

__all__ = ["lab", "no_race"]  # fixtures


@pytest.fixture
def taken(lab: Lab) -> Lab:
    """A snapshot of some files of different sizes."""
    rng = random.Random(1)
    for number in range(8):
        write(lab.source / f"file{number}", rng.randbytes(400_000))
    write(lab.source / "text", "all work and no play\n" * 50_000)
    lab.take()
    for number in range(3):
        write(lab.source / f"more{number}", rng.randbytes(100_000))
        lab.take()
    return lab


def audit(archive: Archive, **options: float) -> tuple[AuditResult, dict[bytes, str]]:
    result, bad = audit_archive(archive, AuditRequest(**options), NoProgress())
    return result, dict(bad)


# --- the arithmetic ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("confidence", "loss", "samples"),
    [(0.95, 0.01, 299), (0.99, 0.01, 459), (0.95, 0.001, 2995), (0.5, 0.5, 1), (0.95, 0.05, 59)],
)
def test_how_many_samples(confidence: float, loss: float, samples: int) -> None:
    assert AuditRequest(confidence, loss).samples == samples


@given(st.floats(0.01, 0.9999), st.floats(0.0001, 0.9))
def test_so_many_suffice_and_no_fewer(confidence: float, loss: float) -> None:
    samples = AuditRequest(confidence, loss).samples
    assert 1 - (1 - loss) ** samples >= confidence - 1e-9
    assert samples == 1 or 1 - (1 - loss) ** (samples - 1) < confidence + 1e-9


@pytest.mark.parametrize(
    ("confidence", "loss"), [(0, 0.1), (1, 0.1), (0.9, 0), (0.9, 1), (0.999999, 1e-9)]
)
def test_nonsense_is_refused(confidence: float, loss: float) -> None:
    with pytest.raises(UsageError):
        _ = AuditRequest(confidence, loss).samples


# --- the drawing -----------------------------------------------------------------------


def test_blocks_are_drawn_by_their_stored_bytes(taken: Lab) -> None:
    with taken.open() as (archive, _):
        draw = _Draw(archive)
        drawn = Counter(sample.block.block_no for sample in draw.samples(20_000))
        blocks = [b for p in archive.index.packs() for b in archive.index.blocks_of(p.pack_no)]
        total = sum(block.sealed_len for block in blocks)
        assert draw.total_len == total
        for block in blocks:
            share = block.sealed_len / total
            spread = 6 * (20_000 * share * (1 - share)) ** 0.5 + 1  # six standard deviations
            assert abs(drawn[block.block_no] - 20_000 * share) < spread


def test_metadata_and_the_newest_packs_are_always_among_them(taken: Lab) -> None:
    with taken.open() as (archive, _):
        extras = list(_Draw(archive).extras())
        packs = list(archive.index.packs())
        expected = {p.pack_id for p in packs if p.is_meta} | {p.pack_id for p in packs[-8:]}
        assert {sample.pack.pack_id for sample in extras} == expected
        assert len(extras) == len(expected)


def test_marked_packs_are_no_loss(taken: Lab) -> None:
    with taken.open() as (archive, store):
        packs = [pack.pack_id for pack in archive.index.packs()]
        put_marks(archive, key_of(archive), packs[:2])
        for name in packs[:2]:
            store.inner.delete(Kind.DATA, name)
        result, bad = audit(archive)
        assert (result.packs, bad) == (len(packs) - 2, {})


# --- what it finds -------------------------------------------------------------------------


def test_an_archive_in_order_passes_and_is_read_from_the_store(taken: Lab) -> None:
    with taken.open(is_local=False) as (archive, store):
        audit(archive)
        store.requests.clear()
        result, bad = audit(archive)
        assert (result.is_passed, bad, result.bad_samples) == (True, {}, 0)
        assert result.samples == 299
        # Each block once, however often it was drawn; never from a cache, or it would show nothing.
        index = archive.index
        blocks = sum(len(index.blocks_of(pack.pack_no)) for pack in index.packs())
        assert blocks / 2 < store.requests["get", Kind.DATA] <= blocks
        assert result.stored_len / 2 < result.read_len <= result.stored_len
        assert archive.index.lost() == {}


def test_a_lost_truncated_or_altered_pack_is_found_and_not_relied_on(taken: Lab) -> None:
    with taken.open() as (archive, store):
        big, *_, newest = [p for p in archive.index.packs() if not p.is_meta]
        third = next(p for p in archive.index.packs() if p.is_meta)
        for block in archive.index.blocks_of(big.pack_no):
            store.flip(Kind.DATA, big.pack_id, block.offset + 3)
        store.lose(Kind.DATA, third.pack_id)
        inner = store.list

        def listing(kind: Kind) -> object:
            return (item for item in inner(kind) if item.name != third.pack_id)

        store.list = listing  # type: ignore[method-assign,assignment]
        store.truncate(Kind.DATA, newest.pack_id, newest.size - 1)
        result, bad = audit(archive)
        assert set(bad) >= {big.pack_id, third.pack_id}
        assert result.bad_packs == len(bad)
        assert result.bad_samples > 200
        assert "is not in the store" in bad[third.pack_id]
        assert set(archive.index.lost()) == set(bad)


def test_the_next_snapshot_heals_what_an_audit_found(taken: Lab, no_race: None) -> None:
    with taken.open() as (archive, store):
        for pack in list(archive.index.packs())[:3]:
            store.inner.delete(Kind.DATA, pack.pack_id)
        result, _ = audit(archive)
        assert (result.is_passed, result.bad_packs) == (False, 3)
    taken.expect_archived(taken.take())
    with taken.open() as (archive, _):
        assert len(archive.index.lost()) == 3


def test_a_poisoned_chunk_names_its_writer(taken: Lab) -> None:
    with taken.open() as (archive, _):
        packs = [p for p in archive.index.packs() if not p.is_meta]
        chunk_id = archive.index.blocks_of(packs[0].pack_no)[0].chunk_ids[0]
        false = put_under_false_id(archive, chunk_id, b"0" * 4000)
        archive.refresh()
        _, bad = audit(archive)
        assert list(bad) == [false]
        assert "other content than its ids say" in bad[false]


def test_a_store_that_is_away_shows_nothing(taken: Lab) -> None:
    with taken.open() as (archive, store):
        store.fail("get", Kind.DATA, skip=5)
        with pytest.raises(StoreUnavailable):
            audit(archive)
        assert archive.index.lost() == {}
        assert past_audits(archive.state_folder) == []


def test_an_empty_archive_has_nothing_to_audit(lab: Lab) -> None:
    with lab.open() as (archive, _), pytest.raises(UsageError, match="nothing to audit"):
        audit(archive)


# --- what is kept ---------------------------------------------------------------------------


def test_results_are_kept_and_junk_among_them_does_no_harm(taken: Lab) -> None:
    with taken.open() as (archive, _):
        first, _ = audit(archive, loss=0.5)
        with (archive.state_folder / f"{Kept.AUDITS}.jsonl").open("a") as file:
            file.write('{"torn": \n[]\n{"of": "a newer version"}\n')
        second, _ = audit(archive, loss=0.4)
        assert past_audits(archive.state_folder) == [first, second]


def test_the_command_says_what_was_shown_and_stats_shows_the_trend(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store")
    (tmp_path / "file").write_bytes(random.Random(1).randbytes(500_000))
    host.ok("snapshot", tmp_path / "file", "--series", "s")
    assert "audits" not in host.ok("stats").out
    said = host.ok("audit").out
    assert "drew 299 random blocks" in said
    assert "with 95 % confidence less than 1 % of the stored bytes are missing" in said
    assert "not shown" in said
    summary = host.ok("audit", "--confidence", "99.5", "--loss", "10", "--json").lines()[-1]
    assert (summary["samples"], summary["is_passed"]) == (51, True)
    largest = max((tmp_path / "store" / "data").rglob("*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(data)
    ran = host.run("audit")
    assert (ran.code, "FAILED" in ran.out) == (1, True)
    assert f"pack {largest.name[:8]}" in ran.err
    assert "FAILED (1 packs missing or damaged); 2 before it, all passed" in host.ok("stats").out
    kept = host.ok("stats", "--json").lines()[0]["audits"]
    assert [item["is_passed"] for item in kept] == [True, True, False]
    assert json.dumps(kept)


@pytest.mark.parametrize("args", [("--confidence", "0"), ("--confidence", "100"), ("--loss", "x")])
def test_bad_usage(tmp_path: Path, args: tuple[str, str]) -> None:
    ran = Host(tmp_path / "anna").run("audit", *args)
    assert ran.code == 2
