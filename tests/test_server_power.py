"""A depot whose power fails at any moment: what was answered stays, nothing is half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import depot_crashing as crash
import pytest
from depots import Clocks, Lab, name_of, names, put, read
from power_cuts import Recording
from test_server_crash import assert_sound, assert_untouched, is_stored, is_trashed

from coopfs.errors import ObjectNotFound
from coopfs.server.depot import Depot

Check = Callable[[Lab, bool], None]


def check_put(lab: Lab, is_answered: bool) -> None:
    assert_untouched(lab)
    if is_answered:
        assert read(lab.depot, "data", name_of(crash.BIG)) == crash.BIG
    put(lab.depot, crash.BIG)
    assert read(lab.depot, "data", name_of(crash.BIG)) == crash.BIG


def check_restore(lab: Lab, is_answered: bool) -> None:
    assert_untouched(lab, crash.EXPIRED)
    assert is_stored(lab, crash.EXPIRED) or (not is_answered and is_trashed(lab, crash.EXPIRED))


def check_delete(lab: Lab, is_answered: bool) -> None:
    assert_untouched(lab, crash.KEPT)
    # Even answered it may be there again: what matters is that it is somewhere.
    assert is_stored(lab, crash.KEPT) != is_trashed(lab, crash.KEPT)
    lab.depot.undelete([name_of(crash.KEPT)])
    assert read(lab.depot, "data", name_of(crash.KEPT)) == crash.KEPT


def check_undelete(lab: Lab, is_answered: bool) -> None:
    for data in (crash.EXPIRED, crash.TRASHED):
        assert is_stored(lab, data) or (not is_answered and is_trashed(lab, data))
    lab.depot.undelete()
    for data in (crash.EXPIRED, crash.TRASHED):
        assert read(lab.depot, "data", name_of(data)) == data


def check_empty(lab: Lab, is_answered: bool) -> None:
    assert_untouched(lab, crash.EXPIRED)
    assert not is_stored(lab, crash.EXPIRED)


def check_scrub(lab: Lab, is_answered: bool) -> None:
    assert_untouched(lab, crash.ROTTEN)
    name = name_of(crash.ROTTEN)
    assert len(read(lab.depot, "data", name)) == len(crash.ROTTEN)
    reported = [finding.name for finding in lab.depot.findings()]
    assert reported == ([] if name in names(lab.depot) else [name])


def check_config(lab: Lab, is_answered: bool) -> None:
    try:
        assert lab.depot.get_config() == crash.CONFIG
    except ObjectNotFound:
        assert not is_answered
    lab.depot.put_config(crash.CONFIG)


CHECKS: dict[str, Check] = {
    "put": check_put,
    "restore": check_restore,
    "delete": check_delete,
    "undelete": check_undelete,
    "empty": check_empty,
    "scrub": check_scrub,
    "config": check_config,
}


def record(
    operation: Callable[[Depot, Clocks], object], root: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Recording, Clocks]:
    clocks = Clocks()
    crash.prepare(root, clocks)
    depot = crash.open_depot(root, clocks)
    with monkeypatch.context() as watching:
        recording = Recording.begin(root, watching)
        operation(depot, clocks)
    depot.close()
    return recording, clocks


def sweep(recording: Recording, clocks: Clocks, check: Check) -> int:
    states = 0
    for done, files in recording.states():
        recording.restore(files)
        lab = Lab(recording.root, clocks=clocks)
        try:
            assert_sound(lab)
            check(lab, done == len(recording.calls))
        except BaseException as exc:
            exc.add_note(f"power cut after {recording.calls[:done]}")
            raise
        finally:
            lab.depot.close()
        states += 1
    return states


@pytest.mark.parametrize("operation", CHECKS)
def test_what_was_answered_stays_and_nothing_is_half(
    operation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, clocks = record(crash.OPERATIONS[operation], tmp_path / "serve", monkeypatch)

    assert sweep(recording, clocks, CHECKS[operation]) >= 3


def put_linking_first(depot: Depot, clocks: Clocks) -> None:
    """Put as a careless server would: the name before the bytes are durable."""
    import os

    name = name_of(crash.BIG)
    temporary = depot.folder / "incoming" / "1-1"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, crash.BIG)
    target = depot.folder / "objects" / "data" / name[:2] / name
    os.link(str(temporary), str(target))
    os.fsync(fd)
    os.close(fd)
    os.unlink(str(temporary))


def put_forgetting_the_folder(depot: Depot, clocks: Clocks) -> None:
    """Put as another careless server would: the folder is never synced."""
    import os

    name = name_of(crash.BIG)
    temporary = depot.folder / "incoming" / "1-1"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, crash.BIG)
    os.fsync(fd)
    os.close(fd)
    os.link(str(temporary), str(depot.folder / "objects" / "data" / name[:2] / name))
    os.unlink(str(temporary))


def delete_by_two_steps_in_the_wrong_order(depot: Depot, clocks: Clocks) -> None:
    """Delete without waiting for the trash's name to be durable."""
    import os

    name = name_of(crash.KEPT)
    source = depot.folder / "objects" / "data" / name[:2] / name
    os.link(str(source), str(depot.folder / "trash" / "data" / name[:2] / f"{name}.5"))
    os.unlink(str(source))


@pytest.mark.parametrize(
    ("operation", "check"),
    [
        (put_linking_first, check_put),
        (put_forgetting_the_folder, check_put),
        (delete_by_two_steps_in_the_wrong_order, check_delete),
    ],
)
def test_the_model_finds_careless_servers(
    operation: Callable[[Depot, Clocks], None],
    check: Check,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were these not found, the tests above would show nothing."""
    recording, clocks = record(operation, tmp_path / "serve", monkeypatch)

    with pytest.raises((AssertionError, ObjectNotFound)):
        sweep(recording, clocks, check)
