from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coopfs.archive.settings import (
    ArchiveSettings,
    SeriesRule,
    archive_names,
    check_archive_name,
    load_settings,
    save_settings,
)
from coopfs.dirs import Dirs
from coopfs.errors import ConfigError, FormatUnsupported, NoArchive, UsageError
from coopfs.format.invitation import Endpoint
from coopfs.ids import ArchiveId

SETTINGS = ArchiveSettings("home", "/mnt/partner", ArchiveId(bytes(range(16))), "anna")
MINIMAL = f'version = 1\narchive_id = "{bytes(range(16)).hex()}"\nstore = "/s"\nhost = "anna"\n'


@pytest.fixture
def dirs(tmp_path: Path) -> Dirs:
    return Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")


def add(dirs: Dirs, name: str, text: str | None = MINIMAL) -> Path:
    folder = dirs.archive_config(name)
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "archive.toml").write_text(text)
    return folder


def test_what_is_saved_is_loaded(dirs: Dirs) -> None:
    settings = replace(
        SETTINGS,
        store='/a "quoted" and \\ ünusual/path',
        series=(SeriesRule("/home/ann", "home"), SeriesRule("/srv/ü", "data")),
        partial_interval_s=0,
        cache_max=1 << 40,
        compression="better",
    )
    add(dirs, "home", None)
    save_settings(dirs, settings)
    assert load_settings(dirs, "home") == settings
    save_settings(dirs, SETTINGS)
    assert load_settings(dirs, "home") == SETTINGS


@given(store=st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_address_survives_toml(tmp_path_factory: pytest.TempPathFactory, store: str) -> None:
    base = tmp_path_factory.mktemp("settings")
    dirs = Dirs(base, base, base)
    add(dirs, "home", None)
    save_settings(dirs, replace(SETTINGS, store=store))
    assert load_settings(dirs, "home").store == store


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("partial_intervall_s = 3", "unknown setting 'partial_intervall_s'"),
        ("partial_interval_s = 5", "0 (never) or 60 seconds and more"),
        ("partial_interval_s = '4h'", "expected a whole number"),
        ("partial_interval_s = true", "expected a whole number"),
        ("cache_max = -1", "expected a number of bytes"),
        ("compression = 'best'", "expected one of auto, fastest, better, max"),
        ("ntp_servers = 'ntp.example.org'", "expected a list"),
        ("ntp_servers = [3]", "ntp_servers: 3 is no HOST"),
        ("ntp_servers = ['a b']", "ntp_servers 'a b:123': expected HOST:PORT"),
        ("ntp_servers = ['a:0']", "ntp_servers 'a:0': expected HOST:PORT"),
        (f"ntp_servers = {['a'] * 9}", "ntp_servers names 9; expected 8 at most"),
        ("series = 'home'", "expected a table"),
        ("[series]\n'home/ann' = 'home'", "'home/ann' is not an absolute path"),
        ("[series]\n'/home' = 'a/b'", "only letters"),
        ("[series]\n'/home' = 3", "expected a series' name"),
    ],
)
def test_a_setting_that_would_not_do_what_was_meant_is_refused(
    dirs: Dirs, line: str, message: str
) -> None:
    add(dirs, "home", MINIMAL + line + "\n")
    with pytest.raises(ConfigError, match=rf"archive\.toml: .*{re.escape(message)}"):
        load_settings(dirs, "home")


def test_time_servers_may_leave_out_their_port(dirs: Dirs) -> None:
    add(dirs, "home", MINIMAL + "ntp_servers = ['ntp.example.org', '192.0.2.7:1123', '[::1]:9']\n")
    assert load_settings(dirs, "home").ntp_servers == (
        Endpoint("ntp.example.org", 123),
        Endpoint("192.0.2.7", 1123),
        Endpoint("::1", 9),
    )
    save_settings(dirs, load_settings(dirs, "home"))
    assert len(load_settings(dirs, "home").ntp_servers) == 3


@pytest.mark.parametrize("missing", ["version", "archive_id", "store", "host"])
def test_what_is_missing_is_named(dirs: Dirs, missing: str) -> None:
    lines = [line for line in MINIMAL.splitlines() if not line.startswith(missing)]
    add(dirs, "home", "\n".join(lines))
    with pytest.raises(ConfigError, match=f"{missing} is missing"):
        load_settings(dirs, "home")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"anna"', '"an/na"', "host 'an/na'"),
        (bytes(range(16)).hex(), "00", "32 hex digits"),
        ("version = 1", "version = = 1", "not valid TOML"),
        ('"/s"', '"\\ud800"', "not valid TOML"),
    ],
)
def test_a_wrong_value_is_named(dirs: Dirs, old: str, new: str, message: str) -> None:
    add(dirs, "home", MINIMAL.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_settings(dirs, "home")


def test_bytes_that_are_no_text_are_refused(dirs: Dirs) -> None:
    (add(dirs, "home") / "archive.toml").write_bytes(b'store = "\xff"\n')
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(dirs, "home")


def test_settings_of_a_newer_coopfs_say_update(dirs: Dirs) -> None:
    add(dirs, "home", MINIMAL.replace("version = 1", "version = 2"))
    with pytest.raises(FormatUnsupported, match="update coopfs"):
        load_settings(dirs, "home")


def test_the_only_archive_needs_no_name(dirs: Dirs) -> None:
    add(dirs, "home")
    assert load_settings(dirs, None).name == "home"


def test_among_several_the_one_called_default_needs_no_name(dirs: Dirs) -> None:
    add(dirs, "home")
    add(dirs, "default")
    assert load_settings(dirs, None).name == "default"
    assert load_settings(dirs, "home").name == "home"


def test_among_several_without_a_default_the_choice_is_the_users(dirs: Dirs) -> None:
    add(dirs, "home")
    add(dirs, "work")
    with pytest.raises(UsageError, match=r"home, work.*--archive"):
        load_settings(dirs, None)


def test_no_archive_at_all_says_how_to_make_one(dirs: Dirs) -> None:
    for name in (None, "home"):
        with pytest.raises(NoArchive, match="coopfs init"):
            load_settings(dirs, name)


def test_an_unknown_name_says_which_there_are(dirs: Dirs) -> None:
    add(dirs, "home")
    with pytest.raises(NoArchive, match=r"'hoem'.*there is: home"):
        load_settings(dirs, "hoem")


def test_half_made_archives_are_not_seen(dirs: Dirs) -> None:
    add(dirs, "home", None)
    add(dirs, ".new-0123")
    (dirs.archives / "file").write_text("")
    assert archive_names(dirs) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "x" * 65])
def test_a_name_cannot_lead_elsewhere(dirs: Dirs, name: str) -> None:
    with pytest.raises(UsageError, match="archive name"):
        check_archive_name(name)
    with pytest.raises(UsageError):
        load_settings(dirs, name)


def test_the_series_of_paths_is_named_only_when_all_agree() -> None:
    rules = (SeriesRule("/a", "x"), SeriesRule("/b", "x"), SeriesRule("/c", "y"))
    settings = replace(SETTINGS, series=rules)
    assert settings.series_for(("/a",)) == "x"
    assert settings.series_for(("/a", "/b")) == "x"
    assert settings.series_for(("/a", "/c")) is None
    assert settings.series_for(("/a", "/d")) is None
    assert settings.series_for(("/a/sub",)) is None
    assert settings.series_for(()) is None
