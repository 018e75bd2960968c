"""``coopfs pair``: become partners, each with a store at the other's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.context import Context
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from coopfs.format.invitation import Endpoint
    from coopfs.ops.pairing import Paired, Terms
    from coopfs.server.settings import PartnerSettings
    from coopfs.store.partners import PartnerAccess

_WAITING_LISTEN = "0.0.0.0"  # noqa: S104 - what --listen :PORT means, as for any server


@click.group("pair")
def command() -> None:
    """Become partners with another machine: each keeps a store for the other.

    One side, which the other can reach, runs "coopfs pair invite" and passes the code
    it prints on: by a way that others do not read. The other runs "coopfs pair accept
    CODE". Both then show the same six words. Afterwards "coopfs serve" runs on both,
    and coop://NAME is a STORE for "coopfs init".
    """


def _shared_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options both sides have."""
    for option in (
        click.option("--quota", required=True, metavar="SIZE", help="What you keep: 600G, 2T."),
        click.option(
            "--retention",
            default="30d",
            show_default=True,
            metavar="TIME",
            help="How long what the partner deletes can be had back from you.",
        ),
        click.option(
            "--receive-rate", metavar="RATES", help="How fast the partner may upload, and when."
        ),
        click.option("--send-rate", metavar="RATES", help="How fast it may read, and when."),
        click.option("--name", help="What the partner is called here (default: as it says)."),
        click.option("--as", "own_name", help="What you call yourself (default: the host name)."),
        click.option(
            "--address",
            metavar="HOST:PORT",
            help="Where the partner reaches your server (default: what --listen says).",
        ),
        click.option(
            "--again",
            is_flag=True,
            help="The partner, or this machine, was set up anew: keep what is held for it.",
        ),
        click.option(
            "--root",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Folder of your server (as for coopfs serve).",
        ),
        click.option(
            "--recovery-kit",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Let this archive's owner in at the partner's; write the kit again to FILE.",
        ),
    ):
        function = option(function)
    return function


@command.command("invite")
@click.option("--listen", required=True, metavar="HOST:PORT", help="Where to wait.")
@click.option(
    "--waiting-at",
    metavar="HOST:PORT",
    help="Where the partner comes to be introduced (default: --address).",
)
@_shared_options
@click.pass_obj
def invite(ctx: Context, /, listen: str, waiting_at: str | None, **options: Any) -> None:
    """Print a code for the partner, and wait until it was used.

    The code is good for one partner and 24 hours; five wrong tokens end it. This
    command waits all the while. It must have the port alone: where coopfs serve runs
    already, stop it meanwhile, or wait at another port.
    """
    from coopfs.format.invitation import encode_invitation, parse_endpoint
    from coopfs.ops.pairing import invite as wait_for_partner
    from coopfs.ops.pairing import make_invitation

    bound = _listen_endpoint(listen)
    public = _public(options["address"], listen, bound)
    terms = _terms(ctx, public, **options)
    place = parse_endpoint(waiting_at, "--waiting-at") if waiting_at else public
    invitation = make_invitation(terms, place)
    code = encode_invitation(invitation)

    def show() -> None:
        if ctx.json:
            ctx.emit_json({"type": "invitation", "code": code, "expires_s": invitation.expires_s})
            return
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(invitation.expires_s))
        ctx.echo(
            f"On the partner's machine, once and until {until}:\n\n"
            f"    coopfs pair accept {code} \\\n"
            f"        --listen HOST:PORT --quota SIZE\n\n"
            "Whoever has this code first becomes the partner: pass it on where nobody else reads "
            f"it.\nWaiting at {invitation.endpoint} ..."
        )

    paired = wait_for_partner(
        ctx.dirs, terms, bound, invitation, show, lambda why: ctx.warn(f"sent away: {why}")
    )
    _finish(ctx, paired, bound, terms, options["recovery_kit"])


@command.command("accept")
@click.argument("code", nargs=-1, required=True)
@click.option("--listen", metavar="HOST:PORT", help="Where your server will listen.")
@click.option(
    "--dial",
    is_flag=True,
    help="Nobody reaches this machine: its server dials out to the partner's.",
)
@_shared_options
@click.pass_obj
def accept(
    ctx: Context, /, code: tuple[str, ...], listen: str | None, dial: bool, **options: Any
) -> None:
    """Go to the machine whose "coopfs pair invite" printed CODE, and become partners."""
    from coopfs.format.invitation import decode_invitation
    from coopfs.ops.pairing import accept as accept_invitation

    invitation = decode_invitation("".join(code))
    if dial and (listen or options["address"]):
        raise UsageError("--dial is for a machine nobody reaches: without --listen and --address")
    if not dial and not listen:
        raise UsageError(
            "say where your server will be reached with --listen HOST:PORT, or --dial if nobody "
            "can reach this machine"
        )
    bound = _listen_endpoint(listen) if listen else None
    public = None if listen is None or bound is None else _public(options["address"], listen, bound)
    terms = _terms(ctx, public, **options)
    paired = accept_invitation(ctx.dirs, terms, invitation)
    _finish(ctx, paired, bound, terms, options["recovery_kit"])


