"""``coopfs snapshot`` as a user runs it: a process, its output, its exit code, signals."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import ROOT_ONLY, Lab, content_of, entry_below, write

from coopfs.ops.witness import RACY_NS
from coopfs.store.base import Kind

REPOSITORY = Path(__file__).parent.parent
DEADLINE_S = 60


class Shell:
    """Runs the command as the lab's host."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("COOPFS_")},
            **lab.host.environ,
            "PYTHONPATH": str(REPOSITORY),
        }

    def command(self, *args: object) -> list[str]:
        return [sys.executable, "-m", "coopfs.cli.main", *map(str, args)]

    def run(
        self,
        *args: object,
        stdin: bytes = b"",
        cwd: Path | None = None,
        before: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*before, *self.command(*args)],
            input=stdin,
            capture_output=True,
            cwd=cwd or self.lab.base,
            env=self.environ,
            timeout=DEADLINE_S,
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "surrogateescape"),
            done.stderr.decode("utf-8", "surrogateescape"),
        )

    def start(self, *args: object, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*args),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=self.lab.base,
            **options,
        )

    def summary(self, *args: object, **options: Any) -> dict[str, Any]:
        """Run ``snapshot --json`` and return its last line."""
        done = self.run("--json", "snapshot", *args, **options)
        assert done.returncode in (0, 3), done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["type"] == "summary"
        return dict(found)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(Lab(tmp_path).init())


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.002)  # between two looks at another process


def wait_until_believed(folder: Path) -> None:
    """Wait until what is in *folder* is old enough not to be read again to be sure."""
    youngest_ns = max(path.lstat().st_ctime_ns for path in folder.rglob("*"))
    while time.time_ns() < youngest_ns + RACY_NS + 100_000_000:
        time.sleep(0.02)


def fill(folder: Path, count: int, size: int) -> None:
    rng = random.Random(5)
    for number in range(count):
        write(folder / f"d{number % 10}" / f"f{number}", rng.randbytes(size))


