"""``coopfs serve``: keep partners' stores here, and let nobody else near them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coopfs.cli.context import Context
from coopfs.cli.serve_held import held, import_, root_of, root_option, undelete
from coopfs.errors import CoopfsError, UsageError

if TYPE_CHECKING:
    from coopfs.server.listen import Listener


@click.group("serve", invoke_without_command=True)
@root_option
@click.option(
    "--listen",
    "partners",
    multiple=True,
    metavar="HOST:PORT",
    help="Where partners come to; may be repeated. Port 0 takes any.",
)
@click.option(
    "--http",
    "local",
    multiple=True,
    metavar="HOST:PORT|unix:PATH",
    help="Plain HTTP with tokens, for programs on this machine alone.",
)
@click.option(
    "--restic-listen",
    "restic",
    multiple=True,
    metavar="HOST:PORT",
    help="TLS for restic, with the certificate of --restic-certificate.",
)
@click.option(
    "--restic-certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate and key (PEM) that name this host, for --restic-listen.",
)
@click.option(
    "--metrics", multiple=True, metavar="HOST:PORT|unix:PATH", help="Figures for Prometheus."
)
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="What is going on may take this long after SIGTERM.",
)
@click.pass_context
def command(click_context: click.Context, /, root: Path | None, **options: Any) -> None:
    """Keep the stores of partners here, each apart from the others.

    Partners are made with "coopfs pair", or for other programs with "coopfs serve
    admit". The server runs in the foreground, until SIGTERM or SIGINT; on SIGHUP, and
    whenever a settings file changes, it reads its settings again.
    """
    if click_context.invoked_subcommand is None:
        _run(click_context.obj, _chosen(click_context.obj, root), **options)


def _run(
    ctx: Context,
    root: Path,
    /,
    restic_certificate: Path | None,
    grace: float,
    **addresses: tuple[str, ...],
) -> None:
    import logging
    from contextlib import ExitStack
    from functools import partial

    import trio

    from coopfs.identity import load_or_make_identity
    from coopfs.server.serve import IDENTITY_FILE, ServeOptions, Server

    if bool(addresses["restic"]) != (restic_certificate is not None):
        raise UsageError("--restic-listen and --restic-certificate go together")
    _log_to_terminal(ctx)
    identity = load_or_make_identity(root / IDENTITY_FILE)
    listeners = _listeners(addresses)
    with ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.sock.close)
        server = Server(
            ServeOptions(
                root=root,
                identity=identity,
                listeners=tuple(listeners),
                restic_certificate=restic_certificate,
                grace_s=grace,
            )
        )
        if not server.partners.desks:
            ctx.warn(f'{root} has no partners yet; make one with "coopfs pair"')
        logging.getLogger("coopfs.serve").info("this server's pin is %s", identity.pin)
        trio.run(server.run, partial(_tell, ctx, listeners, identity.pin))


def _tell(ctx: Context, listeners: list[Listener], pin: str) -> None:
    """Say that the server is ready, and where."""
    for listener in listeners:
        ctx.echo(f"listening on {listener.address} ({listener.purpose.value})")
        if ctx.json:
            ctx.emit_json(
                {
                    "type": "listening",
                    "purpose": listener.purpose.value,
                    "address": listener.address,
                    "pin": pin,
                }
            )


def _listeners(addresses: dict[str, tuple[str, ...]]) -> list[Listener]:
    import os

    from coopfs.server.listen import Purpose, inherited, listen

    listeners = inherited(os.environ)
    for purpose in Purpose:
        for address in addresses[purpose.name.lower()]:
            listeners += listen(address, purpose)
    if not listeners:
        raise UsageError("nowhere to listen: say --listen HOST:PORT, such as --listen :8765")
    return listeners


def _log_to_terminal(ctx: Context) -> None:
    import logging

    from coopfs.server.journal import log_to_stderr

    level = logging.DEBUG if ctx.verbosity else logging.WARNING if ctx.quiet else logging.INFO
    log_to_stderr(level)


@command.command("admit")
@click.argument("name")
@click.option(
    "--writer",
    "writers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate (PEM) of a key that may put, get and list.",
)
@click.option(
    "--admin",
    "admins",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Certificate (PEM) of a key that may delete, too.",
)
@click.option(
    "--without",
    "unwanted",
    multiple=True,
    metavar="PIN",
    help="Let the certificate of this SHA-256 (or its beginning) in no more.",
)
@click.option("--quota", metavar="SIZE", help="The most it may keep here: 600G, 2T.")
@click.option("--per-day", metavar="SIZE", help="The most it may put in a day.")
@click.option("--retention", metavar="TIME", help="How long what it deletes is kept: 30d.")
@click.option("--receive-rate", metavar="RATES", help="How fast it may upload, and when.")
@click.option("--send-rate", metavar="RATES", help="How fast it may read, and when.")
@root_option
@click.pass_obj
def admit(
    ctx: Context,
    /,
    name: str,
    root: Path | None,
    writers: tuple[Path, ...],
    admins: tuple[Path, ...],
    unwanted: tuple[str, ...],
    **limits: str | None,
) -> None:
    """Let NAME keep a store here, or change what it was granted.

    Certificates are added to those it has, or taken away with --without: a machine's that
    was lost, an owner's that let go. What no option speaks of stays as it is.
    Such as "10M, full 20:00-07:00, full sat-sun" are RATES, in bits a second: the
    last rule that matches the day and the hour holds.
    """
    from dataclasses import replace

    from coopfs.cli.quantities import parse_days, parse_size
    from coopfs.server.ownership import hand_over
    from coopfs.server.settings import change_partner, without_certificates

    changes: dict[str, Any] = {}
    if limits["quota"] is not None:
        changes["quota_bytes"] = parse_size(limits["quota"], "--quota")
    if limits["per_day"] is not None:
        changes["per_day_bytes"] = parse_size(limits["per_day"], "--per-day")
    if limits["retention"] is not None:
        changes["retention_days"] = parse_days(limits["retention"], "--retention")
    for rate in ("receive_rate", "send_rate"):
        if limits[rate] is not None:
            changes[rate] = limits[rate]
    added = [tuple(_read_certificate(path) for path in paths) for paths in (writers, admins)]
    chosen = _chosen(ctx, root)
    settings = change_partner(
        chosen,
        name,
        lambda old: replace(
            kept := without_certificates(old, unwanted),
            writers=tuple(dict.fromkeys((*kept.writers, *added[0]))),
            admins=tuple(dict.fromkeys((*kept.admins, *added[1]))),
            **changes,
        ),
    )
    hand_over(chosen, name)
    if ctx.json:
        ctx.emit_json(
            {
                "type": "admitted",
                "partner": settings.name,
                "writers": sorted(settings.writer_pins),
                "admins": sorted(settings.admin_pins),
                "quota_bytes": settings.quota_bytes,
            }
        )
    ctx.echo(
        f"Partner {name}: {len(settings.writers)} writers' certificates, "
        f"{len(settings.admins)} admins'."
    )


@command.command("token")
@click.argument("name")
@click.option("--admin", is_flag=True, help="The token may delete, too.")
@root_option
@click.pass_obj
def token(ctx: Context, /, name: str, admin: bool, root: Path | None) -> None:
    """Print a new token with which NAME comes in through --http.

    NAME is the user, the token the password. It is shown this once: what is kept here
    only recognises it. "coopfs serve admit" must have made the partner.
    """
    import hashlib
    import secrets
    from dataclasses import replace

    from coopfs.server.ownership import hand_over
    from coopfs.server.settings import change_partner, load_partner

    chosen = _chosen(ctx, root)
    load_partner(chosen, name)  # no partner comes to be by the way
    text = secrets.token_urlsafe(32)
    digest = hashlib.sha256(text.encode()).hexdigest()
    change_partner(
        chosen,
        name,
        lambda old: (
            replace(old, admin_tokens=(*old.admin_tokens, digest))
            if admin
            else replace(old, writer_tokens=(*old.writer_tokens, digest))
        ),
    )
    hand_over(chosen, name)
    if ctx.json:
        ctx.emit_json({"type": "token", "partner": name, "token": text})
    else:
        click.echo(text)


@command.command("confirm-clock")
@root_option
@click.pass_obj
def confirm_clock(ctx: Context, /, root: Path | None) -> None:
    """Say that this machine's clock is right, after it has jumped.

    Until then no trash is emptied. Nothing in a trash gets older by it.
    """
    from coopfs.ops.held import confirm_clock as confirm

    jump = confirm(root_of(ctx, root))
    if ctx.json:
        ctx.emit_json({"type": "clock", "was": None if jump is None else jump.describe()})
    ctx.echo("The clock was not in doubt." if jump is None else f"Confirmed: {jump.describe()}.")


command.add_command(held)
command.add_command(undelete)
command.add_command(import_)


def _chosen(ctx: Context, root: Path | None) -> Path:
    """Return the server's folder, made if need be."""
    from coopfs.dirs import make_private_folder

    chosen = root_of(ctx, root)
    make_private_folder(chosen)
    return chosen


def _read_certificate(path: Path) -> str:
    """Return the first certificate in *path* in PEM, without a key that may be beside it."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    try:
        text = path.read_text(encoding="ascii")
    except OSError as exc:
        raise CoopfsError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path}: not a certificate in PEM") from exc
    if begin not in text or end not in text:
        raise UsageError(f"{path}: no certificate in PEM in it ({begin} …)")
    return text[text.index(begin) : text.index(end) + len(end)] + "\n"
