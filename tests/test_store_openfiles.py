from __future__ import annotations

import os
from pathlib import Path

import pytest

from coopfs.store.openfiles import OpenFiles


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    return [str(path) for path in paths]


def test_the_least_recently_used_file_is_closed_first(paths: list[str]) -> None:
    files = OpenFiles(2)
    fds = []
    for path in (paths[0], paths[1], paths[0], paths[2]):
        with files.reading(path) as fd:
            fds.append(fd)
            assert os.pread(fd, 10, 0).decode() == path[-1]
    assert fds[0] == fds[2]
    assert [is_open(fds[0]), is_open(fds[1]), is_open(fds[3])] == [True, False, True]
    files.close()
    assert not is_open(fds[0])
    assert not is_open(fds[3])


def test_a_forgotten_file_is_closed_by_its_last_reader(paths: list[str]) -> None:
    files = OpenFiles(2)
    with files.reading(paths[0]) as outer:
        with files.reading(paths[0]) as inner:
            assert inner == outer
            files.forget(paths[0])
            files.forget(paths[0])
        assert is_open(outer)
    assert not is_open(outer)


def test_after_closing_nothing_is_kept_open(paths: list[str]) -> None:
    files = OpenFiles(2)
    files.close()
    with files.reading(paths[0]) as fd:
        assert os.pread(fd, 10, 0) == b"a"
    assert not is_open(fd)


def test_a_file_that_cannot_be_opened_leaves_nothing_behind(paths: list[str]) -> None:
    files = OpenFiles(2)
    os.unlink(paths[0])
    with pytest.raises(FileNotFoundError), files.reading(paths[0]):
        pass
    Path(paths[0]).write_text("again")
    with files.reading(paths[0]) as fd:
        assert os.pread(fd, 10, 0) == b"again"
    files.close()
