"""``coopfs writer``: which hosts may write to the archive."""

from __future__ import annotations

import time
from pathlib import Path

import click

from coopfs.cli.context import Context


@click.group("writer")
def command() -> None:
    """Let another host write to the archive.

    On the new host run "coopfs writer request STORE", with the sheet of the archive
    key at hand; it can read the archive from then on, and prints a code. Where the
    admin key is, run "coopfs writer enrol CODE". From then on the new host can take
    snapshots. Neither machine has to reach the other.
    """


@command.command("request")
@click.argument("store")
@click.option("--host", help="This host's name in the archive (default: its host name).")
@click.option(
    "--recovery-kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the archive key from its sheet in FILE (default: standard input, or typed).",
)
@click.option("--no-passphrase", is_flag=True, help="Keep the keys unwrapped, and do not ask.")
@click.pass_obj
def request(
    ctx: Context, store: str, host: str | None, recovery_kit: Path | None, no_passphrase: bool
) -> None:
    """Set up the archive in STORE on this host, and print a code to enrol it.

    Asks for the 24 words of the archive key. The code is not secret. Repeated, the
    same code is printed again. Nothing is written into the store.
    """
    from coopfs.archive.settings import DEFAULT_NAME
    from coopfs.cli.cmd_init import default_host, no_passphrase_wanted
    from coopfs.cli.keyinput import obtain_key
    from coopfs.ops.writers import JoinRequest, join_archive

    result = join_archive(
        ctx.dirs,
        JoinRequest(ctx.archive_name or DEFAULT_NAME, store, host or default_host()),
        lambda: obtain_key(ctx, "archive", recovery_kit),
        no_passphrase_wanted if no_passphrase else ctx.passphrases.for_new_archive,
        ctx.passphrases,
    )
    settings = result.settings
    if ctx.json:
        ctx.emit_json(
            {
                "type": "writer-request",
                "archive": settings.name,
                "archive_id": settings.archive_id.hex(),
                "store": settings.shown_store,
                "host": settings.host,
                "code": result.code,
                "fingerprint": result.fingerprint,
                "is_new": result.is_new,
            }
        )
        return
    if result.is_new:
        ctx.echo(f"Archive {settings.name!r} can be read here now, as host {settings.host}.")
    ctx.echo(
        f"To let this host write, run this where the admin key is:\n\n"
        f"    coopfs writer enrol {result.code}\n\n"
        f"It must show the same six words as here:  {result.fingerprint}"
    )


@command.command("enrol")
@click.argument("code", nargs=-1, required=True)
@click.option("--again", is_flag=True, help="The host has a writer already and was set up anew.")
@click.option(
    "--recovery-kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use the admin key in FILE once, where it is not kept on this machine.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask whether the six words are the same.")
@click.pass_obj
def enrol(
    ctx: Context, code: tuple[str, ...], again: bool, recovery_kit: Path | None, yes: bool
) -> None:
    """Enrol the host whose "coopfs writer request" printed CODE. Needs the admin key.

    Compare the six words with those on the new host: a code swapped on its way would
    let somebody else write. Without a terminal they are not asked about.
    """
    import sys

    from coopfs.archive.words import key_fingerprint
    from coopfs.cli.keyinput import obtain_key
    from coopfs.errors import UsageError
    from coopfs.ops.keys import check_admin_key
    from coopfs.ops.writers import decode_request, enrol_writer

    wanted = decode_request("".join(code))
    with ctx.open_archive() as archive:
        admin = archive.ring.admin()
        if admin is None and recovery_kit is not None:
            admin = check_admin_key(archive, obtain_key(ctx, "admin", recovery_kit))
        is_asked = not yes and not ctx.json and sys.stdin.isatty() and admin is not None
        if is_asked:
            click.echo(f"Host {wanted.host} shows the words:  {wanted.fingerprint}", err=True)
            if not click.confirm("Are these the words on that host?", err=True):
                raise UsageError("not enrolled")
        record = enrol_writer(archive, wanted, admin=admin, again=again)
    words = key_fingerprint(record.public_key)
    if ctx.json:
        ctx.emit_json(
            {
                "type": "writer",
                "writer_id": record.writer_id.hex(),
                "host": record.host,
                "fingerprint": words,
            }
        )
    ctx.echo(f"Host {record.host} ({words}) may write to the archive now.")


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the hosts that write to the archive, and which of them are distrusted."""
    from coopfs.cli.render import table
    from coopfs.ids import short_hex
    from coopfs.ops.writers import list_writers

    with ctx.open_archive() as archive:
        writers = list_writers(archive)
    if ctx.json:
        for writer in writers:
            ctx.emit_json(
                {
                    "type": "writer",
                    "writer_id": writer.writer_id.hex(),
                    "host": writer.host,
                    "enrolled_ns": writer.enrolled_ns,
                    "fingerprint": writer.fingerprint,
                    "snapshots": writer.snapshots,
                    "is_this_host": writer.is_this_host,
                    "is_distrusted": writer.distrusted_ns is not None,
                    "distrusted_ns": writer.distrusted_ns,
                }
            )
        return
    rows = [
        (
            writer.host + ("*" if writer.is_this_host else ""),
            short_hex(writer.writer_id),
            _day(writer.enrolled_ns),
            str(writer.snapshots),
            "trusted"
            if writer.distrusted_ns is None
            else f"DISTRUSTED since {_day(writer.distrusted_ns)}",
            writer.fingerprint,
        )
        for writer in writers
    ]
    titles = ("HOST", "WRITER", "ENROLLED", "SNAPSHOTS", "STATE", "FINGERPRINT")
    for line in table(titles, rows, right="SNAPSHOTS"):
        ctx.echo(line)


def _day(time_ns: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(time_ns / 1e9))
