"""Several archives side by side on one machine, through the command line."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import Host, everything_below
from mounting import mounted, needs_fuse


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A machine with the archives home and work, a snapshot of its own in each."""
    host = Host(tmp_path / "anna")
    for name in ("home", "work"):
        host.init(
            tmp_path / f"{name}-store",
            *("--archive", name, "--recovery-kit", tmp_path / f"{name}-kit"),
        )
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"of {name}")
        host.ok("snapshot", tmp_path / name, COOPFS_ARCHIVE=name)
    for number, sheet in enumerate((tmp_path / "work-kit").read_text().split("\f")):
        (tmp_path / f"sheet {number}").write_text(sheet)
    return host


def series(host: Host, *args: object) -> list[str]:
    lines = host.ok("snapshots", "--json", *args).lines()
    return [line["series"] for line in lines if line["type"] == "snapshot"]


def test_where_several_could_be_meant_they_are_named(host: Host, tmp_path: Path) -> None:
    before = everything_below(tmp_path)
    (tmp_path / "mnt").mkdir()
    for arguments in (
        ("snapshots",),
        ("snapshot", tmp_path / "home"),
        ("mount", "-f", tmp_path / "mnt"),
    ):
        ran = host.run(*arguments)
        assert (ran.code, "home, work" in ran.err, "--archive" in ran.err) == (2, True, True)
    ran = host.run("snapshots", "--archive", "play")
    assert (ran.code, "there is: home, work" in ran.err) == (10, True)
    assert host.run("snapshots", "--archive", "../work").code == 2
    assert everything_below(tmp_path) == before
    assert series(host, "--archive", "home") == ["home"]
    assert series(host, "--archive", "work") == ["work"]


def test_they_are_listed_without_a_store_or_passphrase(host: Host, tmp_path: Path) -> None:
    (tmp_path / "work-store").rename(tmp_path / "away")
    lines = host.ok("archive", "list", "--json").lines()
    assert [(line["archive"], line["is_default"]) for line in lines] == [
        ("home", False),
        ("work", False),
    ]
    assert lines[1]["store"] == str(tmp_path / "work-store")
    host.init(tmp_path / "third")
    shown = host.ok("archive", "list").out.splitlines()
    assert [line.startswith("*") for line in shown] == [False, True, False, False]
    assert series(host) == []  # "default", where none is named
    (host.dirs.archive_config("home") / "archive.toml").write_text("nonsense")
    ran = host.ok("archive", "list")
    assert "archive home: " in ran.err
    assert "unusable" in ran.out
    assert Host(tmp_path / "nobody").ok("archive", "list", "--json").lines() == []


def test_two_archives_on_one_store_are_refused(host: Host, tmp_path: Path) -> None:
    before = everything_below(tmp_path)
    (tmp_path / "alias").symlink_to("home-store")
    for place in (tmp_path / "home-store", f"file://{tmp_path}/home-store", tmp_path / "alias"):
        ran = host.run("init", place, "--archive", "third", "--no-passphrase")
        assert (ran.code, "of the archive 'home' on this host" in ran.err) == (2, True)
    # Nor is one archive here twice, under two names.
    kit = ("--recovery-kit", tmp_path / "home-kit", "--no-passphrase")
    for command in (("recover",), ("writer", "request", tmp_path / "home-store")):
        ran = host.run(*command, "--archive", "third", *kit)
        assert (ran.code, "called 'home' here" in ran.err) == (2, True)
    assert everything_below(tmp_path) == before


def test_a_name_that_another_archive_has_is_left_to_it(host: Host, tmp_path: Path) -> None:
    before = everything_below(tmp_path)
    kit = ("--recovery-kit", tmp_path / "home-kit", "--no-passphrase")
    ran = host.run("recover", "--archive", "work", *kit)
    assert (ran.code, "give this one another name" in ran.err) == (2, True)
    ran = host.run("init", tmp_path / "new", "--archive", "work", "--no-passphrase")
    assert (ran.code, "give the new one another name" in ran.err) == (2, True)
    assert everything_below(tmp_path) == before


@needs_fuse
def test_both_are_mounted_at_once(host: Host, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for name in ("home", "work"):
            mount = stack.enter_context(mounted(host, tmp_path / f"m-{name}", "--archive", name))
            (found,) = (mount.path / "by-host" / "anna").iterdir()
            assert found.name == name
        for name in ("home", "work"):
            found = tmp_path / f"m-{name}" / "by-host" / "anna" / name / "latest"
            assert (found / str(tmp_path)[1:] / name / "file").read_text() == f"of {name}"


def test_one_is_removed_only_with_its_kit_and_comes_back_by_it(host: Host, tmp_path: Path) -> None:
    before = everything_below(tmp_path)
    assert host.run("archive", "remove", "play", "--yes").code == 10
    sheets = [("--recovery-kit", tmp_path / f"sheet {number}") for number in range(2)]
    for kit, code in (
        ((), 2),
        (("--recovery-kit", tmp_path / "home-kit"), 12),
        (sheets[0], 2),  # the admin key is here too, and would be lost
        (sheets[1], 2),
    ):
        assert host.run("archive", "remove", "work", *kit).code == code
    assert everything_below(tmp_path) == before
    store = everything_below(tmp_path / "work-store")
    (work,) = [f for f in host.ok("archive", "list", "--json").lines() if f["archive"] == "work"]
    host.ok("archive", "remove", "work", *sheets[0], *sheets[1])
    assert everything_below(tmp_path / "work-store") == store
    assert not [name for name in everything_below(host.base) if work["archive_id"] in name]
    assert series(host) == ["home"]  # the only one now
    kit = ("--recovery-kit", tmp_path / "work-kit", "--no-passphrase")
    host.ok("recover", "--archive", "work", *kit, "--host", "again")
    assert series(host, "--archive", "work") == ["work"]
    # Without the admin key here its sheet is not asked for; without a kit, --yes.
    host.ok("archive", "remove", "work", *sheets[0])
    host.ok("archive", "remove", "home", "--yes")
    assert host.ok("archive", "list", "--json").lines() == []
    assert host.run("snapshots").code == 10


def test_one_whose_settings_are_unusable_can_be_removed(host: Host, tmp_path: Path) -> None:
    (host.dirs.archive_config("work") / "archive.toml").write_text("nonsense")
    (facts,) = host.ok("archive", "remove", "work", "--yes", "--json").lines()
    assert len(facts["deleted"]) == 2  # its state too
    assert series(host) == ["home"]
