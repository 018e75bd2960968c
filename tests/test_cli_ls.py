"""The ls command: names, the long form, JSON, and what odd names can do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import Host
from rich_source import make_rich_source
from terminal import Terminal

from coopfs.cli.cmd_ls import shown


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    base = tmp_path_factory.mktemp("ls")
    make_rich_source(base / "source")
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def spec(host: Host) -> str:
    return f"latest:{host.base}/source"


def test_names_come_a_line_each_in_order(host: Host, spec: str) -> None:
    lines = host.ok("ls", f"{spec}/linked").out.splitlines()
    assert lines == ["file", "inline", "later", "symlink"]


def test_a_file_is_listed_itself(host: Host, spec: str) -> None:
    assert host.ok("ls", f"{spec}/text").out == "text\n"


def test_recursive_lists_everything_once(host: Host, spec: str) -> None:
    listed = host.ok("ls", "-R", spec).out
    source = bytes(host.base / "source")
    expected = [
        os.path.relpath(os.path.join(path, name), source).decode("utf-8", "surrogateescape")
        for path, folders, files in os.walk(source)
        for name in [*folders, *files]
    ]
    assert sorted(listed.splitlines()) == sorted("\n".join(expected).splitlines())
    assert "linked/later/file" in listed.splitlines()


def test_the_long_form_looks_like_ls(host: Host, spec: str) -> None:
    lines = host.ok("ls", "-l", spec, TZ="UTC").out.split("\n")
    by_name = {line.split(":")[-1][3:]: line for line in lines if line}
    text = (host.base / "source" / "text").stat()
    assert by_name["text"].startswith("-rw-r--r--  root")
    assert f" {text.st_size} " in by_name["text"]
    assert by_name["symlink -> inline"].startswith("l")
    assert by_name["with attributes"][10] == "+"
    assert by_name["sticky"].startswith("drwxrwxrwt ")
    assert re.search(r" 1, 3 \d{4}-\d\d-\d\d \d\d:\d\d:\d\d char$", by_name["char"])
    assert by_name["setuid"].startswith("-rwsr-xr-x ")
    assert by_name["fifo"].startswith("prw-r-----")
    # of a folder nobody here has a name for, the numbers
    assert re.match(r"drwxr-xr-x +12345 +54321 +4 ", by_name["owned"])


def test_json_has_an_object_an_entry(host: Host, spec: str) -> None:
    entries = {entry["path"]: entry for entry in host.ok("ls", "-R", spec, "--json").lines()}
    assert entries["text"]["kind"] == "file"
    assert entries["text"]["mtime_ns"] == (host.base / "source" / "text").stat().st_mtime_ns
    assert entries["hole last"]["data_len"] < entries["hole last"]["size"]
    assert entries["symlink"]["target"] == "inline"
    assert entries["char"]["device"] == [1, 3]
    assert entries["linked/file"]["hard_link_id"] == entries["one chunk"]["hard_link_id"]
    assert entries["linked/file"]["link_count"] == 3
    assert entries["with attributes"]["xattrs"]["user.comment"] == "YSAAIHZhbHVl"
    assert entries["linked"]["below"] == {"files": 4, "folders": 1, "size": 18_005}
    assert entries["\udcff\udcfe"]["size"] == 200
    assert entries["new\nline"]["kind"] == "file"


def test_elsewhere_than_on_a_terminal_names_go_out_as_they_are(host: Host, spec: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "coopfs.cli.main", "ls", spec],
        env=os.environ | host.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        check=True,
    )
    assert b"\xff\xfe\n" in ran.stdout
    assert b"\x1b[31mred\n" in ran.stdout


def test_on_a_terminal_nothing_in_a_name_steers_it(host: Host, spec: str) -> None:
    terminal = Terminal(["ls", spec], host.environ)
    assert terminal.finish() == 0
    ran = terminal.output.decode()
    assert "\\x1b[31mred" in ran
    assert "new\\nline" in ran
    assert "\\xff\\xfe" in ran
    assert "\x1b" not in ran


def test_safe_names_are_readable() -> None:
    assert shown("ä b".encode(), safely=True) == "ä b"
    assert shown(b"a\x1b\x7f\xff\n\xe2\x80\xae", safely=True) == "a\\x1b\\x7f\\xff\\n\\u202e"
    assert shown(b"\xff", safely=False) == "\udcff"


def test_a_path_that_is_not_there_is_an_error(host: Host, spec: str) -> None:
    ran = host.run("ls", f"{spec}/nothing")
    assert (ran.code, ran.out) == (1, "")
    assert "not in snapshot" in ran.err
    ran = host.run("ls", f"{spec}/text/below")
    assert "is not a folder" in ran.err


def test_host_series_and_tag_narrow_what_latest_means(host: Host, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "only here").touch()
    host.ok("snapshot", tmp_path / "other", "--series", "t", "--tag", "monthly")
    try:
        assert host.ok("ls", f"latest:{tmp_path}/other", "--series", "t").out == "only here\n"
        assert host.ok("ls", f"latest:{tmp_path}/other", "--tag", "monthly").out == "only here\n"
        assert host.run("ls", f"latest:{tmp_path}/other", "--series", "s").code == 1
        assert host.run("ls", "latest", "--host", "nobody").code == 1
        assert host.ok("ls", f"anna/t/latest:{tmp_path}/other").out == "only here\n"
    finally:
        shutil.rmtree(tmp_path / "other")
