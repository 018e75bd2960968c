"""The doctor sees what is wrong, says what to do, and changes nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from archive_fixtures import keep_above_still
from depots import Agreed, put, rot, some_bytes
from depots import Lab as DepotLab
from forgetting import snapshot
from hosts import Host, Ran, everything_below
from partners import Partner
from timeservers import answer, fake_chronyc, time_server

from coopfs.archive.settings import load_settings, save_settings
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import StoreUnavailable
from coopfs.format.snapshot import ClockFacts, Problem, State
from coopfs.identity import make_identity
from coopfs.ops.doctor_archive import look_at_series, pace
from coopfs.ops.doctor_findings import Finding, Level, Report
from coopfs.ops.doctor_store import _look_at_partner, is_line_open, look_at_absence
from coopfs.ops.drill import DrillResult
from coopfs.ops.kept import Kept, keep_result
from coopfs.server.depot import Depot
from coopfs.server.settings import PartnerSettings, save_partner
from coopfs.store.base import Kind
from coopfs.store.coop import CoopStore
from coopfs.store.coopstatus import Contact, PartnerStatus, save_contact
from coopfs.store.faulty import FaultyStore
from coopfs.store.line import FREE_LINE, Line
from coopfs.store.open import open_store
from coopfs.store.partners import PartnerAccess

DAY = timedelta(days=1)
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
NOW_NS = int(NOW.timestamp()) * 10**9


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host with an archive and one snapshot, at the place where tests find their copy."""
    base = tmp_path_factory.mktemp("doctor")
    work = base / "work"
    host = Host(work / "anna")
    with pytest.MonkeyPatch.context() as patch:
        keep_above_still(patch)
        host.init(work / "store")
        (work / "source").mkdir()
        (work / "source" / "file").write_bytes(random.Random(1).randbytes(300_000))
        host.ok("snapshot", work / "source", "--series", "home")
    shutil.copytree(work, base / "pristine")
    return base / "pristine"


@pytest.fixture
def tmp_path(pristine: Path) -> Path:
    """A copy of the pristine host, always at the same place: addresses in it are absolute."""
    work = pristine.with_name("work")
    shutil.rmtree(work)
    shutil.copytree(pristine, work)
    return work


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with an archive and one snapshot."""
    keep_above_still(monkeypatch)  # so that the next snapshot has every tree of this one
    return Host(tmp_path / "anna")


def examined(host: Host, *args: object, **environ: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the doctor; return its exit code and what it found."""
    ran = host.run("doctor", "--json", *args, **environ)
    assert not ran.err, ran.err
    *findings, summary = ran.lines()
    assert summary["type"] == "summary"
    for level in Level:
        named = [item for item in findings if item["level"] == level.name.lower()]
        assert summary[level.name.lower()] == len(named)
    return ran.code, findings


def told(findings: list[dict[str, Any]], topic: str) -> list[tuple[str, str]]:
    """Return level and message of what was found about *topic*."""
    return [(item["level"], item["message"]) for item in findings if item["topic"] == topic]


def the_one(findings: list[dict[str, Any]], topic: str) -> tuple[str, str]:
    (found,) = told(findings, topic)
    return found


# --- the command -----------------------------------------------------------------------


def test_without_an_archive_it_says_how_to_make_one(tmp_path: Path) -> None:
    ran = Host(tmp_path).run("doctor")
    assert (ran.code, ran.out) == (10, "")
    assert '"coopfs init STORE"' in ran.err
    assert Host(tmp_path).run("doctor", "--archive", "other").code == 10


def test_all_is_well_and_every_line_says_about_what(host: Host) -> None:
    host.ok("audit")
    ran: Ran = host.ok("doctor")
    *lines, empty, last = ran.out.splitlines()
    assert (empty, last) == ("", "All is well: nothing needs doing.")
    assert {line[:8].strip() for line in lines} <= {"ok", "note"}
    assert any(line.startswith("ok       default: age: anna/home: newest") for line in lines)
    assert "synchronised (says chronyd (192.0.2.1), +0.000 s)" in ran.out
    assert "passed (299 samples)" in ran.out
    assert host.ok("-q", "doctor").out == ""


