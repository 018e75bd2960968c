"""What ``tag``, ``hold`` and ``describe`` share: open, resolve, amend, say what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coopfs.cli.adminkey import optional_admin_key
from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ops.amend import Change


def amend(
    ctx: Context,
    names: Sequence[str],
    place: tuple[str | None, str | None, tuple[str, ...]],
    change: Change,
    recovery_kit: Path | None,
) -> None:
    """Say *change* of the snapshots called *names*; *place* is host, series and tags."""
    from coopfs.archive.select import folder_name, resolve
    from coopfs.cli.render import printable
    from coopfs.ids import short_hex
    from coopfs.ops.amend import amend_snapshots

    change.check()
    host, series, tags = place
    with ctx.open_archive() as archive:
        found = [resolve(archive, n, host=host, series=series, tags=tags) for n in names]
        chosen = list({snapshot.snapshot_id: snapshot for snapshot in found}.values())
        admin = optional_admin_key(ctx, archive, recovery_kit)
        changed = amend_snapshots(archive, chosen, change, admin)
    for snapshot in changed:
        facts = snapshot.facts
        if ctx.json:
            ctx.emit_json(
                {
                    "type": "amended",
                    "id": snapshot.snapshot_id.hex(),
                    "tags": list(snapshot.tags),
                    "is_held": snapshot.is_held,
                    "description": snapshot.description,
                }
            )
            continue
        said = [f"tags: {' '.join(snapshot.tags) or 'none'}"]
        said += ["held"] * snapshot.is_held
        said += [f"“{snapshot.description}”"] * bool(snapshot.description)
        name = f"{facts.host}/{facts.series}/{folder_name(facts)}"
        ctx.echo(printable(f"{short_hex(snapshot.snapshot_id)} {name}: {', '.join(said)}"))
    if not changed:
        ctx.echo("nothing to change: it is so already")
