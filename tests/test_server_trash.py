from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from depots import DAY_NS, Agreed, Lab, name_of, names, put, read, some_bytes, sums

from coopfs.errors import ObjectCorrupt, ObjectNotFound, StoreUnavailable

KINDS = ("data", "index", "snapshots", "keys")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "serve")


def trashed(lab: Lab) -> list[str]:
    return sorted(found.name for found in lab.depot.trash())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_deleted_lies_in_the_trash(lab: Lab, kind: str) -> None:
    name = put(lab.depot, some_bytes(5000), kind)
    lab.clocks.pass_(DAY_NS)
    lab.depot.delete(kind, name)

    assert names(lab.depot, kind) == []
    with pytest.raises(ObjectNotFound):
        lab.depot.open_object(kind, name)
    with pytest.raises(ObjectNotFound):
        lab.depot.delete(kind, name)
    (found,) = lab.depot.trash()
    assert (found.kind, found.name, found.size) == (kind, name, 5000)
    assert found.deleted_ns == lab.clocks.wall
    assert found.kept_until_ns == lab.clocks.wall + 30 * DAY_NS
    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_objects, usage.trash_used) == (0, 0, 1, 5000)


def test_it_is_emptied_after_the_agreed_time_and_not_before(lab: Lab) -> None:
    early = put(lab.depot, some_bytes(5000))
    late = put(lab.depot, some_bytes(3000))
    kept = put(lab.depot, some_bytes(1000))
    lab.depot.delete("data", early)
    lab.clocks.pass_(DAY_NS)
    lab.depot.delete("data", late)
    lab.clocks.pass_(29 * DAY_NS - 1)
    assert lab.depot.empty_trash().objects == 0

    lab.clocks.pass_(1)
    emptied = lab.depot.empty_trash()

    assert (emptied.objects, emptied.freed, emptied.is_more, emptied.jump) == (1, 5000, False, None)
    assert trashed(lab) == [late]
    assert names(lab.depot) == [kept]
    assert lab.depot.usage().trash_used == 3000
    lab.clocks.pass_(DAY_NS)
    assert lab.depot.empty_trash().objects == 1
    assert lab.depot.usage().trash_used == 0
    assert lab.depot.undelete().objects == 0


def test_the_agreed_time_can_be_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(retention_days=90))
    lab.depot.delete("data", put(lab.depot, some_bytes(10)))
    lab.clocks.pass_(89 * DAY_NS)
    assert lab.depot.empty_trash().objects == 0
    lab.clocks.pass_(DAY_NS)
    assert lab.depot.empty_trash().objects == 1


def test_emptying_goes_in_small_steps(lab: Lab) -> None:
    for number in range(25):
        lab.depot.delete("data", put(lab.depot, some_bytes(10, seed=number)))
    lab.clocks.pass_(31 * DAY_NS)

    steps = []
    while (step := lab.depot.empty_trash(limit=10)).is_more:
        steps.append(step.objects)

    assert [*steps, step.objects] == [10, 10, 5]
    assert trashed(lab) == []


@pytest.mark.parametrize("jump_ns", [31 * DAY_NS, 365 * DAY_NS, 4000 * DAY_NS])
def test_a_clock_that_jumps_empties_nothing(lab: Lab, jump_ns: int) -> None:
    name = put(lab.depot, some_bytes(10))
    lab.depot.delete("data", name)
    lab.clocks.jump(jump_ns)

    emptied = lab.depot.empty_trash()

    assert emptied.objects == 0
    assert emptied.jump is not None
    assert emptied.jump.found_ns - emptied.jump.expected_ns == jump_ns
    assert trashed(lab) == [name]
    lab.restart()
    assert lab.depot.empty_trash().jump is not None


def test_once_the_clock_is_confirmed_the_trash_has_its_full_time(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(10))
    lab.depot.delete("data", name)
    lab.clocks.pass_(10 * DAY_NS)
    lab.clocks.jump(400 * DAY_NS)
    assert lab.depot.confirm_clock() is not None

    assert lab.depot.empty_trash().objects == 0
    lab.clocks.pass_(20 * DAY_NS - 1)
    assert lab.depot.empty_trash().objects == 0
    lab.clocks.pass_(1)
    assert lab.depot.empty_trash().objects == 1


