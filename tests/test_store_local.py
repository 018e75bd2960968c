from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_suite import (
    MANY_OBJECTS,
    StoreRig,
    StoreSuite,
    name_of,
    put_new,
    sizes,
    some_bytes,
    start_writer,
)

from coopfs.durable import TEMPORARY_AGE_MAX_S
from coopfs.errors import (
    CoopfsError,
    NotAStore,
    ObjectCorrupt,
    ObjectNotFound,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from coopfs.oserrors import store_error
from coopfs.store.base import CONFIG_LEN_MAX, GET_LEN_MAX, KINDS, Kind
from coopfs.store.local import OPEN_FILES_MAX, LocalStore


class TestLocalStore(StoreSuite):
    is_over_a_line = False

    @pytest.fixture
    def rig(self, tmp_path: Path) -> StoreRig:
        root = tmp_path / "store"
        LocalStore.create(root).close()

        def plant(kind: Kind, filename: str, data: bytes) -> None:
            folders = [root / kind]
            if kind is Kind.DATA:
                folders += [path for path in folders[0].iterdir() if path.is_dir()]
            for folder in folders:
                (folder / filename).write_bytes(data)

        return StoreRig(lambda: LocalStore(root, is_new=True), plant, str(root))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    with LocalStore.create(root) as store:
        store.put_config(b"config")
        yield store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 2 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = "size=2m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        while os.path.ismount(disk):
            subprocess.run(["umount", "--lazy", disk], check=True)


def object_path(root: Path, kind: Kind, name: bytes) -> Path:
    return root / kind / (name.hex()[:2] if kind is Kind.DATA else "") / name.hex()


def files_in(root: Path) -> set[str]:
    """Return every file below *root* that is not a whole object or the config."""
    return {
        path.name
        for path in root.rglob("*")
        if path.is_file() and len(path.name) != 64 and path.name != "config"
    }


# --- the folder -------------------------------------------------------------------


def test_a_new_store_has_a_private_folder_for_each_kind(root: Path, store: LocalStore) -> None:
    assert {path.name for path in root.iterdir()} == {*KINDS, "config"}
    name = put_new(store, b"pack")
    put_new(store, b"index", Kind.INDEX)
    for path in [root, *root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert (root / "data" / name.hex()[:2] / name.hex()).read_bytes() == b"pack"
    assert (root / "index" / name_of(b"index").hex()).read_bytes() == b"index"


def test_parents_of_a_new_store_are_made(tmp_path: Path) -> None:
    with LocalStore.create(tmp_path / "a" / "b" / "c") as store:
        put_new(store, b"x")
    assert (tmp_path / "a/b/c/data").is_dir()


@pytest.mark.parametrize("leftovers", [(), ("lost+found",), ("data", "index", ".tmp-1-ab")])
def test_an_empty_or_begun_folder_becomes_a_store(root: Path, leftovers: tuple[str, ...]) -> None:
    root.mkdir()
    for name in leftovers:
        (root / name).mkdir()
    with LocalStore.create(root) as store:
        put_new(store, b"x")


def test_a_folder_with_other_things_is_left_alone(root: Path) -> None:
    root.mkdir()
    for number in range(8):
        (root / f"letter {number}").write_text("dear all")
    with pytest.raises(NotAStore, match=r"not empty.*'letter 0'.*and 3 more.*choose an empty"):
        LocalStore.create(root)
    assert len(list(root.iterdir())) == 8


def test_a_store_is_not_made_over_another(root: Path, store: LocalStore) -> None:
    with pytest.raises(StoreError, match="holds a store already") as caught:
        LocalStore.create(root)
    assert not isinstance(caught.value, NotAStore)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.SNAPSHOTS])
def test_a_store_is_not_made_over_a_damaged_one(root: Path, store: LocalStore, kind: Kind) -> None:
    put_new(store, b"precious", kind)
    (root / "config").unlink()
    with pytest.raises(NotAStore, match=f"objects in {kind}/ but no config"):
        LocalStore.create(root)


def test_a_file_in_the_way_is_named(root: Path) -> None:
    root.write_text("a file")
    with pytest.raises(NotAStore, match="not a folder"):
        LocalStore.create(root)
    with pytest.raises(NotAStore, match="not a folder"):
        LocalStore(root)
    with pytest.raises(NotAStore, match="no such folder"):
        LocalStore(root / "below")
    with pytest.raises(StoreError):
        LocalStore.create(root / "below" / "it")


