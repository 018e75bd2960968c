"""``coopfs partner``: what partners hold for each other, and on which terms."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from coopfs.cli.context import Context
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from coopfs.ops.partnership import Partnership
    from coopfs.store.coopstatus import PartnerStatus

_root_option: Final = click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of your server (as for coopfs serve).",
)


@click.group("partner")
def command() -> None:
    """Show, change and end what partners hold for each other."""


@command.command("list")
@_root_option
@click.pass_obj
def list_(ctx: Context, root: Path | None) -> None:
    """List the partners: what each holds for the other, as far as is known here.

    Nobody is asked: "coopfs partner status" asks.
    """
    from coopfs.cli.render import table
    from coopfs.ops.partnership import list_partners

    partners = list_partners(ctx.dirs, _root(ctx, root))
    for partner in partners:
        if partner.problem:
            ctx.warn(f"partner {partner.name}: {partner.problem}")
    if ctx.json:
        for partner in partners:
            ctx.emit_json(_facts(partner))
        return
    if not partners:
        ctx.echo('There are no partners here; "coopfs pair" makes one.')
        return
    titles = ("PARTNER", "AT", "HOLDS", "OF", "LEFT", "HELD", "OF", "SEEN", "AUDIT", "CLOCK")
    rows = [_row(partner) for partner in partners]
    for line in table(titles, rows, right="HOLDS OF LEFT HELD CLOCK"):
        ctx.echo(line)


def _row(partner: Partnership) -> tuple[str, ...]:
    from coopfs.store.base import AUDIT_PASSED

    contact, access = partner.contact, partner.access
    usage, granted = partner.usage, partner.granted
    quota = contact.quota if contact.quota is not None or access is None else access.quota
    ahead = contact.clock_ahead_ms
    return (
        partner.name,
        access.address if access else "-",
        _size(contact.used),
        _quota(quota),
        _size(contact.left),
        _size(usage.used if usage else None),
        _quota(granted.quota_bytes if granted else None),
        _day(contact.time_ns),
        "FAILED" if contact.audit not in (None, AUDIT_PASSED) else _day(contact.audited_ns),
        "-" if ahead is None else f"{ahead / 1000:+.0f} s",
    )


def _size(size: int | None) -> str:
    from coopfs.cli.quantities import show_size

    return "-" if size is None else show_size(size)


def _quota(size: int | None) -> str:
    return "any" if size == 0 else _size(size)


def _day(time_ns: int | None) -> str:
    if time_ns is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_ns / 1e9))


def _facts(partner: Partnership) -> dict[str, Any]:
    from dataclasses import asdict

    access, granted = partner.access, partner.granted
    return {
        "type": "partner",
        "partner": partner.name,
        "store": f"coop://{partner.name}" if access else None,
        "address": str(access.endpoint) if access and access.endpoint else None,
        "dials_in": access is not None and access.endpoint is None,
        "pin": access.pin if access else None,
        "receive_rate": access.receive_rate if access else None,
        "send_rate": access.send_rate if access else None,
        "contact": asdict(partner.contact),
        "granted": {
            "quota": granted.quota_bytes,
            "per_day": granted.per_day_bytes,
            "retention_days": granted.retention_days,
            "receive_rate": granted.receive_rate,
            "send_rate": granted.send_rate,
            "keeps_until": granted.keeps_until or None,
        }
        if granted
        else None,
        "usage": asdict(partner.usage) if partner.usage else None,
        "problem": partner.problem or None,
    }


@command.command("status")
@click.argument("name")
@_root_option
@click.pass_obj
def status(ctx: Context, name: str, root: Path | None) -> None:
    """Ask the partner NAME what it holds for you, and show what you hold for it."""
    from dataclasses import asdict

    from coopfs.ops.partnership import ask_status, look_at, sum_receipts

    told = ask_status(name)
    partner = look_at(ctx.dirs, _root(ctx, root), name)
    signed = sum_receipts(ctx.dirs, name)
    if ctx.json:
        ctx.emit_json({**_facts(partner), "status": asdict(told), "receipts": asdict(signed)})
        return
    newest = f", the newest of {_day(signed.newest_ns)}" if signed.count else ""
    receipts = ("its receipts here", f"{signed.count:,}{newest}")
    for title, value in (*_told_rows(partner, told), receipts, *_held_rows(partner)):
        ctx.echo(f"{title:<22}{value}")


def _told_rows(partner: Partnership, told: PartnerStatus) -> list[tuple[str, str]]:
    ahead = partner.contact.clock_ahead_ms
    rows = [
        ("partner", f"{partner.name}, {partner.access.address if partner.access else '-'}"),
        ("it holds for you", f"{_size(told.used)} in {told.objects or 0:,} objects"),
        ("of", _quota(told.quota)),
        ("left", _size(told.left)),
        ("in its trash", f"{_size(told.trash_used)}, kept for {told.retention_days} days"),
        ("its clock", "-" if ahead is None else f"{ahead / 1000:+.1f} s from yours"),
        ("last audit", f"{_day(partner.contact.audited_ns)} {partner.contact.audit or ''}"),
    ]
    if told.receive_rate:
        rows.append(("you may upload at", told.receive_rate))
    if told.send_rate:
        rows.append(("you may read at", told.send_rate))
    if told.clock_jump:
        rows.append(("CLOCK IN DOUBT", told.clock_jump))
    if told.damaged:
        rows.append(("DAMAGED THERE", f"{told.damaged:,} objects; the next snapshot mends them"))
        rows += [("", finding) for finding in told.findings[:10]]
    if told.keeps_until:
        rows.append(("IT LEAVES", f"takes nothing new, keeps your data until {told.keeps_until}"))
    return rows


def _held_rows(partner: Partnership) -> list[tuple[str, str]]:
    granted, usage = partner.granted, partner.usage
    if granted is None or usage is None:
        return [("you hold for it", "nothing")]
    rows = [
        ("you hold for it", f"{_size(usage.used)} in {usage.objects:,} objects"),
        ("of", _quota(granted.quota_bytes)),
        ("in the trash here", f"{_size(usage.trash_used)}, kept for {granted.retention_days} days"),
    ]
    if granted.receive_rate:
        rows.append(("it may upload at", granted.receive_rate))
    if granted.send_rate:
        rows.append(("it may read at", granted.send_rate))
    if granted.keeps_until:
        rows.append(("you leave", f"its data stays until {granted.keeps_until}"))
    return rows


@command.command("receipts")
@click.argument("name")
@click.argument("objects", nargs=-1, metavar="[OBJECT]...")
@click.option("--since", metavar="DATE", help='Only of since then: 2026-11-23, "2026-11-23 04:28".')
@click.pass_obj
def receipts(ctx: Context, name: str, objects: tuple[str, ...], since: str | None) -> None:
    """Show what the partner NAME has signed: which objects it has taken, and when.

    For a dispute: with --json also the receipts as they were sent, and the key that
    signed them. OBJECT is a name as messages show it, or its beginning.
    """
    from coopfs.cli.quantities import parse_since, show_size
    from coopfs.cli.render import table
    from coopfs.ops.partnership import read_receipts

    since_ns = None if since is None else parse_since(since, "--since")
    found = read_receipts(ctx.dirs, name, objects, since_ns)
    if ctx.json:
        for signed in found:
            ctx.emit_json(
                {
                    "type": "receipt",
                    "kind": signed.receipt.kind,
                    "name": signed.receipt.name.hex(),
                    "size": signed.receipt.size,
                    "time_ns": signed.receipt.time_ns,
                    "receipt": signed.data.hex(),
                    "public_key": signed.public_key.hex(),
                }
            )
        return
    if not found:
        ctx.echo(f"There is no such receipt of partner {name}.")
        return
    rows = [
        (
            _day(signed.receipt.time_ns),
            show_size(signed.receipt.size),
            f"{signed.receipt.kind}/{signed.receipt.name.hex()}",
        )
        for signed in found
    ]
    for line in table(("TAKEN", "SIZE", "OBJECT"), rows, right="SIZE"):
        ctx.echo(line)


@command.command("set")
@click.argument("name")
@click.option("--quota", metavar="SIZE", help="The most it may keep here.")
@click.option("--per-day", metavar="SIZE", help="The most it may put in a day.")
@click.option("--retention", metavar="TIME", help="How long its trash here is kept; may only grow.")
@click.option("--receive-rate", metavar="RATES", help="How fast it may upload, and when.")
@click.option("--send-rate", metavar="RATES", help="How fast it may read, and when.")
@click.option("--address", metavar="HOST:PORT", help="Where its server is from now on.")
@click.option(
    "--ask-retention",
    metavar="TIME",
    help="Have it keep your trash so long; takes your archive's admin key.",
)
@_root_option
@click.pass_obj
def set_(
    ctx: Context,
    /,
    name: str,
    root: Path | None,
    ask_retention: str | None,
    address: str | None,
    **limits: str | None,
) -> None:
    """Change the terms with the partner NAME; they hold within seconds.

    RATES are bits a second and when, such as "10M, full 20:00-07:00, full sat-sun".
    """
    from coopfs.cli.quantities import parse_days, parse_size
    from coopfs.format.invitation import parse_endpoint
    from coopfs.ops.owner import lend_owner
    from coopfs.ops.partnership import Change, change_terms, raise_retention

    quota, per_day, retention = limits["quota"], limits["per_day"], limits["retention"]
    change = Change(
        quota=parse_size(quota, "--quota") if quota else None,
        per_day=parse_size(per_day, "--per-day") if per_day else None,
        retention_days=parse_days(retention, "--retention") if retention else None,
        receive_rate=limits["receive_rate"],
        send_rate=limits["send_rate"],
        endpoint=parse_endpoint(address, "--address") if address else None,
    )
    if change == Change() and ask_retention is None:
        raise UsageError("say what to change: --quota, --retention, --address, ...")
    change_terms(ctx.dirs, _root(ctx, root), name, change)
    if change != Change():
        ctx.echo(f"Partner {name}: changed.")
    if ask_retention is not None:
        days = parse_days(ask_retention, "--ask-retention")
        ring = ctx.load_keyring(ctx.load_settings())
        agreed = raise_retention(name, days, lambda store: lend_owner(store, ring))
        ctx.echo(f"Partner {name} keeps what you delete for {agreed} days.")
    if ctx.json:
        ctx.emit_json({"type": "partner-set", "partner": name})


@command.command("undelete")
@click.argument("name")
@click.option(
    "--since",
    metavar="DATE",
    help='Only what was deleted since: 2026-11-23 or "2026-11-23 04:28" (default: all).',
)
@click.pass_obj
def undelete(ctx: Context, name: str, since: str | None) -> None:
    """Have back what was deleted at the partner NAME's, while it is in the trash there."""
    from coopfs.cli.quantities import parse_since, show_size
    from coopfs.ops.partnership import undelete as undelete_there

    since_ns = None if since is None else parse_since(since, "--since")
    restored = undelete_there(name, since_ns)
    if ctx.json:
        ctx.emit_json({"type": "undeleted", "objects": restored.objects, "bytes": restored.size})
    ctx.echo(f"{restored.objects:,} objects, {show_size(restored.size)}, are back from the trash.")
    if restored.objects:
        ctx.echo(
            'What a prune had deleted is in no index yet: run "coopfs repair" now, or snapshots '
            "that came back cannot be read, and a prune refuses."
        )


