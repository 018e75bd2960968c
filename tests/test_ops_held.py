from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from depots import DAY_NS, Agreed, Lab, files_below, name_of, names, put, rot, some_bytes

from coopfs.errors import NotFound, UsageError
from coopfs.ops.held import clock_doubt, confirm_clock, look_at_held, undelete_held
from coopfs.server.depot import Depot

TERMS = Agreed()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A server that runs, with the machine's own clock."""
    lab = Lab(tmp_path / "serve")
    lab.depot.close()
    (lab.root / "clock.json").unlink()
    lab.depot = Depot(lab.root, TERMS)
    return lab


def test_what_is_held_is_shown_while_the_server_runs(lab: Lab) -> None:
    kept = put(lab.depot, some_bytes(5000))
    deleted = [put(lab.depot, some_bytes(100 + n, seed=n)) for n in range(3)]
    for name in deleted:
        lab.depot.delete("data", name)

    held = look_at_held(lab.root, TERMS)

    assert (held.name, held.usage.used, held.usage.trash_used) == ("ann", 5000, 303)
    assert [found.name for found in held.trash] == deleted[::-1]
    assert held.newest_deleted_ns == held.trash[0].deleted_ns
    assert held.oldest_deleted_ns == held.trash[-1].deleted_ns
    assert held.trash[0].kept_until_ns - held.trash[0].deleted_ns == 30 * DAY_NS
    assert (held.findings, held.clock_jump, held.retention_days) == ((), None, 30)
    assert names(lab.depot) == [kept]


def test_findings_are_shown(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(5000))
    rot(lab.path("data", name))
    while not lab.depot.scrub_step().is_pass_done:
        pass

    held = look_at_held(lab.root, TERMS)

    assert [finding.name for finding in held.findings] == [name]
    assert held.scrub.last_finished_ns


def test_all_is_undeleted_and_the_server_knows(lab: Lab) -> None:
    name = put(lab.depot, some_bytes(5000))
    lab.depot.delete("data", name)

    assert undelete_held(lab.root, TERMS).objects == 1
    assert names(lab.depot) == [name]
    assert lab.depot.usage().used == 5000


def test_names_may_be_given_by_their_beginning(lab: Lab) -> None:
    deleted = [put(lab.depot, some_bytes(100, seed=n)) for n in range(3)]
    for name in deleted:
        lab.depot.delete("data", name)

    assert undelete_held(lab.root, TERMS, [deleted[1][:8].upper()]).objects == 1
    assert names(lab.depot) == [deleted[1]]
    assert undelete_held(lab.root, TERMS, [deleted[0]]).objects == 1


def test_what_was_deleted_since(lab: Lab) -> None:
    early, late = (put(lab.depot, some_bytes(100, seed=n)) for n in range(2))
    lab.depot.delete("data", early)
    (first,) = lab.depot.trash()
    lab.depot.delete("data", late)

    assert undelete_held(lab.root, TERMS, since_ns=first.deleted_ns + 1).objects == 1
    assert names(lab.depot) == [late]


@pytest.mark.parametrize("name", ["", "abc", "z" * 8, "../../etc"])
def test_no_name_is_refused(lab: Lab, name: str) -> None:
    with pytest.raises(UsageError, match="expected an object's name"):
        undelete_held(lab.root, TERMS, [name])


def test_a_name_that_is_not_in_the_trash_is_said_to_be_missing(lab: Lab) -> None:
    with pytest.raises(NotFound, match="nothing in the trash"):
        undelete_held(lab.root, TERMS, ["a" * 64])


def test_an_ambiguous_beginning_is_refused(lab: Lab) -> None:
    for last in "12":
        (lab.folder / "trash" / "data" / "aa" / f"{'a' * 63}{last}.5").write_bytes(b"x")

    with pytest.raises(UsageError, match="2 names in the trash begin so"):
        undelete_held(lab.root, TERMS, ["a" * 8])


def test_a_slip_makes_no_partner(lab: Lab, tmp_path: Path) -> None:
    before = files_below(lab.root)
    with pytest.raises(NotFound, match="'bob'"):
        look_at_held(lab.root, Agreed("bob"))
    with pytest.raises(NotFound, match="'ann'"):
        undelete_held(tmp_path / "nowhere", TERMS)
    for call in (clock_doubt, confirm_clock):
        with pytest.raises(NotFound, match="no such folder of a server"):
            call(tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()
    assert not (lab.root / "partners" / "bob").exists()
    assert files_below(lab.root) == before


def test_the_clock_is_confirmed_for_the_running_server(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "serve")
    name = put(lab.depot, some_bytes(100))
    lab.depot.delete("data", name)
    lab.depot.close()
    # The machine's clock has not moved; what was seen of it says that it has, by 400 days.
    lab.clocks.wall -= 400 * DAY_NS
    lab.clocks.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    (lab.root / "clock.json").unlink()
    lab.open().close()
    server = Depot(lab.root, TERMS)
    assert server.empty_trash().jump is not None

    doubt = clock_doubt(lab.root)
    assert doubt is not None
    confirmed = confirm_clock(lab.root)

    assert confirmed is not None
    assert confirmed.found_ns - confirmed.expected_ns > 399 * DAY_NS
    assert clock_doubt(lab.root) is None
    assert confirm_clock(lab.root) is None
    emptied = server.empty_trash()
    assert (emptied.jump, emptied.objects) == (None, 0)


@pytest.mark.root
def test_what_root_does_at_the_prompt_keeps_the_servers_user_in_charge(lab: Lab) -> None:
    """Systemd's DynamicUser: the server is not root, whoever helps at the prompt is."""
    name = put(lab.depot, some_bytes(5000))
    lab.depot.delete("data", name)
    lab.depot.close()
    nobody = 65534
    for path in (lab.root, *lab.root.rglob("*")):
        os.chown(path, nobody, nobody)

    assert undelete_held(lab.root, TERMS).objects == 1
    look_at_held(lab.root, TERMS)
    confirm_clock(lab.root)

    foreign = [path for path in (lab.root, *lab.root.rglob("*")) if path.stat().st_uid != nobody]
    assert foreign == []
    lab.depot = Depot(lab.root, TERMS)
    assert names(lab.depot) == [name_of(some_bytes(5000))]


def test_two_processes_at_once_lose_nothing(lab: Lab) -> None:
    """A prompt undeletes again and again while the server deletes and puts."""
    program = (
        "import sys; from pathlib import Path; from depots import Agreed;"
        "from coopfs.ops.held import undelete_held\n"
        "for _ in range(30): undelete_held(Path(sys.argv[1]), Agreed())\n"
    )
    objects = [some_bytes(300, seed=n) for n in range(20)]
    for data in objects:
        put(lab.depot, data)
    root = Path(__file__).parent.parent
    prompt = subprocess.Popen(
        [sys.executable, "-c", program, str(lab.root)],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    while prompt.poll() is None:
        for data in objects:
            if name_of(data) in names(lab.depot):
                lab.depot.delete("data", name_of(data))
            lab.depot.usage()
    assert prompt.returncode == 0

    stored = {*names(lab.depot), *(found.name for found in lab.depot.trash())}
    assert stored == set(map(name_of, objects))
    undelete_held(lab.root, TERMS)
    usage = lab.depot.usage()
    assert (usage.objects, usage.used) == (20, 6000)
