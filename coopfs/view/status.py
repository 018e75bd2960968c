"""What ``.coopfs/status`` says: the archive, the partner, what the mount has done."""

from __future__ import annotations

from datetime import UTC, datetime

from coopfs.archive.archive import Archive
from coopfs.view.decoders import Decoders
from coopfs.view.fetcher import Fetcher
from coopfs.view.names import Names
from coopfs.view.refresher import Refresher


def render_status(
    archive: Archive,
    refresher: Refresher,
    names: Names,
    fetcher: Fetcher,
    decoders: Decoders,
    open_files: int,
) -> bytes:
    """Return the text of the status file, one "name: value" a line."""
    seen = refresher.last_success_ns
    lines = {
        "archive": archive.settings.name,
        "archive id": archive.config.archive_id.hex(),
        "store": archive.store.address,
        "partner": "unreachable" if refresher.failure else "ok",
        "partner last answered": _moment(seen) if seen else _before_mounting(archive),
        "problem": refresher.failure or "none",
        "snapshots": str(refresher.snapshot_count),
        "snapshots of distrusted writers": str(refresher.distrusted_count),
        "folders visited": str(names.folder_count),
        "files open": str(open_files),
        "blocks fetched": str(fetcher.fetched),
        "blocks fetched ahead": str(fetcher.fetched_ahead),
        "blocks decoded by processes": str(decoders.decoded),
    }
    # A value of several lines would read as several facts.
    text = "".join(f"{name}: {' '.join(value.split())}\n" for name, value in lines.items())
    return text.encode("utf-8", "surrogateescape")


def _before_mounting(archive: Archive) -> str:
    return "before it was mounted" if archive.away else "when it was mounted"


def _moment(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).astimezone()
    return moment.isoformat(sep=" ", timespec="seconds")