def test_opening_what_is_missing_says_so_and_exits_10(root: Path) -> None:
    with pytest.raises(NotAStore, match=r"no such folder.*mounted.*coopfs init") as caught:
        LocalStore(root)
    assert caught.value.exit_code == 10
    assert not root.exists()


@pytest.mark.parametrize(
    ("names", "found"), [((), "an empty folder"), (("data", "notes.txt"), "'data', 'notes.txt'")]
)
def test_opening_another_folder_names_what_is_there(
    root: Path, names: tuple[str, ...], found: str
) -> None:
    root.mkdir()
    for name in names:
        (root / name).mkdir()
    with pytest.raises(NotAStore, match=f'expected a file "config", found {found}'):
        LocalStore(root)


def test_a_store_that_lost_its_config_still_opens(root: Path, store: LocalStore) -> None:
    name = put_new(store, b"snapshot", Kind.SNAPSHOTS)
    (root / "config").unlink()
    with LocalStore(root) as reopened:
        assert reopened.get(Kind.SNAPSHOTS, name) == b"snapshot"
        with pytest.raises(ObjectNotFound, match="config"):
            reopened.get_config()
        reopened.put_config(b"mended")
    assert (root / "config").read_bytes() == b"mended"


def test_a_relative_path_holds_after_chdir(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    with LocalStore("store") as relative:
        assert relative.address == "store"
        monkeypatch.chdir("/")
        assert relative.get_config() == b"config"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        LocalStore(path)
    with pytest.raises(UsageError):
        LocalStore.create(path)


def test_folders_lost_in_copying_are_empty_and_made_anew(root: Path, store: LocalStore) -> None:
    name = put_new(store, b"old")
    for kind in KINDS:
        shutil.rmtree(root / kind)
    for kind in Kind:
        assert sizes(store, kind) == {}
        with pytest.raises(ObjectNotFound):
            store.get(kind, name_of(b"nothing"))
        put_new(store, b"new", kind)
        assert sizes(store, kind) == {name_of(b"new"): 3}
    with pytest.raises(ObjectNotFound):
        store.get(Kind.DATA, name)


def test_an_object_in_another_fan_out_folder_is_a_stranger(root: Path, store: LocalStore) -> None:
    path = object_path(root, Kind.DATA, put_new(store, b"misplaced"))
    elsewhere = root / "data" / ("00" if path.parent.name != "00" else "01")
    elsewhere.mkdir()
    path.rename(elsewhere / path.name)
    assert sizes(store, Kind.DATA) == {}


def test_a_folder_that_vanishes_between_two_puts_is_made_anew(
    root: Path, store: LocalStore
) -> None:
    put_new(store, b"first", Kind.INDEX)
    shutil.rmtree(root / "index")
    name = put_new(store, b"second", Kind.INDEX)
    assert sizes(store, Kind.INDEX) == {name: 6}


# --- a hostile folder ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["symlink", "fifo", "folder"])
def test_only_a_plain_file_is_an_object(root: Path, store: LocalStore, what: str) -> None:
    name = put_new(store, b"plain")
    path = object_path(root, Kind.DATA, name)
    path.unlink()
    if what == "symlink":
        path.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert sizes(store, Kind.DATA) == {}
    calls: list[Callable[[], object]] = [
        lambda: store.get(Kind.DATA, name),
        lambda: store.size(Kind.DATA, name),
        lambda: store.put(Kind.DATA, name, b"plain"),
    ]
    for call in calls:
        with pytest.raises(ObjectCorrupt, match=name.hex()):
            call()


def test_a_file_cut_short_is_corrupt_even_while_it_is_open(root: Path, store: LocalStore) -> None:
    name = put_new(store, some_bytes(1000))
    store.get(Kind.DATA, name)
    os.truncate(object_path(root, Kind.DATA, name), 500)
    with pytest.raises(ObjectCorrupt, match=r"truncated: expected 200 bytes from 400 on.*has 500"):
        store.get(Kind.DATA, name, 400, 200)
    with pytest.raises(ObjectCorrupt, match=r"holds 500 bytes .* where 1000 belong"):
        put_new(store, some_bytes(1000))


def test_a_read_that_comes_up_short_after_all_is_corrupt(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, some_bytes(1000))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: pread(fd, min(n, 700 - offset), offset))
    with pytest.raises(ObjectCorrupt, match=r"truncated.*1000 bytes from 0 on.*has 700"):
        store.get(Kind.DATA, name)


