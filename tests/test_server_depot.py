from __future__ import annotations

import os
import stat
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from depots import (
    DAY_NS,
    Agreed,
    Lab,
    files_below,
    name_of,
    names,
    put,
    put_receipt,
    read,
    some_bytes,
)

from coopfs import durable
from coopfs.errors import (
    CoopfsError,
    ObjectCorrupt,
    ObjectNotFound,
    StateBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
    UsageError,
)
from coopfs.objects import CONFIG_LEN_MAX, KINDS
from coopfs.server import quota
from coopfs.server.depot import Depot
from coopfs.server.upload import BUFFER_LEN


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "serve")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_put_is_read_listed_and_sized(lab: Lab, kind: str) -> None:
    data = some_bytes(5000)

    receipt = put_receipt(lab.depot, data, kind)

    name = name_of(data)
    assert (receipt.kind, receipt.name.hex(), receipt.size) == (kind, name, 5000)
    assert receipt.time_ns == lab.clocks.wall
    assert read(lab.depot, kind, name) == data
    assert list(lab.depot.list(kind)) == [(name, 5000)]
    assert lab.depot.size(kind, name) == 5000
    assert lab.path(kind, name).read_bytes() == data


@pytest.mark.parametrize(
    "length", [0, 1, BUFFER_LEN - 1, BUFFER_LEN, BUFFER_LEN + 1, 3 * BUFFER_LEN + 4097]
)
def test_any_length_arrives_whole(lab: Lab, length: int) -> None:
    data = some_bytes(length)

    assert read(lab.depot, "data", put(lab.depot, data)) == data


def test_pieces_of_any_size_make_one_object(lab: Lab) -> None:
    data = some_bytes(2 * BUFFER_LEN + 777)
    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        place = 0
        for length in (0, 1, 4095, BUFFER_LEN, 3, BUFFER_LEN + 100_000):
            upload.write(memoryview(data)[place : place + length])
            place += length
        upload.write(bytearray(data[place:]))
        upload.finish()

    assert read(lab.depot, "data", name_of(data)) == data


def test_other_bytes_than_the_name_says_are_refused(lab: Lab) -> None:
    data = some_bytes(3 * BUFFER_LEN)
    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        upload.write(data[:-1] + b"x" if data[-1:] != b"x" else data[:-1] + b"y")
        with pytest.raises(ObjectCorrupt, match=r"have the SHA-256 .*nothing was stored"):
            upload.finish()

    assert_nothing_came(lab, name_of(data))


def test_too_few_bytes_are_refused(lab: Lab) -> None:
    data = some_bytes(5000)
    with lab.depot.begin_put("data", name_of(data), 5001) as upload:
        upload.write(data)
        with pytest.raises(ObjectCorrupt, match="5000 of 5001 bytes arrived"):
            upload.finish()

    assert_nothing_came(lab, name_of(data))


def test_more_bytes_than_announced_are_refused_at_once(lab: Lab) -> None:
    data = some_bytes(5000)
    with (
        lab.depot.begin_put("data", name_of(data), 4999) as upload,
        pytest.raises(ObjectCorrupt, match="more bytes than the 4999"),
    ):
        upload.write(data)

    assert_nothing_came(lab, name_of(data))


def test_an_aborted_upload_leaves_nothing(lab: Lab) -> None:
    data = some_bytes(2 * BUFFER_LEN)
    upload = lab.depot.begin_put("data", name_of(data), len(data))
    upload.write(data)
    assert lab.depot.usage().reserved == len(data)
    assert len(list((lab.folder / "incoming").iterdir())) == 1
    upload.abort()
    upload.abort()

    assert_nothing_came(lab, name_of(data))


def assert_nothing_came(lab: Lab, name: str) -> None:
    assert names(lab.depot) == []
    with pytest.raises(ObjectNotFound, match=name):
        lab.depot.size("data", name)
    assert list((lab.folder / "incoming").iterdir()) == []
    usage = lab.depot.usage()
    assert (usage.used, usage.reserved, usage.objects, usage.today) == (0, 0, 0, 0)


def test_no_object_has_a_name_before_all_its_bytes_are_there(lab: Lab) -> None:
    data = some_bytes(2 * BUFFER_LEN)
    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        upload.write(data)
        assert names(lab.depot) == []
        with pytest.raises(ObjectNotFound):
            lab.depot.open_object("data", name_of(data))
        upload.finish()
    assert names(lab.depot) == [name_of(data)]


