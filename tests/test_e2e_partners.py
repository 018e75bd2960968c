"""Two machines back each other up; one loses everything, and comes back with its kit."""

from __future__ import annotations

import json
import shutil
import ssl
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from checked import no_passphrase
from mounting import mounted, needs_fuse, wait_until
from partners import GIB, Partner, Two, content, make_source, restored

from coopfs.archive.keyring import load_keyring
from coopfs.archive.kit import read_kit_file
from coopfs.archive.settings import load_settings
from coopfs.errors import StoreDenied
from coopfs.format.receipt import open_receipt
from coopfs.identity import make_identity, public_key_of
from coopfs.ops.owner import lend_owner
from coopfs.server.settings import load_partners
from coopfs.store.base import Kind
from coopfs.store.coop import Right, open_coop
from coopfs.store.partners import load_access

PATIENCE = {"COOPFS_STORE_TIMEOUT": "20"}


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    return Two(tmp_path)


@needs_fuse
def test_a_partner_who_lost_everything_comes_back_with_the_kit_alone(
    two: Two, tmp_path: Path
) -> None:
    anna, berta = two.anna, two.berta
    here, there = two.pair()
    assert here["words"] == there["words"]
    assert (here["quota"], here["quota_granted"]) == (2 * GIB, GIB)
    assert (there["quota"], there["quota_granted"]) == (GIB, 2 * GIB)
    with ExitStack() as stack:
        stack.enter_context(anna.serving())
        stack.enter_context(berta.serving())
        two.back_up(anna, berta)
        two.back_up(berta, anna)
        words = anna.ok("snapshots").out.splitlines()[-1]

        # The kit says where the store is, and by what it is recognised.
        place = read_kit_file(two.kit(anna)).partner
        assert place is not None
        assert str(place) == f"coop://{berta.address}/anna"
        assert place.pin == here["pin"]
    with berta.serving():
        expected = content(two.source(anna))
        shutil.rmtree(two.source(anna))
        new = two.lose(anna)
        ran = new.ok("recover", "--recovery-kit", two.kit(anna), "--no-passphrase", "--host", "new")
        assert "2 snapshots" in ran.out
        assert words.split()[-6:] == new.ok("snapshots").out.splitlines()[-1].split()[-6:]

        with mounted(new, tmp_path / "mnt") as mount:
            (snapshot,) = (mount.path / "by-host" / "anna").glob("*/latest")
            assert content(snapshot / str(two.source(anna))[1:]) == expected
        # It is a writer again, and need not be told twice; the lost one was, and is sent away.
        assert len(load_partners(berta.root)["anna"].writers) == 2
        again = ("recover", "--recovery-kit", two.kit(anna), "--no-passphrase", "--host", "new")
        new.ok(*again)
        new.ok(*again, "--only-this-host")
        assert len(load_partners(berta.root)["anna"].writers) == 1
        make_source(tmp_path / "anew", 3)
        new.ok("snapshot", tmp_path / "anew")
        lines = new.ok("snapshots", "--json").lines()
        assert [line["host"] for line in lines if line["type"] == "snapshot"].count("new") == 1
        # The kit, written again, still says all of it.
        new.ok("key", "export", "--recovery-kit", tmp_path / "again")
        assert read_kit_file(tmp_path / "again").partner == place


def test_a_partner_behind_nat_serves_by_dialling(two: Two, tmp_path: Path) -> None:
    anna, berta = two.anna, two.berta
    _, there = two.pair("--dial")
    assert there["address"] == anna.address
    with ExitStack() as stack:
        stack.enter_context(anna.serving())
        stack.enter_context(berta.serving(is_reachable=False))
        # Anna's store is with Berta, whom nobody reaches; Berta's with Anna.
        two.back_up(anna, berta)
        two.back_up(berta, anna)
        assert list((berta.root / "partners" / "anna" / "objects" / "data").rglob("?" * 64))
        expected = content(two.source(anna))
        target = restored(anna, two.source(anna), tmp_path / "back")
        assert content(target) == expected


