from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host

from coopfs.cli.cmd_snapshots import _clock_text
from coopfs.format.snapshot import ClockFacts


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store")
    return host


@pytest.fixture
def three(host: Host, tmp_path: Path) -> Host:
    for series, tags in (("home", ["--tag", "keep"]), ("db", []), ("home", [])):
        (tmp_path / "file").write_text(series)
        host.ok("snapshot", tmp_path / "file", "--series", series, *tags)
    return host


def listed(host: Host, *args: str) -> list[tuple[str, int]]:
    lines = host.ok("snapshots", "--json", *args).lines()
    assert lines[-1]["type"] == "archive"
    return [(line["series"], line["number"]) for line in lines[:-1]]


def test_an_empty_archive_says_what_to_do(host: Host) -> None:
    ran = host.ok("snapshots")
    assert "coopfs snapshot PATH" in ran.out
    assert host.ok("snapshots", "--json").lines() == [
        {
            "type": "archive",
            "snapshots": 0,
            "fingerprint": host_fingerprint(host),
            "accepted_missing": [],
        }
    ]


def host_fingerprint(host: Host) -> str:
    words: str = host.ok("snapshots", "--json").lines()[-1]["fingerprint"]
    assert len(words.split()) == 6
    return words


def test_snapshots_are_listed_oldest_first(three: Host) -> None:
    assert listed(three) == [("home", 1), ("db", 1), ("home", 2)]
    lines = three.ok("snapshots").out.splitlines()
    assert lines[0].split()[:5] == ["ID", "TIME", "HOST", "SERIES", "NUMBER"]
    assert [line.split()[4:6] for line in lines[1:4]] == [["home", "1"], ["db", "1"], ["home", "2"]]
    assert lines[1].endswith("keep")
    assert lines[-1] == f"3 snapshots; fingerprint: {host_fingerprint(three)}"


def test_the_list_can_be_narrowed(three: Host) -> None:
    assert listed(three, "--series", "home") == [("home", 1), ("home", 2)]
    assert listed(three, "--tag", "keep") == [("home", 1)]
    assert listed(three, "--tag", "keep", "--tag", "other") == []
    assert listed(three, "--host", "bob") == []
    assert listed(three, "--host", "anna", "--series", "db") == [("db", 1)]
    assert "1 of 3 snapshots" in three.ok("snapshots", "--series", "db").out


def test_the_fingerprint_changes_with_each_snapshot_and_not_with_the_filter(
    three: Host, tmp_path: Path
) -> None:
    before = host_fingerprint(three)
    assert f"fingerprint: {before}" in three.ok("snapshots", "--series", "db").out
    three.ok("snapshot", tmp_path / "file", "--series", "db")
    assert host_fingerprint(three) != before


def test_long_tells_all_about_each(three: Host, tmp_path: Path) -> None:
    text = three.ok("snapshots", "--long", "--series", "home").out
    ids = [line["id"] for line in three.ok("snapshots", "--json", "--series", "home").lines()[:-1]]
    assert [line.split()[1] for line in text.splitlines() if line.startswith("snapshot ")] == ids
    assert f"  previous  {ids[0][:8]}" in text
    assert f"  sources   {tmp_path}/file" in text
    assert "  clock     " in text
    assert "  tags      keep" in text


@pytest.mark.parametrize(
    ("clock", "text"),
    [
        (None, "not asked about"),
        (ClockFacts("", 0, 16, False), "nobody answered: not checked"),
        (ClockFacts("ntp", 2_000_000, 2, True), "+0.002 s against ntp, stratum 2"),
        (ClockFacts("ntp", -3_500_000_000, 2, True), "WRONG: -3.500 s against ntp, stratum 2"),
        (ClockFacts("ntp", 0, 16, False), "NOT SYNCHRONISED; +0.000 s against ntp, stratum 16"),
    ],
)
def test_a_clock_that_cannot_be_trusted_is_pointed_out(clock: ClockFacts | None, text: str) -> None:
    assert _clock_text(clock) == text


def test_a_snapshot_the_store_withholds_is_an_error(three: Host, tmp_path: Path) -> None:
    newest = three.ok("snapshots", "--json").lines()[-2]["id"]
    (tmp_path / "store" / "snapshots" / newest).unlink()
    ran = three.run("snapshots")
    assert ran.code == 1
    assert "no longer shows snapshot" in ran.err