@command.command("leave")
@click.argument("name")
@click.option(
    "--notice", default="30d", show_default=True, metavar="TIME", help="How long its data stays."
)
@_root_option
@click.pass_obj
def leave(ctx: Context, name: str, notice: str, root: Path | None) -> None:
    """Take nothing new from the partner NAME, and keep its data for the agreed notice.

    Its next contact tells it so. Afterwards "coopfs partner remove --delete-data".
    """
    from coopfs.cli.quantities import parse_days
    from coopfs.ops.partnership import leave as give_notice

    until = give_notice(_root(ctx, root), name, parse_days(notice, "--notice"))
    if ctx.json:
        ctx.emit_json({"type": "leaving", "partner": name, "keeps_until": until.isoformat()})
    ctx.echo(f"Partner {name} can put nothing new here; what it has stays until {until}.")


@command.command("remove")
@click.argument("name")
@click.option("--delete-data", is_flag=True, help="Delete what it keeps here, for good.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, whatever speaks against it.")
@_root_option
@click.pass_obj
def remove(ctx: Context, name: str, delete_data: bool, yes: bool, root: Path | None) -> None:
    """End the partnership with NAME: neither comes to the other any more.

    What it keeps here stays on the disk, unless --delete-data is given.
    """
    from coopfs.ops.partnership import check_removable
    from coopfs.ops.partnership import remove as end_partnership

    chosen = _root(ctx, root)
    doubts = check_removable(ctx.dirs, chosen, name, with_data=delete_data)
    _ask_about(ctx, name, doubts, "End the partnership all the same?", yes=yes)
    end_partnership(ctx.dirs, chosen, name, with_data=delete_data)
    if ctx.json:
        ctx.emit_json({"type": "removed", "partner": name, "data_deleted": delete_data})
    ctx.echo(f"Partner {name} is none any more.")