def test_bytes_name_and_folder_are_durable_in_this_order(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = some_bytes(5000)
    name = name_of(data)
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def seen_fsync(fd: int) -> None:
        place = Path(os.readlink(f"/proc/self/fd/{fd}"))
        steps.append(f"fsync {place.parent.name}" if place.is_file() else f"fsync {place.name}/")
        fsync(fd)

    def seen_link(source: str, target: str) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    put(lab.depot, data)

    assert steps == ["fsync incoming", "link", f"fsync {name[:2]}/"]


def test_the_same_object_again_is_done(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    before = os.stat(lab.path("data", name))

    receipt = put_receipt(lab.depot, data)

    assert receipt.name.hex() == name
    assert os.stat(lab.path("data", name)).st_ino == before.st_ino
    assert lab.depot.usage().used == 5000


def test_garbage_under_a_name_that_is_there_is_not_called_done(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(5000))
    with lab.depot.begin_put("data", name, 5000) as upload:
        upload.write(some_bytes(5000, seed=1))
        with pytest.raises(ObjectCorrupt, match="SHA-256"):
            upload.finish()

    assert read(lab.depot, "data", name) == some_bytes(5000)


def test_an_object_of_another_size_is_refused_and_stays(lab: Lab) -> None:
    data = some_bytes(5000)
    lab.path("data", name_of(data)).write_bytes(b"short")

    with pytest.raises(ObjectCorrupt, match="holds 5 bytes under this name where 5000 belong"):
        put(lab.depot, data)

    assert lab.path("data", name_of(data)).read_bytes() == b"short"
    assert list((lab.folder / "incoming").iterdir()) == []


def test_one_name_put_by_many_at_once_is_one_object(lab: Lab) -> None:
    data = some_bytes(2 * BUFFER_LEN)
    together = threading.Barrier(6)

    def put_one(_: int) -> str:
        with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
            together.wait()
            upload.write(data)
            return upload.finish().name.hex()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(put_one, range(6))) == {name_of(data)}

    assert names(lab.depot) == [name_of(data)]
    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.reserved, usage.today) == (
        (1, len(data), 0, len(data))
    )
    assert list((lab.folder / "incoming").iterdir()) == []


def test_an_object_deleted_during_its_second_put_is_no_success(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    with lab.depot.begin_put("data", name, len(data)) as upload:
        upload.write(data)
        lab.depot.delete("data", name)
        with pytest.raises(StoreUnavailable, match="put it again"):
            upload.finish()

    assert read(lab.depot, "data", put(lab.depot, data)) == data


def test_many_threads_put_read_list_and_delete(lab: Lab) -> None:
    objects = [some_bytes(3000 + number, seed=number) for number in range(120)]

    def work(number: int) -> None:
        name = put(lab.depot, objects[number])
        assert read(lab.depot, "data", name) == objects[number]
        assert name in names(lab.depot)
        if number % 3 == 0:
            lab.depot.delete("data", name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(len(objects))))

    kept = [data for number, data in enumerate(objects) if number % 3]
    assert names(lab.depot) == sorted(map(name_of, kept))
    usage = lab.depot.usage()
    assert (usage.objects, usage.used) == (len(kept), sum(map(len, kept)))
    assert usage.trash_objects == 40
    again = lab.restart().usage()
    assert (again.objects, again.used, again.trash_used, again.today) == (
        (usage.objects, usage.used, usage.trash_used, usage.today)
    )


# --- names, kinds and what else is in the folders -------------------------------


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("data", "../../../etc/passwd"),
        ("data", "A" * 64),
        ("data", "a" * 63),
        ("data", "a" * 65),
        ("data", "a" * 64 + "\n"),
        ("data", "a" * 63 + "/"),
        ("data", ""),
        ("data", "\0" * 64),
        ("trash", "a" * 64),
        ("", "a" * 64),
        ("..", "a" * 64),
        ("config", "a" * 64),
    ],
)
def test_no_other_name_is_a_path(lab: Lab, kind: str, name: str) -> None:
    before = files_below(lab.root)
    for call in (
        lambda: lab.depot.begin_put(kind, name, 1),
        lambda: lab.depot.open_object(kind, name),
        lambda: lab.depot.size(kind, name),
        lambda: lab.depot.delete(kind, name),
    ):
        with pytest.raises(UsageError):
            call()
    assert files_below(lab.root) == before


