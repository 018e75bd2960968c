"""Witnesses: rows of folders, kept locally."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from coopfs.archive.state import State
from coopfs.format.tree import Totals
from coopfs.ids import TreeId
from coopfs.ops.witness import RECORD_LEN, Witness, Witnesses, WitnessRules, split_names


def row(path: bytes, read_ns: int = 1) -> Witness:
    return Witness(path, b"", TreeId(bytes(32)), Totals(1, 2, 3), read_ns)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = State(tmp_path / "state")
    yield state
    state.close()


def test_rows_come_back_for_their_series_only(state: State) -> None:
    one, two = Witnesses(state, "anna/one"), Witnesses(state, "anna/two")
    witness = row(b"/a\xff\n")._replace(names=b"x" * 100, totals=Totals(1, 2, 1 << 62))
    one.put([witness])
    assert one.get(b"/a\xff\n") == witness
    assert one.get(b"/a") is None
    assert two.get(b"/a\xff\n") is None
    one.put([witness._replace(read_ns=9)])
    assert one.get(b"/a\xff\n") == witness._replace(read_ns=9)


def test_names_that_fill_several_rows_come_back_whole_or_not_at_all(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.ops.witness.PART_LEN", 10)
    witnesses = Witnesses(state, "anna/one")
    for read_ns, length in enumerate((35, 9, 10, 11, 20, 30, 0, 12)):  # each over the one before
        witness = row(b"/a", read_ns)._replace(names=bytes(range(length)))
        witnesses.put([witness, row(b"/a/0")])
        assert witnesses.get(b"/a") == witness, length
    with state.transaction() as connection:  # as an older run may have left it
        connection.execute("UPDATE witnesses SET read_ns = 1 WHERE path = ?", (b"/a//1",))
    assert witnesses.get(b"/a") is None
    witnesses.put([], [b"/a"])
    assert state.connection.execute("SELECT count(*) FROM witnesses").fetchone() == (0,)


def test_a_folder_that_is_gone_takes_what_is_below_it_and_nothing_else(state: State) -> None:
    witnesses = Witnesses(state, "anna/one")
    other = Witnesses(state, "anna/two")
    paths = (b"/a", b"/a/b", b"/a/b/c", b"/a/b\xff", b"/a/b/\xff\xff", b"/a/bb", b"/a/b-", b"/a/b0")
    witnesses.put([row(path) for path in paths])
    other.put([row(b"/a/b/c")])
    witnesses.put([], [b"/a/b"])
    left = [path for path in paths if witnesses.get(path)]
    assert left == [b"/a", b"/a/b\xff", b"/a/bb", b"/a/b-", b"/a/b0"]
    assert other.get(b"/a/b/c") is not None


def test_a_generation_holds_for_what_was_looked_at(state: State) -> None:
    witnesses = Witnesses(state, "anna/one")
    assert witnesses.generation() == -1
    witnesses.put([row(b"/old", 5), row(b"/new", 10)])
    witnesses.confirm(3)
    assert (witnesses.generation(), witnesses.get(b"/old") is None) == (3, False)
    witnesses.confirm(4, since_ns=10)
    assert witnesses.generation() == 4
    assert witnesses.get(b"/old") is None
    assert witnesses.get(b"/new") is not None
    assert Witnesses(state, "anna/two").generation() == -1


def test_names_are_split_whatever_bytes_are_in_the_records(tmp_path: Path) -> None:
    rules = WitnessRules()
    names = (b"a", b"\xff\n", b"z" * 255)
    records = []
    for name in names:
        path = os.fsencode(tmp_path) + b"/" + name
        with open(path, "wb"):
            pass
        records.append(rules.record(os.stat(path), b"\0\1\0\1\0\1\0\1"))
    assert {len(record) for record in records} == {RECORD_LEN}
    joined = b"".join(r + n + b"\0" for r, n in zip(records, names, strict=True))
    assert list(split_names(joined)) == list(zip(names, records, strict=True))
    assert list(split_names(b"")) == []


def test_times_beyond_64_bits_of_nanoseconds_have_a_record(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.touch()
    status = os.stat(path)
    for far_ns in (1 << 63, -(1 << 63) - 1, 1 << 70):
        far = SimpleNamespace(
            **{name: getattr(status, name) for name in dir(status) if name.startswith("st_")}
        )
        far.st_mtime_ns = far_ns
        record = WitnessRules().record(cast("os.stat_result", far))
        assert len(record) == RECORD_LEN
        assert record != WitnessRules().record(status)
        far.st_ctime_ns = far_ns
        nearest = (1 << 63) - 1 if far_ns > 0 else 1 - (1 << 63)
        assert WitnessRules().youngest_in(WitnessRules().record(far)) == nearest  # type: ignore[arg-type]  # it has what is looked at


def test_what_is_ignored_makes_no_difference_and_the_rest_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.write_bytes(b"x")
        os.utime(path, ns=(5, 5))
    a, b = os.stat(one), os.stat(two)
    assert WitnessRules().record(a) != WitnessRules().record(b)
    careless = WitnessRules(ignore_inode=True, ignore_ctime=True)
    assert careless.record(a) == careless.record(b)
    one.chmod(0o600)
    assert careless.record(os.stat(one)) != careless.record(b)
    for rules, expected in ((WitnessRules(), a.st_ctime_ns), (careless, a.st_mtime_ns)):
        assert rules.youngest_ns(a) == rules.youngest_in(rules.record(a)) == expected
