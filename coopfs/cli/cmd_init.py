"""``coopfs init``: make an archive in a store."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.format.chunker import ChunkerParams
    from coopfs.ops.init import InitResult

_SIZE = re.compile(r"(\d+)\s*([KM]?)(?:i?B)?\Z", re.IGNORECASE)


@click.command("init")
@click.argument("store")
@click.option(
    "--recovery-kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the recovery kit to FILE too; it must not exist yet.",
)
@click.option(
    "--chunk-size",
    metavar="AVG",
    help="Average size of chunks, such as 64K or 1M; fixed for the life of the archive.",
)
@click.option("--host", help="This host's name in the archive (default: its host name).")
@click.option("--no-passphrase", is_flag=True, help="Keep the keys unwrapped, and do not ask.")
@click.pass_obj
def command(
    ctx: Context,
    store: str,
    recovery_kit: Path | None,
    chunk_size: str | None,
    host: str | None,
    no_passphrase: bool,
) -> None:
    """Make a new archive in STORE, an empty or new folder, with its keys.

    The keys are kept on this machine, wrapped with a passphrase unless it is empty
    or --no-passphrase is given. The recovery kit shown at the end is the only other
    way to the archive: print it.

    With --archive NAME the archive gets another name here than "default".
    """
    from coopfs.archive.settings import DEFAULT_NAME
    from coopfs.ops.init import InitRequest, init_archive

    request = InitRequest(
        name=ctx.archive_name or DEFAULT_NAME,
        store=store,
        host=host or default_host(),
        chunker=_chunker(chunk_size),
        recovery_kit=recovery_kit,
    )
    new_passphrase = no_passphrase_wanted if no_passphrase else ctx.passphrases.for_new_archive
    result = init_archive(ctx.dirs, request, new_passphrase, ctx.passphrases)
    _show(ctx, result, recovery_kit)


def no_passphrase_wanted() -> None:
    """Stand for the answer to "what passphrase?" with --no-passphrase."""


def default_host() -> str:
    """Return this machine's host name as it may stand in a snapshot."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", socket.gethostname().split(".")[0]).strip(".-")
    return name[:128] or "localhost"


def _chunker(chunk_size: str | None) -> ChunkerParams:
    from coopfs.errors import UsageError
    from coopfs.format.chunker import AVG_DEFAULT, AVG_MAX, AVG_MIN, ChunkerParams

    if chunk_size is None:
        return ChunkerParams.for_average(AVG_DEFAULT)
    match = _SIZE.match(chunk_size.strip())
    size = int(match[1]) << {"": 0, "K": 10, "M": 20}[match[2].upper()] if match else 0
    if not AVG_MIN <= size <= AVG_MAX:
        raise UsageError(
            f"--chunk-size {chunk_size}: expected {AVG_MIN >> 10}K to {AVG_MAX >> 20}M"
        )
    return ChunkerParams.for_average(size)


def _show(ctx: Context, result: InitResult, recovery_kit: Path | None) -> None:
    from coopfs.archive.kit import render_kit
    from coopfs.archive.words import key_words

    settings, kit = result.settings, result.kit
    if ctx.json:
        facts: dict[str, object] = {
            "type": "init",
            "archive": settings.name,
            "archive_id": settings.archive_id.hex(),
            "store": settings.shown_store,
            "host": settings.host,
            "chunk_size": result.config.chunker.avg_len,
            "is_wrapped": result.is_wrapped,
            "is_resumed": result.is_resumed,
        }
        if recovery_kit is not None:
            facts["recovery_kit"] = str(recovery_kit)
        else:
            facts["archive_key_words"] = " ".join(key_words(kit.archive_key))
            if kit.admin_key is not None:
                facts["admin_key_words"] = " ".join(key_words(kit.admin_key))
        ctx.emit_json(facts)
        return
    if result.is_resumed:
        ctx.echo("An interrupted init was completed with the keys it had made.\n")
    ctx.echo(render_kit(kit, ansi=sys.stdout.isatty()))
    if recovery_kit is not None:
        ctx.echo(
            f"The recovery kit above is in {recovery_kit} too: print it, then delete the file."
        )
    else:
        ctx.echo(
            'Print this recovery kit, or copy the words by hand ("coopfs key export" repeats it).'
        )
    folder = ctx.dirs.archive_config(settings.name)
    ctx.echo(
        f"The keys are in {folder}, wrapped with the passphrase."
        if result.is_wrapped
        else f"The keys are in {folder}, NOT wrapped: whoever reads that folder has them."
    )
    ctx.echo(
        f"Archive {settings.name!r} is ready in {settings.shown_store}, for host {settings.host}."
    )
