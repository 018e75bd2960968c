"""What the tests of prune share: forget and prune in one breath, and reading everything back."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from archive_fixtures import Lab, write
from checked import unreadable

from coopfs.archive.archive import Archive
from coopfs.format.keys import SigningKey
from coopfs.ops.forget import apply_forget
from coopfs.ops.forget_plan import KeepRules, plan_forget
from coopfs.ops.progress import NoProgress
from coopfs.ops.prune import PruneRequest, PruneTotals, prune_archive
from coopfs.ops.prune_plan import Tolerance
from coopfs.store.base import Kind

DAY_S = 86_400.0
GRACE_S = 7 * DAY_S


def key_of(archive: Archive) -> SigningKey:
    """Return the admin key, which must be on this machine."""
    admin = archive.ring.admin()
    assert admin is not None
    return admin


def forget(archive: Archive, keep: int = 1, admin: SigningKey | None = None) -> None:
    """Let go all but the newest of every series."""
    archive.refresh()
    verdicts = plan_forget(archive.snapshots(), KeepRules(last=keep), time.time_ns() + 10**18)
    apply_forget(archive, verdicts, admin or key_of(archive))


def prune(
    archive: Archive,
    grace_s: float = GRACE_S,
    *,
    admin: SigningKey | None = None,
    warnings: list[str] | None = None,
    max_unused: float | None = 0.0,
    below: float = 1.0,
    **options: Any,
) -> PruneTotals:
    """Prune, by default as much as there is to free."""
    request = PruneRequest(Tolerance(share=max_unused), below, grace_s, **options)
    said: list[str] = [] if warnings is None else warnings
    totals = prune_archive(archive, request, admin or key_of(archive), NoProgress(), said.append)
    if warnings is None:
        assert said == []
    return totals


def packs_in_store(archive: Archive) -> set[bytes]:
    """Return the names of the packs that are really there."""
    inner = getattr(archive.store, "inner", archive.store)
    return {info.name for info in inner.list(Kind.DATA)}


def expect_all_readable(lab: Lab) -> int:
    """Every snapshot can be read whole by a host that sees the archive for the first time."""
    with lab.open() as (archive, _):
        assert archive.warnings == []
        for snapshot in archive.snapshots():
            assert unreadable(archive, snapshot) == set(), snapshot.facts
        return len(archive.snapshots())


def take_two(lab: Lab) -> None:
    """Take a snapshot of twenty files, and one of five of them."""
    rng = random.Random(1)
    for number in range(20):
        write(lab.source / f"file{number}", rng.randbytes(100_000))
    lab.take()
    for number in range(15):
        (lab.source / f"file{number}").unlink()
    lab.take()


def grow(lab: Lab, number: int, size: int = 200_000) -> None:
    """Have the source hold *number*'s file, and no more of those long before."""
    (lab.source / f"file{number}").write_bytes(os.urandom(size))
    (lab.source / f"file{number - 2}").unlink(missing_ok=True)
