"""A mutual backup of two machines with a network each: over a cable, and through a NAT."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from mounting import needs_fuse
from namespaces import ANNAS, BERTAS, Namespace, Sited, namespaces, plug, translated
from partners import Two, content, restored

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Namespace]]:
    """Anna's network and Berta's gate, joined; and one that nothing leads to."""
    monkeypatch.setenv("COOPFS_STORE_TIMEOUT", "20")
    with namespaces(3) as made:
        plug(made[0], made[1])
        yield made


def is_reached(address: str, namespace: Namespace) -> bool:
    """Tell whether somebody in *namespace* gets through to HOST:PORT."""
    host, _, port = address.rpartition(":")
    with namespace.entered(), socket.socket() as sock:
        sock.settimeout(2)
        return sock.connect_ex((host, int(port))) == 0


def come_back(two: Two, lost: Sited) -> Sited:
    """Let *lost* lose everything and come back by its kit; what is mounted is what was."""
    expected = content(two.source(lost))
    words = lost.ok("snapshots").out.split()[-6:]
    shutil.rmtree(two.source(lost))
    new = two.lose(lost)
    assert isinstance(new, Sited)
    ran = new.ok("recover", "--recovery-kit", two.kit(lost), "--no-passphrase", "--host", "new")
    assert "2 snapshots" in ran.out
    assert " ".join(words) in ran.out  # what was shown before it was lost
    with new.mounted(two.base / "mnt") as mount:
        (found,) = (mount.path / "by-host" / lost.name).glob("*/latest")
        assert content(found / str(two.source(lost))[1:]) == expected
    return new


def test_who_loses_everything_has_it_back_from_the_other_site(
    sites: list[Namespace], tmp_path: Path
) -> None:
    anna = Sited(tmp_path / "a", "anna", sites[0], ANNAS)
    berta = Sited(tmp_path / "b", "berta", sites[1], BERTAS)
    two = Two(tmp_path, anna, berta)
    here, there = two.pair()
    assert here["words"] == there["words"]
    with berta.serving():
        with anna.serving():
            two.back_up(anna, berta)
            two.back_up(berta, anna)
            assert is_reached(anna.address, sites[1])
            assert is_reached(berta.address, sites[0])
            assert not is_reached(anna.address, sites[2])
        new = come_back(two, anna)
        new.ok("restore", "latest", "--target", tmp_path / "back")
        new.ok("check", "--read-data")


def test_one_reachable_side_is_enough_for_both(sites: list[Namespace], tmp_path: Path) -> None:
    anna = Sited(tmp_path / "a", "anna", sites[0], ANNAS)
    berta = Sited(tmp_path / "b", "berta", sites[2], "127.0.0.1")
    two = Two(tmp_path, anna, berta)
    with ExitStack() as stack:
        stack.enter_context(translated(sites[2], sites[1], anna.port))
        two.pair("--dial")
        stack.enter_context(anna.serving())
        dialling = stack.enter_context(ExitStack())
        dialling.enter_context(berta.serving())
        two.back_up(anna, berta)
        two.back_up(berta, anna)
        # Whose server it is that keeps Anna's archive: nobody gets there from outside.
        assert list((berta.root / "partners" / "anna" / "objects" / "data").rglob("?" * 64))
        assert is_reached(berta.address, sites[2])
        for place in (f"{BERTAS}:{berta.port}", f"198.18.0.3:{berta.port}"):
            assert not is_reached(place, sites[0])
        target = restored(anna, two.source(anna), tmp_path / "annas-back")
        assert content(target) == content(two.source(anna))
        dialling.close()
        come_back(two, berta)
