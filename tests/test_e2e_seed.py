"""A first full carried on a disk to the partner; then the archive goes on over the line."""

from __future__ import annotations

import base64
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import everything_below
from partners import Partner

from coopfs.format.keys import SigningKey
from coopfs.format.receipt import open_receipt
from coopfs.identity import load_identity


@pytest.fixture
def anna(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Partner:
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")
    return Partner(tmp_path / "a", "anna")


@pytest.fixture
def berta(tmp_path: Path, anna: Partner) -> Iterator[Partner]:
    """Anna's partner, whose server runs."""
    berta = Partner(tmp_path / "b", "berta")
    with anna.inviting() as code:
        berta.accept(code)
    with berta.serving():
        yield berta


def make_source(folder: Path) -> Path:
    rng = random.Random(5)
    for number in range(20):
        path = folder / f"folder {number % 3}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(60_000))
    return folder


def test_a_first_full_is_carried_and_the_archive_goes_on_over_the_line(
    anna: Partner, berta: Partner, tmp_path: Path
) -> None:
    disk = tmp_path / "disk" / "coopfs"
    disk.parent.mkdir()
    source = make_source(tmp_path / "source")
    anna.init(disk)
    anna.ok("snapshot", source)
    words = anna.ok("snapshots").out.splitlines()[-1].split()[-6:]

    # Too early: nothing is there yet, and nothing changes.
    assert anna.run("store", "move", "coop://berta").code == 10
    assert str(disk) in anna.ok("store", "list").out

    carried = tmp_path / "carried"
    shutil.move(disk, carried)
    carried_before = everything_below(carried)
    receipts = tmp_path / "receipts"
    told = berta.ok(
        *("serve", "import", "anna", carried, "--root", berta.root, "--receipts", receipts),
        "--json",
    ).lines()[-1]
    assert told["there_already"] == 0
    assert told["problems"] == []
    assert told["objects"] == len(carried_before) - 1  # all but the config
    assert everything_below(carried) == carried_before
    assert everything_below(berta.root / "partners" / "anna" / "objects") == carried_before
    _check_receipts(berta, receipts, carried_before)
    again = berta.ok("serve", "import", "anna", carried, "--root", berta.root, "--json").lines()[-1]
    assert (again["objects"], again["there_already"]) == (0, told["objects"])

    forged = tmp_path / "forged"
    forged.write_text(receipts.read_text().replace("A", "B", 1))
    assert anna.run("store", "move", "coop://berta", "--receipts", forged).code != 0
    assert anna.run("store", "move", carried, "--receipts", receipts).code == 2
    ran = anna.ok("store", "move", "coop://berta", "--receipts", receipts)
    shown = anna.ok("partner", "receipts", "berta", "--json").lines()
    assert len(shown) == told["objects"]
    assert "is in coop://berta now: 1 snapshot" in ran.out
    assert "the old store could not be asked" in ran.err
    assert anna.ok("snapshots").out.splitlines()[-1].split()[-6:] == words

    # On over the line: only what is new is sent, and the server counts it all.
    (source / "later").write_bytes(random.Random(9).randbytes(50_000))
    report = anna.ok("snapshot", source, "--json").lines()[-1]
    assert report["stored"] < 400_000
    anna.ok("audit")
    anna.ok("drill", "--files", "5")
    anna.ok("check", "--read-data")
    held = berta.ok("serve", "held", "anna", "--root", berta.root, "--json").lines()[-1]
    status = anna.ok("partner", "status", "berta", "--json").lines()[-1]
    assert status["status"]["used"] == held["usage"]["used"] > told["bytes"]
    # The partner knows the owner, who may delete.
    anna.ok("forget", "--keep-last", "1")
    anna.ok("prune", "--grace", "0s")
    target = tmp_path / "back"
    anna.ok("restore", f"latest:{source}", "--target", target)
    assert everything_below(target) == everything_below(source)


def _check_receipts(berta: Partner, path: Path, objects: dict[str, bytes]) -> None:
    key = SigningKey(load_identity(berta.root / "identity.pem").seed).public_key
    lines = path.read_text().splitlines()
    found = {}
    for line in lines:
        receipt = open_receipt(base64.b64decode(line), key, "a receipt")
        found[receipt.name.hex()] = receipt.size
    expected = {name.split("/")[-1]: len(data) for name, data in objects.items()}
    del expected["config"]
    assert found == expected


def test_what_is_damaged_on_the_disk_is_not_taken_in(
    anna: Partner, berta: Partner, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    anna.init(disk)
    anna.ok("snapshot", make_source(tmp_path / "source"))
    packs = sorted((disk / "data").rglob("*/*"), key=lambda path: path.stat().st_size)
    rotten = bytearray(packs[-1].read_bytes())
    rotten[1000] ^= 1
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(rotten)
    secret = tmp_path / "secret"
    secret.write_text("not for anybody")
    (disk / "index" / ("ab" * 32)).symlink_to(secret)

    ran = berta.run("serve", "import", "anna", disk, "--root", berta.root)
    assert ran.code == 1
    assert "INCOMPLETE" in ran.out
    assert packs[-1].name in ran.err
    objects = everything_below(berta.root / "partners" / "anna" / "objects")
    assert f"data/{packs[-1].name[:2]}/{packs[-1].name}" not in objects
    assert b"not for anybody" not in objects.values()

    ran = anna.run("store", "move", "coop://berta")
    assert ran.code == 1
    assert f"it lacks 1 of {len(packs)} packs ({packs[-1].name[:16]})" in ran.err
    assert str(disk) in anna.ok("store", "list").out
    ran = anna.ok("store", "move", "coop://berta", "--incomplete")
    assert "1 pack missing" in ran.err
    anna.ok("snapshot", tmp_path / "source")  # stores again what was lost
    target = tmp_path / "back"
    anna.ok("restore", f"latest:{tmp_path / 'source'}", "--target", target)
    assert everything_below(target) == everything_below(tmp_path / "source")


def test_the_quota_and_another_archive_are_heeded(
    anna: Partner, berta: Partner, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    anna.init(disk)
    anna.ok("snapshot", make_source(tmp_path / "source"))
    berta.ok("serve", "admit", "anna", "--quota", "100K", "--root", berta.root)
    ran = berta.run("serve", "import", "anna", disk, "--root", berta.root)
    assert ran.code == 1
    assert "more than the 102400 that anna may still keep here" in ran.err
    assert everything_below(berta.root / "partners" / "anna" / "objects") == {}
    # A day's share is about the line.
    berta.ok(*("serve", "admit", "anna", "--quota", "1G", "--per-day", "1K", "--root", berta.root))
    berta.ok("serve", "import", "anna", disk, "--root", berta.root)
    other = tmp_path / "other disk"
    anna.init(other, "--archive", "other")
    before = everything_below(berta.root / "partners" / "anna" / "objects")
    ran = berta.run("serve", "import", "anna", other, "--root", berta.root)
    assert ran.code == 1
    assert "keeps another archive here already" in ran.err
    assert everything_below(berta.root / "partners" / "anna" / "objects") == before


def test_bad_input_is_told(anna: Partner, berta: Partner, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert berta.run("serve", "import", "anna", empty, "--root", berta.root).code == 10
    assert berta.run("serve", "import", "nobody", empty, "--root", berta.root).code == 1
    disk = tmp_path / "disk"
    anna.init(disk)
    assert berta.run("serve", "import", "anna", disk, "--root", tmp_path / "no").code == 1
    taken = tmp_path / "taken"
    taken.touch()
    ran = berta.run(*("serve", "import", "anna", disk, "--root", berta.root, "--receipts", taken))
    assert (ran.code, "taken" in ran.err) == (1, True)
    assert anna.run("store", "move", disk).code == 2
    assert anna.run("store", "move", tmp_path / "nothing").code == 10
    assert anna.run("store", "add", "../x", disk).code == 2
    assert anna.run("store", "add", "disk", disk).code == 2
    assert anna.run("store", "remove", "disk").code == 1


def test_a_second_partner_has_a_copy_and_the_archive_goes_on_there(
    anna: Partner, berta: Partner, tmp_path: Path
) -> None:
    store, source = tmp_path / "store", make_source(tmp_path / "source")
    anna.init(store)
    anna.ok("snapshot", source)
    anna.ok("copy", "--to", "coop://berta")
    anna.ok("store", "add", "berta", "coop://berta")
    shutil.rmtree(source / "folder 0")
    anna.ok("snapshot", source)
    anna.ok("forget", "--keep-last", "1")
    for _ in range(2):
        anna.ok("prune", "--grace", "0s", "--max-unused", "0")
    summary = anna.ok("copy", "--to", "berta", "--delete", "--grace", "0s", "--json").lines()[-1]
    assert summary["deleted"] > 0
    theirs = everything_below(berta.root / "partners" / "anna" / "objects")
    packs = {name for name in everything_below(store) if name.startswith("data/")}
    assert {name for name in theirs if name.startswith("data/")} == packs
    trash = berta.ok("serve", "held", "anna", "--root", berta.root, "--json").lines()[-1]["usage"]
    assert trash["trash_objects"] == summary["deleted"]  # the server keeps it for a while
    anna.ok("drill", "--files", "5", "--store", "berta")

    shutil.rmtree(store)
    assert anna.run("snapshots").code == 10
    moved = anna.ok("store", "move", "berta", "--json").lines()[-1]
    assert (moved["snapshots"], moved["missing"]) == (1, [])
    assert anna.ok("store", "list", "--json").lines() == [
        {"type": "store", "name": "", "store": "coop://berta", "is_copy": False}
    ]
    anna.ok("snapshot", source)
    anna.ok("check", "--read-data")