def test_a_read_answered_in_parts_is_put_together(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, some_bytes(1000))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: pread(fd, min(n, 300), offset))
    assert store.get(Kind.DATA, name, 7, 900) == some_bytes(1000)[7:907]


def test_an_absurdly_large_object_is_not_read_whole(root: Path, store: LocalStore) -> None:
    name = put_new(store, b"small")
    os.truncate(object_path(root, Kind.DATA, name), GET_LEN_MAX + 1)
    with pytest.raises(ObjectCorrupt, match="more than any object"):
        store.get(Kind.DATA, name)
    assert store.get(Kind.DATA, name, 0, 7) == b"small\0\0"
    os.truncate(root / "config", CONFIG_LEN_MAX + 1)
    with pytest.raises(ObjectCorrupt, match="config"):
        store.get_config()


# --- never half an object -------------------------------------------------------------

# Does one put, killing itself when the named function of os is called for the nth time.
_KILLED_WRITER = """
import hashlib, os, signal, sys
from coopfs.store.base import Kind
from coopfs.store.local import LocalStore
root, function, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = LocalStore(root)
store.put(Kind.DATA, hashlib.sha256(b"warm").digest(), b"warm")
original, calls = getattr(os, function), 0
def kill_at_nth(*arguments, **options):
    global calls
    calls += 1
    if calls == nth:
        if function == "write":
            original(arguments[0], arguments[1][: len(arguments[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
setattr(os, function, kill_at_nth)
data = [b"a" * 1000, b"b" * 1000]
store.put(Kind.DATA, hashlib.sha256(b"".join(data)).digest(), data)
"""


@pytest.mark.parametrize(
    ("function", "nth", "is_there"),
    [
        ("write", 1, False),
        ("write", 2, False),
        ("fsync", 1, False),  # its folder's parent
        ("fsync", 3, False),  # the temporary file
        ("link", 1, False),
        ("unlink", 1, True),
        ("fsync", 4, True),  # the folder
    ],
)
def test_a_put_killed_at_any_step_leaves_the_object_whole_or_absent(
    root: Path, store: LocalStore, function: str, nth: int, is_there: bool
) -> None:
    data = b"a" * 1000 + b"b" * 1000
    with start_writer(_KILLED_WRITER, str(root), function, str(nth)) as writer:
        writer.communicate(timeout=60)
    assert writer.returncode == -signal.SIGKILL
    path = object_path(root, Kind.DATA, name_of(data))
    assert path.exists() == is_there
    assert (name_of(data) in sizes(store, Kind.DATA)) == is_there
    if is_there:
        assert path.read_bytes() == data
    put_new(store, data)
    assert store.get(Kind.DATA, name_of(data)) == data


