"""What is said about snapshots now: their own words, and amendments that count.

Pure functions.  Who may say what (coopfs-format(5), "Records"): a writer speaks of its
own host's snapshots only, and can add but not take away; the admin can do both, and
where the admin has spoken about a field nobody else counts.  A hacked host can thus
neither strip another host's snapshots of what protects them, nor its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from coopfs.format.records import Amendment
from coopfs.format.snapshot import SnapshotFacts
from coopfs.ids import SnapshotId, WriterId, short_hex


@dataclass(frozen=True, slots=True)
class Words:
    """What is said about one snapshot after all amendments."""

    tags: tuple[str, ...]
    description: str
    is_held: bool  # never let go by a rule
    is_admins: frozenset[str] = frozenset()  # fields the admin has spoken about; see `field_of_tag`


HOLD_FIELD: Final = "hold"
DESCRIPTION_FIELD: Final = "description"


def field_of_tag(tag: str) -> str:
    """Return how :attr:`Words.is_admins` names what is said about *tag*."""
    return f"tag {tag}"


@dataclass(slots=True)
class _Said:
    """The newest word on each field, of the admin and of the host's writers."""

    by_admin: dict[str, bool | str] = field(default_factory=dict)
    by_host: dict[str, bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Amended:
    """All snapshots' words, and what did not count."""

    words: dict[SnapshotId, Words]  # of the snapshots that were amended
    refused: tuple[str, ...]  # amendments by writers of another host


def apply_amendments(
    facts_of: Mapping[SnapshotId, SnapshotFacts],
    amendments: Iterable[Amendment],
    hosts: Mapping[WriterId, str],
    admin_id: WriterId,
) -> Amended:
    """Return the words after *amendments*, oldest first, whose signatures were verified.

    *hosts* says which host an enrolled writer is of.
    """
    said: dict[SnapshotId, _Said] = {}
    refused = []
    for record in amendments:
        is_admin = record.writer_id == admin_id
        strangers = 0
        for snapshot_id in record.snapshot_ids:
            facts = facts_of.get(snapshot_id)
            if facts is None:
                continue  # let go meanwhile
            if not is_admin and hosts.get(record.writer_id) != facts.host:
                strangers += 1
                continue
            about = said.setdefault(snapshot_id, _Said())
            if is_admin:
                about.by_admin.update(_fields(record, takes_away=True))
            else:
                about.by_host.update(_fields(record, takes_away=False))
        if strangers:
            refused.append(
                f"an amendment by writer {short_hex(record.writer_id)} of host "
                f"{hosts.get(record.writer_id, '?')} is about {strangers} snapshots of other "
                "hosts; it does not count for those"
            )
    words = {snapshot_id: _words(facts_of[snapshot_id], each) for snapshot_id, each in said.items()}
    return Amended(words, tuple(refused))


def _fields(record: Amendment, *, takes_away: bool) -> dict[str, bool | str]:
    found: dict[str, bool | str] = {field_of_tag(tag): True for tag in record.add_tags}
    if takes_away:
        found |= {field_of_tag(tag): False for tag in record.remove_tags}
    if record.is_held is not None and (record.is_held or takes_away):
        found[HOLD_FIELD] = record.is_held
    if record.description is not None:
        found[DESCRIPTION_FIELD] = record.description
    return found


def _words(facts: SnapshotFacts, said: _Said) -> Words:
    merged = said.by_host | said.by_admin
    tags = [tag for tag in facts.tags if merged.get(field_of_tag(tag), True)]
    prefix = field_of_tag("")
    tags += [
        name.removeprefix(prefix)
        for name, value in merged.items()
        if name.startswith(prefix) and value and name.removeprefix(prefix) not in tags
    ]
    return Words(
        tags=tuple(tags),
        description=str(merged.get(DESCRIPTION_FIELD, facts.description)),
        is_held=bool(merged.get(HOLD_FIELD, False)),
        is_admins=frozenset(said.by_admin),
    )
