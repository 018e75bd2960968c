"""Stats add up to what was backed up and what lies in the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from checked import make_source, opened
from hosts import Host

from coopfs.ops.stats import collect_stats
from coopfs.store.base import Kind


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Two snapshots of one series, the second with a file more, and one of another."""
    base = tmp_path_factory.mktemp("stats")
    host = Host(base)
    host.init(base / "store")
    make_source(base / "source")
    host.ok("snapshot", base / "source", "--series", "one")
    (base / "source" / "more").write_bytes(b"more of it\n" * 1000)
    host.ok("snapshot", base / "source", "--series", "one")
    host.ok("snapshot", base / "source" / "text", "--series", "two")
    return host


def test_an_empty_archive_has_stats_without_ratios(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    with opened(host) as (archive, _):
        archive.refresh()
        stats = collect_stats(archive)
    assert (stats.snapshots, stats.size, stats.series) == (0, 0, ())
    assert (stats.dedup_ratio, stats.compression_ratio) == (None, None)
    assert "snapshots  0" in host.ok("stats").out


def test_stored_is_what_the_objects_in_the_store_take(host: Host) -> None:
    with opened(host) as (archive, _):
        archive.refresh()
        stats = collect_stats(archive)
    on_disk = [p for p in (host.base / "store").rglob("*") if p.is_file() and p.name != "config"]
    assert stats.stored == sum(path.stat().st_size for path in on_disk)
    assert stats.in_store[Kind.DATA].count == stats.data.packs + stats.meta.packs
    assert stats.in_store[Kind.DATA].size == stats.data.size + stats.meta.size
    assert 0 < stats.data.overhead < stats.data.size


def test_what_was_backed_up_twice_is_stored_once(host: Host) -> None:
    with opened(host) as (archive, _):
        archive.refresh()
        stats = collect_stats(archive)
        sizes = [s.facts.counts.size for s in archive.snapshots()]
    assert stats.size == sum(sizes)
    assert stats.data.plain_len < max(sizes)
    assert stats.dedup_ratio is not None
    assert 2 < stats.dedup_ratio < 4


def test_every_series_has_its_line(host: Host) -> None:
    with opened(host) as (archive, _):
        archive.refresh()
        one, two = collect_stats(archive).series
        newest = archive.snapshots()[-2]
    assert (one.host, one.series, one.snapshots) == ("anna", "one", 2)
    assert (two.series, two.snapshots) == ("two", 1)
    assert one.newest.snapshot_id == newest.snapshot_id
    assert 0 < two.new < 2000  # trees only: its one file was in the other series
    lines = host.ok("stats").out.splitlines()
    assert lines[-2].split()[:3] == ["anna", "one", "2"]
    assert lines[-1].split()[:3] == ["anna", "two", "1"]


def test_json_has_the_same_numbers(host: Host) -> None:
    (line,) = host.ok("stats", "--json").lines()
    with opened(host) as (archive, _):
        archive.refresh()
        stats = collect_stats(archive)
    assert line["type"] == "stats"
    assert line["stored"] == stats.stored
    assert line["different"] == stats.data.plain_len
    assert [item["series"] for item in line["series"]] == ["one", "two"]
