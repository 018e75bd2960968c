from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.archive.kit import parse_kit
from coopfs.archive.words import parse_words
from coopfs.cli.cmd_init import default_host
from coopfs.format.config import peek_config


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "anna")


def test_the_kit_is_shown_and_can_be_typed_back(host: Host, tmp_path: Path) -> None:
    shown = host.init(tmp_path / "store").out
    keys = parse_kit(shown)
    facts = host.ok("key", "export", "--json").lines()[0]
    assert keys.archive_key == parse_words(facts["archive_key_words"])
    assert keys.admin_key == parse_words(facts["admin_key_words"])
    assert "NOT wrapped" in shown
    assert str(tmp_path / "store") in shown


def test_the_kit_goes_into_its_file_too(host: Host, tmp_path: Path) -> None:
    shown = host.init(tmp_path / "store", "--recovery-kit", tmp_path / "kit").out
    assert (tmp_path / "kit").read_text() in shown
    assert "print it, then delete the file" in shown


def test_json_has_the_words_unless_they_go_into_a_file(host: Host, tmp_path: Path) -> None:
    (facts,) = host.init(tmp_path / "one", "--json").lines()
    assert facts["archive"] == "default"
    assert facts["host"] == "anna"
    assert facts["chunk_size"] > 0
    assert len(facts["archive_key_words"].split()) == 24
    kit = tmp_path / "kit"
    (facts,) = host.init(
        tmp_path / "two", "--json", "--archive", "two", "--recovery-kit", kit
    ).lines()
    assert facts["recovery_kit"] == str(kit)
    assert "archive_key_words" not in facts


def test_quiet_shows_no_secret(host: Host, tmp_path: Path) -> None:
    ran = host.init(tmp_path / "store", "-q")
    assert (ran.out, ran.err) == ("", "")


def test_a_second_archive_gets_a_name(host: Host, tmp_path: Path) -> None:
    host.init(tmp_path / "one")
    ran = host.run("init", tmp_path / "two", "--no-passphrase")
    assert (ran.code, "--archive" in ran.err) == (2, True)
    assert not (tmp_path / "two").exists()
    host.init(tmp_path / "two", "--archive", "two")
    assert "two" in host.ok("--archive", "two", "key", "export").out
    assert host.ok("snapshots", COOPFS_ARCHIVE="two").code == 0


def test_without_a_word_about_a_passphrase_nothing_is_made(host: Host, tmp_path: Path) -> None:
    ran = host.run("init", tmp_path / "store")
    assert ran.code == 2
    assert "--passphrase-file" in ran.err
    assert "--no-passphrase" in ran.err
    assert everything_below(tmp_path) == {}
    assert not (tmp_path / "store").exists()


@pytest.mark.usefixtures("cheap_scrypt")
def test_with_a_passphrase_in_the_environment_the_keys_are_wrapped(
    host: Host, tmp_path: Path
) -> None:
    shown = host.ok("init", tmp_path / "store", COOPFS_PASSPHRASE="correct horse").out
    assert "wrapped with the passphrase" in shown
    assert host.run("snapshots").code == 2
    assert host.run("snapshots", COOPFS_PASSPHRASE="x").code == 12
    host.ok("snapshots", COOPFS_PASSPHRASE="correct horse")


@pytest.mark.parametrize(
    ("text", "size"), [("64K", 1 << 16), ("1M", 1 << 20), ("65536", 1 << 16), ("16KiB", 1 << 14)]
)
def test_the_chunk_size_is_fixed_in_the_store(
    host: Host, tmp_path: Path, text: str, size: int
) -> None:
    host.init(tmp_path / "store", "--chunk-size", text)
    config = peek_config((tmp_path / "store" / "config").read_bytes(), "test")
    assert config.chunker.avg_len == size


@pytest.mark.parametrize("text", ["", "0", "1K", "64", "5M", "-1M", "64X", "1e6", "9" * 30 + "M"])
def test_an_impossible_chunk_size_is_refused(host: Host, tmp_path: Path, text: str) -> None:
    ran = host.run("init", tmp_path / "store", "--no-passphrase", f"--chunk-size={text}")
    assert (ran.code, "expected 4K to 4M" in ran.err) == (2, True)
    assert not (tmp_path / "store").exists()


def test_a_relative_store_is_found_from_everywhere(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    host.init(Path("store"))
    monkeypatch.chdir("/")
    host.ok("snapshots")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anna", "anna"),
        ("anna.example.org", "anna"),
        ("my_host", "my-host"),
        ("höst", "h-st"),
        ("", "localhost"),
        ("...", "localhost"),
        ("x" * 200, "x" * 128),
    ],
)
def test_the_host_is_named_after_the_machine(
    name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    assert default_host() == expected
