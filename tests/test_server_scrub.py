from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from depots import DAY_NS, Lab, name_of, names, put, read, rot, some_bytes, sums

from coopfs.errors import ObjectNotFound, StoreDenied
from coopfs.server import scrub
from coopfs.server.depot import Depot
from coopfs.server.scrub import PASS_S, RATE_MAX, RATE_MIN, ScrubStep, rate_for

KINDS = ("data", "index", "snapshots", "keys", "locks")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "serve")


def whole_pass(depot: Depot, limit: int = 10_000) -> list[ScrubStep]:
    steps = []
    while not steps or not steps[-1].is_pass_done:
        steps.append(depot.scrub_step(limit))
    return steps


def test_a_pass_reads_everything_once(lab: Lab) -> None:
    total = 0
    for number, kind in enumerate(KINDS * 4):
        put(lab.depot, some_bytes(1000 + number, seed=number), kind)
        total += 1000 + number

    steps = whole_pass(lab.depot, limit=3000)

    assert sum(step.bytes_read for step in steps) == total
    assert sum(step.objects for step in steps) == 20
    assert max(step.bytes_read for step in steps) <= 3000
    assert len(steps) > 6
    assert lab.depot.findings() == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found(lab: Lab, kind: str) -> None:
    for number in range(5):
        put(lab.depot, some_bytes(5000, seed=number), kind)
    bad = names(lab.depot, kind)[2]
    rot(lab.path(kind, bad))

    found = tuple(finding for step in whole_pass(lab.depot) for finding in step.found)

    assert [(f.kind, f.name, f.size, f.found_ns) for f in found] == [
        (kind, bad, 5000, lab.clocks.wall)
    ]
    assert lab.depot.findings() == found
    assert lab.restart().findings() == found