@command.command("disown")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, whatever speaks against it.")
@click.pass_obj
def disown(ctx: Context, name: str, yes: bool) -> None:
    """Be the owner of what lies at the partner NAME's no longer.

    Takes the admin key. The next archive that is made there makes its own owner known.
    """
    from coopfs.ops.owner import give_up_ownership
    from coopfs.ops.partnership import archives_at
    from coopfs.ops.partnership import disown as disown_there

    ring = ctx.load_keyring(ctx.load_settings())
    doubts = [
        f"the archive {archive!r} lies there, and any machine that may write there can make "
        "itself its owner then, and delete"
        for archive in archives_at(ctx.dirs, name)
    ]
    _ask_about(ctx, name, doubts, "Let it go all the same?", yes=yes)
    disown_there(name, lambda store: give_up_ownership(store, ring))
    if ctx.json:
        ctx.emit_json({"type": "disowned", "partner": name})
    ctx.echo(f"Partner {name} knows this archive's owner no longer.")


def _ask_about(ctx: Context, name: str, doubts: list[str], question: str, *, yes: bool) -> None:
    """Go on if nothing speaks against it, or the user says so (UsageError: not)."""
    if not doubts or yes:
        return
    text = "; ".join(doubts)
    if not sys.stdin.isatty() or ctx.json:
        raise UsageError(f"{name}: {text}; say --yes to do it all the same")
    click.echo(f"{name}: {text}", err=True)
    if not click.confirm(question, err=True):
        raise UsageError("nothing was changed")


def _root(ctx: Context, root: Path | None) -> Path:
    from coopfs.ops.pairing import default_root

    return root.absolute() if root else default_root(ctx.dirs)