def test_an_object_gets_its_name_between_the_two_fsyncs(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = some_bytes(1000)
    path = object_path(root, Kind.DATA, name_of(data))
    steps: list[tuple[str, bool]] = []
    fsync = os.fsync

    def watch(fd: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{fd}"))
        steps.append((str(target.relative_to(root)), path.exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watch)
    put_new(store, data)
    fan_out = f"data/{path.parent.name}"
    before, (temporary, was_there), after = steps[:-2], steps[-2], steps[-1]
    assert before == [(".", False), ("data", False)]  # the new folder's own name
    assert temporary.startswith(f"{fan_out}/.tmp-")
    assert not was_there
    assert after == (fan_out, True)
    # Found in place it is made durable too: whoever put it may have been killed before that.
    steps.clear()
    put_new(store, data)
    assert steps == [(f"{fan_out}/{path.name}", True), (fan_out, True)]


@pytest.mark.parametrize("function", ["write", "fsync", "link"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EIO, StoreError),
        (errno.ESTALE, StoreUnavailable),
    ],
)
def test_a_put_that_fails_at_any_step_leaves_nothing(
    root: Path,
    store: LocalStore,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    code: int,
    expected: type[CoopfsError],
) -> None:
    put_new(store, b"warm: its folder is ready", Kind.INDEX)

    def fail(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(expected, match=name_of(b"x" * 1000).hex()) as caught:
            put_new(store, b"x" * 1000, Kind.INDEX)
    assert type(caught.value) is expected
    assert sizes(store, Kind.INDEX).keys() == {name_of(b"warm: its folder is ready")}
    assert files_in(root) == set()
    put_new(store, b"x" * 1000, Kind.INDEX)
    assert store.get(Kind.INDEX, name_of(b"x" * 1000)) == b"x" * 1000


def test_an_interrupted_put_leaves_nothing(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            put_new(store, b"x" * 1000)
    assert files_in(root) == set()
    assert sizes(store, Kind.DATA) == {}


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_will_do(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    name = put_new(store, b"renamed")
    put_new(store, b"renamed")
    with pytest.raises(ObjectCorrupt):
        store.put(Kind.DATA, name, b"other")
    assert store.get(Kind.DATA, name) == b"renamed"
    assert files_in(root) == set()


def test_without_hard_links_too_a_name_just_taken_is_not_replaced(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = object_path(root, Kind.DATA, name_of(b"raced"))

    def be_late(source: str, target: str) -> None:
        path.write_bytes(b"other")
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", be_late)
    put_new(store, b"raced")  # of the same size, so it counts as done
    assert store.get(Kind.DATA, name_of(b"raced")) == b"other"
    assert files_in(root) == set()


def test_a_file_system_that_cannot_fsync_a_folder_will_do(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refuse_folders(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    assert store.get(Kind.DATA, put_new(store, b"x")) == b"x"


def test_a_put_that_lost_the_race_for_the_name_is_done(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = object_path(root, Kind.DATA, name_of(b"raced"))
    link = os.link

    def be_late(source: str, target: str) -> None:
        path.write_bytes(b"raced")
        link(source, target)

    monkeypatch.setattr(os, "link", be_late)
    put_new(store, b"raced")
    assert store.get(Kind.DATA, name_of(b"raced")) == b"raced"
    assert files_in(root) == set()


def test_an_object_deleted_while_it_is_put_is_worth_another_try(
    root: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def say_it_is_there(source: str, target: str) -> None:
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", say_it_is_there)
    with pytest.raises(StoreUnavailable, match="put it again"):
        put_new(store, b"gone again")


# --- temporaries ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
def test_old_temporaries_are_swept_by_the_next_put_and_young_ones_stay(
    root: Path, store: LocalStore, kind: Kind
) -> None:
    folder = object_path(root, kind, name_of(b"x")).parent
    folder.mkdir(exist_ok=True)
    young, old, stranger = folder / ".tmp-1-young", folder / ".tmp-2-old", folder / "old"
    for path in (young, old, stranger):
        path.write_bytes(b"half")
    long_ago = time.time() - TEMPORARY_AGE_MAX_S - 10
    for path in (old, stranger):
        os.utime(path, (long_ago, long_ago))
    with LocalStore(root) as reopened:
        assert old.exists()  # opening and reading write nothing
        put_new(reopened, b"x", kind)
    assert not old.exists()
    assert young.exists()
    assert stranger.exists()


# --- open files -----------------------------------------------------------------------


def open_below(root: Path) -> int:
    """Return how many files below *root* this process holds open."""
    targets = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
    return sum(target.startswith(str(root)) for target in targets)


def test_no_more_files_stay_open_than_allowed(root: Path, store: LocalStore) -> None:
    for name in [put_new(store, some_bytes(100, seed)) for seed in range(MANY_OBJECTS)]:
        store.get(Kind.DATA, name)
    assert open_below(root) == OPEN_FILES_MAX
    store.close()
    assert open_below(root) == 0


def test_a_deleted_object_gives_its_room_back_at_once(root: Path, store: LocalStore) -> None:
    name = put_new(store, b"read, then deleted")
    store.get(Kind.DATA, name)
    assert open_below(root) == 1
    store.delete(Kind.DATA, name)
    assert open_below(root) == 0


def test_a_file_read_again_is_not_opened_again(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, some_bytes(1000))
    store.get(Kind.DATA, name)

    def fail(*arguments: object) -> int:
        raise AssertionError("opened again")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert store.get(Kind.DATA, name, 5, 5) == some_bytes(1000)[5:10]


def test_a_file_evicted_or_closed_under_a_reader_stays_readable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, b"read slowly")
    others = [put_new(store, some_bytes(10, seed)) for seed in range(MANY_OBJECTS)]
    is_reading, may_go_on = threading.Event(), threading.Event()
    pread = os.pread

    def slow_pread(fd: int, size: int, offset: int) -> bytes:
        if size == 11:
            is_reading.set()
            assert may_go_on.wait(30)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", slow_pread)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(store.get(Kind.DATA, name)))
    reader.start()
    assert is_reading.wait(30)
    for other in others:
        store.get(Kind.DATA, other)
    store.close()
    may_go_on.set()
    reader.join(30)
    assert got == [b"read slowly"]


def test_a_stale_handle_is_opened_anew_once(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, b"over NFS")
    store.get(Kind.DATA, name)
    fstat, calls = os.fstat, []

    def stale_at_first(fd: int) -> os.stat_result:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, "Stale file handle")
        return fstat(fd)

    monkeypatch.setattr(os, "fstat", stale_at_first)
    assert store.get(Kind.DATA, name) == b"over NFS"
    assert len(calls) == 2


# --- the disk -------------------------------------------------------------------------


@pytest.mark.parametrize("is_mountpoint_left", [False, True])
def test_a_store_that_went_away_is_unavailable_and_nothing_is_written_in_its_place(
    root: Path, store: LocalStore, is_mountpoint_left: bool
) -> None:
    name, warm = put_new(store, b"data"), put_new(store, b"index", Kind.INDEX)
    root.rename(root.parent / "unmounted")
    if is_mountpoint_left:
        root.mkdir()
    calls: list[Callable[[], object]] = [
        lambda: store.get(Kind.INDEX, warm),
        lambda: store.size(Kind.DATA, name),
        lambda: store.delete(Kind.DATA, name),
        lambda: list(store.list(Kind.DATA)),
        lambda: list(store.list(Kind.INDEX)),
        lambda: put_new(store, b"more index", Kind.INDEX),
        lambda: put_new(store, b"more data"),
        store.get_config,
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="gone; is its disk still mounted"):
            call()
    assert root.exists() == is_mountpoint_left
    if is_mountpoint_left:
        assert list(root.iterdir()) == []
        root.rmdir()
    (root.parent / "unmounted").rename(root)
    put_new(store, b"more data")
    assert store.get(Kind.DATA, name) == b"data"


@pytest.mark.root
def test_a_full_disk_is_said_and_takes_nothing(small_disk: Path) -> None:
    with LocalStore.create(small_disk / "store") as store:
        kept = put_new(store, some_bytes(1 << 20))
        with pytest.raises(StoreFull, match=r"no room left .*free on that disk: \d+ bytes"):
            put_new(store, some_bytes(2 << 20))
        assert sizes(store, Kind.DATA) == {kept: 1 << 20}
        assert files_in(small_disk) == set()
        small = put_new(store, some_bytes(100_000))  # what fits still goes in
        assert store.get(Kind.DATA, small) == some_bytes(100_000)


@pytest.mark.root
def test_a_read_only_disk_can_be_read_and_denies_the_rest(small_disk: Path) -> None:
    root = small_disk / "store"
    with LocalStore.create(root) as store:
        store.put_config(b"config")
        name = put_new(store, b"data")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with LocalStore(root) as store:
        assert store.get(Kind.DATA, name) == b"data"
        assert sizes(store, Kind.DATA) == {name: 4}
        with pytest.raises(StoreDenied, match="Read-only"):
            put_new(store, b"more")
        with pytest.raises(StoreDenied, match="Read-only"):
            store.delete(Kind.DATA, name)
        with pytest.raises(StoreDenied, match="Read-only"):
            LocalStore.create(small_disk / "another")


@pytest.mark.root
def test_a_lost_mount_is_unavailable(small_disk: Path) -> None:
    root = small_disk / "store"
    with LocalStore.create(root) as store:
        store.put_config(b"config")
        name = put_new(store, b"data")
        subprocess.run(["umount", "--lazy", small_disk], check=True)
        with pytest.raises(StoreUnavailable, match="mounted"):
            store.get(Kind.DATA, name)
        with pytest.raises(StoreUnavailable, match="mounted"):
            put_new(store, b"more")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EROFS, StoreDenied),
        (errno.ENOTCONN, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.ENODEV, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
        (errno.EIO, StoreError),
        (errno.ENAMETOOLONG, StoreError),
        (errno.ELOOP, ObjectCorrupt),
    ],
)
def test_every_error_of_the_system_has_its_own_meaning(
    tmp_path: Path, code: int, expected: type[CoopfsError]
) -> None:
    error = store_error(OSError(code, "said the kernel"), "data/abc in /srv/s", str(tmp_path))
    assert type(error) is expected
    assert str(error).startswith("data/abc in /srv/s: ")


def test_an_unreadable_object_is_no_damage_and_not_retried(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put_new(store, b"on a bad sector")

    def fail(*arguments: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StoreError, match=f"{name.hex()}.*Input/output error") as caught:
        store.get(Kind.DATA, name)
    assert not isinstance(caught.value, StoreUnavailable)
