"""How findings and hurt files are shown: as JSON lines, or as much as fits a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.check_findings import CheckTotals, Finding, HurtFile

FINDINGS_SHOWN = 50  # on the screen; --json has all
HURT_SHOWN = 100


class JsonView:
    """Everything, a line each."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def show(self, item: Finding | HurtFile) -> None:
        """Show one finding, or one file that is hurt."""
        from coopfs.ops.check_findings import Finding

        if isinstance(item, Finding):
            self._ctx.emit_json(
                {
                    "type": item.severity.value,
                    "subject": item.subject.value,
                    "object": item.object_id.hex() or None,
                    "message": item.message,
                }
            )
            return
        facts = item.snapshot.facts
        self._ctx.emit_json(
            {
                "type": "hurt",
                "snapshot": item.snapshot.snapshot_id.hex(),
                "host": facts.host,
                "series": facts.series,
                "number": facts.number,
                # Bytes that are not UTF-8 become lone surrogates, as Python's names have them.
                "path": item.path.decode("utf-8", "surrogateescape"),
                "is_folder": item.is_folder,
                "size": item.size,
                "lost": item.lost_len,
                "first_lost": item.first_lost,
                "reason": item.reason,
            }
        )

    def finish(self, totals: CheckTotals) -> None:
        """Show what came of it all."""
        from dataclasses import asdict

        values: dict[str, Any] = asdict(totals)
        values["duration_s"] = round(totals.duration_s, 3)
        self._ctx.emit_json({"type": "summary", "is_whole": totals.is_whole, **values})


class TextView:
    """As much as fits a screen; hurt files are listed by snapshot."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._findings = 0
        self._hurt = 0
        self._snapshot_id = b""

    def show(self, item: Finding | HurtFile) -> None:
        """Show one finding, or one file that is hurt."""
        from coopfs.cli.render import printable
        from coopfs.ops.check_findings import Finding, Severity

        if isinstance(item, Finding):
            self._findings += 1
            if self._findings <= FINDINGS_SHOWN:
                tell = self._ctx.warn if item.severity is Severity.DAMAGE else self._ctx.echo
                tell(printable(item.message))
            return
        self._hurt += 1
        if self._hurt <= HURT_SHOWN:
            self._show_hurt(item)

    def _show_hurt(self, item: HurtFile) -> None:
        from coopfs.archive.select import folder_name
        from coopfs.cli.progress import path_text, size_text
        from coopfs.cli.render import printable
        from coopfs.ids import short_hex

        facts = item.snapshot.facts
        if item.snapshot.snapshot_id != self._snapshot_id:
            self._snapshot_id = item.snapshot.snapshot_id
            place = f"{facts.host}/{facts.series}/{folder_name(facts)}"
            self._ctx.echo(f"hurt in snapshot {short_hex(self._snapshot_id)} ({place}):")
        path = printable(path_text(item.path))
        if item.is_folder:
            lost = "the whole folder"
        else:
            lost = f"{size_text(item.lost_len)} of {size_text(item.size)} lost"
            lost += f", from byte {item.first_lost:,} on" if item.first_lost else ""
        reason = f": {printable(item.reason)}" if item.reason else ""
        self._ctx.echo(f"  {path}  ({lost}{reason})")

    def finish(self, totals: CheckTotals) -> None:
        """Show what came of it all."""
        from coopfs.cli.progress import size_text
        from coopfs.cli.render import count

        ctx = self._ctx
        if self._findings > FINDINGS_SHOWN:
            ctx.warn(f"and {self._findings - FINDINGS_SHOWN:,} more findings (--json has all)")
        if self._hurt > HURT_SHOWN:
            ctx.echo(f"  and {self._hurt - HURT_SHOWN:,} more (--json has all)")
        ctx.echo(
            f"checked {count(totals.snapshots, 'snapshot')}, "
            f"{count(totals.tree_nodes, 'tree node')}, {count(totals.files, 'file')}, "
            f"{count(totals.chunks, 'chunk')} in {count(totals.packs, 'pack')} "
            f"({size_text(totals.pack_len)})"
        )
        if totals.packs_read:
            read = count(totals.packs_read, "pack")
            ctx.echo(f"read and verified every byte of {read}, {size_text(totals.read_len)}")
        if totals.unneeded_chunks:
            ctx.echo(
                f"{count(totals.unneeded_chunks, 'chunk')} of no snapshot "
                f"({size_text(totals.unneeded_len)} before compression)"
            )
        if totals.unindexed_packs:
            ctx.echo(
                f"{count(totals.unindexed_packs, 'pack')} in no index "
                f"({size_text(totals.unindexed_len)}): left by an interrupted run, or of one "
                "that is going on"
            )
        if totals.is_whole:
            ctx.echo(f"all is well ({totals.duration_s:.1f} s)")
            return
        ctx.echo(_verdict(totals))


def _verdict(totals: CheckTotals) -> str:
    from coopfs.cli.render import count

    text = f"DAMAGED: {count(totals.damages, 'finding')}; "
    if not totals.hurt_files:
        return text + "every file of the snapshots checked can still be read"
    return text + (
        f"{count(totals.hurt_files, 'file or folder', 'files or folders')} of "
        f'{count(totals.hurt_snapshots, "snapshot")} cannot be read whole. Run "coopfs '
        'snapshot" on the hosts they came from: what is still there is stored again'
    )
