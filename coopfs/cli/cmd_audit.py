"""``coopfs audit``: proof that the keeper of the store still has the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.ids import PackId
    from coopfs.ops.audit import AuditResult

BAD_SHOWN = 20  # on the screen; --json has all


@click.command("audit")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=95.0,
    metavar="PERCENT",
    help="How sure to be (default 95).",
)
@click.option(
    "--loss",
    type=click.FloatRange(0, 100, min_open=True, max_open=True),
    default=1.0,
    metavar="PERCENT",
    help="The loss that must not go unnoticed (default 1).",
)
@click.pass_obj
def command(ctx: Context, confidence: float, loss: float) -> int:
    """Read random blocks from the store, and say what that shows.

    A partner's server (coop://) is asked instead to prove that it has the whole packs in
    which they lie, which transfers nothing, as long as this host wrote them and has answers
    that were not asked for before.

    299 of them, whatever the archive's size, find a loss of 1 % with 95 % confidence.
    What is found missing or damaged is sent again by the next snapshot, where the source
    still has it.

    Exit codes: 0 all was right; 1 something is missing or damaged.
    """
    from coopfs.errors import EXIT_DONE, EXIT_FAILED
    from coopfs.ops.audit import AuditRequest, audit_archive

    request = AuditRequest(confidence / 100, loss / 100)
    with ctx.open_archive(is_for_reading=True) as archive, ctx.progress("auditing") as progress:
        result, bad = audit_archive(archive, request, progress)
        progress.close()
    if ctx.json:
        _emit(ctx, result, bad)
    else:
        _show(ctx, result, bad)
    return EXIT_DONE if result.is_passed else EXIT_FAILED


def _emit(ctx: Context, result: AuditResult, bad: dict[PackId, str]) -> None:
    from dataclasses import asdict

    for pack_id, problem in bad.items():
        ctx.emit_json(
            {"type": "damage", "subject": "pack", "object": pack_id.hex(), "message": problem}
        )
    ctx.emit_json({"type": "summary", "is_passed": result.is_passed, **asdict(result)})


def _show(ctx: Context, result: AuditResult, bad: dict[PackId, str]) -> None:
    from coopfs.cli.progress import size_text
    from coopfs.cli.render import count, printable
    from coopfs.ids import short_hex

    for pack_id, problem in list(bad.items())[:BAD_SHOWN]:
        ctx.warn(printable(f"pack {short_hex(pack_id)}: {problem}"))
    if len(bad) > BAD_SHOWN:
        ctx.warn(f"and {len(bad) - BAD_SHOWN:,} more (--json has all)")
    ctx.echo(
        f"drew {count(result.samples, 'random block')} of {size_text(result.stored_len)} in "
        f"{count(result.packs, 'pack')}, and {count(result.extra, 'block')} of metadata and of "
        f"the newest packs; read {size_text(result.read_len)}"
    )
    if result.proved:
        ctx.echo(
            f"of {count(result.proved, 'pack')} the partner's server proved, without sending them, "
            "that it has every byte"
            if result.is_passed
            else f"asked the partner's server to prove that it has {count(result.proved, 'pack')}"
        )
    if result.is_passed:
        ctx.echo(
            f"all right: with {percent(result.confidence)} confidence less than "
            f"{percent(result.loss)} of the stored bytes are missing or damaged"
        )
        ctx.echo(
            "not shown: that nothing at all is missing (coopfs check --read-data shows that), or "
            "that the store's keeper does not fetch the data from elsewhere"
        )
        return
    ctx.echo(
        f"FAILED: {count(result.bad_packs, 'pack')} missing or damaged, "
        f"{result.bad_samples:,} of {result.samples:,} random blocks among them. The next snapshot "
        'stores again what its source still has; "coopfs check" names the files hurt meanwhile'
    )


def percent(share: float) -> str:
    """Return a share as people write it: 0.995 is "99.5 %"."""
    return f"{share * 100:.6g} %"
