"""``coopfs key``: how the keys are kept on this machine."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from coopfs.cli.context import Context
from coopfs.errors import ConfigError, UsageError

_KIT_HELP = "Read the admin key from the recovery kit in FILE, else ask for its words."


@click.group("key")
def command() -> None:
    """Change, show or take away the keys on this machine.

    The keys themselves never change, and nothing in the store does.
    """


@command.command("passphrase")
@click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the new passphrase from FILE instead of asking for it.",
)
@click.option("--remove", is_flag=True, help="Keep the keys unwrapped from now on.")
@click.pass_obj
def passphrase(ctx: Context, new_passphrase_file: Path | None, remove: bool) -> None:
    """Change, set or remove the passphrase of the keys on this machine.

    The present one comes from the usual places. An empty new one removes it. Other
    machines keep theirs.
    """
    from coopfs.cli.passphrase import ask_new, has_terminal, read_passphrase_file
    from coopfs.ops.keys import change_passphrase

    if remove and new_passphrase_file:
        raise UsageError("--remove and --new-passphrase-file contradict each other")
    if not remove and not new_passphrase_file and not has_terminal():
        raise UsageError(
            "there is no terminal to ask for the new passphrase; give it by "
            "--new-passphrase-file FILE, or remove it with --remove"
        )

    def choose() -> str | None:
        if remove:
            return None
        if new_passphrase_file is None:
            return ask_new() or None
        chosen = read_passphrase_file(new_passphrase_file, "--new-passphrase-file")
        if not chosen:
            raise ConfigError(f"{new_passphrase_file}: empty; to have no passphrase: --remove")
        return chosen

    settings = ctx.load_settings()
    written = change_passphrase(ctx.dirs, settings, ctx.passphrases, choose)
    if ctx.json:
        ctx.emit_json({"type": "key", "written": [str(path) for path in written]})
    for path in written:
        ctx.echo(f"{path}: written")


@command.command("show")
@click.option(
    "--recovery-kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the kit to FILE, which must not exist, instead of showing it.",
)
@click.pass_obj
def show(ctx: Context, recovery_kit: Path | None) -> None:
    """Show the recovery kit again: the keys that are on this machine."""
    from coopfs.archive.kit import render_kit
    from coopfs.archive.words import key_words
    from coopfs.ops.init import make_kit, write_kit

    with ctx.open_archive(refresh=False) as archive:
        kit = make_kit(ctx.dirs, archive.settings, archive.config, archive.ring)
    if recovery_kit is not None:
        write_kit(kit, recovery_kit)
    if ctx.json:
        facts = {"type": "recovery-kit", "archive_id": kit.archive_id.hex(), "store": kit.store}
        if recovery_kit is not None:
            facts["recovery_kit"] = str(recovery_kit)
        else:
            facts["archive_key_words"] = " ".join(key_words(kit.archive_key))
            if kit.admin_key is not None:
                facts["admin_key_words"] = " ".join(key_words(kit.admin_key))
        ctx.emit_json(facts)
    elif recovery_kit is not None:
        ctx.echo(f"The recovery kit is in {recovery_kit}: print it, then delete the file.")
    else:
        ctx.echo(render_kit(kit, ansi=sys.stdout.isatty()))
    if kit.admin_key is None:
        ctx.warn("the admin key is not on this machine: its sheet is not part of this kit")


@command.command("offline")
@click.option("--recovery-kit", type=click.Path(path_type=Path), metavar="FILE", help=_KIT_HELP)
@click.pass_obj
def offline(ctx: Context, recovery_kit: Path | None) -> None:
    """Take the admin key off this machine, once its sheet is printed.

    Whoever hacks this machine can then neither enrol writers nor delete. The words
    of the sheet are asked for first, so that the key cannot be lost by this.
    """
    from coopfs.cli.keyinput import obtain_key
    from coopfs.ops.keys import take_admin_offline

    with ctx.open_archive(refresh=False) as archive:
        path = take_admin_offline(ctx.dirs, archive, obtain_key(ctx, "admin", recovery_kit))
    if ctx.json:
        ctx.emit_json({"type": "key", "deleted": [str(path)]})
    ctx.echo(f'{path}: deleted; "coopfs key online" brings it back from its sheet')
    if recovery_kit is not None:
        ctx.warn(f"{recovery_kit} still holds the admin key; delete that file too")


@command.command("online")
@click.option("--recovery-kit", type=click.Path(path_type=Path), metavar="FILE", help=_KIT_HELP)
@click.pass_obj
def online(ctx: Context, recovery_kit: Path | None) -> None:
    """Keep the admin key on this machine again, from its sheet."""
    from coopfs.cli.keyinput import obtain_key
    from coopfs.ops.keys import bring_admin_online

    with ctx.open_archive(refresh=False) as archive:
        path = bring_admin_online(
            ctx.dirs,
            archive,
            obtain_key(ctx, "admin", recovery_kit),
            lambda: ctx.passphrases("Passphrase for the admin key: "),
        )
    if ctx.json:
        ctx.emit_json({"type": "key", "written": [str(path)]})
    ctx.echo(f"{path}: written")
