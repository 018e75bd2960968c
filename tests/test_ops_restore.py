"""Restoring: what happens to what is there, what is hostile, and what fails."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from checked import make_source, names, opened
from hosts import Host
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich_source import differences

from coopfs.archive.archive import Archive
from coopfs.archive.select import entry_at
from coopfs.errors import ChunkCorrupt, CoopfsError, StoreUnavailable
from coopfs.format.nodes import TreeNode
from coopfs.ids import TreeId
from coopfs.ops.exclude import Excludes
from coopfs.ops.restore import RestoreReport, RestoreRequest, restore
from coopfs.ops.restore_names import part_name
from coopfs.ops.restore_plan import Overwrite
from coopfs.ops.selection import Selection
from coopfs.store.base import Kind
from coopfs.store.faulty import FaultyStore
from coopfs.store.open import open_store

Restorer = Callable[..., RestoreReport]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """An archive with one snapshot of a small tree."""
    base = tmp_path_factory.mktemp("ops-restore")
    make_source(base / "source")
    os.link(base / "source" / "text", base / "source" / "zz text again")
    (base / "source" / "before").mkdir()
    (base / "source" / "before" / "also long").write_bytes(random.Random(3).randbytes(5_000_000))
    host = Host(base)
    host.init(base / "store")
    host.ok("snapshot", base / "source", "--series", "s")
    return host


@pytest.fixture
def source(host: Host) -> Path:
    return host.base / "source"


@pytest.fixture
def archive(host: Host) -> Iterator[Archive]:
    with opened(host) as (archive, _):
        archive.refresh()
        yield archive


@pytest.fixture
def store(archive: Archive) -> FaultyStore:
    assert isinstance(archive.store, FaultyStore)
    return archive.store


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(archive: Archive, source: Path, out: Path) -> Restorer:
    """Restore the source into *out*; arguments are those of the request."""

    def run(path: str = "", **options: object) -> RestoreReport:
        request = RestoreRequest(target=bytes(out), path=bytes(source / path))
        return restore(archive, archive.snapshots()[-1], replace(request, **options))  # type: ignore[arg-type]  # of the request

    return run


def reasons(report: RestoreReport) -> dict[str, str]:
    return {os.fsdecode(problem.path): problem.reason for problem in report.problems}


def lose_content(archive: Archive, store: FaultyStore) -> None:
    """Have no pack with files' content be there; trees still are."""
    archive.blocks.forget_memory()
    for pack in archive.index.packs():
        if not pack.is_meta:
            store.lose(Kind.DATA, pack.pack_id)


def names_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def below(lines: list[str]) -> list[str]:
    """Leave out the target itself, which changes when something in it does."""
    return [line for line in lines if not line.endswith(" ./")]


# --- paths and patterns -----------------------------------------------------------


def test_a_file_goes_into_the_target_under_its_name(run: Restorer, out: Path, source: Path) -> None:
    run("folder1/file1")
    assert names_below(out) == {"file1"}
    assert (out / "file1").read_bytes() == (source / "folder1" / "file1").read_bytes()


def test_a_target_made_by_the_restore_gets_the_folders_attributes(
    run: Restorer, out: Path, source: Path
) -> None:
    run()
    assert differences(source, out) == []


def test_a_target_that_was_there_keeps_its_attributes(run: Restorer, out: Path) -> None:
    out.mkdir(mode=0o750)
    run()
    assert stat.S_IMODE(out.stat().st_mode) == 0o750


def test_includes_bring_what_matches_and_all_below_it(
    run: Restorer, out: Path, source: Path
) -> None:
    selection = Selection(includes=Excludes.from_patterns(["folder2", "file11"]))
    run(selection=selection)
    expected = {f"folder2/{path.name}" for path in (source / "folder2").iterdir()}
    assert names_below(out) == expected | {"folder1", "folder2", "folder1/file11"}
    # a folder on the way is there with its own attributes
    assert (out / "folder1").stat().st_mtime_ns == (source / "folder1").stat().st_mtime_ns


