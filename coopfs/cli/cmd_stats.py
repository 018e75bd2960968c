"""``coopfs stats``: how much is stored, and how much was saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.accepted import accepted_json, accepted_lines
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.settings import ArchiveSettings
    from coopfs.ops.pack_sums import PackSums
    from coopfs.ops.stats import SeriesFacts, Stats


@click.command("stats")
@click.pass_obj
def command(ctx: Context) -> None:
    """Say how much was backed up, how much of it differs, and what that takes.

    "Different" are the bytes of files after deduplication over all hosts and
    snapshots, "stored" is everything in the store. The table has, for each series,
    what its runs found new and what they added to the store.
    """
    from coopfs.ops.stats import collect_stats

    with ctx.open_archive(is_for_reading=True) as archive:
        stats = collect_stats(archive)
        settings = archive.settings
    if ctx.json:
        ctx.emit_json(_json(settings, stats))
        return
    for line in _text(settings, stats):
        ctx.echo(line)


def _text(settings: ArchiveSettings, stats: Stats) -> list[str]:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count
    from coopfs.ids import short_hex
    from coopfs.ops.audit import audits_text
    from coopfs.ops.drill import drills_text
    from coopfs.store.base import Kind

    partial = f", {stats.partial:,} of them partial" if stats.partial else ""
    series = count(len(stats.series), "series", "series")
    index, records = stats.in_store[Kind.INDEX], stats.in_store[Kind.SNAPSHOTS]
    facts = [
        (
            "archive",
            f"{settings.name} ({short_hex(settings.archive_id)}) in {settings.shown_store}",
        ),
        ("snapshots", f"{stats.snapshots:,} in {series}{partial}"),
        (
            "distrusted",
            f"{stats.distrusted:,} of them are by distrusted writers" if stats.distrusted else "",
        ),
        ("backed up", f"{size_text(stats.size)} in {count(stats.files, 'file')}, all snapshots'"),
        ("different", f"{size_text(stats.data.plain_len)}{_ratio(stats.dedup_ratio)}"),
        ("stored", f"{size_text(stats.stored)}{_ratio(stats.total_ratio)}"),
        ("  data", _packs(stats.data) + _ratio(stats.compression_ratio, "compressed ")),
        ("  trees", _packs(stats.meta)),
        ("  index", f"{size_text(index.size)} in {count(index.count, 'object')}"),
        ("  records", f"{size_text(records.size)} in {count(records.count, 'object')}"),
        ("free", "" if stats.free is None else size_text(stats.free)),
        (
            "lost",
            f"{count(stats.lost_packs, 'pack')}; see coopfs check" if stats.lost_packs else "",
        ),
        ("audits", audits_text(stats.audits)),
        ("drills", drills_text(stats.drills)),
    ]
    lines = [f"{title:<10} {text}" for title, text in facts if text]
    lines += accepted_lines(stats.accepted)
    return lines + (["", *_table(stats.series)] if stats.series else [])


def _packs(sums: PackSums) -> str:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count

    overhead = f", {size_text(sums.overhead)} of it padding and directories" if sums.packs else ""
    return f"{size_text(sums.size)} in {count(sums.packs, 'pack')}{overhead}"


def _ratio(ratio: float | None, what: str = "") -> str:
    return f" ({what}{ratio:,.1f} : 1)" if ratio is not None else ""


def _table(series: tuple[SeriesFacts, ...]) -> list[str]:
    from coopfs.archive.select import local_time
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import table

    rows = [
        (
            item.host,
            item.series,
            f"{item.snapshots:,}",
            local_time(item.newest.facts).strftime("%Y-%m-%d %H:%M:%S"),
            f"{item.newest.facts.counts.files:,}",
            size_text(item.newest.facts.counts.size),
            size_text(item.size),
            size_text(item.new),
            size_text(item.stored),
        )
        for item in series
    ]
    titles = ("HOST", "SERIES", "SNAPSHOTS", "NEWEST", "FILES", "SIZE", "TOTAL", "NEW", "STORED")
    return table(titles, rows, right="SNAPSHOTS FILES SIZE TOTAL NEW STORED")


def _json(settings: ArchiveSettings, stats: Stats) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "type": "stats",
        "archive": settings.name,
        "archive_id": settings.archive_id.hex(),
        "store": settings.shown_store,
        "snapshots": stats.snapshots,
        "partial": stats.partial,
        "files": stats.files,
        "size": stats.size,
        "different": stats.data.plain_len,
        "stored": stats.stored,
        "dedup_ratio": stats.dedup_ratio,
        "compression_ratio": stats.compression_ratio,
        "total_ratio": stats.total_ratio,
        "data": asdict(stats.data),
        "meta": asdict(stats.meta),
        "in_store": {kind.value: asdict(sums) for kind, sums in stats.in_store.items()},
        "free": stats.free,
        "lost_packs": stats.lost_packs,
        "drills": [{"is_passed": d.is_passed, **asdict(d)} for d in stats.drills],
        "distrusted": stats.distrusted,
        "accepted_missing": [accepted_json(item) for item in stats.accepted],
        "audits": [{"is_passed": a.is_passed, **asdict(a)} for a in stats.audits],
        "series": [
            {
                "host": item.host,
                "series": item.series,
                "snapshots": item.snapshots,
                "partial": item.partial,
                "first_ns": item.first_ns,
                "newest_ns": item.newest.facts.time_ns,
                "newest": item.newest.snapshot_id.hex(),
                "newest_files": item.newest.facts.counts.files,
                "newest_size": item.newest.facts.counts.size,
                "size": item.size,
                "new": item.new,
                "stored": item.stored,
            }
            for item in stats.series
        ],
    }
