"""Forget: let snapshots go, by an admin-signed record that is durable before any deletion.

Owns the order: record, then snapshot objects, then records and amendments that say
nothing any more.  Stopped anywhere, the same command goes on.  What the snapshots' data
occupied is freed by a prune (:mod:`coopfs.ops.prune`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.errors import (
    DataError,
    ObjectCorrupt,
    WrongKey,
)
from coopfs.format.body import seal_body
from coopfs.format.keys import Role, SigningKey
from coopfs.format.records import ForgetRecord, encode_forget
from coopfs.ids import ObjectId, SnapshotId
from coopfs.ops.deleting import delete_objects
from coopfs.ops.forget_plan import Verdict
from coopfs.store.base import Kind

# Superseded records that stay: a machine that is between listing and reading finds one.
RECORDS_KEPT: Final = 3


@dataclass(frozen=True, slots=True)
class ForgetResult:
    """What was done."""

    gone: tuple[SnapshotId, ...]  # let go now
    deleted: int  # of their objects
    left: int  # of their objects: the store does not let us delete
    denial: str  # what the store said to that


def checked_admin_key(archive: Archive, admin: SigningKey | None, what: str) -> SigningKey:
    """Return *admin* if it is the archive's admin key.

    Raises:
        WrongKey: it is not; *what* begins the sentence.
    """
    if admin is None or admin.public_key != archive.config.admin_public_key:
        raise WrongKey(
            f"{what} needs the admin key, which is not on this machine; run it where the key is, "
            'give its sheet with --recovery-kit, or bring it here with "coopfs key online"'
        )
    return admin


def refuse_unreadable(archive: Archive) -> None:
    """Raise when an object under ``snapshots/`` cannot be read: it may be a hold.

    Raises:
        DataError: names it.
    """
    for item in archive.objects.unusable:
        if item.role is None:
            raise DataError(
                f"{item.problem}; nothing was let go, as it may be what protects a snapshot; "
                'run "coopfs check"; "coopfs repair" takes away what was never of this archive'
            )


def apply_forget(archive: Archive, verdicts: Sequence[Verdict], admin: SigningKey) -> ForgetResult:
    """Let go what *verdicts*, made of a refreshed archive, do not keep.

    Raises:
        StoreError: the record could not be put (nothing was let go then), or an object
            not deleted; the same command goes on.
        DataError: something that is not understood lies among the snapshots.
        WrongKey: *admin* is not the archive's admin key.
    """
    checked_admin_key(archive, admin, "forgetting")
    refuse_unreadable(archive)
    going = {v.snapshot.snapshot_id: v.snapshot.facts.previous for v in verdicts if not v.is_kept}
    if not going:
        return ForgetResult((), 0, 0, "")
    return let_go(archive, going, admin)


def let_go(
    archive: Archive, going: Mapping[SnapshotId, tuple[SnapshotId, ...]], admin: SigningKey
) -> ForgetResult:
    """Say durably that objects of a refreshed archive do not count any more, then delete them.

    *going*: what each of them followed; nothing for what is no snapshot.

    Raises:
        StoreError: the record could not be put (nothing was let go then), or an object
            not deleted; the same again goes on.
    """
    chains = archive.objects.forgotten_chains()
    if not going.keys() <= chains.keys():
        chains |= going
        names = sorted(chains)
        record = ForgetRecord(tuple(names), time.time_ns(), tuple(chains[name] for name in names))
        put_durable(archive, admin, Role.FORGET, encode_forget(record))
    # Only now: a snapshot is gone when its object is gone and a valid record names it.
    done = delete_objects(archive.store, Kind.SNAPSHOTS, map(ObjectId, going))
    archive.objects.refresh()
    if not done.denial:
        delete_objects(archive.store, Kind.SNAPSHOTS, _idle_records(archive))
        archive.objects.refresh()
    left = len(going) - done.count
    return ForgetResult(tuple(going), done.count, left, done.denial)


def put_durable(archive: Archive, signer: SigningKey, role: Role, body: bytes) -> ObjectId:
    """Seal a record and put it under ``snapshots/``; it is durable, or read back, on return.

    Raises:
        StoreError: it could not be put.
        ObjectCorrupt: the store does not give back what it was given.
    """
    store = archive.store
    sealed = seal_body(archive.keys, signer, role, archive.config.archive_id, body, os.urandom(32))
    store.put(Kind.SNAPSHOTS, sealed.object_id, sealed.data)
    if not store.is_durable and store.get(Kind.SNAPSHOTS, sealed.object_id) != sealed.data:
        raise ObjectCorrupt(
            f"snapshots/{sealed.object_id.hex()[:16]}: the store does not give back the record it "
            "was given; nothing was deleted"
        )
    return sealed.object_id


def _idle_records(archive: Archive) -> list[ObjectId]:
    """Return forget records that a newer one repeats, and amendments of what is gone."""
    objects = archive.objects
    records = sorted(
        objects.forget_records().items(),
        key=lambda item: (len(item[1].snapshot_ids), item[1].time_ns),
    )
    everything = set(records[-1][1].snapshot_ids) if records else set()
    repeated = [name for name, record in records[:-1] if everything.issuperset(record.snapshot_ids)]
    here = {snapshot.snapshot_id for snapshot in objects.snapshots()}
    idle = [
        name
        for name, record in objects.named_amendments()
        if record.snapshot_ids
        and everything.issuperset(record.snapshot_ids)
        and here.isdisjoint(record.snapshot_ids)
    ]
    return repeated[:-RECORDS_KEPT] + idle