def test_a_damaged_object_can_be_put_again_and_is_then_forgotten(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    rot(lab.path("data", name))
    whole_pass(lab.depot)

    assert names(lab.depot) == []
    with pytest.raises(ObjectNotFound):
        lab.depot.size("data", name)
    with pytest.raises(ObjectNotFound):
        lab.depot.prove(name, bytes(32))
    usage = lab.depot.usage()
    assert (usage.used, usage.objects, usage.rotten_used, usage.rotten_objects) == (0, 0, 5000, 1)
    put(lab.depot, data)

    assert lab.depot.findings() == ()
    assert read(lab.depot, "data", name) == data
    usage = lab.depot.usage()
    assert (usage.used, usage.objects, usage.rotten_used, usage.rotten_objects) == (5000, 1, 0, 0)
    before = sums(lab.depot)
    assert sums(lab.restart()) == before


def test_what_is_sound_of_a_damaged_object_can_still_be_read(lab: Lab) -> None:
    data = some_bytes(5000)
    name = put(lab.depot, data)
    rot(lab.path("data", name))
    whole_pass(lab.depot)

    found = read(lab.depot, "data", name)

    assert len(found) == 5000
    assert found[:2500] == data[:2500]
    assert found != data


@pytest.mark.parametrize("length", [0, 100, 9000])
def test_a_cut_or_lengthened_object_is_found(lab: Lab, length: int) -> None:
    name = put(lab.depot, some_bytes(5000))
    os.truncate(lab.path("data", name), length)

    (found,) = whole_pass(lab.depot)[0].found

    assert (found.name, found.size) == (name, length)
    lab.restart()
    assert read(lab.depot, "data", put(lab.depot, some_bytes(5000))) == some_bytes(5000)


def test_an_object_that_cannot_be_read_is_found(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = put(lab.depot, some_bytes(5000))
    good = put(lab.depot, some_bytes(5000, seed=1))
    pread = os.pread

    def failing(fd: int, length: int, offset: int) -> bytes:
        if bad in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(5, "Input/output error")
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    found = [finding.name for step in whole_pass(lab.depot) for finding in step.found]

    assert found == [bad]
    assert names(lab.depot) == [good]


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_an_object_that_cannot_be_opened_is_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    bad = put(lab.depot, some_bytes(5000))
    good = put(lab.depot, some_bytes(5000, seed=1))
    break_open(monkeypatch, bad, number)
    found = [finding.name for step in whole_pass(lab.depot) for finding in step.found]

    assert found == [bad]
    assert names(lab.depot) == [good]


def break_open(monkeypatch: pytest.MonkeyPatch, bad: str, number: int) -> None:
    real = os.open

    def failing(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if bad in os.fspath(path):
            raise OSError(number, os.strerror(number))
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", failing)


def test_what_may_not_be_opened_is_an_error_and_the_rest_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that runs as the wrong user must not call everything damaged."""
    for number in range(5):
        put(lab.depot, some_bytes(1000, seed=number))
    closed = names(lab.depot)[2]
    break_open(monkeypatch, closed, errno.EACCES)

    with pytest.raises(StoreDenied):
        whole_pass(lab.depot)
    steps = whole_pass(lab.depot)

    assert sum(step.objects for step in steps) == 2
    assert [step.found for step in steps if step.found] == []
    assert len(names(lab.depot)) == 5


def test_what_a_loose_cable_took_away_comes_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [some_bytes(5000, seed=number) for number in range(3)]
    for piece in data:
        put(lab.depot, piece)
    before = sums(lab.depot)

    def failing(fd: int, length: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failing)
    whole_pass(lab.depot)
    monkeypatch.undo()
    assert names(lab.depot) == []
    assert len(lab.depot.findings()) == 3
    lab.clocks.pass_(PASS_S * 10**9)
    whole_pass(lab.depot)

    assert lab.depot.findings() == ()
    assert [read(lab.depot, "data", name_of(piece)) for piece in data] == data
    assert sums(lab.depot) == before
    assert sums(lab.restart()) == before


def test_many_small_objects_are_many_steps(lab: Lab) -> None:
    for number in range(scrub.OBJECTS_MAX + 1):
        put(lab.depot, some_bytes(10, seed=number))

    step = lab.depot.scrub_step()

    assert (step.objects, step.is_pass_done) == (scrub.OBJECTS_MAX, False)
    assert lab.depot.scrub_pause_s(step) == scrub.OBJECTS_MAX * scrub.OBJECT_S


def test_a_passing_fault_is_no_finding(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    name = put(lab.depot, some_bytes(5000))
    pread = os.pread
    calls: list[int] = []

    def wrong_once(fd: int, length: int, offset: int) -> bytes:
        calls.append(offset)
        return bytes(length) if len(calls) == 1 else pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", wrong_once)
    steps = whole_pass(lab.depot)

    assert len(calls) >= 2
    assert [step.found for step in steps if step.found] == []
    assert names(lab.depot) == [name]


def test_deleting_a_damaged_object_ends_the_report(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(5000))
    rot(lab.path("data", name))
    whole_pass(lab.depot)
    lab.depot.delete("data", name)

    assert lab.depot.findings() == ()
    assert [found.name for found in lab.depot.trash()] == [name]
    with pytest.raises(ObjectNotFound):
        lab.depot.open_object("data", name)
    usage = lab.depot.usage()
    assert (usage.used, usage.trash_used, usage.rotten_used) == (0, 5000, 0)
    before = sums(lab.depot)
    assert sums(lab.restart()) == before


def test_an_object_put_anew_while_its_rotten_self_is_read_stays(lab: Lab) -> None:
    data = some_bytes(50_000)
    name = put(lab.depot, data)
    rot(lab.path("data", name))
    assert not lab.depot.scrub_step(10_000).is_pass_done
    lab.depot.delete("data", name)
    put(lab.depot, data)

    assert [step.found for step in whole_pass(lab.depot) if step.found] == []
    assert read(lab.depot, "data", name) == data


def test_what_is_deleted_while_it_is_read_is_no_finding(lab: Lab) -> None:
    first, second = sorted(put(lab.depot, some_bytes(5000, seed=number)) for number in range(2))
    lab.depot.scrub_step(100)
    lab.depot.delete("data", first)
    lab.depot.delete("data", second)

    assert [step.found for step in whole_pass(lab.depot) if step.found] == []


def test_a_restart_goes_on_where_the_scrub_was(lab: Lab) -> None:
    for number in range(10):
        put(lab.depot, some_bytes(1000, seed=number))
    put(lab.depot, some_bytes(1000, seed=99), "snapshots")
    assert lab.depot.scrub_step(4000).objects == 4
    state = lab.depot.scrub_state()
    assert (state.kind, state.name, state.objects) == ("data", names(lab.depot)[3], 4)
    lab.restart()

    assert lab.depot.scrub_state() == state
    assert sum(step.objects for step in whole_pass(lab.depot)) == 7


def test_a_kill_costs_a_minute_of_scrubbing_at_most(lab: Lab) -> None:
    for number in range(10):
        put(lab.depot, some_bytes(1000, seed=number))
    lab.clocks.pass_(61 * 10**9)
    lab.depot.scrub_step(4000)

    # Another process, as after a kill: what close() writes down is not there.
    assert lab.open(is_server=False).scrub_state().objects == 4


def test_the_next_pass_begins_when_it_is_due(lab: Lab) -> None:
    put(lab.depot, some_bytes(1000))
    whole_pass(lab.depot)
    step = lab.depot.scrub_step()
    assert step == ScrubStep(0, 0, (), True)
    assert lab.depot.scrub_pause_s(step) == scrub.LOOK_S
    lab.restart()
    assert lab.depot.scrub_step().objects == 0

    lab.clocks.pass_(PASS_S * 10**9)

    assert lab.depot.scrub_step().objects == 1


def test_the_state_says_when_the_last_pass_was(lab: Lab) -> None:
    put(lab.depot, some_bytes(1000))
    lab.depot.scrub_step(100)
    begun_ns = lab.clocks.wall
    lab.clocks.pass_(DAY_NS)
    whole_pass(lab.depot)

    state = lab.depot.scrub_state()
    assert (state.last_begun_ns, state.last_finished_ns) == (begun_ns, lab.clocks.wall)
    assert state.begun_ns == 0


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"kind": "x"}', b'{"kind": 5, "name": 7}']
)
def test_a_state_that_makes_no_sense_begins_anew(lab: Lab, content: bytes) -> None:
    put(lab.depot, some_bytes(1000))
    lab.depot.close()
    (lab.folder / "scrub.json").write_bytes(content)
    lab.depot = lab.open()

    assert sum(step.objects for step in whole_pass(lab.depot)) == 1


def test_the_rate_lets_a_pass_take_a_fortnight() -> None:
    assert rate_for(0) == RATE_MIN
    assert rate_for(20 << 40) * PASS_S == pytest.approx(20 << 40, rel=0.01)
    assert rate_for(10**15) == RATE_MAX


def test_the_pause_keeps_to_the_rate(lab: Lab) -> None:
    step = ScrubStep(RATE_MIN * 2, 1, (), False)

    assert lab.depot.scrub_pause_s(step) == 2


def test_no_descriptor_stays_open(lab: Lab) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        name = put(lab.depot, some_bytes(5000, seed=number))
    rot(lab.path("data", name))
    whole_pass(lab.depot)

    assert len(os.listdir("/proc/self/fd")) == before


def test_names_are_the_hash_of_what_is_read(lab: Lab) -> None:
    wrong = "ab" * 32
    lab.path("data", wrong).write_bytes(some_bytes(100))
    right = name_of(some_bytes(100))
    lab.path("data", right).write_bytes(some_bytes(100))
    lab.restart()
    whole_pass(lab.depot)

    assert names(lab.depot) == [right]
    assert [finding.name for finding in lab.depot.findings()] == [wrong]
