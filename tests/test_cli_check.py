"""The check command: exit codes, a bounded text, and everything with --json."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hosts import Host

from coopfs.cli import findings


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """An archive with 150 files in one pack of data."""
    base = tmp_path_factory.mktemp("check")
    (base / "source").mkdir()
    for number in range(150):
        (base / "source" / f"file{number:03}").write_bytes(random.Random(number).randbytes(1000))
    (base / "source" / "odd\udcff\x1bname").write_bytes(b"odd" * 1000)
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def data_pack(host: Host) -> Path:
    """The pack with the files' content."""
    packs = [path for path in (host.base / "store" / "data").rglob("*") if path.is_file()]
    return max(packs, key=lambda path: path.stat().st_size)


def test_all_is_well_exits_0_and_says_so(host: Host) -> None:
    ran = host.ok("check")
    assert "all is well" in ran.out
    assert "checked 1 snapshot, " in ran.out
    assert ran.err == ""
    assert host.ok("check", "-q").out == ""


@pytest.mark.parametrize("option", ["--read-data", "--read-data=100%", "--read-data=100"])
def test_read_data_reads_every_pack(host: Host, option: str) -> None:
    assert "read and verified every byte of 2 packs" in host.ok("check", option).out


def test_read_data_takes_a_share(host: Host) -> None:
    assert host.ok("check", "--read-data=50%", "--json").lines()[-1]["packs_read"] == 1


@pytest.mark.parametrize("share", ["0", "101%", "1e1", "ten", ""])
def test_a_share_that_is_none_is_refused(host: Host, share: str) -> None:
    ran = host.run("check", f"--read-data={share}")
    assert ran.code == 2
    assert "expected a share such as 10%" in ran.err


def test_damage_exits_1_and_the_text_is_bounded(host: Host, data_pack: Path) -> None:
    kept = data_pack.rename(host.base / "kept")
    try:
        ran = host.run("check")
        lines = host.run("check", "--json").lines()
    finally:
        kept.rename(data_pack)
    assert ran.code == 1
    assert ran.err.count("is not in the store") == 1
    shown = [line for line in ran.out.splitlines() if line.startswith("  /")]
    assert len(shown) == findings.HURT_SHOWN
    assert "and 51 more (--json has all)" in ran.out
    assert "151 files or folders of 1 snapshot cannot be read whole" in ran.out
    hurt = [line for line in lines if line["type"] == "hurt"]
    assert len(hurt) == 151
    assert hurt[0]["path"] == str(host.base / "source" / "file000")
    assert (hurt[0]["size"], hurt[0]["lost"]) == (1000, 1000)
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["is_whole"] is False


def test_names_in_the_text_cannot_steer_the_terminal(
    host: Host, data_pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(findings, "HURT_SHOWN", 1000)
    kept = data_pack.rename(host.base / "kept")
    try:
        ran = host.run("check")
    finally:
        kept.rename(data_pack)
    assert "odd" in ran.out
    assert "\x1b" not in ran.out
