"""Writers and prunes at once, with a tiny grace, in many interleavings: every snapshot reads back.

What the writers take is drawn from a few contents that come back again and again, so that
they rely on what is just being marked or deleted.  COOPFS_TEST_SOAK=1 runs many more seeds.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archive_fixtures import Lab, keep_above_still, no_passphrase, take
from checked import check, unreadable
from clocks import Clocks, clocks
from pruning import forget, key_of, prune
from turns import Turns, TurnStore

from coopfs.archive.archive import Archive
from coopfs.archive.keyring import load_keyring
from coopfs.archive.settings import load_settings
from coopfs.errors import CoopfsError, DataError
from coopfs.format.keys import SigningKey
from coopfs.ids import SnapshotId
from coopfs.ops import prune as prune_module
from coopfs.ops import prune_index, secure
from coopfs.store.base import Kind
from coopfs.store.open import open_store

__all__ = ["clocks"]  # a fixture

SEEDS = range(200 if os.environ.get("COOPFS_TEST_SOAK") else 2)
FRESH_S = 15.0
GRACE_S = 2 * FRESH_S  # as little as may be
ROUNDS = 4


class Scene:
    """The hosts, what they take, and what they have been promised."""

    def __init__(self, base: Path, clocks: Clocks, seed: int) -> None:
        rng = random.Random(seed)
        self.anna = Lab(base).init("--chunk-size", "16K")
        self.bob = self.anna.second_host("bob")
        self.carol = self.anna.second_host("carol")
        with self.anna.open() as (archive, _):
            self.admin: SigningKey = key_of(archive)
        self.turns = Turns(clocks, rng, GRACE_S)
        self.contents = [rng.randbytes(rng.randrange(300, 40_000)) for _ in range(10)]
        self.promised: set[SnapshotId] = set()  # by runs that said they were done
        self.refusals: list[str] = []
        self.problems: list[BaseException] = []
        self.deleted = 0  # packs
        self.seed = seed

    @contextmanager
    def opened(self, lab: Lab, who: str) -> Iterator[Archive]:
        settings = load_settings(lab.host.dirs, None)
        ring = load_keyring(lab.host.dirs, settings, no_passphrase)
        store = TurnStore(open_store(settings.store), self.turns, who)
        with Archive.open(lab.host.dirs, settings, ring, store) as archive:
            yield archive

    def write(self, lab: Lab, who: str) -> None:
        """Take snapshots of something that changes."""
        rng = random.Random(f"{self.seed} {who}")
        source = lab.base / f"source-{who}"
        for _ in range(ROUNDS):
            for number in range(6):
                path = source / f"folder{number % 2}" / f"file{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if rng.random() < 0.7:
                    path.write_bytes(rng.choice(self.contents))
                    os.utime(path, (1e9, rng.choice((1e9, 1e9 + 1))))
            self._take(lab, who, source)

    def _take(self, lab: Lab, who: str, source: Path) -> None:
        with self.opened(lab, who) as archive:
            try:
                archive.refresh()
                report = take(archive, source, series=who)
            except DataError as exc:
                # It slept too long, and what it relied on is gone: it says so.
                self.refusals.append(str(exc))
                assert "run it again" in str(exc) or "meanwhile" in str(exc)
            else:
                assert report.snapshot is not None
                self.promised.add(report.snapshot.snapshot_id)

    def tend(self, lab: Lab, who: str) -> None:
        """Forget and prune."""
        rng = random.Random(f"{self.seed} {who}")
        for _ in range(2 * ROUNDS):
            with self.opened(lab, who) as archive:
                try:
                    archive.refresh()
                    if who == "anna-prunes" or rng.random() < 0.3:
                        forget(archive, rng.choice((1, 1, 2)), self.admin)
                    totals = prune(archive, GRACE_S, admin=self.admin, warnings=[])
                    self.deleted += totals.deleted_packs
                except CoopfsError as exc:
                    self.refusals.append(str(exc))

    def run(self, *programs: tuple[Callable[[Lab, str], None], Lab, str]) -> None:
        """Run them at once to their ends."""

        def work(program: Callable[[Lab, str], None], lab: Lab, who: str) -> None:
            try:
                program(lab, who)
            except BaseException as exc:  # told to the test below
                self.problems.append(exc)
            finally:
                self.turns.end(who)

        threads = [threading.Thread(target=work, args=args) for args in programs]
        for _, _, who in programs:
            self.turns.begin(who)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
        for problem in self.problems:
            raise problem


@pytest.mark.parametrize("seed", SEEDS)
def test_every_snapshot_reads_back(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    keep_above_still(monkeypatch)
    monkeypatch.setattr(secure, "FRESH_S", FRESH_S)
    monkeypatch.setattr(prune_module, "FRESH_S", FRESH_S)
    monkeypatch.setattr(prune_module, "YOUNG_S", 0)
    monkeypatch.setattr(prune_index, "OBJECTS_MAX", 4)
    monkeypatch.setattr("coopfs.ops.witness.RACY_NS", 0)
    scene = Scene(tmp_path, clocks, seed)
    scene.run(
        (scene.write, scene.anna, "anna"),
        (scene.write, scene.bob, "bob"),
        (scene.tend, scene.anna, "anna-prunes"),
        (scene.tend, scene.carol, "carol-prunes"),
    )
    assert len(scene.promised) >= ROUNDS, scene.refusals
    assert scene.deleted > 0  # while the others wrote
    # What has come too late is healed by the next run; nothing that was promised was lost.
    with scene.carol.open() as (archive, _):
        here = {s.snapshot_id: s for s in archive.snapshots()}
        for snapshot_id in scene.promised & here.keys():
            assert unreadable(archive, here[snapshot_id]) == set(), scene.refusals
    # And the archive can be tended to its end.
    clocks.pass_(10 * GRACE_S)
    for lab, who in ((scene.anna, "anna"), (scene.bob, "bob")):
        report = lab.take(tmp_path / f"source-{who}", series=who)
        lab.expect_archived(report, tmp_path / f"source-{who}")
    with scene.anna.open() as (archive, _):
        forget(archive)
        for _ in range(3):
            clocks.pass_(GRACE_S)
            prune(archive, GRACE_S, warnings=[])
        # An index object of which little is gone is not written anew for that.
        live = {p.pack_id for p in archive.index.packs()} - archive.index.marked()
        assert live == scene.anna.objects(Kind.DATA)
        assert check(archive, 1.0).damages == []
