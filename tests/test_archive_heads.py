"""The heads: kept durably, shared by processes, refused when damaged."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from coopfs.archive.heads import FILE_NAME, Accepted, Head, Heads
from coopfs.errors import ConfigError, CoopfsError
from coopfs.ids import SnapshotId


def head(series: str, number: int) -> Head:
    return Head("anna", series, number, SnapshotId(bytes([number]) * 32))


def test_heads_are_there_when_they_are_read_again(tmp_path: Path) -> None:
    heads = Heads(tmp_path)
    assert heads.all() == []
    heads.update([head("two", 2), head("one", 1)])
    again = Heads(tmp_path)
    assert again.all() == [head("one", 1), head("two", 2)]
    assert again.get("anna", "two") == head("two", 2)
    assert again.get("bob", "two") is None
    assert json.loads((tmp_path / FILE_NAME).read_text())["heads"][0]["series"] == "one"
    assert list(tmp_path.glob("*.part")) == []


def test_what_is_known_already_is_not_written_again(tmp_path: Path) -> None:
    heads = Heads(tmp_path)
    heads.update([head("one", 1)])
    inode = (tmp_path / FILE_NAME).stat().st_ino
    heads.update([head("one", 1)])
    assert (tmp_path / FILE_NAME).stat().st_ino == inode


def test_two_processes_never_put_each_others_heads_back(tmp_path: Path) -> None:
    mount, snapshot = Heads(tmp_path), Heads(tmp_path)
    mount.update([head("one", 1), head("two", 1)])
    snapshot.reload()
    snapshot.update([head("one", 2)])
    mount.update([head("two", 2)])  # it still remembers number 1 of the other
    assert Heads(tmp_path).all() == [head("one", 2), head("two", 2)]
    assert mount.get("anna", "one") == head("one", 2)


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> None:
        heads = Heads(tmp_path)
        for step in range(1, 11):
            heads.update([head(f"s{number}", step)])

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [h.number for h in Heads(tmp_path).all()] == [10] * 4


@pytest.mark.parametrize(
    "text",
    ["", "{", "{}", '{"heads": [{}]}', '{"heads": [{"host": "a", "series": "b", "number": "x",'
     ' "snapshot": "00"}]}', '{"heads": 5}', "[]"],
)  # fmt: skip
def test_a_damaged_file_is_an_error_not_a_fresh_start(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    with pytest.raises(ConfigError, match=r"heads\.json: damaged"):
        Heads(tmp_path)


def test_a_head_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    heads = Heads(tmp_path)
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(CoopfsError, match=FILE_NAME):
        heads.update([head("one", 1)])


def accepted(number: int | None, name: int) -> Accepted:
    return Accepted(SnapshotId(bytes([name]) * 32), "anna", "one", number, 1)


def test_what_was_accepted_as_missing_is_kept_and_its_head_set_back(tmp_path: Path) -> None:
    heads = Heads(tmp_path)
    heads.update([head("one", 5), head("two", 2)])
    heads.accept([accepted(5, 5), accepted(None, 9)], [head("one", 3)])
    for seen in (heads, Heads(tmp_path)):
        assert seen.all() == [head("one", 3), head("two", 2)]
        assert seen.accepted() == [accepted(None, 9), accepted(5, 5)]
        assert seen.accepted_ids() == {bytes([5]) * 32, bytes([9]) * 32}
    heads.accept([accepted(3, 3)], [])
    assert Heads(tmp_path).get("anna", "one") is None
    heads.found_again({SnapshotId(bytes([9]) * 32)})
    assert Heads(tmp_path).accepted_ids() == {bytes([5]) * 32, bytes([3]) * 32}


def test_a_process_that_remembers_the_old_head_does_not_put_it_back(tmp_path: Path) -> None:
    mount, repair = Heads(tmp_path), Heads(tmp_path)
    mount.update([head("one", 5)])
    repair.reload()
    repair.accept([accepted(5, 5)], [head("one", 3)])
    mount.update([head("two", 1)])
    assert Heads(tmp_path).all() == mount.all() == [head("one", 3), head("two", 1)]
    # What comes after it has a lower number than the one that is gone, and counts.
    mount.update([head("one", 4)])
    assert Heads(tmp_path).get("anna", "one") == head("one", 4)
