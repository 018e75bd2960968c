"""``coopfs serve held``, ``undelete`` and ``confirm-clock``, beside a depot that is in use."""

from __future__ import annotations

from pathlib import Path

import pytest
from depots import DAY_NS, Clocks, names, put, rot, some_bytes
from hosts import Host

from coopfs.server.depot import Depot
from coopfs.server.settings import PartnerSettings, save_partner

SETTINGS = PartnerSettings("ann", quota_bytes=1 << 30)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def root(host: Host) -> Path:
    return host.dirs.state / "serve"


@pytest.fixture
def depot(root: Path) -> Depot:
    """What a server that runs has open."""
    save_partner(root, SETTINGS)
    return Depot(root, SETTINGS)


def test_held_shows_what_is_there(host: Host, depot: Depot) -> None:
    put(depot, some_bytes(5000))
    bad = put(depot, some_bytes(3000))
    gone = put(depot, some_bytes(200))
    rot(depot.folder / "objects" / "data" / bad[:2] / bad)
    depot.delete("data", gone)
    while not depot.scrub_step().is_pass_done:
        pass

    shown = host.ok("serve", "held", "ann").out

    assert "4.9 KiB in 1 object\n" in shown
    assert "1.0 GiB" in shown
    assert "200 B in 1 object, kept for 30 days" in shown
    assert f"data/{bad}" in shown
    assert gone not in shown
    assert f"data/{gone}  200 B" in host.ok("serve", "held", "ann", "--trash").out


def test_held_as_json(host: Host, depot: Depot) -> None:
    gone = put(depot, some_bytes(200))
    depot.delete("data", gone)

    (facts,) = host.ok("serve", "held", "ann", "--trash", "--json").lines()

    assert (facts["type"], facts["name"], facts["clock_jump"]) == ("held", "ann", None)
    assert facts["usage"]["trash_used"] == 200
    assert [item["name"] for item in facts["trash"]] == [gone]


def test_undelete_puts_back_what_is_named(host: Host, depot: Depot) -> None:
    gone = [put(depot, some_bytes(200, seed=n)) for n in range(3)]
    for name in gone:
        depot.delete("data", name)

    told = host.ok("serve", "undelete", "ann", f"data/{gone[0]}", gone[1][:8]).out

    assert "2 objects, 400 B: put back." in told
    assert names(depot) == sorted(gone[:2])
    (facts,) = host.ok("serve", "undelete", "ann", "--all", "--json").lines()
    assert (facts["objects"], facts["bytes"], facts["there_already"]) == (1, 200, 0)
    assert names(depot) == sorted(gone)
    assert depot.usage().used == 600


def test_undelete_since(host: Host, depot: Depot) -> None:
    gone = put(depot, some_bytes(200))
    depot.delete("data", gone)

    assert "0 objects" in host.ok("serve", "undelete", "ann", "--since", "2999-01-01").out
    assert "1 object," in host.ok("serve", "undelete", "ann", "--since", "2020-01-01 04:28").out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("undelete", "ann"), 2, "say what to put back"),
        (("undelete", "ann", "--all", "abcdef12"), 2, "say what to put back"),
        (("undelete", "ann", "--since", "yesterday"), 2, "2026-11-23"),
        (("undelete", "ann", "xyz"), 2, "expected an object's name"),
        (("undelete", "ann", "a" * 64), 1, "nothing in the trash has this name"),
        (("held", "bob"), 1, "bob"),
        (("held", "ann", "--root", "/nowhere/at/all"), 1, "/nowhere/at/all"),
        (("confirm-clock", "--root", "/nowhere/at/all"), 1, "no such folder of a server"),
    ],
)
def test_what_makes_no_sense_is_refused(
    host: Host, depot: Depot, args: tuple[str, ...], code: int, message: str
) -> None:
    ran = host.run("serve", *args)

    assert (ran.code, message in ran.err) == (code, True), ran.err
    assert "Traceback" not in ran.err


def test_a_clock_in_doubt_is_shown_and_confirmed(host: Host, root: Path) -> None:
    save_partner(root, SETTINGS)
    assert "was not in doubt" in host.ok("serve", "confirm-clock").out
    # The machine's clock has not moved; what was seen of it says that it has, by 400 days.
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    clocks = Clocks(boot_id=boot_id)
    clocks.wall -= 400 * DAY_NS
    Depot(root, SETTINGS, clock=clocks.watch(root)).close()
    depot = Depot(root, SETTINGS)

    shown = host.ok("serve", "held", "ann").out
    assert "CLOCK IN DOUBT" in shown
    assert "confirm-clock" in shown
    assert "Confirmed: the clock shows" in host.ok("serve", "confirm-clock").out
    assert "CLOCK" not in host.ok("serve", "held", "ann").out
    assert depot.empty_trash().jump is None