def test_nothing_is_changed(host: Host, tmp_path: Path) -> None:
    host.ok("doctor")  # what is new in the store is taken in
    folders = (tmp_path / "store", host.dirs.config, host.dirs.state)
    before = [everything_below(folder) for folder in folders]
    host.ok("doctor")
    after = [everything_below(folder) for folder in folders]
    for one, other in zip(before, after, strict=True):
        changed = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        assert not {name for name in changed if not name.endswith(("-shm", "-wal", ".lock"))}


def test_warnings_and_problems_go_to_standard_error_when_quiet(host: Host) -> None:
    (host.dirs.archive_config("default") / "host.key").chmod(0o644)
    ran = host.run("-q", "doctor")
    assert (ran.code, ran.out) == (1, "")
    assert "default: keys:" in ran.err
    assert "is not for you alone (mode 0644); to do: chmod 600" in ran.err


def test_several_archives_are_looked_at_and_a_broken_one_hides_no_other(
    host: Host, tmp_path: Path
) -> None:
    host.ok("init", tmp_path / "other", "--archive", "work", "--no-passphrase", "--host", "anna")
    (host.dirs.archive_config("default") / "archive.toml").write_text("nonsense")
    code, findings = examined(host)
    assert code == 1
    broken = [item for item in findings if item["where"] == "default"]
    assert [(item["level"], item["topic"]) for item in broken] == [("problem", "config")]
    assert "not valid TOML" in broken[0]["message"]
    work = [item for item in findings if item["where"] == "work"]
    assert the_one(work, "store")[0] == "ok"
    assert the_one(work, "snapshots")[1] == "there is no snapshot yet"
    code, findings = examined(host, "--archive", "work")
    assert {item["where"] for item in findings} == {None, "work"}


# --- this machine ------------------------------------------------------------------------


def test_a_wrong_clock_is_a_warning(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_chronyc(tmp_path / "programs", offset="-7.5")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}{os.pathsep}{os.environ['PATH']}")
    code, findings = examined(host)
    assert code == 1
    level, text = the_one(findings, "clock")
    assert (level, text) == ("warning", "the clock is 7.5 s ahead of chronyd (192.0.2.1)")


def test_the_time_servers_of_the_archives_are_asked(host: Host) -> None:
    with time_server(lambda question: answer(question)) as server:
        settings = load_settings(host.dirs, None)
        save_settings(host.dirs, replace(settings, ntp_servers=(server,)))
        _, findings = examined(host)
    level, text = the_one(findings, "clock")
    assert level == "ok"
    assert "says 127.0.0.1 (GPS)" in text


