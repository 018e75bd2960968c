"""`coopfs key`: how the keys are kept changes, the keys do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hosts import Host, everything_below

from coopfs.archive.settings import load_settings
from coopfs.errors import WrongKey
from coopfs.format.wrapping import decode_key_file
from coopfs.ops import keys
from coopfs.ops.keys import change_passphrase
from coopfs.store.faulty import SimulatedCrash

pytestmark = pytest.mark.usefixtures("cheap_scrypt")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path / "anna")
    host.init(tmp_path / "store", "--recovery-kit", tmp_path / "kit")
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"passphrase {name}\n")
    return host


def set_passphrase(host: Host, name: str, old: str | None = None) -> None:
    given = [] if old is None else ["--passphrase-file", host.base.parent / old]
    new = host.base.parent / name
    host.ok("key", "passphrase", "--new-passphrase-file", new, *given)


def wrapped(host: Host) -> dict[str, bool]:
    return {
        path.name: decode_key_file(path.read_bytes(), path.name).scrypt is not None
        for path in host.dirs.archive_config("default").glob("*.key")
    }


def test_a_passphrase_is_added_changed_and_removed(host: Host, tmp_path: Path) -> None:
    store = everything_below(tmp_path / "store")
    words = host.ok("key", "export", "--json").lines()
    set_passphrase(host, "one")
    assert wrapped(host) == {"host.key": True, "admin.key": True}
    assert host.run("snapshots").code == 2  # nobody to ask
    host.ok("snapshots", "--passphrase-file", tmp_path / "one")
    set_passphrase(host, "two", "one")
    assert host.run("snapshots", "--passphrase-file", tmp_path / "one").code == 12
    assert (
        host.ok("key", "export", "--json", "--passphrase-file", tmp_path / "two").lines() == words
    )
    host.ok("key", "passphrase", "--remove", "--passphrase-file", tmp_path / "two")
    assert wrapped(host) == {"host.key": False, "admin.key": False}
    assert host.ok("key", "export", "--json").lines() == words
    assert everything_below(tmp_path / "store") == store


def test_with_a_wrong_passphrase_nothing_changes(host: Host, tmp_path: Path) -> None:
    set_passphrase(host, "one")
    before = everything_below(host.dirs.config)
    for arguments in (("--remove",), ("--new-passphrase-file", tmp_path / "two")):
        ran = host.run("key", "passphrase", *arguments, "--passphrase-file", tmp_path / "two")
        assert (ran.code, "wrong passphrase" in ran.err) == (12, True)
    assert everything_below(host.dirs.config) == before


@pytest.mark.parametrize("new", ["two", None])
def test_stopped_between_two_files_the_same_change_completes_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str | None
) -> None:
    set_passphrase(host, "one")
    settings = load_settings(host.dirs, None)
    real, done = keys.save_secrets, []

    def crash_at_second(*args: object, **kwargs: object) -> None:
        if done:
            raise SimulatedCrash("killed")
        done.append(args)
        real(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they came

    with monkeypatch.context() as patch:
        patch.setattr(keys, "save_secrets", crash_at_second)
        with pytest.raises(SimulatedCrash):
            change_passphrase(host.dirs, settings, lambda _: "passphrase one", lambda: new)
    written = change_passphrase(host.dirs, settings, lambda _: "passphrase one", lambda: new)
    assert {path.name for path in written} >= {"admin.key"}
    assert wrapped(host) == dict.fromkeys(("host.key", "admin.key"), new is not None)
    # Both open with the new one.
    change_passphrase(host.dirs, settings, lambda _: str(new), lambda: None)
    assert wrapped(host) == {"host.key": False, "admin.key": False}


def test_a_third_passphrase_cannot_complete_a_stopped_change(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_passphrase(host, "one")
    settings = load_settings(host.dirs, None)
    admin = host.dirs.archive_config("default") / "admin.key"
    before = admin.read_bytes()
    change_passphrase(host.dirs, settings, lambda _: "passphrase one", lambda: "two")
    admin.write_bytes(before)
    with pytest.raises(WrongKey, match=r"admin\.key: wrong passphrase"):
        change_passphrase(host.dirs, settings, lambda _: "two", lambda: "three")
    with pytest.raises(WrongKey, match=r"admin\.key: wrong passphrase"):
        change_passphrase(host.dirs, settings, lambda _: "two", lambda: None)


def test_the_options_of_a_change_must_make_sense(host: Host, tmp_path: Path) -> None:
    before = everything_below(host.dirs.config)
    (tmp_path / "empty-line").write_text("\n")
    for arguments, code in (
        ((), 2),
        (("--remove", "--new-passphrase-file", tmp_path / "one"), 2),
        (("--new-passphrase-file", tmp_path / "missing"), 1),
        (("--new-passphrase-file", tmp_path / "empty-line"), 1),
    ):
        assert host.run("key", "passphrase", *arguments).code == code
    assert everything_below(host.dirs.config) == before


def test_the_kit_is_exported_again_whole_or_a_sheet_of_it(host: Host, tmp_path: Path) -> None:
    kit = (tmp_path / "kit").read_text()
    assert host.ok("key", "export").out == kit + "\n"
    host.ok("key", "export", "--recovery-kit", tmp_path / "again")
    assert (tmp_path / "again").read_text() == kit
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o600
    ran = host.run("key", "export", "--recovery-kit", tmp_path / "again")
    assert (ran.code, "not overwritten" in ran.err) == (1, True)
    for sheet, text in zip(("archive", "admin"), kit.split("\f\n"), strict=True):
        assert host.ok("key", "export", "--sheet", sheet).out == text + "\n"
        (facts,) = host.ok("key", "export", "--sheet", sheet, "--json").lines()
        assert [name for name in facts if name.endswith("_words")] == [f"{sheet}_key_words"]
    host.ok("key", "export", "--sheet", "admin", "--recovery-kit", tmp_path / "one sheet")
    assert (tmp_path / "one sheet").read_text() == kit.split("\f\n")[1]
    (tmp_path / "store").rename(tmp_path / "away")
    assert host.ok("key", "export").out == kit + "\n"


def test_without_the_admin_key_its_sheet_is_said_to_be_missing(host: Host, tmp_path: Path) -> None:
    kit = ("--recovery-kit", tmp_path / "kit")
    host.ok("key", "offline", *kit)
    ran = host.ok("key", "export")
    assert "admin key is not on this machine" in ran.err
    assert "sheet 1 of 1" in ran.out
    ran = host.run("key", "export", "--sheet", "admin", "--recovery-kit", tmp_path / "none")
    assert (ran.code, "coopfs key online" in ran.err) == (1, True)
    assert not (tmp_path / "none").exists()
    host.ok("key", "export", "--sheet", "archive")


def test_the_keys_are_listed_without_a_secret(host: Host, tmp_path: Path) -> None:
    words = host.ok("key", "export", "--json").lines()[0]
    listed = {line["key"]: line for line in host.ok("key", "list", "--json").lines()}
    assert {kind: line["is_wrapped"] for kind, line in listed.items()} == dict.fromkeys(
        ("archive", "writer", "admin"), False
    )
    (writer,) = host.ok("writer", "list", "--json").lines()
    assert listed["writer"]["words"] == writer["fingerprint"]
    shown = host.ok("key", "list").out
    assert host.ok("key", "show").out == shown
    assert "store" not in shown  # nothing is published
    for secret in ("archive_key_words", "admin_key_words"):
        assert words[secret] not in shown
    set_passphrase(host, "one")
    host.ok(
        "key", "offline", "--recovery-kit", tmp_path / "kit", COOPFS_PASSPHRASE="passphrase one"
    )
    assert host.run("key", "list").code == 2  # nobody to ask
    secret = ("--passphrase-file", tmp_path / "one")
    again = {line["key"]: line for line in host.ok("key", "list", "--json", *secret).lines()}
    assert (again["writer"]["is_wrapped"], again["admin"]["path"]) == (True, None)
    assert again["admin"]["words"] == listed["admin"]["words"]
    assert "not on this machine" in host.ok("key", "list", *secret).out


def test_the_admin_key_leaves_only_when_its_sheet_can_be_read(host: Host, tmp_path: Path) -> None:
    archive_sheet, admin_sheet = (tmp_path / "kit").read_text().split("\f")
    before = everything_below(host.dirs.config)
    assert host.run("key", "offline").code == 2
    assert host.run("key", "offline", stdin=archive_sheet).code == 2
    words = host.ok("key", "export", "--json").lines()[0]
    ran = host.run("key", "offline", stdin=words["archive_key_words"])
    assert (ran.code, "words of the archive key" in ran.err) == (12, True)
    assert host.run("key", "offline", stdin="zoo " * 24).code == 2
    assert everything_below(host.dirs.config) == before
    host.ok("key", "offline", stdin=admin_sheet)
    assert wrapped(host) == {"host.key": False}
    ran = host.run("key", "offline", stdin=admin_sheet)
    assert (ran.code, "not on this machine" in ran.err) == (1, True)
    assert "admin key is not on this machine" in host.ok("key", "export").err


def test_without_the_admin_key_the_archive_is_used_as_before(host: Host, tmp_path: Path) -> None:
    host.ok("key", "offline", "--recovery-kit", tmp_path / "kit")
    (tmp_path / "file").write_text("x")
    host.ok("snapshot", tmp_path / "file")
    assert len(host.ok("snapshots", "--json").lines()) == 2


def test_the_admin_key_comes_back_from_its_sheet(host: Host, tmp_path: Path) -> None:
    host.ok("key", "offline", "--recovery-kit", tmp_path / "kit")
    other = Host(tmp_path / "bob", "bob")
    other.init(tmp_path / "other-store", "--recovery-kit", tmp_path / "other-kit")
    ran = host.run("key", "online", "--recovery-kit", tmp_path / "other-kit")
    assert (ran.code, "not the admin key of the archive" in ran.err) == (12, True)
    assert wrapped(host) == {"host.key": False}
    host.ok("key", "online", "--recovery-kit", tmp_path / "kit")
    assert wrapped(host) == {"host.key": False, "admin.key": False}
    assert host.run("key", "online", "--recovery-kit", tmp_path / "kit").code == 2


def test_an_admin_key_that_comes_back_is_wrapped_like_the_others(
    host: Host, tmp_path: Path
) -> None:
    host.ok("key", "offline", "--recovery-kit", tmp_path / "kit")
    set_passphrase(host, "one")
    secret = ("--passphrase-file", tmp_path / "one")
    host.ok("key", "online", "--recovery-kit", tmp_path / "kit", *secret)
    assert wrapped(host) == {"host.key": True, "admin.key": True}
    assert "admin_key_words" in host.ok("key", "export", "--json", *secret).lines()[0]
