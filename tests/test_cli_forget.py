"""The commands forget, tag, hold and describe: tables, JSON, exit codes, bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host with an archive of four snapshots; tests take care to change nothing that counts."""
    base = tmp_path_factory.mktemp("forget")
    host = Host(base / "anna")
    host.init(base / "store", "--recovery-kit", base / "kit")
    for number in range(4):
        (base / "file").write_text(f"{number}")
        host.ok("snapshot", base / "file", "--series", "s", *("--tag", "odd") * (number % 2))
    return host


def ids(host: Host) -> list[str]:
    lines = host.ok("snapshots", "--json").lines()
    return [line["id"] for line in lines if line["type"] == "snapshot"]


def test_a_dry_run_says_why_and_changes_nothing(pattern: Host) -> None:
    before = ids(pattern)
    ran = pattern.ok("forget", "--keep-last", 1, "--keep-tag", "odd", "-n")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["ID", "TIME", "HOST", "SERIES", "NUMBER", "TAGS", "WHY"]
    assert [line.split()[0] for line in lines[1:5]] == ["forget", "keep", "forget", "keep"]
    assert lines[1].endswith("no rule keeps it")
    assert lines[2].endswith("tagged odd")
    assert lines[4].endswith("newest of its series, tagged odd, last")
    assert lines[-1] == "would let go 2 snapshots; kept: 2"
    assert ids(pattern) == before


def test_json_has_a_verdict_each_and_a_summary(pattern: Host) -> None:
    lines = pattern.ok("forget", "--keep-within-hourly", "1d", "--json", "-n").lines()
    assert [line["type"] for line in lines] == ["verdict"] * 4 + ["summary"]
    assert lines[0]["reasons"] in (["no rule keeps it"], ["oldest hourly within 1d"])
    assert lines[-1] == {
        **{"type": "summary", "is_dry_run": True, "deleted": 0, "left": 0},
        **{"kept": lines[-1]["kept"], "forgotten": 4 - lines[-1]["kept"]},
    }


def test_filters_choose(pattern: Host) -> None:
    run = pattern.ok("forget", "--keep-last", 1, "--tag", "odd", "--json", "-n").lines()
    assert [line["number"] for line in run[:-1]] == [2, 4]
    for other in (("--host", "bob"), ("--series", "t")):
        (summary,) = pattern.ok("forget", "--keep-last", 1, *other, "--json", "-n").lines()
        assert summary["kept"] == summary["forgotten"] == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "say what to keep"),
        (("--keep-last", "0"), "say what to keep"),
        (("latest", "--keep-last", "1"), "not both"),
        (("--keep-last", "some"), "expected a number"),
        (("--keep-daily", "-1"), "expected a number"),
        (("--keep-within", "1w"), "expected a duration"),
    ],
)
def test_bad_usage_is_told_apart(pattern: Host, args: tuple[str, ...], message: str) -> None:
    ran = pattern.run("forget", *args)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_a_name_nothing_has(pattern: Host) -> None:
    ran = pattern.run("forget", "ffff0000")
    assert (ran.code, ran.out) == (1, "")
    assert "no snapshot of that id" in ran.err


def test_tags_holds_and_descriptions_are_shown_and_protect(pattern: Host) -> None:
    first = ids(pattern)[0][:12]
    pattern.ok("tag", first, "--add", "keep me", "--add", "x")
    pattern.ok("tag", first, "--remove", "x")
    pattern.ok("describe", first, "before the move")
    assert "held, “before the move”" in pattern.ok("hold", first).out
    line = pattern.ok("snapshots", "--json").lines()[0]
    assert (line["tags"], line["is_held"]) == (["keep me"], True)
    assert line["description"] == "before the move"
    assert "complete, held" in pattern.ok("snapshots").out
    assert "about     before the move" in pattern.ok("snapshots", "-l").out
    assert len(pattern.ok("snapshots", "--tag", "keep me", "--json").lines()) == 2
    verdict = pattern.ok("forget", "--keep-last", 1, "--json", "-n").lines()[0]
    assert verdict["reasons"] == ["held"]
    ran = pattern.run("forget", first)
    assert ran.code == 2
    assert "is on hold" in ran.err
    assert "is so already" in pattern.ok("hold", first).out
    assert "held" not in pattern.ok("hold", first, "--release").out
    (line,) = pattern.ok("describe", first, "", "--json").lines()
    assert line["description"] == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("tag", "latest"), "nothing to change"),
        (("tag", "latest", "--add", "a,b"), "comma"),
        (("tag",), "Missing argument"),
        (("hold",), "Missing argument"),
        (("describe", "latest"), "Missing argument"),
        (("describe", "latest", "x" * 70_000), "65536 at most"),
    ],
)
def test_bad_amendments(pattern: Host, args: tuple[str, ...], message: str) -> None:
    ran = pattern.run(*args)
    assert ran.code == 2
    assert message in ran.err


def test_with_the_admin_key_away_its_sheet_is_needed(tmp_path: Path) -> None:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store", "--recovery-kit", tmp_path / "kit")
    for number in range(3):
        (tmp_path / "file").write_text(f"{number}")
        host.ok("snapshot", tmp_path / "file")
    host.ok("key", "offline", "--recovery-kit", tmp_path / "kit")
    first, second, _third = ids(host)
    ran = host.run("forget", "--keep-last", 1)
    assert ran.code == 12
    assert "needs the admin key" in ran.err
    assert len(ids(host)) == 3
    host.ok("forget", "--keep-last", 1, "--dry-run")  # to look needs no key
    host.ok("hold", first)
    ran = host.run("hold", first, "--release")
    assert ran.code == 12
    host.ok("hold", first, "--release", "--recovery-kit", tmp_path / "kit")
    said = host.ok("forget", second[:8], first[:8], "--recovery-kit", tmp_path / "kit").out
    assert "let go 2 snapshots; kept: 0" in said
    assert len(ids(host)) == 1