def test_a_negative_size_is_refused(lab: Lab) -> None:
    with pytest.raises(UsageError, match="-1"):
        lab.depot.begin_put("data", "a" * 64, -1)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b"])
def test_a_partner_has_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a partner"):
        Depot(tmp_path, Agreed(name))
    assert list(tmp_path.iterdir()) == []


def test_strangers_in_the_folders_are_no_objects(lab: Lab) -> None:
    data = some_bytes(100)
    name = put(lab.depot, data)
    folder = lab.path("data", name).parent
    (folder / "README").write_text("hello")
    (folder / ("f" * 64)).mkdir()
    (folder / ("e" * 64)).symlink_to("/etc/passwd")
    (lab.folder / "objects" / "data" / ("d" * 64)).write_bytes(b"not in its fan-out folder")
    wrong = "00" if name[:2] != "00" else "01"
    (lab.folder / "objects" / "data" / wrong / name).write_bytes(b"in another's fan-out folder")

    assert names(lab.depot) == [name]
    assert lab.restart().usage().used == 100


def test_neither_symlink_nor_fifo_stands_for_an_object(lab: Lab) -> None:
    link, fifo = "a" * 64, "b" * 64
    lab.path("data", link).symlink_to("/etc/passwd")
    os.mkfifo(lab.path("data", fifo))

    for name in (link, fifo):
        with pytest.raises(ObjectCorrupt):
            lab.depot.open_object("data", name)
        with pytest.raises(ObjectCorrupt, match="not a plain file"):
            lab.depot.size("data", name)


def test_objects_are_listed_in_the_order_of_their_names(lab: Lab) -> None:
    for number in range(30):
        put(lab.depot, some_bytes(10, seed=number))

    assert names(lab.depot) == sorted(names(lab.depot))
    assert len(names(lab.depot)) == 30


def test_what_is_not_there_is_not_found(lab: Lab) -> None:
    for call in (lab.depot.open_object, lab.depot.size, lab.depot.delete):
        with pytest.raises(ObjectNotFound, match=f"data/{'a' * 64}"):
            call("data", "a" * 64)


def test_files_are_private(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(10))

    assert stat.S_IMODE(lab.path("data", name).stat().st_mode) == 0o600
    for folder in lab.folder.rglob("*"):
        if folder.is_dir():
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_a_deleted_lock_is_gone(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(100), "locks")
    lab.depot.delete("locks", name)

    assert names(lab.depot, "locks") == []
    assert list(lab.depot.trash()) == []
    assert lab.depot.usage().used == 0


# --- config -------------------------------------------------------------------


def test_config_is_put_once(lab: Lab) -> None:
    with pytest.raises(ObjectNotFound, match="config"):
        lab.depot.get_config()
    lab.depot.put_config(b"the config")
    lab.depot.put_config(b"the config")
    with pytest.raises(StoreError, match="another one is there"):
        lab.depot.put_config(b"another config")

    assert lab.depot.get_config() == b"the config"
    assert lab.depot.usage().used == 10
    assert lab.restart().usage().used == 10
    assert lab.depot.usage().objects == 0


def test_an_absurd_config_is_refused(lab: Lab) -> None:
    with pytest.raises(StoreError, match=f"expected {CONFIG_LEN_MAX} at most"):
        lab.depot.put_config(bytes(CONFIG_LEN_MAX + 1))
    (lab.folder / "objects" / "config").write_bytes(bytes(CONFIG_LEN_MAX + 1))
    with pytest.raises(ObjectCorrupt, match=f"expected {CONFIG_LEN_MAX} at most"):
        lab.depot.get_config()


# --- starting -----------------------------------------------------------------


def test_leftovers_of_a_killed_server_are_swept_at_the_start(lab: Lab) -> None:
    (lab.folder / "incoming" / "1-1").write_bytes(b"half")
    (lab.folder / "objects" / f"{durable.TEMPORARY_PREFIX}1-abc").write_bytes(b"half a config")
    (lab.folder / f"{durable.TEMPORARY_PREFIX}1-xyz").write_bytes(b"half a state")

    lab.restart()

    assert not (lab.folder / f"{durable.TEMPORARY_PREFIX}1-xyz").exists()
    assert list((lab.folder / "incoming").iterdir()) == []
    assert sorted(p.name for p in (lab.folder / "objects").iterdir()) == sorted(KINDS)


