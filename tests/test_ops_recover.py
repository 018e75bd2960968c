"""Recovering from the kit alone, on a store that is only a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.archive.kit import read_kit_file
from coopfs.archive.words import key_words
from coopfs.ops import recover
from coopfs.store.faulty import SimulatedCrash


@pytest.fixture
def lost(tmp_path: Path) -> Host:
    """A host whose every local file is gone; its store, kit and sheets are not."""
    host = Host(tmp_path / "anna", "anna")
    host.init(tmp_path / "store", "--recovery-kit", tmp_path / "kit")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"precious" * 5000)
    host.ok("snapshot", tmp_path / "source")
    sheets = (tmp_path / "kit").read_text().split("\f")
    for number, sheet in enumerate(sheets):
        (tmp_path / f"sheet {number}").write_text(sheet)
    shutil.rmtree(host.base)
    return host


def kit_of(tmp_path: Path) -> tuple[object, ...]:
    return ("--recovery-kit", tmp_path / "kit")


def is_back(host: Host, tmp_path: Path) -> bool:
    target = tmp_path / "back"
    host.ok("restore", f"latest:{tmp_path}/source", "--target", target)
    found = (target / "file").read_bytes()
    shutil.rmtree(target)
    return found == b"precious" * 5000


def test_the_kit_says_all_that_is_needed(lost: Host, tmp_path: Path) -> None:
    (facts,) = lost.ok(
        "recover", *kit_of(tmp_path), "--no-passphrase", "--host", "new", "--json"
    ).lines()
    assert facts["store"] == str(tmp_path / "store")
    assert (facts["is_writer"], facts["snapshots"], facts["host"]) == (True, 1, "new")
    newest = [facts[f"newest_{what}"] for what in ("host", "series", "number")]
    assert newest == ["anna", "source", 1]
    assert is_back(lost, tmp_path)
    lost.ok("snapshot", tmp_path / "source")
    lost.ok("check", "--read-data")
    # The words are those that another machine would show.
    assert facts["words"] != lost.ok("recover", *kit_of(tmp_path), "--json").lines()[0]["words"]


def test_each_sheet_may_come_in_a_file_of_its_own(lost: Host, tmp_path: Path) -> None:
    sheets = [tmp_path / "sheet 1", tmp_path / "sheet 0"]
    lost.ok(
        *("recover", tmp_path / "store", "--no-passphrase"),
        *("--recovery-kit", sheets[0], "--recovery-kit", sheets[1]),
    )
    assert is_back(lost, tmp_path)


def test_the_kit_may_come_on_standard_input(lost: Host, tmp_path: Path) -> None:
    lost.ok("recover", "--no-passphrase", stdin=(tmp_path / "kit").read_text())
    assert is_back(lost, tmp_path)


def test_without_the_admin_key_it_can_be_read_and_a_code_is_shown(
    lost: Host, tmp_path: Path
) -> None:
    sheet = ("--recovery-kit", tmp_path / "sheet 0")
    ran = lost.ok("recover", *sheet, "--no-passphrase", "--host", "new")
    assert "coopfs writer enrol" in ran.out
    assert is_back(lost, tmp_path)
    assert lost.run("snapshot", tmp_path / "source").code == 12
    # The other sheet, found later, makes it a writer.
    ran = lost.ok("recover", *kit_of(tmp_path))
    assert "may write" in ran.out
    lost.ok("snapshot", tmp_path / "source")


def test_the_admin_sheet_alone_reads_nothing(lost: Host, tmp_path: Path) -> None:
    ran = lost.run("recover", "--recovery-kit", tmp_path / "sheet 1", "--no-passphrase")
    assert (ran.code, "sheet of the archive key" in ran.err) == (2, True)
    assert not lost.base.exists()


def test_words_alone_need_the_stores_address(lost: Host, tmp_path: Path) -> None:
    words = " ".join(key_words(bytes(32)))
    ran = lost.run("recover", "--no-passphrase", stdin=words)
    assert (ran.code, "STORE is missing" in ran.err) == (2, True)
    ran = lost.run("recover", tmp_path / "store", "--no-passphrase", stdin=words)
    assert ran.code == 12
    assert not (lost.dirs.config / "archives" / "default").exists()


def test_another_archives_admin_key_enrols_nobody(lost: Host, tmp_path: Path) -> None:
    other = Host(tmp_path / "other", "other")
    other.init(tmp_path / "others", "--recovery-kit", tmp_path / "others-kit")
    sheet = tmp_path / "others-admin"
    sheet.write_text((tmp_path / "others-kit").read_text().split("\f")[1])
    before = everything_below(tmp_path / "store")
    ran = lost.run(
        *("recover", tmp_path / "store", "--no-passphrase"),
        *("--recovery-kit", tmp_path / "sheet 0", "--recovery-kit", sheet),
    )
    assert (ran.code, "not the admin key" in ran.err) == (12, True)
    assert everything_below(tmp_path / "store") == before
    assert not lost.base.exists()


def test_a_kit_that_was_typed_wrong_is_said_to_be_and_sets_nothing_up(
    lost: Host, tmp_path: Path
) -> None:
    kit = read_kit_file(tmp_path / "kit")
    keys = [key_words(key) for key in (kit.archive_key, kit.admin_key) if key]
    words = keys[0]
    other = next(word for word in ("abandon", "zoo") if word != words[2])
    for number, key in enumerate(keys):
        (tmp_path / f"words {number}").write_text(" ".join(key))
    for typed, code, said in (
        ([*words[:2], "zzzz", *words[3:]], 2, "word 3, 'zzzz'"),
        ([*words[:2], other, *words[3:]], 2, "checksum"),
        (words[:-1], 2, "23 words"),
        (keys[1], 12, "words of the admin key"),
    ):
        ran = lost.run("recover", tmp_path / "store", "--no-passphrase", stdin=" ".join(typed))
        assert (ran.code, said in ran.err) == (code, True), ran.err
        assert not lost.base.exists()
    for sheets, said in (
        ((1, 0), "words of the admin key"),
        ((0, 0), "read twice"),
    ):
        files = [("--recovery-kit", tmp_path / f"words {sheet}") for sheet in sheets]
        ran = lost.run("recover", tmp_path / "store", "--no-passphrase", *files[0], *files[1])
        assert (ran.code, said in ran.err) == (12, True), ran.err
        assert not lost.base.exists()


def test_another_archives_store_is_not_taken_for_the_kits(lost: Host, tmp_path: Path) -> None:
    Host(tmp_path / "other", "other").init(tmp_path / "others")
    ran = lost.run("recover", tmp_path / "others", *kit_of(tmp_path), "--no-passphrase")
    assert (ran.code, "another archive" in ran.err) == (12, True)
    assert not lost.base.exists()


@pytest.mark.parametrize("step", ["load_keyring", "enrol_writer", "heads_fingerprint"])
def test_stopped_at_any_step_the_same_command_goes_on(
    lost: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SimulatedCrash(step)

    again = ("recover", *kit_of(tmp_path), "--no-passphrase", "--host", "new", "--json")
    with monkeypatch.context() as patch:
        patch.setattr(recover, step, crash)
        assert lost.run(*again).code != 0
    (facts,) = lost.ok(*again).lines()
    assert (facts["is_writer"], facts["snapshots"]) == (True, 1)
    hosts = [line["host"] for line in lost.ok("writer", "list", "--json").lines()]
    assert hosts == ["anna", "new"]  # enrolled once
    assert is_back(lost, tmp_path)


def test_a_store_that_moved_is_said_to_have(lost: Host, tmp_path: Path) -> None:
    lost.ok("recover", *kit_of(tmp_path), "--no-passphrase")
    (tmp_path / "store").rename(tmp_path / "moved")
    ran = lost.run("recover", tmp_path / "moved", *kit_of(tmp_path), "--no-passphrase")
    assert (ran.code, "coopfs store move" in ran.err) == (2, True)


def test_other_machines_are_sent_away_from_a_partners_store_only(
    lost: Host, tmp_path: Path
) -> None:
    ran = lost.run("recover", *kit_of(tmp_path), "--no-passphrase", "--only-this-host")
    assert (ran.code, "coop:// store" in ran.err) == (2, True)
    assert not lost.base.exists()


def test_a_store_that_is_not_there_is_said(lost: Host, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "store")
    ran = lost.run("recover", *kit_of(tmp_path), "--no-passphrase")
    assert ran.code == 10
    assert not lost.base.exists()


def test_a_partners_store_needs_the_partners_place(lost: Host, tmp_path: Path) -> None:
    ran = lost.run("recover", "coop://berta", *kit_of(tmp_path), "--no-passphrase")
    assert (ran.code, "--server coop://HOST:PORT/NAME" in ran.err) == (2, True)
    ran = lost.run(
        *("recover", "coop://berta", *kit_of(tmp_path), "--no-passphrase"),
        *("--server", "coop://127.0.0.1:1/anna"),
    )
    assert (ran.code, "needs --pin" in ran.err) == (2, True)
    ran = lost.run(
        *("recover", "coop://berta", *kit_of(tmp_path), "--no-passphrase"),
        *("--server", "coop://127.0.0.1:1/anna", "--pin", "5e" * 32),
    )
    assert (ran.code, "127.0.0.1:1: cannot be reached" in ran.err) == (1, True)
    # A passphrase opens the archive key, not the partner's door.
    ran = lost.run(
        *("recover", "coop://berta", "--published", "--no-passphrase"),
        *("--server", "coop://127.0.0.1:1/anna", "--pin", "5e" * 32),
    )
    assert (ran.code, "sheet of the recovery kit is needed" in ran.err) == (2, True)