def test_where_nothing_can_be_mounted_that_is_a_note(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coopfs.view.mountpoint.FUSE_DEVICE", Path("/nowhere/fuse"))
    _, findings = examined(host)
    level, text = the_one(findings, "fuse")
    assert level == "note"
    assert "modprobe fuse" in text


@pytest.mark.parametrize(
    ("name", "mode", "topic", "text"),
    [
        ("host.key", 0o640, "keys", "is not for you alone"),
        ("admin.key", 0o604, "admin-key", "is not for you alone"),
        ("archive.toml", 0o664, "config", "others may change"),
        (".", 0o777, "config", "others may change"),
    ],
)
def test_what_others_may_read_or_change(
    host: Host, name: str, mode: int, topic: str, text: str
) -> None:
    (host.dirs.archive_config("default") / name).chmod(mode)
    code, findings = examined(host)
    assert code == 1
    level, found = the_one(findings, topic)
    assert level == "problem"
    assert text in found
    assert f"mode {mode:04o}" in found


def test_the_admin_key_is_pointed_out_while_it_is_here(host: Host) -> None:
    _, findings = examined(host)
    assert the_one(findings, "admin-key")[0] == "note"
    (host.dirs.archive_config("default") / "admin.key").unlink()
    _, findings = examined(host)
    assert the_one(findings, "admin-key") == (
        "ok",
        "not on this machine: what takes it over can delete nothing",
    )


def test_keys_that_cannot_be_read_leave_the_rest_to_be_looked_at(host: Host) -> None:
    (host.dirs.archive_config("default") / "host.key").write_bytes(b"junk")
    code, findings = examined(host)
    assert code == 1
    assert [level for level, _ in told(findings, "keys")] == ["problem", "problem"]
    assert "was not looked at" in told(findings, "keys")[1][1]
    assert told(findings, "index")
    assert told(findings, "audit")


def test_wrapped_keys_without_a_passphrase(tmp_path: Path, cheap_scrypt: None) -> None:
    host = Host(tmp_path / "wrapped")
    secret = tmp_path / "secret"
    secret.write_text("a long passphrase")
    host.ok("--passphrase-file", secret, "init", tmp_path / "another", "--host", "anna")
    code, findings = examined(host)
    assert code == 1
    (first, second) = told(findings, "keys")
    assert first == ("ok", "host.key is only yours to read, under a passphrase")
    assert second[0] == "problem"
    _, findings = examined(host, "--passphrase-file", secret)
    assert told(findings, "keys") == [first]
    assert told(findings, "store")[0][0] == "ok"


# --- what is kept here ---------------------------------------------------------------------


def state_of(host: Host) -> Path:
    return host.dirs.archive_state(load_settings(host.dirs, None).archive_id)


def test_a_damaged_index_is_named_and_left_alone(host: Host) -> None:
    path = state_of(host) / "index.db"
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_bytes(b"no database at all" * 1000)
    code, findings = examined(host)
    assert code == 1
    level, text = the_one(findings, "index")
    assert level == "problem"
    assert "damaged" in text
    assert path.read_bytes() == b"no database at all" * 1000
    assert not told(findings, "age")  # the archive was not opened, which would make it anew


def test_damaged_heads_are_a_problem_and_are_left_alone(host: Host) -> None:
    path = state_of(host) / "heads.json"
    path.write_text("{")
    code, findings = examined(host)
    assert (code, the_one(findings, "heads")[0]) == (1, "problem")
    assert path.read_text() == "{"


def test_unfinished_work_is_a_note(host: Host) -> None:
    with closing(sqlite3.connect(state_of(host) / "index.db")) as connection:
        connection.execute("INSERT INTO unindexed_packs VALUES (x'01', 1, x'', x'', x'')")
        connection.commit()
    code, findings = examined(host)
    assert code == 0
    level, text = the_one(findings, "unfinished")
    assert (level, text.split()[0]) == ("note", "1")


def test_packs_that_are_lost_are_a_problem_until_all_lies_elsewhere(
    host: Host, tmp_path: Path
) -> None:
    packs = [path for path in (tmp_path / "store" / "data").rglob("*/*") if path.is_file()]
    for path in packs:
        path.unlink()
    assert host.run("audit").code == 1
    code, findings = examined(host)
    assert code == 1
    level, text = the_one(findings, "lost")
    assert level == "problem"
    assert f"{len(packs)} packs found lost or damaged" in text
    assert "lie nowhere else" in text
    assert the_one(findings, "audit")[0] == "problem"
    host.ok("snapshot", tmp_path / "source", "--series", "home")
    _, findings = examined(host)
    level, text = the_one(findings, "lost")
    assert level == "note"
    assert "lies elsewhere by now" in text


def test_an_audit_that_is_long_ago_and_a_drill_that_failed(host: Host) -> None:
    host.ok("audit")
    path = state_of(host) / "audits.jsonl"
    result = json.loads(path.read_text())
    result["time_ns"] -= 90 * 86_400 * 10**9
    path.write_text(json.dumps(result) + "\n")
    day_ns = time.time_ns()
    drill = DrillResult(day_ns, 3, 5000, 1, 0, 0, 5000, 1.0, "ab", 3, 5000, 90.0)
    keep_result(state_of(host), Kept.DRILLS, drill)
    code, findings = examined(host)
    assert code == 1
    level, text = the_one(findings, "audit")
    assert level == "warning"
    assert "90 days ago" in text
    assert the_one(findings, "drill")[0] == "ok"
    assert "passed (3 files, 5.0 kB; all in 1:30 min)" in the_one(findings, "drill")[1]
    keep_result(state_of(host), Kept.DRILLS, replace(drill, bad_files=2))
    _, findings = examined(host)
    assert the_one(findings, "drill")[0] == "problem"


def test_a_distrusted_writer_is_told_and_its_snapshots_are_none(host: Host) -> None:
    _, findings = examined(host)
    assert the_one(findings, "writer") == ("ok", "this machine is enrolled, as anna")
    host.ok("repair", "--distrust", "anna")
    code, findings = examined(host)
    assert code == 1
    assert [level for level, _ in told(findings, "writer")] == ["note", "problem"]
    assert the_one(findings, "snapshots")[1].endswith(
        "no complete snapshot that can be trusted yet"
    )


# --- the store -----------------------------------------------------------------------------


def test_a_store_that_is_away_hides_nothing_that_is_known_here(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store").rename(tmp_path / "unplugged")
    code, findings = examined(host)
    assert code == 1
    assert told(findings, "store")[0][0] == "problem"
    assert the_one(findings, "index")[0] == "ok"
    assert told(findings, "audit")

    def unreachable(address: str, line: Line) -> FaultyStore:
        store = FaultyStore(open_store(str(tmp_path / "unplugged")), is_local=False)
        store.inner.address = store.address = address
        store.go_away()
        return store

    monkeypatch.setattr("coopfs.ops.doctor.open_store", unreachable)
    kept = state_of(host) / "config"
    kept.write_bytes((tmp_path / "unplugged" / "config").read_bytes())
    code, findings = examined(host)
    assert (code, told(findings, "store")[0][0]) == (1, "warning")
    assert "what was known before" in told(findings, "store")[1][1]
    assert the_one(findings, "age")[0] == "ok"


def test_a_partner_silent_for_days_is_a_problem(host: Host, tmp_path: Path) -> None:
    settings = load_settings(host.dirs, None)
    save_settings(host.dirs, replace(settings, store="coop://berta"))
    code, findings = examined(host)
    assert code == 1
    assert "no partner is called 'berta'" in told(findings, "store")[0][1]
    save_contact(host.dirs, "berta", Contact(time_ns=time.time_ns() - 3 * 86_400 * 10**9))
    found: list[Finding] = []
    look_at_absence(Report(found.append), host.dirs, "coop://berta", "no route")
    assert (found[0].level, found[0].text) == (Level.PROBLEM, "no route; last answer 3 days ago")


def test_a_store_put_back_to_an_older_copy_is_a_problem(host: Host, tmp_path: Path) -> None:
    newest = max((tmp_path / "store" / "snapshots").iterdir(), key=lambda p: p.stat().st_mtime_ns)
    newest.unlink()
    code, findings = examined(host)
    assert (code, the_one(findings, "rollback")[0]) == (1, "problem")
    assert "put back to an older copy" in the_one(findings, "rollback")[1]


@pytest.fixture
def fickle(monkeypatch: pytest.MonkeyPatch) -> Callable[[], FaultyStore]:
    """Have the store be of a kind that cannot promise durability; returns the last one."""
    opened: list[FaultyStore] = []

    def open_fickle(address: str, line: Line = FREE_LINE) -> FaultyStore:
        opened.append(FaultyStore(open_store(address, line), is_durable=False))
        return opened[-1]

    monkeypatch.setattr("coopfs.ops.doctor.open_store", open_fickle)
    monkeypatch.setattr("coopfs.store.open.open_store", open_fickle)
    return lambda: opened[-1]


def test_where_puts_may_not_survive_the_newest_packs_are_read_back(
    host: Host, tmp_path: Path, fickle: Callable[[], FaultyStore]
) -> None:
    _, findings = examined(host)
    level, text = the_one(findings, "durability")
    assert level == "note"
    assert "2 newest packs read back: whole" in text
    sizes = [p.stat().st_size for p in (tmp_path / "store" / "data").rglob("*/*")]
    assert fickle().bytes_got[Kind.DATA] == sum(sizes)
    largest = max((tmp_path / "store" / "data").rglob("*/*"), key=lambda p: p.stat().st_size)
    size = largest.stat().st_size
    largest.chmod(0o600)
    with largest.open("r+b") as file:  # as a power cut leaves it: the size is right
        file.seek(size - 4096)
        file.write(bytes(4096))
    code, findings = examined(host)
    level, text = the_one(findings, "durability")
    assert (code, level) == (1, "problem")
    assert f"pack {largest.name[:8]}" in text
    ran = host.run("audit")  # reads it whole, too
    assert (ran.code, "FAILED" in ran.out) == (1, True), ran.err
    assert "lie nowhere else" in the_one(examined(host)[1], "lost")[1]
    host.ok("snapshot", tmp_path / "source", "--series", "home")
    assert the_one(examined(host)[1], "lost")[0] == "note"


def test_room_that_runs_out(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {"bytes": 1000}
    monkeypatch.setattr(
        "coopfs.store.local.LocalStore.free_bytes", lambda self: left["bytes"], raising=True
    )
    code, findings = examined(host)
    assert (code, the_one(findings, "room")[0]) == (1, "warning")
    left["bytes"] = 0
    assert the_one(examined(host)[1], "room")[0] == "problem"


ACCESS = PartnerAccess("berta", None, "/run/x", make_identity(b"b" * 32).cert_pem, "anna", "x.pem")
WELL = PartnerStatus(damaged=0, retention_days=30, quota=100, left=50)


class AskedStore(CoopStore):
    """A partner's store that was asked; only what the look needs."""

    def __init__(self, ahead_s: float | None) -> None:
        self.partner = ACCESS
        self._clock_ahead_s = ahead_s


@pytest.mark.parametrize(
    ("changes", "ahead_s", "topic", "level", "text"),
    [
        ({}, 0.4, "scrub", Level.OK, "no damage"),
        ({}, 0.4, "trash", Level.OK, "30 days"),
        ({}, 0.4, "partner-clock", Level.OK, "agree"),
        ({"damaged": 2, "findings": ("data/ab",)}, 0, "scrub", Level.WARNING, "2 objects"),
        ({"clock_jump": "it jumped"}, 0, "trash", Level.WARNING, "no trash is emptied"),
        ({"keeps_until": "2020-01-31"}, 0, "notice", Level.PROBLEM, "which is over"),
        ({"keeps_until": "2999-01-31"}, 0, "notice", Level.PROBLEM, "until 2999-01-31"),
        ({}, 5.0, "partner-clock", Level.NOTE, "5.0 s ahead of"),
        ({}, -500.0, "partner-clock", Level.WARNING, "500.0 s behind"),
    ],
)
def test_what_a_partner_says(
    changes: dict[str, Any], ahead_s: float, topic: str, level: Level, text: str
) -> None:
    found: list[Finding] = []
    _look_at_partner(Report(found.append), AskedStore(ahead_s), replace(WELL, **changes))
    (one, *_) = [item for item in found if item.topic == topic]
    assert one.level == level
    assert text in one.text


def test_copies_in_other_stores_are_looked_at(host: Host, tmp_path: Path) -> None:
    host.ok("copy", "--to", tmp_path / "disk")
    host.ok("store", "add", "disk", tmp_path / "disk")
    code, findings = examined(host)
    assert code == 0
    below = [item for item in findings if item["where"] == "default in disk"]
    assert the_one(below, "copy") == ("ok", "has the newest of everything")
    assert the_one(below, "store")[0] == "ok"
    host.ok("snapshot", tmp_path / "source", "--series", "home")
    code, findings = examined(host)
    assert code == 1
    assert the_one(findings, "copy") == (
        "warning",
        "the copy is behind: it has number 1 of anna/home, not 2",
    )
    (tmp_path / "disk").rename(tmp_path / "in the safe")
    code, findings = examined(host)
    assert (code, the_one(findings, "copy")[0]) == (0, "note")


# --- series -----------------------------------------------------------------------------------


def runs(*days_ago: float, **options: Any) -> list[Snapshot]:
    return [
        snapshot(NOW - days * DAY, number, **options) for number, days in enumerate(days_ago, 1)
    ]


def looked_at(group: list[Snapshot]) -> dict[str, tuple[Level, str]]:
    found: list[Finding] = []
    clean = [
        replace(s, facts=replace(s.facts, problems=(), problem_count=0, clock=None))
        if s.facts.problems == snapshot(NOW, 1).facts.problems
        else s
        for s in group
    ]
    look_at_series(Report(found.append), "anna/home", clean, NOW_NS)
    return {item.topic: (item.level, item.text) for item in found}


@pytest.mark.parametrize(
    ("days_ago", "level"),
    [
        ((5, 4, 3, 2, 1), Level.OK),
        ((6, 5, 4, 3, 2), Level.OK),  # a night missed is noticed when the next one is, too
        ((7, 6, 5, 4, 3), Level.WARNING),
        ((3,), Level.OK),
        ((30,), Level.WARNING),  # taken once, and never again
        ((17, 16, 15, 14, 13, 10, 9, 8, 7, 6, 3), Level.OK),  # not at weekends, and it is Monday
        ((35, 28, 21, 14, 7), Level.OK),
        ((43, 36, 29, 22, 15.5), Level.WARNING),
    ],
)
def test_how_old_is_too_old(days_ago: tuple[float, ...], level: Level) -> None:
    found = looked_at(runs(*days_ago))
    assert found["age"][0] == level, found


def test_a_thinned_series_keeps_its_pace() -> None:
    nightly = runs(*range(400, -1, -1))
    thinned = [s for s in nightly if s.facts.number % 30 == 0] + nightly[-3:]
    usual_s, limit_s = pace(thinned)
    assert usual_s == DAY.total_seconds()
    assert limit_s < 3 * DAY.total_seconds()


def test_a_series_that_is_over_says_so_by_its_tag() -> None:
    group = runs(300, 299, 298, tags=("ended",))
    assert looked_at(group)["age"][0] == Level.NOTE


def test_a_run_that_was_not_finished() -> None:
    group = [*runs(5, 4), snapshot(NOW - 3 * DAY, 3, state=State.PARTIAL)]
    assert looked_at(group)["partial"][0] == Level.WARNING
    group[-1] = snapshot(NOW - DAY / 2, 3, state=State.PARTIAL)
    assert looked_at(group)["partial"][0] == Level.NOTE
    alone = looked_at(group[-1:])
    assert alone["snapshots"] == (
        Level.WARNING,
        "anna/home: no complete snapshot that can be trusted yet",
    )


def with_facts(one: Snapshot, **changes: Any) -> Snapshot:
    return replace(one, facts=replace(one.facts, **changes))


def test_what_the_last_run_could_not_read_and_what_its_clock_was_worth() -> None:
    before, last = runs(2, 1)
    last = with_facts(
        last,
        problems=(Problem(b"/home/\xff", "permission denied"),),
        problem_count=3,
        clock=ClockFacts("kernel", 0, 16, False),
        counts=replace(last.facts.counts, files=10),
    )
    before = with_facts(before, counts=replace(before.facts.counts, files=100))
    found = looked_at([before, last])
    assert found["unread"] == (
        Level.WARNING,
        "anna/home: 3 sources could not be read whole in the last run, /home/\\xff: "
        "permission denied",
    )
    assert found["dates"][0] == Level.NOTE
    assert "not synchronised" in found["dates"][1]
    assert found["shrunk"][0] == Level.WARNING
    assert "has 10 files, the one before had 100" in found["shrunk"][1]


def test_dates_that_go_back_are_pointed_out() -> None:
    found = looked_at(runs(3, 1, 2))
    assert found["dates"][0] == Level.NOTE
    assert "the time of 2 snapshots cannot be right" in found["dates"][1]


def test_a_clock_that_was_off_in_the_last_run_is_a_warning() -> None:
    before, last = runs(2, 1)
    clock = ClockFacts("a.example", 3 * 10**9, 2, True)
    last = with_facts(last, clock=clock, problems=(), problem_count=0)
    assert looked_at([before, last])["dates"][0] == Level.WARNING


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("ftp://anna@backup.example.org/x", True),
        ("ftps://anna@backup.example.org/x", False),
        ("rest+http://backup.example.org:8000/", True),
        ("rest+https://backup.example.org:8000/", False),
        ("rest+http://127.0.0.1:8000/", False),
        ("ftp://[::1]/x", False),
        ("ftp://localhost/x", False),
        ("s3://bucket/x", False),
        ("s3://bucket/x?endpoint=http://nas:9000", True),
        ("s3://bucket/x?endpoint=https://nas:9000", False),
        ("s3://bucket/x?endpoint=http://127.0.0.1:9000", False),
        ("sftp://backup.example.org/x", False),
        ("coop://ben", False),
        ("/srv/store", False),
    ],
)
def test_a_line_in_the_clear_is_known(address: str, is_open: bool) -> None:
    assert is_line_open(address) is is_open


# --- who serves -------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> DepotLab:
    """What a server's folder looks like with something of the partner ann's."""
    save_partner(
        tmp_path / "serve",
        PartnerSettings("ann", writers=(make_identity(b"w" * 32).cert_pem,), quota_bytes=1 << 20),
    )
    lab = DepotLab(tmp_path / "serve", Agreed(quota_bytes=1 << 20))
    lab.depot.close()
    (lab.root / "clock.json").unlink()
    lab.depot = Depot(lab.root, lab.agreed)
    return lab


def test_a_machine_that_only_serves_is_looked_at(served: DepotLab, tmp_path: Path) -> None:
    put(served.depot, some_bytes(5000))
    code, findings = examined(Host(tmp_path / "berta"), "--root", served.root)
    assert code == 0
    assert {item["where"] for item in findings} == {None, "serve ann"}
    assert "ann keeps 5.0 kB of 1.0 MB in 1 object" in the_one(findings, "serve-room")[1]
    assert the_one(findings, "serve-scrub")[0] == "note"
    assert the_one(findings, "serve-clock")[0] == "ok"
    served.depot.close()
    code, findings = examined(Host(tmp_path / "berta"), "--root", served.root)
    assert code == 1
    assert the_one(findings, "serve")[0] == "warning"
    assert "no server runs for ann" in the_one(findings, "serve")[1]


def test_damage_and_a_clock_that_jumped_at_the_server(served: DepotLab, tmp_path: Path) -> None:
    rot(served.path("data", put(served.depot, some_bytes(5000))))
    put(served.depot, some_bytes(400, seed=1))
    while not served.depot.scrub_step().is_pass_done:
        pass
    clock = json.loads((served.root / "clock.json").read_text())
    clock["anchor_wall_ns"] -= 400 * 86_400 * 10**9
    (served.root / "clock.json").write_text(json.dumps(clock))
    served.depot.close()
    code, findings = examined(Host(tmp_path / "berta"), "--root", served.root)
    assert code == 1
    assert told(findings, "serve-scrub")[0][0] == "problem"
    assert "damaged 1 object of ann's" in told(findings, "serve-scrub")[0][1]
    level, text = the_one(findings, "serve-clock")
    assert level == "problem"
    assert "no trash is emptied" in text


def test_a_partner_whose_settings_are_broken_hides_no_other(
    served: DepotLab, tmp_path: Path
) -> None:
    save_partner(served.root, PartnerSettings("carl", writers=(make_identity().cert_pem,)))
    (served.root / "partners" / "carl" / "partner.toml").write_text("junk")
    code, findings = examined(Host(tmp_path / "berta"), "--root", served.root)
    assert code == 1
    assert [item["level"] for item in findings if item["where"] == "serve carl"] == ["problem"]
    assert any(item["where"] == "serve ann" for item in findings)


def test_a_look_that_fails_is_a_problem_and_no_more() -> None:
    found: list[Finding] = []
    report = Report(found.append, "home")
    for error in (StoreUnavailable("away"), OSError(5, "bad disk", "/x"), sqlite3.Error("torn")):
        with report.guarded("topic"):
            raise error
    assert [item.level for item in found] == [Level.PROBLEM] * 3
    assert [item.text for item in found] == [
        "away",
        "/x: bad disk",
        "the local state cannot be read: torn",
    ]


@pytest.mark.slow
def test_two_partners_are_looked_at_from_both_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "2")
    anna, berta = Partner(tmp_path / "a", "anna"), Partner(tmp_path / "b", "berta")
    source = tmp_path / "theirs"
    source.mkdir()
    (source / "file").write_bytes(random.Random(1).randbytes(300_000))
    with anna.inviting() as code:
        berta.accept(code)
    with berta.serving():
        anna.ok("init", "coop://berta", "--no-passphrase", "--host", "anna")
        anna.ok("snapshot", source, "--series", "home")
        anna.ok("audit")
        code, findings = examined(anna)
        assert {item["level"] for item in findings if item["where"]} == {"ok", "note"}, findings
        assert code == 0
        assert "can delete nothing" in the_one(findings, "rights")[1]
        assert (
            "of 1.1 GB" in the_one(findings, "room")[1]
            or "of 2.1 GB" in the_one(findings, "room")[1]
        )
        assert the_one(findings, "scrub")[0] == "ok"
        assert the_one(findings, "partner-clock")[0] == "ok"
        assert the_one(findings, "proofs")[0] == "ok"
        code, findings = examined(berta, "--root", berta.root)
        assert code == 0, findings
        assert "anna keeps" in the_one(findings, "serve-room")[1]
    code, findings = examined(anna)
    assert (code, told(findings, "store")[0][0]) == (1, "warning")
    assert "last answer" in told(findings, "store")[0][1]
    assert the_one(findings, "age")[0] == "ok"
    assert the_one(findings, "proofs")[0] == "ok"