def test_excludes_win_over_includes(run: Restorer, out: Path) -> None:
    chosen = Selection(Excludes.from_patterns(["folder2"]), Excludes.from_patterns(["file?"]))
    run(selection=chosen)
    assert names_below(out) == {"folder2", *(f"folder2/file{n}" for n in (12, 17, 22, 27))}


def test_patterns_with_a_slash_are_paths_in_the_snapshot(
    run: Restorer, out: Path, source: Path
) -> None:
    run(selection=Selection(includes=Excludes.from_patterns([bytes(source / "folder3")])))
    assert {name.split("/")[0] for name in names_below(out)} == {"folder3"}


def test_an_include_that_matches_nothing_leaves_the_target_empty(run: Restorer, out: Path) -> None:
    run(selection=Selection(includes=Excludes.from_patterns(["nothing like that"])))
    assert names_below(out) == set()


# --- what is there already --------------------------------------------------------


def change(path: Path, content: bytes, mtime_ns: int | None = None) -> None:
    """Write *content*, keep the modification time unless it is given."""
    mtime_ns = path.stat().st_mtime_ns if mtime_ns is None else mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


def test_a_file_of_another_size_or_time_is_written_again(
    run: Restorer, out: Path, source: Path
) -> None:
    run()
    change(out / "inline", b"longer than it was")
    change(out / "text", (out / "text").read_bytes(), mtime_ns=1)
    report = run()
    # "text" and its hard link are one file
    assert (report.counts.files, report.problem_count) == (2, 0)
    assert below(differences(source, out)) == []


def test_a_file_of_the_same_size_and_time_is_kept_unless_verifying(
    run: Restorer, out: Path, source: Path
) -> None:
    run()
    change(out / "inline", b"SHORT")
    assert run().counts.files == 0
    assert (out / "inline").read_bytes() == b"SHORT"
    report = run(is_verifying=True)
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    assert (report.counts.files, report.verified) == (1, len(files))
    assert below(differences(source, out)) == []


def test_attributes_of_kept_files_are_put_right(run: Restorer, out: Path, source: Path) -> None:
    run()
    (out / "inline").chmod(0o600)
    os.setxattr(out / "text", "user.not there", b"x")
    (out / "folder1").chmod(0o700)
    assert run().counts.files == 0
    assert differences(source, out) == []


def test_never_leaves_everything_that_is_there_alone(run: Restorer, out: Path) -> None:
    run()
    change(out / "inline", b"mine", mtime_ns=5)
    (out / "folder1").chmod(0o700)
    (out / "empty").unlink()
    report = run(overwrite=Overwrite.NEVER)
    assert report.counts.files == 1
    assert (out / "empty").exists()
    assert (out / "inline").read_bytes() == b"mine"
    assert stat.S_IMODE((out / "folder1").stat().st_mode) == 0o700
    assert report.skipped > 30


def test_if_newer_leaves_newer_files_alone(run: Restorer, out: Path, source: Path) -> None:
    run()
    newer = (source / "inline").stat().st_mtime_ns + 1
    change(out / "inline", b"mine", mtime_ns=newer)
    change(out / "copy", b"old", mtime_ns=1)
    report = run(overwrite=Overwrite.IF_NEWER)
    assert (report.counts.files, report.skipped) == (1, 1)
    assert (out / "inline").read_bytes() == b"mine"
    assert (out / "copy").read_bytes() == (source / "copy").read_bytes()


def test_always_writes_everything_again(run: Restorer, out: Path, source: Path) -> None:
    first = run()
    again = run(overwrite=Overwrite.ALWAYS)
    assert again.counts.files == first.counts.files
    assert again.counts.files_kept == 0
    assert below(differences(source, out)) == []