def test_what_is_deleted_while_the_clock_is_wrong_has_its_full_time_too(lab: Lab) -> None:
    lab.clocks.jump(-20_000 * DAY_NS)  # 1970 or so
    name = put(lab.depot, some_bytes(10))
    lab.depot.delete("data", name)
    lab.clocks.pass_(DAY_NS)
    lab.clocks.jump(20_000 * DAY_NS)

    assert lab.depot.empty_trash().jump is None
    assert trashed(lab) == [name]
    lab.clocks.pass_(29 * DAY_NS)
    assert lab.depot.empty_trash().objects == 1


def test_a_reboot_with_a_forged_date_empties_nothing(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(10))
    lab.depot.delete("data", name)
    lab.depot.close()
    lab.clocks.reboot(31 * DAY_NS)
    lab.depot = lab.open()

    assert lab.depot.empty_trash().jump is not None
    assert trashed(lab) == [name]


def test_putting_a_trashed_name_restores_it(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    lab.depot.delete("data", name)

    put(lab.depot, data)

    assert read(lab.depot, "data", name) == data
    assert trashed(lab) == []
    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_objects, usage.trash_used) == (1, 5000, 0, 0)
    lab.clocks.pass_(31 * DAY_NS)
    lab.depot.empty_trash()
    assert read(lab.depot, "data", name) == data


def test_an_upload_that_fails_leaves_the_trash_alone(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    lab.depot.delete("data", name)
    with lab.depot.begin_put("data", name, 5000) as upload:
        upload.write(data[:100])

    assert trashed(lab) == [name]


def test_everything_can_be_had_back(lab: Lab) -> None:
    objects = {kind: some_bytes(1000, seed=n) for n, kind in enumerate(KINDS)}
    for kind, data in objects.items():
        lab.depot.delete(kind, put(lab.depot, data, kind))

    undeleted = lab.depot.undelete()

    assert (undeleted.objects, undeleted.restored, undeleted.there_already) == (4, 4000, 0)
    for kind, data in objects.items():
        assert read(lab.depot, kind, name_of(data)) == data
    assert trashed(lab) == []
    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_used, usage.trash_objects) == (4, 4000, 0, 0)


def test_some_names_can_be_had_back(lab: Lab) -> None:
    pieces = [some_bytes(1000, seed=number) for number in range(3)]
    for data in pieces:
        lab.depot.delete("data", put(lab.depot, data))

    undeleted = lab.depot.undelete([name_of(pieces[1]), "0" * 64])

    assert undeleted.objects == 1
    assert names(lab.depot) == [name_of(pieces[1])]
    assert trashed(lab) == sorted([name_of(pieces[0]), name_of(pieces[2])])


def test_what_was_deleted_since_a_time_can_be_had_back(lab: Lab) -> None:
    before = put(lab.depot, some_bytes(1000))
    lab.depot.delete("data", before)
    lab.clocks.pass_(DAY_NS)
    since_ns = lab.clocks.wall
    hacked = [put(lab.depot, some_bytes(1000, seed=number)) for number in range(1, 4)]
    for name in hacked:
        lab.depot.delete("data", name)

    assert lab.depot.undelete(since_ns=since_ns).objects == 3
    assert names(lab.depot) == sorted(hacked)
    assert trashed(lab) == [before]


def test_an_object_that_was_put_again_is_not_touched(lab: Lab) -> None:
    data = some_bytes(1000)
    name = put(lab.depot, data)
    copy = lab.folder / "trash" / "data" / name[:2] / f"{name}.1"
    shutil.copy(lab.path("data", name), copy)
    lab.restart()

    undeleted = lab.depot.undelete()

    assert (undeleted.objects, undeleted.there_already) == (0, 1)
    assert copy.exists()
    assert lab.depot.usage().used == 1000


def test_the_newest_of_several_copies_comes_back(lab: Lab) -> None:
    data = some_bytes(1000)
    name = put(lab.depot, data)
    lab.depot.delete("data", name)
    older = lab.folder / "trash" / "data" / name[:2] / f"{name}.7"
    older.write_bytes(b"an older, other one")
    lab.restart()

    assert lab.depot.undelete().objects == 1
    assert read(lab.depot, "data", name) == data
    assert older.exists()