def test_the_summary_tells_what_was_done(shell: Shell) -> None:
    write(shell.lab.source / "a", b"x" * 5000)
    write(shell.lab.source / "d" / "b", "y")
    done = shell.run("snapshot", shell.lab.source)
    assert done.returncode == 0
    files, sizes, saved = done.stdout.splitlines()
    assert files == "files: 2 new, 0 changed, 0 unchanged"
    assert sizes.startswith("bytes: 5.0 kB in all, 5.0 kB read, ")
    assert saved.startswith("snapshot ") and "anna/source/" in saved
    assert done.stderr == ""  # quiet where no terminal is
    done = shell.run("-q", "snapshot", shell.lab.source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    listed = shell.run("--json", "snapshots").stdout.splitlines()
    assert [json.loads(line).get("number") for line in listed if '"snapshot"' in line][:2] == [1, 2]


def test_json_lines_carry_every_number(shell: Shell) -> None:
    write(shell.lab.source / "a", b"x" * 5000)
    first = shell.summary(shell.lab.source, "--tag", "weekly", "--series", "other")
    assert (first["files"], first["files_new"], first["read"]) == (1, 1, 5000)
    assert (first["host"], first["series"], first["number"]) == ("anna", "other", 1)
    assert (first["parent"], first["problems"], first["dry_run"]) == (None, [], False)
    second = shell.summary(shell.lab.source, "--series", "other")
    assert second["parent"] == first["snapshot"]
    assert (second["new"], second["number"]) == (0, 2)


def test_relative_paths_and_excludes(shell: Shell) -> None:
    for name in ("keep.c", "drop.o", "sub/drop.o", "sub/other", "build/x", "cache/junk"):
        write(shell.lab.source / name, name)
    write(
        shell.lab.source / "cache" / "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55"
    )
    patterns = write(shell.lab.base / "patterns", "# comment\nbuild/\n\n")
    found = shell.summary(
        *(".", "sub", "./sub/../sub"),
        *("--exclude", "*.o", "--exclude-file", patterns, "--exclude-caches"),
        cwd=shell.lab.source,
    )
    assert found["series"] == "source"
    assert found["files"] == 3
    with shell.lab.open() as (archive, _):
        (snapshot,) = archive.snapshots()
        top = entry_below(archive, snapshot.facts.root, shell.lab.source)
        assert top.tree is not None
        assert [e.name for e in archive.iter_entries(top.tree)] == [b"cache", b"keep.c", b"sub"]
        assert snapshot.facts.excludes == ("*.o", "build/")


def test_the_settings_name_the_series_of_a_path(shell: Shell) -> None:
    write(shell.lab.source / "a", "x")
    settings = next(shell.lab.host.dirs.config.rglob("archive.toml"))
    table = f'\n[series]\n"{shell.lab.source}" = "projects"\n'
    settings.write_text(settings.read_text() + table)
    assert shell.summary(shell.lab.source)["series"] == "projects"


def test_a_stream_is_taken_from_a_pipe(shell: Shell) -> None:
    dump = random.Random(1).randbytes(3_000_000)
    found = shell.summary("--stdin-name", "db.sql", stdin=dump)
    assert (found["series"], found["files"], found["size"]) == ("db.sql", 1, 3_000_000)
    with shell.lab.open() as (archive, _):
        (snapshot,) = archive.snapshots()
        assert content_of(archive, entry_below(archive, snapshot.facts.root, b"db.sql")) == dump
    again = shell.summary("--stdin-name", "db.sql", stdin=dump)
    assert again["new"] < 1000
    assert shell.summary("--stdin-name", "empty", stdin=b"")["size"] == 0


def test_a_dry_run_leaves_the_store_as_it_was(shell: Shell) -> None:
    write(shell.lab.source / "a", b"x" * 5000)
    done = shell.run("snapshot", "--dry-run", shell.lab.source)
    assert done.returncode == 0
    assert "dry run: nothing was stored" in done.stdout
    assert shell.lab.objects(Kind.DATA) == set()
    assert shell.summary("-n", shell.lab.source)["snapshot"] is None


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give one PATH or more"),
        (("x", "--stdin-name", "y"), "give one PATH or more"),
        (("nowhere",), "no such file or folder"),
        (("--stdin-name", "a/b"), "without slashes"),
        (("source", "--series", "a/b"), "only letters"),
        (("source", "--host", "other"), "enrolled as 'anna'"),
        (("source", "--partial-interval", "soon"), "expected a time"),
        (("source", "--exclude-file", "nowhere"), "nowhere"),
        (("",), "an empty PATH"),
        (("source", ""), "an empty PATH"),
        (("source", "--tag", "a,b"), "with a comma"),
        (("source", "--tag", ""), "tag ''"),
    ],
)
def test_what_makes_no_sense_is_refused_with_exit_code_2(
    shell: Shell, args: tuple[str, ...], said: str
) -> None:
    done = shell.run("snapshot", *args)
    assert said in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_an_archive_the_exit_code_is_10(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    assert Shell(lab).run("snapshot", lab.source).returncode == 10
    lab.init()
    shutil.move(lab.store_path, lab.base / "unplugged")
    assert Shell(lab).run("snapshot", lab.source).returncode == 10


@ROOT_ONLY
def test_what_may_not_be_read_is_named_and_the_exit_code_is_3(shell: Shell) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv of util-linux")
    write(shell.lab.source / "good", "x")
    write(shell.lab.source / "secret", "x", mode=0)
    write(shell.lab.source / "closed" / "inner", "x")
    (shell.lab.source / "closed").chmod(0)
    # Root without the right to pass over modes.
    before = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    done = shell.run("snapshot", shell.lab.source, before=before)
    assert done.returncode == 3
    assert f"{shell.lab.source}/secret: Permission denied" in done.stderr
    assert f"{shell.lab.source}/closed: Permission denied" in done.stderr
    assert "snapshot " in done.stdout
    found = shell.summary(shell.lab.source, before=before)
    assert found["problem_count"] == 2
    assert {p["path"].rpartition("/")[2] for p in found["problems"]} == {"secret", "closed"}
    assert shell.summary(shell.lab.source)["problem_count"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_good_order_and_the_next_one_continues(
    shell: Shell, number: signal.Signals
) -> None:
    fill(shell.lab.source, 2500, 40_000)
    wait_until_believed(shell.lab.source)
    data = shell.lab.store_path / "data"
    with shell.start("snapshot", shell.lab.source) as process:
        wait_for(lambda: any(p.is_file() for p in data.rglob("*")), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    assert b"interrupted" in err and b"Traceback" not in err
    assert out == b""
    stored = sum(p.stat().st_size for p in data.rglob("*") if p.is_file())
    found = shell.summary(shell.lab.source)
    assert found["files"] == 2500
    assert found["number"] == 1
    # What was stored was not read again; that is all but what was on its way.
    assert found["read"] < 100_000_000 - stored + 20_000_000
    assert found["new"] < 100_000_000 - stored + 2_000_000


def test_a_killed_run_is_continued_without_sending_again(shell: Shell) -> None:
    fill(shell.lab.source, 2500, 40_000)
    data = shell.lab.store_path / "data"
    with shell.start("snapshot", shell.lab.source) as process:
        wait_for(lambda: sum(p.is_file() for p in data.rglob("*")) >= 2, process)
        process.kill()
        process.communicate(timeout=DEADLINE_S)
    whole = [p for p in data.rglob("*") if p.is_file() and len(p.name) == 64]
    stored = sum(p.stat().st_size for p in whole)
    found = shell.summary(shell.lab.source)
    assert found["files"] == 2500
    assert found["new"] < 100_000_000 - stored + 20_000_000
    done = shell.run("check", "--read-data")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_signal_ends_a_run_that_waits_for_a_silent_pipe(shell: Shell) -> None:
    read_fd, write_fd = os.pipe()
    with shell.start("snapshot", "--stdin-name", "x", stdin=read_fd) as process:
        os.close(read_fd)
        os.write(write_fd, b"something")
        locks = shell.lab.host.dirs.state
        wait_for(lambda: any(locks.rglob("series-*.lock")), process)
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE_S)
    os.close(write_fd)
    assert process.returncode == 130, err
    with shell.lab.open() as (archive, _):
        assert archive.snapshots() == []


def test_two_runs_of_one_series_at_once_are_refused(shell: Shell) -> None:
    read_fd, write_fd = os.pipe()
    with shell.start("snapshot", "--stdin-name", "x", stdin=read_fd) as process:
        os.close(read_fd)
        locks = shell.lab.host.dirs.state
        wait_for(lambda: any(locks.rglob("series-*.lock")), process)
        done = shell.run("snapshot", "--stdin-name", "x", stdin=b"other")
        os.write(write_fd, b"mine")
        os.close(write_fd)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert done.returncode == 1
    assert "another snapshot of this series is running" in done.stderr


def test_a_closed_standard_output_does_not_undo_the_snapshot(shell: Shell) -> None:
    write(shell.lab.source / "a", "x")
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    done = subprocess.run(
        shell.command("snapshot", shell.lab.source),
        stdout=write_fd,
        stderr=subprocess.PIPE,
        env=shell.environ,
        timeout=DEADLINE_S,
    )
    os.close(write_fd)
    assert b"Traceback" not in done.stderr
    with shell.lab.open() as (archive, _):
        assert len(archive.snapshots()) == 1


def test_compression_is_what_was_asked_for(shell: Shell) -> None:
    text = b"".join(path.read_bytes() for path in sorted(Path(os.__file__).parent.glob("*.py")))
    stored = {}
    for effort, content in (("fastest", text), ("max", text.swapcase())):
        source = shell.lab.base / effort
        write(source / "text", content)
        stored[effort] = shell.summary("--compression", effort, source)["stored"]
    assert stored["max"] < 0.9 * stored["fastest"]
    refused = shell.run("snapshot", "--compression", "best", shell.lab.source)
    assert refused.returncode == 2
    assert "'auto', 'fastest', 'better', 'max'" in refused.stderr
