"""Tags, holds and descriptions of snapshots that are there: one signed amendment a change.

Owns who signs it.  The admin key where it is at hand; else this host's writer key, which
can speak of this host's snapshots and add, not take away (:mod:`coopfs.archive.amendments`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from coopfs.archive.amendments import DESCRIPTION_FIELD, HOLD_FIELD, field_of_tag
from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import UsageError, WrongKey
from coopfs.format.keys import Role, SigningKey
from coopfs.format.records import Amendment, encode_amendment
from coopfs.ids import short_hex
from coopfs.ops.forget import put_durable

TAG_MAX: Final = 1024  # characters; TAGS_MAX and both as coopfs-format(5), "Records"
TAGS_MAX: Final = 1000
DESCRIPTION_MAX: Final = 1 << 16  # characters

_BY_ADMIN: Final = "is for the admin key, which is not on this machine; give its sheet with "


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be said of snapshots from now on; None and () leave it as it is."""

    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    is_held: bool | None = None
    description: str | None = None

    def check(self) -> None:
        """Refuse what no reader would accept (UsageError)."""
        for tag in (*self.add_tags, *self.remove_tags):
            _check_text(tag, f"tag {tag[:40]!r}", TAG_MAX)
            if not tag.strip() or "," in tag:
                raise UsageError(f"tag {tag!r}: empty, or with a comma, which separates tags")
        if len(self.add_tags) > TAGS_MAX or len(self.remove_tags) > TAGS_MAX:
            raise UsageError(f"more than {TAGS_MAX} tags at once")
        both = set(self.add_tags) & set(self.remove_tags)
        if both:
            raise UsageError(f"tag {min(both)!r}: to be added and removed")
        if self.description is not None:
            _check_text(self.description, "description", DESCRIPTION_MAX)

    def changes(self, snapshot: Snapshot) -> bool:
        """Tell whether *snapshot* is not so already."""
        tags = set(snapshot.tags)
        return (
            not tags.issuperset(self.add_tags)
            or not tags.isdisjoint(self.remove_tags)
            or self.is_held not in (None, snapshot.is_held)
            or self.description not in (None, snapshot.description)
        )

    @property
    def fields(self) -> set[str]:
        """The fields it speaks about."""
        found = {field_of_tag(tag) for tag in (*self.add_tags, *self.remove_tags)}
        if self.is_held is not None:
            found.add(HOLD_FIELD)
        if self.description is not None:
            found.add(DESCRIPTION_FIELD)
        return found


def _check_text(text: str, what: str, limit: int) -> None:
    if len(text) > limit:
        raise UsageError(f"{what}: {len(text)} characters; {limit} at most")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what}: not UTF-8") from None


def amend_snapshots(
    archive: Archive, snapshots: Sequence[Snapshot], change: Change, admin: SigningKey | None
) -> list[Snapshot]:
    """Say *change* of *snapshots*, of a refreshed archive; return those it changed, as now.

    *admin* is the admin key, where it is at hand.  Durable on return.

    Raises:
        UsageError: it cannot be said like that.
        WrongKey: this host may not say it.
        StoreError: it could not be put.
    """
    change.check()
    concerned = [snapshot for snapshot in snapshots if change.changes(snapshot)]
    if not concerned:
        return []
    signer = _signer(archive, concerned, change, admin)
    names = tuple(snapshot.snapshot_id for snapshot in concerned)
    newest_ns = max((record.time_ns for record in archive.objects.amendments()), default=0)
    record = Amendment(
        snapshot_ids=names,
        add_tags=change.add_tags,
        remove_tags=change.remove_tags,
        is_held=change.is_held,
        description=change.description,
        replaces=None,
        writer_id=signer.writer_id,
        # The newest counts: a clock that went back must not make this one an old word.
        time_ns=max(time.time_ns(), min(newest_ns + 1, time.time_ns() + _AHEAD_MAX_NS)),
    )
    put_durable(archive, signer, Role.AMENDMENT, encode_amendment(record))
    archive.objects.refresh()
    return [snapshot for snapshot in archive.snapshots() if snapshot.snapshot_id in set(names)]


# A hacked host's word may lie anywhere in the future; the admin's goes before it anyway.
_AHEAD_MAX_NS: Final = 86_400 * 1_000_000_000


def _signer(
    archive: Archive, snapshots: Sequence[Snapshot], change: Change, admin: SigningKey | None
) -> SigningKey:
    if admin is not None and admin.public_key == archive.config.admin_public_key:
        return admin
    if change.remove_tags or change.is_held is False:
        what = "releasing a hold" if change.is_held is False else "taking a tag away"
        raise WrongKey(
            f"{what} {_BY_ADMIN}--recovery-kit: a host that was broken into must not be able to "
            "strip snapshots of what protects them"
        )
    writer = archive.ring.writer()
    if writer is None or writer.writer_id not in archive.objects.writers():
        raise WrongKey(
            f"archive {archive.settings.name!r}: this host is not enrolled as a writer; "
            'see "coopfs writer --help"'
        )
    host = archive.objects.writers()[writer.writer_id].host
    for snapshot in snapshots:
        name = f"snapshot {short_hex(snapshot.snapshot_id)}"
        if snapshot.facts.host != host:
            raise WrongKey(
                f"{name} is of host {snapshot.facts.host}, and this one is {host}: to speak of "
                f"another host's snapshots {_BY_ADMIN}--recovery-kit"
            )
        if snapshot.words is not None and change.fields & snapshot.words.is_admins:
            raise WrongKey(
                f"{name}: the admin has spoken about this already; to change it {_BY_ADMIN}"
                "--recovery-kit"
            )
    return writer