def test_undeleting_is_never_refused_for_the_quota(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve", Agreed(quota_bytes=5000))
    first = put(lab.depot, some_bytes(3000))
    lab.depot.delete("data", first)
    put(lab.depot, some_bytes(3000, seed=1))

    assert lab.depot.undelete().objects == 1
    usage = lab.depot.usage()
    assert (usage.used, usage.left) == (6000, 0)


def test_a_command_at_the_prompt_undeletes_and_the_server_counts_it(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(3000))
    lab.depot.delete("data", name)
    prompt = lab.open(is_server=False)

    assert prompt.undelete().objects == 1
    prompt.close()

    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_objects, usage.trash_used) == (1, 3000, 0, 0)
    assert names(lab.depot) == [name]


def test_files_in_the_trash_that_are_none_of_ours_stay(lab: Lab) -> None:
    strange = lab.folder / "trash" / "data" / "aa"
    for name in ("README", "a" * 64, "a" * 64 + ".x", "a" * 64 + ".-5"):
        (strange / name).write_text("?")
    lab.clocks.pass_(100 * DAY_NS)

    assert lab.depot.empty_trash().objects == 0
    assert lab.depot.undelete().objects == 0
    assert len(list(strange.iterdir())) == 4


def test_deletes_undeletes_and_emptying_at_once_lose_nothing(lab: Lab) -> None:
    objects = {name_of(data): data for data in (some_bytes(500, seed=n) for n in range(40))}
    for data in objects.values():
        put(lab.depot, data)

    def tear(round_: int) -> None:
        for name in objects:
            try:
                if round_ % 3 == 0:
                    lab.depot.delete("data", name)
                elif round_ % 3 == 1:
                    lab.depot.undelete([name])
                else:
                    put(lab.depot, objects[name])
            except (ObjectNotFound, StoreUnavailable):
                pass  # another thread has deleted it
            lab.depot.empty_trash()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(tear, range(6)))

    stored = {*names(lab.depot), *trashed(lab)}
    assert stored == set(objects)
    before = sums(lab.depot)
    assert sums(lab.restart()) == before
    lab.depot.undelete()
    for name, data in objects.items():
        assert read(lab.depot, "data", name) == data


def test_a_copy_of_the_folder_made_of_hard_links_confuses_nothing(lab: Lab) -> None:
    kept = put(lab.depot, some_bytes(1000))
    gone = put(lab.depot, some_bytes(2000))
    lab.depot.delete("data", gone)
    shutil.copytree(lab.folder, lab.root / "copy", copy_function=os.link)

    usage = lab.restart().usage()

    assert (usage.used, usage.trash_used) == (1000, 2000)
    assert names(lab.depot) == [kept]
    assert trashed(lab) == [gone]


def test_sums_are_right_where_there_are_no_hard_links(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    first, second = some_bytes(1000), some_bytes(2000)
    for data in (first, second):
        put(lab.depot, data)
        lab.depot.delete("data", name_of(data))
    assert sums(lab.depot) == sums(lab.restart())

    assert lab.depot.undelete([name_of(first)]).objects == 1
    put(lab.depot, second)

    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_objects, usage.trash_used) == (2, 3000, 0, 0)
    assert sums(lab.depot) == sums(lab.restart())
    assert read(lab.depot, "data", name_of(first)) == first


def test_what_an_undelete_killed_at_the_prompt_left_is_finished_and_counted_once(
    lab: Lab,
) -> None:
    data = some_bytes(1000)
    name = put(lab.depot, data)
    lab.depot.delete("data", name)
    (copy,) = (lab.folder / "trash" / "data" / name[:2]).iterdir()
    os.link(copy, lab.path("data", name))
    lab.open(is_server=False).undelete([])  # has the server count again

    assert lab.depot.usage().used == 1000
    assert lab.depot.undelete().objects == 1
    assert not copy.exists()
    usage = lab.depot.usage()
    assert (usage.objects, usage.used, usage.trash_objects, usage.trash_used) == (1, 1000, 0, 0)


def test_a_folder_with_the_name_of_an_object_is_left_alone(lab: Lab) -> None:
    lab.path("data", "a" * 64).mkdir()
    with pytest.raises(ObjectCorrupt, match="not a plain file"):
        lab.depot.delete("data", "a" * 64)
    (lab.folder / "trash" / "data" / "bb" / ("b" * 64 + ".1")).mkdir()
    name = put(lab.depot, some_bytes(100))
    lab.depot.delete("data", name)
    lab.clocks.pass_(31 * DAY_NS)

    assert lab.depot.empty_trash().objects == 1
    assert lab.path("data", "a" * 64).is_dir()
