"""Which snapshot, which path: what people type, resolved.

``latest``, an id's first digits, a date (with a time), a snapshot's folder name
in the mount, or ``HOST/SERIES/`` before any of them; then ``:PATH``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.snapshots import Snapshot
from coopfs.errors import NotFound, UsageError
from coopfs.format.snapshot import SnapshotFacts, State
from coopfs.format.tree import Entry, Kind
from coopfs.ids import short_hex

LATEST: Final = "latest"
_ID = re.compile(r"[0-9a-f]{4,64}\Z")
_WITH_COLONS = re.compile(r"([^:]*?\d{4}-\d\d-\d\d[_T ]\d\d:\d\d(?::\d\d)?)(?::(.*))?\Z", re.DOTALL)
_DATE = re.compile(r"\d{4}-\d\d-\d\d([_T ]\d\d(?:[-:]\d\d(?:[-:]\d\d)?)?)?\Z")


def local_time(facts: SnapshotFacts) -> datetime:
    """Return when the snapshot was taken, in the zone it was taken in."""
    zone = timezone(timedelta(seconds=facts.zone_offset_s))
    return datetime.fromtimestamp(facts.time_ns // 1_000_000_000, UTC).astimezone(zone)


def folder_name(facts: SnapshotFacts) -> str:
    """Return the name of a snapshot's folder in the mount: ``2026-11-23_04-28-31``."""
    return local_time(facts).strftime("%Y-%m-%d_%H-%M-%S")


def folder_names(snapshots: Iterable[Snapshot]) -> dict[str, Snapshot]:
    """Return one series' snapshots by folder name; equal names get ``~`` and digits of the id."""
    by_name: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        by_name.setdefault(folder_name(snapshot.facts), []).append(snapshot)
    named = {}
    for name, group in by_name.items():
        for snapshot in group:
            suffix = f"~{short_hex(snapshot.snapshot_id)}" if len(group) > 1 else ""
            named[name + suffix] = snapshot
    return named


def split_spec(spec: str) -> tuple[str, bytes]:
    """Split ``SNAPSHOT[:PATH]``; times are written with ``-`` or before a ``:/``."""
    match = _WITH_COLONS.match(spec)
    if match:
        head, path = match[1], match[2] or ""
    else:
        head, _, path = spec.partition(":")
    return head, path.encode("utf-8", "surrogateescape")


def resolve(
    archive: Archive,
    spec: str,
    *,
    host: str | None = None,
    series: str | None = None,
    tags: Sequence[str] = (),
) -> Snapshot:
    """Return the snapshot that *spec* names.

    Raises:
        NotFound: none does; says what there is.
        UsageError: several do, or *spec* is no way to name one.
    """
    *place, name = spec.split("/")
    if len(place) > 2:
        raise UsageError(f"{spec!r}: expected SNAPSHOT or HOST/SERIES/SNAPSHOT")
    if len(place) == 2:
        host, series = place
    elif len(place) == 1:
        series = place[0]
    chosen = [
        snapshot
        for snapshot in archive.snapshots()
        if host in (None, snapshot.facts.host)
        and series in (None, snapshot.facts.series)
        and set(tags) <= set(snapshot.tags)
    ]
    if not chosen:
        what = "/".join(filter(None, (host, series)))
        raise NotFound(
            f"no snapshot{' of ' + what if what else ''} in archive {archive.settings.name!r}; "
            '"coopfs snapshots" lists them'
        )
    if name == LATEST:
        complete = [s for s in chosen if s.facts.state is State.COMPLETE]
        trusted = [s for s in complete if not s.is_distrusted]
        return (trusted or complete or chosen)[-1]
    if _DATE.match(name):
        return _by_date(spec, name, chosen)
    by_folder = [s for s in chosen if name.split("~")[0] == folder_name(s.facts)]
    if "~" in name:
        digits = name.partition("~")[2]
        by_folder = [s for s in by_folder if s.snapshot_id.hex().startswith(digits)]
        return _only(spec, by_folder)
    if _ID.match(name.lower()):
        return _only(spec, [s for s in chosen if s.snapshot_id.hex().startswith(name.lower())])
    raise UsageError(
        f"{spec!r} names no snapshot: expected latest, the first digits of an id, "
        "a date (2026-11-23 or 2026-11-23_04-28-31), each also as HOST/SERIES/…"
    )


def _by_date(spec: str, name: str, chosen: list[Snapshot]) -> Snapshot:
    prefix = name[:10] + name[10:].replace(":", "-").replace("T", "_").replace(" ", "_")
    matching = [s for s in chosen if folder_name(s.facts).startswith(prefix)]
    if not matching:
        days = sorted({folder_name(s.facts)[:10] for s in chosen})
        raise NotFound(f"{spec!r}: no snapshot then; there are some from {days[0]} to {days[-1]}")
    series = {(s.facts.host, s.facts.series) for s in matching}
    if len(series) > 1:
        raise _ambiguous(spec, matching)
    return matching[-1]  # of one series: the day's last


def _only(spec: str, matching: list[Snapshot]) -> Snapshot:
    if not matching:
        raise NotFound(f'{spec!r}: no snapshot of that id; "coopfs snapshots" lists them')
    if len(matching) > 1:
        raise _ambiguous(spec, matching)
    return matching[0]


def _ambiguous(spec: str, matching: list[Snapshot]) -> UsageError:
    names = ", ".join(
        f"{s.facts.host}/{s.facts.series}/{folder_name(s.facts)} ({short_hex(s.snapshot_id)})"
        for s in matching[:5]
    )
    more = f" and {len(matching) - 5} more" if len(matching) > 5 else ""
    return UsageError(f"{spec!r} could be {names}{more}; give one of them")


def entry_at(archive: Archive, snapshot: Snapshot, path: bytes) -> Entry:
    """Return the entry at *path* (slashes at both ends do not matter); the root is ``/``.

    Symlinks are not followed.

    Raises:
        NotFound: names the part that is not there.
    """
    entry = Entry(b"/", Kind.FOLDER, 0o755, 0, 0, snapshot.facts.time_ns, tree=snapshot.facts.root)
    walked = b""
    for name in path.split(b"/"):
        if name in (b"", b"."):
            continue
        shown = (walked or b"/").decode("utf-8", "replace")
        if entry.tree is None:
            raise NotFound(
                f"{shown}: is not a folder in snapshot {short_hex(snapshot.snapshot_id)}"
            )
        found = archive.find_entry(entry.tree, name)
        walked += b"/" + name
        if found is None:
            raise NotFound(
                f"{walked.decode('utf-8', 'replace')}: not in snapshot "
                f"{short_hex(snapshot.snapshot_id)} "
                f"({snapshot.facts.host}/{snapshot.facts.series}/{folder_name(snapshot.facts)}); "
                f'"coopfs ls {short_hex(snapshot.snapshot_id)}:{shown}" shows what is'
            )
        entry = found
    return entry
