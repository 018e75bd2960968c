"""The restore command on one of everything: what comes back is what went in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Ran, everything_below
from rich_source import NOBODY, differences, make_rich_source, used_len

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host whose only snapshot is of one of everything."""
    base = tmp_path_factory.mktemp("restore")
    make_rich_source(base / "source")
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def spec(host: Host) -> str:
    """The source in the snapshot."""
    return f"latest:{host.base}/source"


def attributes_of(folder: Path) -> list[bytes]:
    """Return all attributes below *folder* as the usual tools show them, a paragraph a file."""
    return sorted(
        paragraph
        for command in (["getfattr", "-Rhd", "-m-", "-e", "hex", "."], ["getfacl", "-RP", "."])
        for paragraph in subprocess.run(
            command, cwd=folder, capture_output=True, check=True
        ).stdout.split(b"\n\n")
    )


def test_an_empty_target_is_not_the_folder_one_is_in(
    host: Host, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ran = host.run("restore", spec, "--target", "")
    assert (ran.code, "--target is empty" in ran.err) == (2, True)
    assert os.listdir() == []


def test_everything_comes_back_as_it_was(host: Host, spec: str, tmp_path: Path) -> None:
    ran = host.ok("restore", spec, "--target", tmp_path / "out", "--verify")
    assert differences(host.base / "source", tmp_path / "out") == []
    assert attributes_of(host.base / "source") == attributes_of(tmp_path / "out")
    assert ran.err == ""
    assert "4 hard links" in ran.out
    assert "verified: " in ran.out


def test_diff_finds_no_difference_and_holes_are_holes(
    host: Host, spec: str, tmp_path: Path
) -> None:
    host.ok("restore", spec, "-t", tmp_path / "out")
    command = ["diff", "-r", "--no-dereference", host.base / "source", tmp_path / "out"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    # diff cannot compare special files and says so of each
    assert [line for line in ran.stdout.splitlines() if not line.startswith("File ")] == []
    for name in ("hole first", "hole last", "holes", "only a hole", "small hole"):
        assert used_len(tmp_path / "out" / name) <= used_len(host.base / "source" / name)


def test_a_whole_snapshot_keeps_paths_from_the_root(host: Host, tmp_path: Path) -> None:
    host.ok("restore", "latest", "--target", tmp_path / "out")
    inner = tmp_path / "out" / str(host.base).lstrip("/") / "source"
    assert differences(host.base / "source", inner) == []
    assert stat.S_IMODE(inner.parent.stat().st_mode) == stat.S_IMODE(host.base.stat().st_mode)


def test_the_second_run_keeps_everything(host: Host, spec: str, tmp_path: Path) -> None:
    host.ok("restore", spec, "--target", tmp_path / "out")
    before = {path: path.lstat().st_ctime_ns for path in (tmp_path / "out").rglob("*")}
    last = host.ok("restore", spec, "--target", tmp_path / "out", "--json").lines()[-1]
    assert (last["files"], last["others"], last["written"]) == (0, 0, 0)
    assert last["files_kept"] > 1_500
    # not even touched: the next snapshot of it need not read anything again
    after = {path: path.lstat().st_ctime_ns for path in (tmp_path / "out").rglob("*")}
    assert {path for path in before if before[path] != after[path]} == set()


def test_a_dry_run_writes_nothing_and_counts_the_same(
    host: Host, spec: str, tmp_path: Path
) -> None:
    dry = host.ok("restore", spec, "-t", tmp_path / "out", "--dry-run", "--json").lines()[-1]
    assert not (tmp_path / "out").exists()
    real = host.ok("restore", spec, "-t", tmp_path / "out", "--json").lines()[-1]
    for key in ("files", "folders", "hard_links", "others", "written", "problem_count"):
        assert dry[key] == real[key], key
    again = host.ok("restore", spec, "-t", tmp_path / "out", "-n", "--json").lines()[-1]
    assert again["files"] == 0
    assert again["files_kept"] > 1_500


def test_a_dry_run_lists_paths_with_v(host: Host, spec: str, tmp_path: Path) -> None:
    ran = host.ok("restore", spec, "-t", tmp_path / "out", "-nv")
    assert "linked/later/file" in ran.err.splitlines()
    assert "\x1b" not in ran.err


def kill_half_way(host: Host, spec: str, target: Path) -> None:
    """Start a restore and kill it as soon as some of its files are there."""
    command = [sys.executable, "-m", "coopfs.cli.main", "restore", spec, "--target", str(target)]
    environ = os.environ | host.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environ)
    deadline = time.monotonic() + 60
    while not (target / "linked").exists() and process.poll() is None:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_restore_is_completed_by_the_next(host: Host, spec: str, tmp_path: Path) -> None:
    kill_half_way(host, spec, tmp_path / "out")
    host.ok("restore", spec, "--target", tmp_path / "out")
    assert differences(host.base / "source", tmp_path / "out") == []


def test_json_names_what_was_done(host: Host, spec: str, tmp_path: Path) -> None:
    last = host.ok("restore", spec, "-t", tmp_path / "out", "--json").lines()[-1]
    assert last["type"] == "summary"
    assert last["target"] == str(tmp_path / "out")
    assert last["hard_links"] == 4
    assert last["problems"] == []


def test_damage_is_reported_the_rest_comes_back_and_the_exit_code_is_1(
    host: Host, spec: str, tmp_path: Path
) -> None:
    broken = Host(tmp_path / "broken")
    shutil.copytree(host.base / "store", tmp_path / "broken" / "store")
    for folder in ("config", "state"):
        shutil.copytree(host.base / folder, tmp_path / "broken" / folder)
    settings = next((tmp_path / "broken" / "config").rglob("*.toml"))
    settings.write_text(
        settings.read_text().replace(f"{host.base}/store", f"{tmp_path}/broken/store")
    )
    packs = [path for path in (tmp_path / "broken" / "store" / "data").rglob("*") if path.is_file()]
    pack = max(packs, key=lambda path: path.stat().st_size)
    with pack.open("r+b") as file:
        file.seek(5_000_000)
        file.write(bytes(64))
    ran = broken.run("restore", spec, "--target", tmp_path / "out", "--json")
    assert ran.code == 1
    last = ran.lines()[-1]
    hurt = {problem["path"] for problem in last["problems"]}
    assert hurt
    assert "block" in last["problems"][0]["reason"]
    wrong = [line.split(" ", 1)[1] for line in differences(host.base / "source", tmp_path / "out")]
    # what is missing is exactly what was reported, and nothing is there in part
    assert {name for name in wrong if not name.endswith("/")} == hurt
    assert not any((tmp_path / "out" / name).exists() for name in hurt)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["restore", "latest"], 2, "--target"),
        (["restore", "latest:no/such", "-t", "OUT"], 1, "/no: not in snapshot"),
        (["restore", "2001-01-01", "-t", "OUT"], 1, "no snapshot then"),
        (["restore", "latest", "-t", "OUT", "--include", "[z"], 2, "cannot match"),
        (["restore", "latest", "-t", "OUT", "--overwrite", "maybe"], 2, "if-changed"),
        (["restore", "latest", "-t", "FILE"], 1, "File exists"),
    ],
)
def test_what_cannot_be_done_is_said(
    host: Host, tmp_path: Path, args: list[str], code: int, text: str
) -> None:
    (tmp_path / "file").touch()
    places = {"OUT": str(tmp_path / "out"), "FILE": str(tmp_path / "file")}
    ran = host.run(*[places.get(arg, arg) for arg in args])
    assert ran.code == code
    assert text in ran.err
    assert not (tmp_path / "out").exists()