def test_a_killed_server_is_dialled_again(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair("--dial")
    with berta.serving(is_reachable=False):
        with anna.serving() as process:
            two.back_up(anna, berta)
            process.kill()
        # Her socket is still there, and nobody listens at it.
        ran = anna.run("snapshot", two.source(anna), COOPFS_STORE_TIMEOUT="0")
        assert (ran.code, "dials in to coopfs serve here" in ran.err) == (1, True)
        with anna.serving():
            (two.source(anna) / "afterwards").write_bytes(b"x" * 100_000)
            anna.ok("snapshot", two.source(anna))
            anna.ok("check", "--read-data")


def test_a_partner_who_dials_is_paired_anew_by_whoever_lost_everything(
    two: Two, tmp_path: Path
) -> None:
    anna, berta = two.anna, two.berta
    two.pair("--dial")
    with anna.serving(), berta.serving(is_reachable=False):
        two.back_up(anna, berta)
    expected = content(two.source(anna))
    new = two.lose(anna)
    ran = new.run("recover", "--recovery-kit", two.kit(anna), "--no-passphrase")
    assert (ran.code, "pair" in ran.err) == (2, True)
    with new.inviting() as code:
        berta.accept(code, "--dial", "--again")
    with new.serving(), berta.serving(is_reachable=False):
        new.ok("recover", "--recovery-kit", two.kit(anna), "--no-passphrase", "--host", "new")
        target = restored(new, two.source(anna), tmp_path / "back")
        assert content(target) == expected
        new.ok("snapshot", two.source(anna))


def packs(partner: Partner, other: Partner) -> dict[str, bytes]:
    """What *partner* keeps for the *other*, by name."""
    folder = partner.root / "partners" / other.name / "objects" / "data"
    return {path.name: path.read_bytes() for path in folder.rglob("?" * 64)}


def test_an_owner_lets_go_and_another_takes_its_place(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
        (first,) = load_partners(berta.root)["anna"].admin_pins
        ran = anna.run("partner", "disown", "berta")
        assert (ran.code, "any machine that may write there" in ran.err) == (2, True)
        assert load_partners(berta.root)["anna"].admin_pins == {first}
        anna.ok("partner", "disown", "berta", "--yes")
        assert load_partners(berta.root)["anna"].admin_pins == set()
        anna.ok("check")
        ran = anna.run("partner", "disown", "berta", "--yes")
        assert (ran.code, "Traceback" in ran.err) == (1, False)

        second = make_identity()
        with anna.as_environment(), open_coop("coop://berta") as store:
            store.enrol(ssl.PEM_cert_to_DER_cert(second.cert_pem), Right.OWNER)
        assert load_partners(berta.root)["anna"].admin_pins == {second.pin}
        root = ("--root", berta.root)
        ran = berta.run("serve", "admit", "anna", "--without", "zz", *root)
        assert (ran.code, second.pin in ran.err) == (2, True)
        berta.ok("serve", "admit", "anna", "--without", second.pin[:16], *root)
        assert load_partners(berta.root)["anna"].admin_pins == set()


def test_the_owner_alone_deletes_and_anybody_takes_back(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
        before = packs(berta, anna)
        name = bytes.fromhex(min(before))
        with anna.as_environment(), open_coop("coop://berta") as store:
            with pytest.raises(StoreDenied, match="admin key"):
                store.delete(Kind.DATA, name)
            assert packs(berta, anna) == before
            ring = load_keyring(anna.dirs, load_settings(anna.dirs, None), no_passphrase)
            lend_owner(store, ring)
            store.delete(Kind.DATA, name)
            assert packs(berta, anna).keys() == before.keys() - {name.hex()}
        ran = anna.run("check", "--read-data")
        assert ran.code == 1
        assert anna.ok("partner", "undelete", "berta", "--json").lines()[0]["objects"] == 1
        assert packs(berta, anna) == before
        anna.ok("check", "--read-data")
        with anna.as_environment(), open_coop("coop://berta") as store:
            lend_owner(store, ring)
            store.delete(Kind.DATA, name)
        # At the server too, at Anna's word; also while it runs.
        berta.ok("serve", "undelete", "anna", "--all", "--root", berta.root)
        assert packs(berta, anna) == before
        anna.ok("check", "--read-data")


def test_a_prune_moves_to_the_partners_trash_where_it_can_be_had_back(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
        make_source(two.base / "gone", 9)
        anna.ok("snapshot", two.base / "gone")
        before = packs(berta, anna)
        anna.ok("key", "offline", "--recovery-kit", two.kit(anna))
        sheet = ("--recovery-kit", two.kit(anna))
        (newest,) = [
            line["id"]
            for line in anna.ok("snapshots", "--json").lines()
            if line["type"] == "snapshot" and line["series"] == "gone"
        ]
        assert anna.run("forget", newest).code == 12
        anna.ok("forget", newest, *sheet)
        anna.ok("prune", "--grace", "0s", *sheet)
        anna.ok("prune", "--grace", "0s", *sheet)
        after = packs(berta, anna)
        assert sum(map(len, after.values())) < sum(map(len, before.values())) - 1_000_000
        anna.ok("check", "--read-data")
        status = status_of(anna)
        assert status["trash_used"] > 1_000_000
        # A published key is like any object there: put by who writes, deleted by the owner.
        assert "its sheet is needed as well" in anna.ok("key", "publish", "--generate").out
        published = anna.ok("key", "publish", "--generate", "--json").lines()[0]["id"]
        ran = anna.run("key", "withdraw")
        assert (ran.code, "admin key" in ran.err, "stays" in ran.err) == (1, True, True)
        assert f"{published[:16]}: deleted" in anna.ok("key", "withdraw", *sheet).out
        # The objects come back whole; that the index does not know them is a repair's.
        said = anna.ok("partner", "undelete", "berta").out
        assert "are back from the trash" in said and '"coopfs repair"' in said
        assert before.items() <= packs(berta, anna).items()
        assert newest in [line.get("id") for line in anna.ok("snapshots", "--json").lines()]
        assert anna.run("check").code == 1
        assert anna.run("prune", "--grace", "0s", *sheet).code == 1
        anna.ok("repair", *sheet)
        anna.ok("check", "--read-data")
        anna.ok("prune", "--grace", "0s", *sheet)
        anna.ok("check", "--read-data")


def test_an_audit_transfers_nothing_and_finds_what_is_not_there_any_more(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
        summary = anna.ok("audit", "--json").lines()[-1]
        assert summary["is_passed"]
        assert summary["proved"] == summary["packs"]
        assert summary["read_len"] == 0
        assert "proved" in anna.ok("audit").out
        assert "all right" in anna.ok("partner", "status", "berta").out
        folder = berta.root / "partners" / "anna" / "objects" / "data"
        largest = max(folder.glob("*/*"), key=lambda path: path.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.chmod(0o600)
        largest.write_bytes(data)
        ran = anna.run("audit", "--json")
        assert ran.code == 1
        assert [line["object"] for line in ran.lines() if line["type"] == "damage"] == [
            largest.name
        ]
        # The next snapshot sends again what was in it.
        anna.ok("snapshot", two.source(anna))
        out = restored(anna, two.source(anna), two.base / "out")
        assert content(out) == content(two.source(anna))


def test_partners_see_what_they_hold_for_each_other(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
        berta.ok("partner", "list", "--root", berta.root)  # while the server runs
        size = sum(map(len, packs(berta, anna).values()))
        status = anna.ok("partner", "status", "berta", "--json", "--root", anna.root).lines()[0]
        assert status["status"]["used"] > size
        assert status["status"]["quota"] == 2 * GIB
        assert abs(status["contact"]["clock_ahead_ms"]) < 2000
        shown = anna.ok("partner", "status", "berta", "--root", anna.root).out
        assert "2.0 GiB" in shown
    # Without a line the last word is shown, and what lies here.
    (there,) = anna.ok("partner", "list", "--json", "--root", anna.root).lines()
    assert there["contact"]["used"] == status["status"]["used"]
    assert there["usage"]["used"] == 0
    (here,) = berta.ok("partner", "list", "--json", "--root", berta.root).lines()
    assert (here["partner"], here["usage"]["used"]) == ("anna", there["contact"]["used"])
    table = berta.ok("partner", "list", "--root", berta.root).out.splitlines()
    assert len(table) == 2
    assert "2.0 GiB" in table[1]


def test_terms_change_while_the_server_runs(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    root = ("--root", berta.root)
    with berta.serving():
        two.back_up(anna, berta)
        berta.ok("partner", "set", "anna", "--quota", "1M", "--retention", "40d", *root)
        wait_until(lambda: status_of(anna)["quota"] == 1 << 20, "the smaller quota")
        assert status_of(anna)["retention_days"] == 40
        rates = ("--receive-rate", "90M, full sat-sun", "--send-rate", "full")
        berta.ok("partner", "set", "anna", *rates, *root)
        wait_until(lambda: status_of(anna)["send_rate"], "the rates")
        told = anna.ok("partner", "status", "berta").out
        signed = anna.ok("partner", "receipts", "berta", "--json").lines()
        put = {each["name"]: each["size"] for each in signed if each["kind"] == "data"}
        assert put == {name: len(data) for name, data in packs(berta, anna).items()}
        key = public_key_of(load_access(anna.dirs, "berta").certificate, "berta")
        for each in signed:
            opened = open_receipt(bytes.fromhex(each["receipt"]), key, "it")
            assert abs(opened.time_ns - time.time_ns()) < 600e9
        assert f"its receipts here     {len(signed)}, the newest of" in told
        name = signed[0]["name"]
        table = anna.ok("partner", "receipts", "berta", name[:12]).out.splitlines()
        assert (len(table), name in table[1]) == (2, True)
        assert "you may upload at     90M, full sat-sun\nyou may read at       full\n" in told
        make_source(two.base / "more", 7)
        ran = anna.run("snapshot", two.base / "more")
        assert (ran.code, "no room" in ran.err) == (1, True)
        assert berta.run("partner", "set", "anna", "--retention", "10d", *root).code == 2
        anna.ok("partner", "set", "berta", "--ask-retention", "50d")
        assert status_of(anna)["retention_days"] == 50

        until = berta.ok("partner", "leave", "anna", "--notice", "2w", "--json", *root).lines()[0]
        wait_until(lambda: status_of(anna)["keeps_until"] == until["keeps_until"], "the notice")
        ran = anna.run("snapshot", two.base / "more")
        assert (ran.code, until["keeps_until"] in ran.err) == (1, True)
        anna.ok("check", "--read-data")

        ran = berta.run("partner", "remove", "anna", "--delete-data", *root)
        assert (ran.code, "promised" in ran.err) == (2, True)
        berta.ok("partner", "remove", "anna", *root)
        wait_until(lambda: anna.run("partner", "status", "berta").code == 1, "the end")
        assert packs(berta, anna)
        berta.ok("partner", "remove", "anna", "--delete-data", "--yes", *root)
        assert not (berta.root / "partners" / "anna").exists()
    ran = anna.run("partner", "remove", "berta")
    assert (ran.code, "lies at this partner's" in ran.err) == (2, True)
    anna.ok("partner", "remove", "berta", "--yes", "--root", anna.root)
    assert anna.run("snapshots").code == 1


def status_of(partner: Partner) -> dict[str, Any]:
    (line,) = partner.ok("partner", "status", "berta", "--json").lines()
    status: dict[str, Any] = line["status"]
    return status


def test_both_show_the_words_and_what_to_do_next(two: Two) -> None:
    anna, berta = two.anna, two.berta
    with anna.inviting() as code:
        told = berta.ok(
            *("pair", "accept", code, "--listen", berta.address, "--quota", "2T"),
            *("--root", berta.root, "--name", "friend", "--as", "berta"),
        ).out
    assert f"six words:  {anna.paired['words']}\n" in told
    assert "keeps 1.0 GiB for you" in told
    assert f"coopfs serve --listen {berta.address} --root {berta.root}" in told
    assert "coopfs init coop://friend" in told
    # Used once, it is over: nobody waits there any more.
    ran = berta.run("pair", "accept", code, "--dial", "--quota", "1G", "--root", berta.root)
    assert (ran.code, "cannot be reached" in ran.err) == (1, True)


def test_a_kit_is_written_at_pairing_for_an_archive_that_is_there(two: Two, tmp_path: Path) -> None:
    anna, berta = two.anna, two.berta
    berta.init(tmp_path / "local")
    _, there = two.pair("--recovery-kit", tmp_path / "kit")
    keys = read_kit_file(tmp_path / "kit")
    assert keys.store == "coop://anna"
    assert keys.partner is not None
    assert (str(keys.partner), keys.partner.pin) == (f"coop://{anna.address}/berta", there["pin"])
    assert len(load_partners(anna.root)["berta"].admins) == 1
    assert json.loads(berta.ok("key", "export", "--json").out)["store"] == str(tmp_path / "local")
