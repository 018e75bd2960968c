"""``coopfs recover``: back from nothing but the recovery kit and the store."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context
from coopfs.errors import UsageError

if TYPE_CHECKING:
    from coopfs.archive.kit import KitKeys, PartnerPlace
    from coopfs.ops.recover import Recovered


@click.command("recover")
@click.argument("store", required=False)
@click.option(
    "--recovery-kit",
    "kit_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Read the kit from FILE; twice for two sheets (default: standard input, or typed).",
)
@click.option(
    "--server",
    metavar="coop://HOST:PORT/NAME",
    help="Where the partner's server is, if not as the kit says.",
)
@click.option("--pin", metavar="HEX", help="The pin of its certificate, with --server.")
@click.option(
    "--published",
    is_flag=True,
    help='Use the key that "coopfs key publish" left in the store; asks for its passphrase.',
)
@click.option(
    "--only-this-host",
    is_flag=True,
    help="The lost machine was stolen or hacked: the partner lets no other of yours in.",
)
@click.option("--host", help="This host's name in the archive (default: its host name).")
@click.option("--no-passphrase", is_flag=True, help="Keep the keys unwrapped, and do not ask.")
@click.pass_obj
def command(
    ctx: Context,
    store: str | None,
    kit_files: tuple[Path, ...],
    server: str | None,
    pin: str | None,
    published: bool,
    only_this_host: bool,
    host: str | None,
    no_passphrase: bool,
) -> None:
    """Set up on this machine, from the recovery kit, what a lost one had.

    STORE is the store's address, as on the kit; it may be left out where the kit is
    read from a file. Afterwards snapshots can be listed, mounted, restored and taken.

    With --published a passphrase stands for the sheet of the archive key.
    """
    from coopfs.archive.settings import DEFAULT_NAME
    from coopfs.cli.cmd_init import default_host, no_passphrase_wanted
    from coopfs.cli.keyinput import obtain_kit
    from coopfs.ops.recover import RecoverRequest, recover

    otherwise = "; where the archive key was published with a passphrase, say --published"
    kit = obtain_kit(ctx, kit_files, is_published=published, otherwise=otherwise)
    address = store or kit.store
    if address is None:
        raise UsageError("STORE is missing: the address of the store, as the kit has it")
    request = RecoverRequest(
        name=ctx.archive_name or DEFAULT_NAME,
        store=address,
        host=host or default_host(),
        place=_place(kit, server, pin),
        archive_key=kit.archive_key,
        admin_key=kit.admin_key,
        is_only_writer=only_this_host,
    )
    new_passphrase: Callable[[], str | None]
    if no_passphrase:
        new_passphrase = no_passphrase_wanted
    elif kit.archive_key is None:
        # Asked for already: one passphrase is all that whoever lost everything must know.
        new_passphrase = partial(ctx.passphrases, "Passphrase: ")
    else:
        new_passphrase = ctx.passphrases.for_new_archive
    _show(ctx, recover(ctx.dirs, request, new_passphrase, ctx.passphrases, ctx.limits))


def _place(kit: KitKeys, server: str | None, pin: str | None) -> PartnerPlace | None:
    from coopfs.archive.kit import parse_place

    if server is None:
        if pin is not None:
            raise UsageError("--pin belongs to --server")
        return kit.partner
    if pin is None and kit.partner is None:
        raise UsageError("--server needs --pin: who answers there must be known")
    return parse_place(server, pin or (kit.partner.pin if kit.partner else ""))


def _show(ctx: Context, result: Recovered) -> None:
    from coopfs.archive.select import local_time
    from coopfs.cli.render import count

    settings, newest = result.settings, result.newest
    for warning in result.warnings:
        ctx.warn(warning)
    if ctx.json:
        ctx.emit_json(
            {
                "type": "recovered",
                "archive": settings.name,
                "archive_id": settings.archive_id.hex(),
                "store": settings.shown_store,
                "host": settings.host,
                "is_writer": result.is_writer,
                "snapshots": result.snapshots,
                "newest_ns": newest.facts.time_ns if newest else None,
                "newest_host": newest.facts.host if newest else None,
                "newest_series": newest.facts.series if newest else None,
                "newest_number": newest.facts.number if newest else None,
                "words": result.words,
            }
        )
        return
    ctx.echo(
        f"Archive {settings.name!r} in {settings.shown_store} is back, for host {settings.host}."
    )
    if newest is None:
        ctx.echo("There are no snapshots in it.")
    else:
        facts = newest.facts
        ctx.echo(
            f"{count(result.snapshots, 'snapshot')}; the newest is {facts.host}/{facts.series} "
            f"number {facts.number}, of {local_time(facts):%Y-%m-%d %H:%M:%S}.\n"
            'If another machine knows the archive: its "coopfs snapshots" must show these six '
            f"words too, or this store holds something back:\n\n    {result.words}\n"
        )
    if result.is_writer:
        ctx.echo(
            "This host may write to it. The admin key was used, and not kept here "
            '("coopfs key online" keeps it).'
        )
    else:
        ctx.echo(
            "Without the admin key this host can only read. To let it write, where that key is:"
            f"\n\n    coopfs writer enrol {result.code}"
        )
