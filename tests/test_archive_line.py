"""Rates of a line: from the settings, from this run's limits, and changed meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from coopfs.archive.line import HINT_FILE, Limits, open_line
from coopfs.archive.settings import SETTINGS_FILE, ArchiveSettings, load_settings, save_settings
from coopfs.dirs import Dirs
from coopfs.errors import ConfigError, UsageError
from coopfs.ids import ArchiveId
from coopfs.store import line as line_module

SETTINGS = ArchiveSettings(
    "default", "rest+http://host/", ArchiveId(bytes(16)), "alpha", upload_rate="8M"
)
LONG = 1 << 30


@pytest.fixture
def dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dirs:
    monkeypatch.setattr(line_module, "LOOK_S", 0.0)
    monkeypatch.setattr(line_module, "SETTINGS_S", 0.0)
    dirs = Dirs(tmp_path / "config", tmp_path / "state", tmp_path / "cache")
    dirs.archive_config("default").mkdir(parents=True)
    save_settings(dirs, SETTINGS)
    return dirs


def test_settings_say_how_fast_each_way(dirs: Dirs) -> None:
    assert load_settings(dirs, None) == SETTINGS
    line = open_line(dirs, SETTINGS, Limits())
    assert line.up.piece_len(LONG) == 100_000
    assert line.down.piece_len(LONG) == LONG


def test_a_settings_file_changed_while_the_line_is_used_holds(dirs: Dirs) -> None:
    line = open_line(dirs, SETTINGS, Limits())
    save_settings(dirs, replace(SETTINGS, upload_rate="80M", download_rate="16M"))
    assert line.up.piece_len(LONG) == 1_000_000
    assert line.down.piece_len(LONG) == 200_000
    save_settings(dirs, replace(SETTINGS, upload_rate=""))
    assert line.up.piece_len(LONG) == line.down.piece_len(LONG) == LONG


def test_limits_of_the_run_hold_whatever_the_settings_say(dirs: Dirs) -> None:
    line = open_line(dirs, SETTINGS, Limits(upload="16M"))
    save_settings(dirs, replace(SETTINGS, upload_rate="80M", download_rate="80M"))
    assert line.up.piece_len(LONG) == 200_000
    assert line.down.piece_len(LONG) == 1_000_000
    assert open_line(dirs, SETTINGS, Limits(upload="full")).up.piece_len(LONG) == LONG


def test_settings_damaged_or_gone_meanwhile_leave_the_rates(
    dirs: Dirs, caplog: pytest.LogCaptureFixture
) -> None:
    line = open_line(dirs, SETTINGS, Limits())
    path = dirs.archive_config("default") / SETTINGS_FILE
    path.write_text("upload_rate = ")
    assert line.up.piece_len(LONG) == 100_000
    assert "not valid TOML" in caplog.text
    path.unlink()
    assert line.up.piece_len(LONG) == 100_000
    save_settings(dirs, replace(SETTINGS, upload_rate="16M"))
    assert line.up.piece_len(LONG) == 200_000


def test_what_is_no_schedule_is_refused(dirs: Dirs) -> None:
    with pytest.raises(UsageError, match="rates '10X': '10x' is no rate"):
        open_line(dirs, SETTINGS, Limits(download="10X"))
    save_settings(dirs, replace(SETTINGS, upload_rate="fast"))
    with pytest.raises(ConfigError, match=r"archive\.toml: rates 'fast': 'fast' is no rate"):
        load_settings(dirs, None)


def test_all_archives_of_a_user_have_one_hint(dirs: Dirs) -> None:
    line = open_line(dirs, SETTINGS, Limits(), goes_first=True)
    line.reading()
    other = open_line(dirs, replace(SETTINGS, name="other"), Limits(upload="full"))
    assert (dirs.state / HINT_FILE).exists()
    assert other.up.piece_len(LONG) < LONG
