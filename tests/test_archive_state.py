"""The state file: made, rebuilt when damaged, shared by processes."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from coopfs import room
from coopfs.archive import state as state_module
from coopfs.archive.state import FILE_NAME, State
from coopfs.errors import CoopfsError, StateBusy


def tables(state: State) -> set[str]:
    rows = state.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows}


def put_fact(state: State, name: str, value: int) -> None:
    with state.transaction() as connection:
        connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def test_what_is_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    state = State(folder)
    assert state.fact("x") == 0
    put_fact(state, "x", 7)
    state.close()
    again = State(folder)
    assert again.fact("x") == 7
    again.close()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, bytes(4096)])
def test_a_file_that_is_no_database_is_made_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    state = State(tmp_path)
    assert "witnesses" in tables(state)
    state.close()


def test_a_file_of_another_version_is_made_anew(tmp_path: Path) -> None:
    state = State(tmp_path)
    put_fact(state, "x", 7)
    state.connection.execute("PRAGMA user_version = 999")
    state.close()
    state = State(tmp_path)
    assert state.fact("x") == 0
    state.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    state = State(tmp_path)
    with pytest.raises(ZeroDivisionError), state.transaction() as connection:
        connection.execute("INSERT INTO facts VALUES ('x', 1)")
        raise ZeroDivisionError
    assert state.fact("x") == 0
    put_fact(state, "x", 2)
    assert state.fact("x") == 2
    state.close()


def test_each_thread_has_a_connection_of_its_own_and_all_are_closed(tmp_path: Path) -> None:
    state = State(tmp_path)
    found: list[sqlite3.Connection] = []
    threads = [threading.Thread(target=lambda: found.append(state.connection)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(c) for c in [*found, state.connection]}) == 6
    state.close()
    for connection in found:
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("SELECT 1")


def test_many_that_make_the_state_at_once_share_one(tmp_path: Path) -> None:
    states: list[State] = []
    errors: list[BaseException] = []
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        try:
            state = State(tmp_path)
            put_fact(state, f"from {number}", 1)
            states.append(state)
        except BaseException as exc:
            errors.append(exc)

    (tmp_path / FILE_NAME).write_bytes(b"damaged" * 1000)
    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    state = State(tmp_path)
    assert [state.fact(f"from {n}") for n in range(8)] == [1] * 8
    for each in (*states, state):
        each.close()


def test_a_lock_held_for_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT_S", 0)
    state, other = State(tmp_path), State(tmp_path)
    with state.transaction():
        with pytest.raises(StateBusy, match="in use"), other.transaction():
            raise AssertionError("two wrote at once")
        # Reading goes on meanwhile.
        assert other.fact("x") == 0
    state.close()
    other.close()


def test_a_locked_database_is_never_taken_for_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "BUSY_TIMEOUT_S", 0)
    state = State(tmp_path)
    put_fact(state, "x", 7)
    state.connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    state.connection.execute("BEGIN EXCLUSIVE")
    inode = (tmp_path / FILE_NAME).stat().st_ino
    with suppress(StateBusy):
        State(tmp_path).close()
    assert (tmp_path / FILE_NAME).stat().st_ino == inode
    state.connection.execute("COMMIT")
    assert state.fact("x") == 7
    state.close()


def test_the_folders_above_are_private_too(tmp_path: Path) -> None:
    State(tmp_path / "state" / "id").close()
    for made in ("state", "state/id"):
        assert (tmp_path / made).stat().st_mode & 0o777 == 0o700


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CoopfsError, match="file"):
        State(tmp_path / "file" / "below")
    os.mkdir(tmp_path / FILE_NAME)
    with pytest.raises(CoopfsError, match=FILE_NAME):
        State(tmp_path)


def test_a_disk_without_room_for_shared_memory_is_refused_before_it_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    State(tmp_path).close()
    monkeypatch.setattr(room, "copies_on_write", lambda folder: True)

    def fallocate(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    with pytest.raises(CoopfsError, match=r"index\.db: Disk quota exceeded; free .* make room"):
        State(tmp_path)