def test_only_one_process_serves_a_partner(lab: Lab) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StateBusy, match="another coopfs serve"):
        lab.open()
    assert len(os.listdir("/proc/self/fd")) == before
    lab.depot.close()
    lab.depot.close()
    lab.open().close()


def test_a_closed_depot_moves_nothing(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(100))
    lab.depot.close()
    with pytest.raises(StoreUnavailable, match="not open any more"):
        lab.depot.delete("data", name)

    assert names(lab.open()) == [name]


def test_a_command_at_the_prompt_leaves_uploads_alone(lab: Lab) -> None:
    data = some_bytes(2 * BUFFER_LEN)
    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        upload.write(data)
        lab.open(is_server=False).close()
        upload.finish()

    assert read(lab.depot, "data", name_of(data)) == data


def test_a_folder_that_vanished_is_not_made_anew(lab: Lab) -> None:
    data = some_bytes(100)
    name = put(lab.depot, data)
    lab.folder.rename(lab.root / "elsewhere")

    for call in (
        lambda: put(lab.depot, data),
        lambda: put(lab.depot, some_bytes(100, seed=1)),
        lambda: read(lab.depot, "data", name),
        lambda: lab.depot.delete("data", name),
        lambda: lab.depot.usage(),
    ):
        with pytest.raises(StoreUnavailable, match="is the server's disk mounted"):
            call()
    assert not lab.folder.exists()


def test_partners_do_not_see_each_other(lab: Lab) -> None:
    other = Depot(lab.root, Agreed("bob"))
    name = put(lab.depot, some_bytes(100))

    assert names(other) == []
    with pytest.raises(ObjectNotFound):
        other.size("data", name)
    assert other.usage().used == 0
    other.close()


# --- quotas -------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "serve", Agreed(quota_bytes=10_000))


def test_a_put_over_the_quota_is_refused_before_any_byte(small: Lab) -> None:
    put(small.depot, some_bytes(7000))

    with pytest.raises(StoreFull, match="3000 of 10000 bytes are left"):
        small.depot.begin_put("data", "a" * 64, 3001)

    assert list((small.folder / "incoming").iterdir()) == []
    put(small.depot, some_bytes(3000))
    assert small.depot.usage().left == 0


def test_what_is_there_already_needs_no_quota(small: Lab) -> None:
    data = some_bytes(10_000)
    put(small.depot, data)
    put(small.depot, data)

    assert small.depot.usage().used == 10_000


def test_a_quota_has_room_for_so_many_objects(small: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every one is a file: a partner must not take all inodes of a disk with single bytes.
    monkeypatch.setattr(quota, "OBJECTS_FREE", 20)
    names = [put(small.depot, some_bytes(9, seed=number)) for number in range(18)]
    small.depot.delete("data", names[0])  # in the trash it is a file all the same
    with small.depot.begin_put("data", "a" * 64, 1):
        put(small.depot, some_bytes(9, seed=100))
        with pytest.raises(StoreFull, match="20 objects are here already"):
            put(small.depot, some_bytes(9, seed=101))
    put(small.depot, some_bytes(9, seed=101))
    with pytest.raises(StoreFull, match="room for 20 of them"):
        put(small.depot, some_bytes(9, seed=102))
    put(small.depot, some_bytes(9, seed=102), is_admin=True)  # a prune must go on
    put(small.depot, some_bytes(9, seed=100))  # there already


def test_without_a_quota_objects_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "OBJECTS_FREE", 2)
    lab = Lab(tmp_path / "serve")
    for number in range(5):
        put(lab.depot, some_bytes(9, seed=number))
    assert lab.depot.usage().objects == 5


def test_uploads_on_their_way_count(small: Lab) -> None:
    with small.depot.begin_put("data", "a" * 64, 6000):
        with pytest.raises(StoreFull, match="4000 of 10000 bytes are left"):
            small.depot.begin_put("data", "b" * 64, 6000)
        assert small.depot.usage().left == 4000
    small.depot.begin_put("data", "b" * 64, 6000).abort()