def test_what_is_replaced_is_not_written_through(
    run: Restorer, out: Path, tmp_path: Path, source: Path
) -> None:
    run()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    (out / "inline").unlink()
    os.link(elsewhere, out / "inline")  # another name of somebody's file
    (out / "copy").unlink()
    (out / "copy").symlink_to(elsewhere)
    run()
    assert elsewhere.read_bytes() == b"precious"
    assert below(differences(source, out)) == []


def test_a_file_gives_way_to_a_folder_and_an_empty_folder_to_a_file(
    run: Restorer, out: Path, source: Path
) -> None:
    out.mkdir()
    (out / "folder1").write_bytes(b"in the way")
    (out / "inline").mkdir()
    (out / "link").mkdir()
    assert run().problem_count == 0
    assert below(differences(source, out)) == []


def test_a_folder_with_content_does_not_give_way_to_a_file(run: Restorer, out: Path) -> None:
    (out / "inline").mkdir(parents=True)
    (out / "inline" / "precious").touch()
    report = run()
    assert reasons(report) == {"inline": "a folder is in its place, and is not empty"}
    assert names_below(out / "inline") == {"precious"}
    assert not [name for name in names_below(out) if "coopfs-part" in name]


def test_with_never_a_file_in_place_of_a_folder_stays_and_is_reported_once(
    run: Restorer, out: Path
) -> None:
    out.mkdir()
    (out / "folder1").write_bytes(b"mine")
    report = run(overwrite=Overwrite.NEVER)
    assert list(reasons(report)) == ["folder1"]
    assert (out / "folder1").read_bytes() == b"mine"


def test_parts_that_a_killed_run_left_are_replaced(run: Restorer, out: Path, source: Path) -> None:
    run()
    change(out / "inline", b"changed")
    (out / os.fsdecode(part_name(b"inline"))).write_bytes(b"half")
    assert run().problem_count == 0
    assert below(differences(source, out)) == []


def test_hard_links_that_are_separate_files_become_one_again(
    run: Restorer, out: Path, source: Path
) -> None:
    run()
    other = out / "zz text again"
    mtime_ns = other.stat().st_mtime_ns
    content = other.read_bytes()
    other.unlink()
    other.write_bytes(content)
    os.utime(other, ns=(mtime_ns, mtime_ns))
    run()
    assert other.stat().st_ino == (out / "text").stat().st_ino


# --- a hostile target -------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may be written to."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file1").write_bytes(b"precious")
    return folder


def test_a_symlink_in_place_of_a_folder_is_not_followed(
    run: Restorer, out: Path, outside: Path, source: Path
) -> None:
    out.mkdir()
    (out / "folder1").symlink_to(outside)
    run()
    assert names_below(outside) == {"file1"}
    assert (outside / "file1").read_bytes() == b"precious"
    assert not (out / "folder1").is_symlink()


@pytest.mark.parametrize("overwrite", [Overwrite.NEVER, Overwrite.IF_NEWER])
def test_a_symlink_that_may_not_be_replaced_is_not_followed_either(
    run: Restorer, out: Path, outside: Path, overwrite: Overwrite
) -> None:
    out.mkdir()
    (out / "folder1").symlink_to(outside)
    report = run(overwrite=overwrite)
    assert names_below(outside) == {"file1"}
    assert "folder1" in reasons(report)


