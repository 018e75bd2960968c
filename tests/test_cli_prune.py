"""The command prune: what it says, exit codes, bad input."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.cli.cmd_prune import grace_text, parse_grace


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host that has let go three of four snapshots."""
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store", "--recovery-kit", tmp_path / "kit")
    for _ in range(4):
        (tmp_path / "file").write_bytes(os.urandom(300_000))
        host.ok("snapshot", tmp_path / "file", "--series", "s")
    host.ok("forget", "--keep-last", 1)
    return host


def test_a_dry_run_changes_nothing_and_needs_no_key(host: Host, tmp_path: Path) -> None:
    host.ok("key", "offline", "--recovery-kit", tmp_path / "kit")
    before = everything_below(tmp_path / "store")
    said = host.ok("prune", "--dry-run", "--grace", "0").out
    assert "1 snapshot needs" in said
    assert "would be marked: 6 packs" in said
    assert everything_below(tmp_path / "store") == before
    ran = host.run("prune", "--grace", "0")
    assert (ran.code, "pruning needs the admin key" in ran.err) == (12, True)
    assert everything_below(tmp_path / "store") == before
    said = host.ok("prune", "--grace", "0", "--recovery-kit", tmp_path / "kit").out
    assert "deleted: 6 packs" in said


def test_new_packs_are_left_alone_by_default(host: Host) -> None:
    said = host.ok("prune").out
    assert "left alone: 6 packs" in said
    assert "nothing to free" in said


def test_with_a_grace_it_takes_two_runs(host: Host, tmp_path: Path) -> None:
    ran = host.ok("prune", "--grace", "0.1s", "--json")
    assert "under 20 minutes" in ran.err
    runs = ran.lines()[-1:]
    assert runs[0]["type"] == "summary"
    # What is younger than the grace, and what is marked for less, is left to the next run.
    while any(runs[-1][f"{what}_packs"] for what in ("young", "marked", "waiting", "deleted")):
        runs += host.ok("prune", "--grace", "0.1s", "--json").lines()[-1:]
    assert sum(run["deleted_len"] for run in runs) > 900_000
    assert sum(run["marked_packs"] for run in runs) == 6
    assert "nothing to free" in host.ok("prune", "--grace", "0").out
    assert "all is well" in host.ok("check", "--read-data").out
    assert len(list((tmp_path / "store" / "data").rglob("*/*"))) == 2


def test_what_cannot_be_read_refuses_with_a_message(host: Host, tmp_path: Path) -> None:
    (tmp_path / "store" / "snapshots" / ("0" * 64)).write_bytes(b"not one of ours")
    before = everything_below(tmp_path / "store")
    ran = host.run("prune", "--grace", "0")
    assert ran.code == 1
    assert "snapshots/0000000000000000" in ran.err
    assert "nothing was pruned" in ran.err
    assert everything_below(tmp_path / "store") == before


@pytest.mark.parametrize(
    "args",
    [
        ("--grace", "7"),
        ("--grace", "-1d"),
        ("--grace", "soon"),
        ("--max-unused", "lots"),
        ("--repack-below", "1.5"),
        ("--repack-below", "200%"),
        ("extra",),
    ],
)
def test_bad_usage(host: Host, args: tuple[str, ...]) -> None:
    ran = host.run("prune", *args)
    assert ran.code == 2
    assert ran.err.startswith("coopfs: ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("20m", 1200), ("36h", 129_600), ("1.5d", 129_600), ("1w", 604_800)],
)
def test_graces_are_read(text: str, seconds: float) -> None:
    assert parse_grace(text) == seconds


def test_times_are_said_in_round_numbers() -> None:
    assert [grace_text(s) for s in (5, 119, 120, 7200, 86_400, 604_800)] == [
        *("5 s", "119 s", "2 minutes", "2 hours", "24 hours", "7 days"),
    ]