# --- without root ---------------------------------------------------------------


@pytest.fixture
def as_nobody(host: Host) -> Iterator[Host]:
    """The host's files again, as nobody's own."""
    base = Path(tempfile.mkdtemp(prefix="coopfs-test-"))
    try:
        for folder in ("config", "state", "store"):
            shutil.copytree(host.base / folder, base / folder)
        settings = next((base / "config").rglob("*.toml"))
        settings.write_text(settings.read_text().replace(f"{host.base}/store", f"{base}/store"))
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", base], check=True)
        yield Host(base)
    finally:
        shutil.rmtree(base)


def run_as_nobody(host: Host, *args: str) -> Ran:
    """Run the command in a child that has given up root; the interpreter may be root's only."""
    host.run(*args, "--dry-run")  # whatever is imported late is imported now
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            ran = host.run(*args)
            os.write(sending, json.dumps([ran.code, ran.out, ran.err]).encode())
        finally:
            os._exit(0)
    os.close(sending)
    with open(receiving, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return Ran(*json.loads(answer))


@pytest.mark.root
def test_without_root_all_but_owners_and_devices_comes_back(
    as_nobody: Host, spec: str, host: Host
) -> None:
    out = as_nobody.base / "out"
    ran = run_as_nobody(as_nobody, "restore", spec, "--target", str(out), "--verify")
    warnings = [line.removeprefix("coopfs: warning: ") for line in ran.err.splitlines()]
    assert sum(line.startswith("owners: only root can give them away") for line in warnings) == 1
    assert any(line.startswith("attributes security.*: only root") for line in warnings)
    assert {line for line in warnings if "Operation not permitted" in line} == {
        "char: Operation not permitted",
        "block: Operation not permitted",
    }
    assert (out / "long").read_bytes() == (host.base / "source" / "long").read_bytes()
    assert stat.S_ISFIFO((out / "fifo").stat().st_mode)
    assert stat.S_ISSOCK((out / "socket").stat().st_mode)
    assert {path.lstat().st_uid for path in out.rglob("*")} == {NOBODY}
    assert os.getxattr(out / "read only with attributes", "user.comment") == b"c"
    assert stat.S_IMODE((out / "read only").stat().st_mode) == 0o555
    assert (out / "read only" / "file").stat().st_mtime_ns == (
        host.base / "source" / "read only" / "file"
    ).stat().st_mtime_ns
    # of programs that ran with others' rights only the content comes back
    assert stat.S_IMODE((out / "setuid").stat().st_mode) == 0o755
    assert ran.code == 1


@pytest.mark.root
def test_without_root_the_second_run_gets_into_folders_that_are_closed(
    as_nobody: Host, spec: str
) -> None:
    out = as_nobody.base / "out"
    run_as_nobody(as_nobody, "restore", spec, "--target", str(out))
    os.unlink(out / "read only" / "file")
    os.chown(out / "read only", NOBODY, NOBODY)
    ran = run_as_nobody(as_nobody, "restore", spec, "--target", str(out), "--json")
    assert '"files": 1, ' in ran.out
    assert (out / "read only" / "file").read_bytes() == b"read only"
    assert stat.S_IMODE((out / "read only").stat().st_mode) == 0o555
    assert everything_below(out / "read only").keys() == {"file"}
