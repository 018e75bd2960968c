"""Two machines back each other up; one loses everything, and comes back with its kit."""

from __future__ import annotations

import json
import os
import random
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mounting import mounted, needs_fuse
from partners import GIB, Partner

from coopfs.archive.kit import read_kit_file
from coopfs.server.settings import load_partners

PATIENCE = {"COOPFS_STORE_TIMEOUT": "20"}


def make_source(folder: Path, seed: int) -> None:
    """Fill *folder* with what two friends might have."""
    rng = random.Random(seed)
    for number in range(40):
        path = folder / f"folder {number % 4}" / f"file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(60_000)))
    (folder / "large").write_bytes(rng.randbytes(5_000_000))
    (folder / "link").symlink_to("large")


def content(folder: Path) -> dict[str, bytes]:
    """Every file and link below *folder*."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file():
            found[name] = path.read_bytes()
    assert found
    return found


class Two:
    """Anna and Berta."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.anna = Partner(base / "a", "anna")
        self.berta = Partner(base / "b", "berta")
        for number, partner in enumerate((self.anna, self.berta)):
            make_source(self.source(partner), number)

    def source(self, partner: Partner) -> Path:
        return self.base / f"{partner.name}s"

    def kit(self, partner: Partner) -> Path:
        return self.base / f"{partner.name}s-kit"

    def pair(self, *args: object) -> tuple[dict[str, Any], dict[str, Any]]:
        """Become partners; returns what either side was told."""
        with self.anna.inviting() as code:
            there = self.berta.accept(code, *args)
        return self.anna.paired, there

    def back_up(self, partner: Partner, other: Partner) -> None:
        """Let *partner* make its archive at the *other*'s, and take two snapshots."""
        partner.init(f"coop://{other.name}", "--recovery-kit", self.kit(partner))  # type: ignore[arg-type]
        source = self.source(partner)
        partner.ok("snapshot", source)
        (source / "later").write_text("written between the two")
        partner.ok("snapshot", source)

    def lose(self, partner: Partner) -> Partner:
        """Destroy all that *partner* has, but its kit; return the machine that takes its place."""
        shutil.rmtree(partner.base)
        return Partner(self.base / "new", partner.name)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    for name, value in PATIENCE.items():
        monkeypatch.setenv(name, value)
    return Two(tmp_path)


def restored(partner: Partner, source: Path, target: Path) -> Path:
    """Restore the newest snapshot; return where *source* is now."""
    partner.ok("restore", f"latest:{source}", "--target", target)
    return target


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
        # It is a writer again, and need not be told twice.
        new.ok("recover", "--recovery-kit", two.kit(anna), "--no-passphrase", "--host", "new")
        make_source(tmp_path / "anew", 3)
        new.ok("snapshot", tmp_path / "anew")
        lines = new.ok("snapshots", "--json").lines()
        assert [line["host"] for line in lines if line["type"] == "snapshot"].count("new") == 1
        # The kit, written again, still says all of it.
        new.ok("key", "show", "--recovery-kit", tmp_path / "again")
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


def test_the_owner_alone_deletes(two: Two) -> None:
    anna, berta = two.anna, two.berta
    two.pair()
    with berta.serving():
        two.back_up(anna, berta)
    granted = load_partners(berta.root)["anna"]
    assert len(granted.admins) == 1
    assert granted.admin_pins.isdisjoint(granted.writer_pins)


def test_a_kit_is_written_at_pairing_for_an_archive_that_is_there(two: Two, tmp_path: Path) -> None:
    anna, berta = two.anna, two.berta
    berta.init(tmp_path / "local")
    _, there = two.pair("--recovery-kit", tmp_path / "kit")
    keys = read_kit_file(tmp_path / "kit")
    assert keys.store == "coop://anna"
    assert keys.partner is not None
    assert (str(keys.partner), keys.partner.pin) == (f"coop://{anna.address}/berta", there["pin"])
    assert len(load_partners(anna.root)["berta"].admins) == 1
    assert json.loads(berta.ok("key", "show", "--json").out)["store"] == str(tmp_path / "local")