def test_a_folder_exchanged_for_a_symlink_meanwhile_is_not_followed(
    archive: Archive, source: Path, out: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No descriptor stays open, so that every folder is opened anew for its files.
    monkeypatch.setattr("coopfs.ops.restore_target.FOLDERS_OPEN", 0)
    swapped = []

    def swap(path: bytes) -> None:
        folder = out / "folder1"
        if folder.is_dir() and not folder.is_symlink() and not swapped:
            folder.rename(out / "moved away")
            folder.symlink_to(outside)
            swapped.append(path)

    request = RestoreRequest(target=bytes(out), path=bytes(source))
    report = restore(archive, archive.snapshots()[-1], request, on_path=swap)
    assert swapped
    assert names_below(outside) == {"file1"}
    assert (outside / "file1").read_bytes() == b"precious"
    found = {reason for path, reason in reasons(report).items() if path.startswith("folder1")}
    assert found == {"Not a directory"}


def test_a_folder_exchanged_for_another_folder_meanwhile_is_refused(
    archive: Archive, source: Path, out: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.restore_target.FOLDERS_OPEN", 0)
    swapped = []

    def swap(path: bytes) -> None:
        if (out / "folder1").is_dir() and not swapped:
            (out / "folder1").rename(out / "moved away")
            outside.rename(out / "folder1")
            swapped.append(path)

    request = RestoreRequest(target=bytes(out), path=bytes(source))
    report = restore(archive, archive.snapshots()[-1], request, on_path=swap)
    assert names_below(out / "folder1") == {"file1"}
    assert (out / "folder1" / "file1").read_bytes() == b"precious"
    assert any("exchanged" in reason for reason in reasons(report).values())


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    archive: Archive, source: Path, out: Path
) -> None:
    def appear(path: bytes) -> None:
        if (out / "folder4").is_dir():
            (out / "folder4" / "file29").write_bytes(b"mine")

    request = RestoreRequest(target=bytes(out), path=bytes(source))
    report = restore(archive, archive.snapshots()[-1], request, on_path=appear)
    assert reasons(report) == {"folder4/file29": "File exists"}
    assert (out / "folder4" / "file29").read_bytes() == b"mine"


# --- damage, and a partner who is away --------------------------------------------


def test_files_of_a_lost_pack_are_reported_and_the_rest_comes_back(
    run: Restorer, store: FaultyStore, archive: Archive, out: Path, source: Path
) -> None:
    sizes = {name: store.size(Kind.DATA, name) for name in names(store, Kind.DATA)}
    store.lose(Kind.DATA, max(sizes, key=lambda name: sizes[name]))
    report = run()
    hurt = set(reasons(report))
    assert "long" in hurt
    assert "empty" not in hurt
    assert names_below(out) == names_below(source) - hurt
    assert report.problem_count == len(hurt)


def test_a_damaged_block_hurts_only_the_files_in_it(
    run: Restorer, store: FaultyStore, out: Path, source: Path
) -> None:
    sizes = {name: store.size(Kind.DATA, name) for name in names(store, Kind.DATA)}
    pack = max(sizes, key=lambda name: sizes[name])
    store.flip(Kind.DATA, pack, 12_000_000)
    assert set(reasons(run())) == {"long"}
    assert [line for line in differences(source, out) if line.startswith(">f")] == [
        ">f+++++++++ long"
    ]


def test_the_other_name_of_a_damaged_file_is_reported_as_well(
    run: Restorer, store: FaultyStore, archive: Archive
) -> None:
    lose_content(archive, store)
    assert {"text", "zz text again"} <= set(reasons(run()))


def test_a_damaged_tree_hurts_only_what_is_below_it(
    run: Restorer, archive: Archive, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bytes(source / "folder2")
    broken = entry_at(archive, archive.snapshots()[-1], path).tree
    load = archive.load_chunk

    def load_all_but_one(chunk_id: bytes) -> bytes:
        if chunk_id == broken:
            raise ChunkCorrupt("damaged")
        return load(chunk_id)

    archive._nodes.clear()
    monkeypatch.setattr(archive, "load_chunk", load_all_but_one)
    report = run()
    assert list(reasons(report)) == ["folder2"]
    assert names_below(out / "folder2") == set()
    assert (out / "folder3" / "file3").exists()


def test_a_partner_who_goes_away_stops_the_run_and_the_next_one_completes_it(
    run: Restorer, store: FaultyStore, archive: Archive, out: Path, source: Path
) -> None:
    archive.blocks.forget_memory()
    store.fail("get", Kind.DATA, skip=3, times=1000)
    with pytest.raises(StoreUnavailable):
        run()
    store.mend()
    run()
    assert differences(source, out) == []


def test_over_a_line_everything_comes_in_few_requests(
    host: Host, archive: Archive, source: Path, out: Path
) -> None:
    far = FaultyStore(open_store(archive.store.address), is_local=False)
    with Archive.open(host.dirs, archive.settings, archive.ring, far) as remote:
        remote.refresh()
        far.requests.clear()
        request = RestoreRequest(target=bytes(out), path=bytes(source))
        report = restore(remote, remote.snapshots()[-1], request)
    assert report.problem_count == 0
    assert differences(source, out) == []
    assert far.requests["get", Kind.DATA] <= 8


def test_an_interrupted_file_is_removed(
    archive: Archive, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = os.pwrite, 0

    def interrupted(*args: object) -> int:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyboardInterrupt
        return real(*args)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(os, "pwrite", interrupted)
    request = RestoreRequest(target=bytes(out), path=bytes(source / "long"))
    with pytest.raises(KeyboardInterrupt):
        restore(archive, archive.snapshots()[-1], request)
    assert names_below(out) == set()


def altered(archive: Archive, name: bytes, changes: dict[str, object]) -> None:
    """Have the archive show the entry called *name* with *changes*."""
    load = archive.load_tree_node

    def load_altered(tree_id: TreeId) -> TreeNode:
        node = load(tree_id)
        entries = (e._replace(**changes) if e.name == name else e for e in node.entries)  # type: ignore[arg-type]  # of an entry
        return node._replace(entries=tuple(entries))

    archive.load_tree_node = load_altered  # type: ignore[method-assign]  # of this test's own


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        (b"link", {"target": b"a\0b"}, "embedded null character in src"),
        (b"link", {"target": b"x" * 5000}, "File name too long"),
        (b"inline", {"unsupported": "a newer coopfs is needed"}, "a newer coopfs is needed"),
        (b"folder1", {"unsupported": "a newer coopfs is needed"}, "a newer coopfs is needed"),
        (b"inline", {"name": b"inline" * 100}, "File name too long"),
    ],
)
def test_an_entry_that_no_file_system_can_hold_is_reported_and_the_rest_comes_back(
    run: Restorer, archive: Archive, out: Path, name: bytes, changes: dict[str, object], reason: str
) -> None:
    altered(archive, name, changes)
    report = run()
    (found,) = reasons(report).values()
    assert found.endswith(reason)
    assert (out / "folder2" / "file2").exists()


# --- targets with limits ----------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "coopfs-test", place]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
def test_a_full_target_stops_the_run_and_says_how_to_go_on(
    archive: Archive, source: Path, small: Path
) -> None:
    request = RestoreRequest(target=bytes(small), path=bytes(source))
    with pytest.raises(CoopfsError, match="No space left on device; make room and run the same"):
        restore(archive, archive.snapshots()[-1], request)
    assert not (small / "long").exists()


def test_where_links_are_refused_each_name_gets_the_content(
    run: Restorer, out: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    report = run()
    assert report.problem_count == 0
    assert report.left_out == (("hard links: Operation not permitted", 1),)
    assert (out / "zz text again").read_bytes() == (source / "text").read_bytes()


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_file_is_finished_in_its_folder_when_that_was_closed_meanwhile(
    run: Restorer,
    store: FaultyStore,
    archive: Archive,
    out: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    run()
    change(out / "before" / "also long", b"other")
    monkeypatch.setattr("coopfs.ops.restore_target.FOLDERS_OPEN", 0)
    archive.blocks.forget_memory()
    if fails:
        lose_content(archive, store)
    report = run()
    assert not [name for name in names_below(out) if "coopfs-part" in name]
    if fails:
        assert list(reasons(report)) == ["before/also long"]
        assert (out / "before" / "also long").read_bytes() == b"other"
    else:
        assert report.counts.files == 1
        assert below(differences(source, out)) == []


def test_paths_are_told_once_and_only_what_is_written(
    archive: Archive, source: Path, out: Path, store: FaultyStore
) -> None:
    sizes = {name: store.size(Kind.DATA, name) for name in names(store, Kind.DATA)}
    store.lose(Kind.DATA, max(sizes, key=lambda name: sizes[name]))
    told: list[str] = []
    request = RestoreRequest(target=bytes(out), path=bytes(source))
    report = restore(
        archive,
        archive.snapshots()[-1],
        request,
        on_path=lambda path: told.append(os.fsdecode(path)),
    )
    assert sorted(told) == sorted(names_below(out))
    assert reasons(report)
    told.clear()
    request = replace(request, is_dry_run=True, target=bytes(out) + b"2")
    restore(
        archive,
        archive.snapshots()[-1],
        request,
        on_path=lambda path: told.append(os.fsdecode(path)),
    )
    assert sorted(told) == sorted(names_below(source))


def test_folders_deeper_than_descriptors_are_restored(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.init(tmp_path / "store")
    depth = 700
    here = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("source", dir_fd=here)
    below = os.open("source", os.O_RDONLY, dir_fd=here)
    for _ in range(depth):
        os.mkdir("d", dir_fd=below)
        deeper = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = deeper
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=below))
    os.close(below)
    os.close(here)
    host.ok("snapshot", tmp_path / "source", "--series", "s")
    host.ok("restore", f"latest:{tmp_path}/source", "--target", tmp_path / "out", "--verify")
    assert differences(tmp_path / "source", tmp_path / "out") == []


# --- verifying --------------------------------------------------------------------


def test_verifying_finds_what_the_disk_did_not_keep(
    archive: Archive, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful() -> None:
        for name in ("text", "long", "sparse"):
            with (out / name).open("r+b") as file:
                file.seek(50_000)
                file.write(b"\x01")
        (out / "empty").unlink()
        (out / "link").unlink()
        (out / "link").symlink_to("elsewhere")

    monkeypatch.setattr(os, "sync", forgetful)
    request = RestoreRequest(target=bytes(out), path=bytes(source), is_verifying=True)
    report = restore(archive, archive.snapshots()[-1], request)
    found = reasons(report)
    assert set(found) == {"text", "zz text again", "long", "sparse", "empty", "link"}
    assert found["long"].startswith("verifying it: its content differs between bytes ")
    assert found["empty"] == "verifying it: No such file or directory"


def test_what_was_reported_when_written_is_not_reported_again_by_verifying(
    run: Restorer, store: FaultyStore
) -> None:
    sizes = {name: store.size(Kind.DATA, name) for name in names(store, Kind.DATA)}
    store.lose(Kind.DATA, max(sizes, key=lambda name: sizes[name]))
    report = run(is_verifying=True)
    assert report.problem_count == len(reasons(report))
    assert not any("verifying" in reason for reason in reasons(report).values())


# --- any content ------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(
        st.tuples(st.booleans(), st.sampled_from([1, 255, 256, 257, 4096, 65_536, 300_000])),
        max_size=6,
    ),
    seed=st.integers(0, 1000),
)
def test_any_mix_of_data_and_holes_comes_back(
    host: Host, tmp_path: Path, pieces: list[tuple[bool, int]], seed: int
) -> None:
    rng = random.Random(seed)
    source, out = tmp_path / "mixed", tmp_path / f"out{rng.random()}"
    with source.open("wb") as file:
        for is_data, length in pieces:
            if is_data:
                file.write(rng.randbytes(length))
            else:
                file.truncate(file.tell() + length)
                file.seek(length, os.SEEK_CUR)
    host.ok("snapshot", source, "--series", "mixed")
    host.ok("restore", f"latest:{source}", "--series", "mixed", "--target", out, "--verify")
    assert (out / "mixed").read_bytes() == source.read_bytes()
    assert (out / "mixed").stat().st_blocks <= source.stat().st_blocks