def _listen_endpoint(text: str) -> Endpoint:
    from coopfs.format.invitation import parse_endpoint

    return parse_endpoint(f"{_WAITING_LISTEN}{text}" if text.startswith(":") else text, "--listen")


def _public(address: str | None, listen: str, bound: Endpoint) -> Endpoint:
    from coopfs.format.invitation import parse_endpoint

    if address is not None:
        return parse_endpoint(address, "--address")
    if bound.host in (_WAITING_LISTEN, "::"):
        raise UsageError(
            f"--listen {listen} says no address that the partner could come to; "
            "add --address HOST:PORT"
        )
    return bound


def _terms(
    ctx: Context,
    endpoint: Endpoint | None,
    *,
    quota: str,
    retention: str,
    receive_rate: str | None,
    send_rate: str | None,
    name: str | None,
    own_name: str | None,
    root: Path | None,
    recovery_kit: Path | None,
    address: str | None,
    again: bool,
) -> Terms:
    from coopfs.bandwidth import Schedule
    from coopfs.cli.cmd_init import default_host
    from coopfs.cli.quantities import parse_days, parse_size
    from coopfs.format.invitation import check_partner_name
    from coopfs.ops.owner import owner_of
    from coopfs.ops.pairing import Terms, default_root

    del address
    own = check_partner_name(own_name or default_host())
    owners: tuple[str, ...] = ()
    if recovery_kit is not None:
        if recovery_kit.exists():
            raise UsageError(f"{recovery_kit}: exists already; it was not overwritten")
        owners = (owner_of(ctx.load_keyring(ctx.load_settings())).cert_pem,)
    return Terms(
        own_name=own,
        partner=check_partner_name(name) if name else None,
        endpoint=endpoint,
        quota=parse_size(quota, "--quota"),
        retention_days=parse_days(retention, "--retention"),
        root=root.absolute() if root else default_root(ctx.dirs),
        receive_rate=None if receive_rate is None else Schedule.parse(receive_rate).text,
        send_rate=None if send_rate is None else Schedule.parse(send_rate).text,
        owner_certificates=owners,
        is_again=again,
    )


def _finish(
    ctx: Context, paired: Paired, bound: Endpoint | None, terms: Terms, recovery_kit: Path | None
) -> None:
    from coopfs.cli.quantities import show_size

    access = paired.access
    if ctx.json:
        ctx.emit_json(
            {
                "type": "pair",
                "partner": access.name,
                "store": f"coop://{access.name}",
                "address": access.address,
                "pin": access.pin,
                "words": paired.words,
                "quota": access.quota,
                "retention_days": access.retention_days,
                "quota_granted": paired.granted.quota_bytes,
                "retention_days_granted": paired.granted.retention_days,
                "receive_rate": access.receive_rate,
                "send_rate": access.send_rate,
                "receive_rate_granted": paired.granted.receive_rate,
                "send_rate_granted": paired.granted.send_rate,
                "is_confirmed": paired.is_confirmed,
            }
        )
    ctx.echo(
        f"Partner {access.name!r} ({access.address}) keeps {show_size(access.quota or 0)} for you, "
        f"and what you delete for {access.retention_days} days.\n"
        f"You keep {show_size(paired.granted.quota_bytes)} for it.\n"
        f"{_rates(access, paired.granted)}\n"
        f"Both sides must show these six words:  {paired.words}\n"
        f'(if not: "coopfs partner remove {access.name}", and do it again)\n'
    )
    if not paired.is_confirmed:
        ctx.warn(
            "the line broke before the partner had confirmed; it may not know that all is done"
        )
    where = f" --listen {bound}" if bound else ""
    ctx.echo(
        f"Let this run here:  coopfs serve{where} --root {terms.root}\n"
        f"A store for you:    coopfs init coop://{access.name}"
    )
    if recovery_kit is not None:
        _write_kit(ctx, access.name, recovery_kit)


def _rates(access: PartnerAccess, granted: PartnerSettings) -> str:
    """Return, in whole lines, how fast who may do what, where there is a limit."""
    told = (
        ("You may upload at", access.receive_rate),
        ("You may read at", access.send_rate),
        ("It may upload at", granted.receive_rate),
        ("It may read at", granted.send_rate),
    )
    return "".join(f"{what} {rate}.\n" for what, rate in told if rate)


def _write_kit(ctx: Context, partner: str, path: Path) -> None:
    """Write the recovery kit again, with where the partner is."""
    from dataclasses import replace

    from coopfs.ops.init import make_kit, write_kit
    from coopfs.ops.owner import place_of

    with ctx.open_archive(refresh=False) as archive:
        kit = make_kit(ctx.dirs, archive.settings, archive.config, archive.ring)
    store = f"coop://{partner}"
    write_kit(replace(kit, store=store, partner=place_of(ctx.dirs, store)), path)
    ctx.echo(f"The recovery kit is in {path}: print it, then delete the file.")