def test_the_admin_key_may_go_five_percent_over(small: Lab) -> None:
    put(small.depot, some_bytes(10_000))
    with pytest.raises(StoreFull):
        put(small.depot, some_bytes(1))
    put(small.depot, some_bytes(500, seed=1), is_admin=True)
    with pytest.raises(StoreFull):
        put(small.depot, some_bytes(1), is_admin=True)


def test_the_admin_key_needs_no_share_of_the_day(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(per_day_bytes=1000))
    put(lab.depot, some_bytes(1000))
    put(lab.depot, some_bytes(5000), is_admin=True)
    with pytest.raises(StoreFull, match="0 of 1000 bytes"):
        put(lab.depot, some_bytes(10))


def test_a_full_store_still_takes_a_lock_but_nothing_else_as_one(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(quota_bytes=100_000, per_day_bytes=100_000))
    put(lab.depot, some_bytes(100_000))
    name = put(lab.depot, some_bytes(150), "locks")
    lab.depot.delete("locks", name)
    with pytest.raises(StoreFull):
        put(lab.depot, some_bytes(4097), "locks")
    with pytest.raises(StoreFull, match="of 100000 bytes are left"):
        for number in range(100):
            put(lab.depot, some_bytes(4000, seed=number), "locks")
    assert lab.depot.usage().used <= 105_000


@pytest.mark.root
def test_a_folder_on_another_disk_is_refused_at_the_start(lab: Lab) -> None:
    lab.depot.close()
    trash = lab.folder / "trash"
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "coopfs-test", trash],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {run.stderr.strip()}")
    try:
        with pytest.raises(StoreError, match="not all on one file system"):
            lab.open()
    finally:
        subprocess.run(["umount", trash], check=True)
    lab.open().close()


def test_the_trash_has_an_allowance_of_its_own(small: Lab) -> None:
    pieces = [some_bytes(2000, seed=number) for number in range(4)]
    for data in pieces:
        put(small.depot, data)
    small.depot.delete("data", name_of(pieces[0]))
    usage = small.depot.usage()
    assert (usage.used, usage.trash_used, usage.trash_allowance) == (6000, 2000, 2500)
    assert usage.left == 4000

    small.depot.delete("data", name_of(pieces[1]))

    # 4000 in the trash, 1500 of them beyond what it may have.
    assert small.depot.usage().left == 10_000 - 4000 - 1500


def test_the_day_has_a_share_of_its_own(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(per_day_bytes=5000))
    put(lab.depot, some_bytes(3000))
    with pytest.raises(StoreFull, match="2000 of 5000 bytes are left until midnight UTC"):
        put(lab.depot, some_bytes(2001))
    lab.restart()

    lab.clocks.pass_(DAY_NS)

    assert lab.depot.usage().today == 0
    put(lab.depot, some_bytes(5000))


def test_the_days_share_outlives_a_restart_and_a_deletion(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(per_day_bytes=5000))
    name = put(lab.depot, some_bytes(3000))
    lab.depot.delete("data", name)

    lab.restart()

    assert lab.depot.usage().today == 3000
    with pytest.raises(StoreFull, match="2000 of 5000 bytes are left until midnight UTC"):
        put(lab.depot, some_bytes(2001))
    lab.clocks.pass_(DAY_NS)
    assert lab.restart().usage().today == 0


def test_terms_change_while_it_runs(small: Lab) -> None:
    put(small.depot, some_bytes(9000))
    small.depot.change_terms(Agreed(quota_bytes=5000))
    assert small.depot.usage().left == 0
    with pytest.raises(StoreFull, match="0 of 5000 bytes are left"):
        put(small.depot, some_bytes(1))
    small.depot.change_terms(Agreed())
    put(small.depot, some_bytes(50_000))
    with pytest.raises(UsageError, match="bob"):
        small.depot.change_terms(Agreed("bob"))


def test_more_than_the_disk_has_is_refused_before_any_byte(lab: Lab) -> None:
    with pytest.raises(StoreFull, match="free on the partner's disk"):
        lab.depot.begin_put("data", "a" * 64, 1 << 60)


def test_no_error_is_a_bare_oserror(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    data = some_bytes(5000)

    def failing(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with lab.depot.begin_put("data", name_of(data), len(data)) as upload:
        upload.write(data)
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(CoopfsError, match="the disk may be failing"):
            upload.finish()
    monkeypatch.undo()
    assert_nothing_came(lab, name_of(data))
