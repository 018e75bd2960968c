"""``coopfs key``: how the keys are kept, on this machine and, published, in the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coopfs.cli.adminkey import admin_key_option
from coopfs.cli.context import Context
from coopfs.errors import EXIT_DONE, EXIT_FAILED, ConfigError, NotFound, UsageError

if TYPE_CHECKING:
    from coopfs.archive.kit import Sheet
    from coopfs.ops.keys import KeyFacts

_KIT_HELP = "Read the admin key from the recovery kit in FILE, else ask for its words."


@click.group("key")
def command() -> None:
    """List the keys, change how they are kept, export the kit.

    The keys themselves never change, and nothing in the store does, but for a key that
    is published there on purpose.
    """


_NEW_PASSPHRASE_FILE = click.option(
    "--new-passphrase-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the new passphrase from FILE instead of asking for it.",
)


@command.command("list")
@click.pass_obj
def list_(ctx: Context) -> None:
    """List the archive's keys: which are here, which are wrapped, which are published.

    No secret is shown. The six words of a key are the same on every machine.
    """
    from coopfs.cli.render import table
    from coopfs.ops.keys import list_keys
    from coopfs.ops.publish import list_published

    with ctx.open_archive(refresh=False, may_be_away=True, is_for_reading=True) as archive:
        keys = list_keys(ctx.dirs, archive)
        published = None if archive.away else list_published(archive.store)
        settings = archive.settings
    if ctx.json:
        for key in keys:
            ctx.emit_json(_facts(key))
        for slot in published or ():
            facts = {"key": "published", "id": slot.name.hex(), "is_wrapped": True}
            ctx.emit_json({"type": "key", **facts})
        return
    rows = [
        (
            key.kind,
            str(key.path or "not on this machine"),
            "-" if key.path is None else "yes" if key.is_wrapped else "no",
            key.words or "-",
        )
        for key in keys
    ]
    rows += [
        ("archive", f"published: keys/{slot.name.hex()[:16]}", "yes", "-")
        for slot in published or ()
    ]
    ctx.echo(f"Archive {settings.name!r}, {settings.archive_id.hex()}")
    for line in table(("KEY", "WHERE", "PASSPHRASE", "SIX WORDS"), rows):
        ctx.echo(line)


# What somebody looks for who knows the other commands.
command.add_command(list_, "show")


def _facts(key: KeyFacts) -> dict[str, object]:
    return {
        "type": "key",
        "key": key.kind,
        "path": str(key.path) if key.path else None,
        "is_wrapped": key.is_wrapped,
        "public_key": key.public_key.hex() if key.public_key else None,
        "words": key.words,
    }


@command.command("passphrase")
@_NEW_PASSPHRASE_FILE
@click.option("--remove", is_flag=True, help="Keep the keys unwrapped from now on.")
@click.pass_obj
def passphrase(ctx: Context, new_passphrase_file: Path | None, remove: bool) -> None:
    """Change, set or remove the passphrase of the keys on this machine.

    The present one comes from the usual places. An empty new one removes it. Other
    machines keep theirs, and so does a published key.
    """
    from coopfs.cli.passphrase import ask_new, has_terminal
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
        return _from_file(new_passphrase_file, "to have no passphrase: --remove")

    settings = ctx.load_settings()
    written = change_passphrase(ctx.dirs, settings, ctx.passphrases, choose)
    if ctx.json:
        ctx.emit_json({"type": "key", "written": [str(path) for path in written]})
    for path in written:
        ctx.echo(f"{path}: written")


def _from_file(path: Path, if_empty: str) -> str:
    from coopfs.cli.passphrase import read_passphrase_file

    chosen = read_passphrase_file(path, "--new-passphrase-file")
    if not chosen:
        raise ConfigError(f"{path}: empty; {if_empty}")
    return chosen


@command.command("export")
@click.option(
    "--recovery-kit",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the kit to FILE, which must not exist, instead of showing it.",
)
@click.option(
    "--sheet",
    type=click.Choice(["archive", "admin"]),
    help="Only the sheet of this key (default: both).",
)
@click.pass_obj
def export(ctx: Context, recovery_kit: Path | None, sheet: Sheet | None) -> None:
    """Show the recovery kit again, with the keys that are on this machine.

    Works while the store cannot be reached. Whoever sees the kit has the keys.
    """
    from coopfs.archive.kept_config import known_config
    from coopfs.archive.kit import render_kit
    from coopfs.archive.words import key_words
    from coopfs.ops.init import make_kit, write_kit

    settings = ctx.load_settings()
    ring = ctx.load_keyring(settings)
    config = known_config(ctx.dirs, settings, ring.keys)
    if config is None:
        with ctx.open_archive(refresh=False) as archive:
            config = archive.config
    kit = make_kit(ctx.dirs, settings, config, ring)
    if kit.admin_key is None and sheet == "admin":
        raise NotFound(
            "the admin key is not on this machine, so its sheet cannot be made here; it was "
            'printed when the archive was made ("coopfs key online" reads it back from there)'
        )
    if recovery_kit is not None:
        write_kit(kit, recovery_kit, sheet)
    if ctx.json:
        facts = {"type": "recovery-kit", "archive_id": kit.archive_id.hex(), "store": kit.store}
        if recovery_kit is not None:
            facts["recovery_kit"] = str(recovery_kit)
        else:
            if sheet != "admin":
                facts["archive_key_words"] = " ".join(key_words(kit.archive_key))
            if kit.admin_key is not None and sheet != "archive":
                facts["admin_key_words"] = " ".join(key_words(kit.admin_key))
        ctx.emit_json(facts)
    elif recovery_kit is not None:
        ctx.echo(f"The recovery kit is in {recovery_kit}: print it, then delete the file.")
    else:
        ctx.echo(render_kit(kit, sheet=sheet, ansi=sys.stdout.isatty()))
    if kit.admin_key is None and sheet is None:
        ctx.warn(
            "the admin key is not on this machine: its sheet is not part of this kit; keep the "
            "one that was printed when the archive was made"
        )


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


@command.command("publish")
@_NEW_PASSPHRASE_FILE
@click.option("--generate", is_flag=True, help="Choose seven random words, and show them once.")
@click.pass_obj
def publish(ctx: Context, new_passphrase_file: Path | None, generate: bool) -> None:
    """Put the archive key into the store, wrapped with a passphrase of its own.

    "coopfs recover STORE --published" then needs that passphrase instead of the sheet
    of the archive key. But whoever keeps the store, or breaks into it, can try
    passphrases for as long as they like; and what they have once copied cannot be
    withdrawn. The admin key is never published.
    """
    from coopfs.ops.publish import check_strength, make_passphrase, publish_key

    if generate and new_passphrase_file:
        raise UsageError("--generate and --new-passphrase-file contradict each other")
    if generate:
        chosen = make_passphrase()
    elif new_passphrase_file:
        chosen = _from_file(new_passphrase_file, "expected a passphrase")
    else:
        chosen = _ask_published()
    check_strength(chosen)
    with ctx.open_archive(refresh=False) as archive:
        result = publish_key(archive, chosen)
        settings = archive.settings
    if ctx.json:
        facts = {"type": "published", "id": result.object_id.hex(), "is_new": result.is_new}
        facts |= {"others": result.others, "passphrase": chosen if generate else None}
        ctx.emit_json(facts)
    elif not result.is_new:
        ctx.echo("A key with this passphrase is published already; nothing was changed.")
    else:
        ctx.echo(
            f"The archive key is published as keys/{result.object_id.hex()[:16]}. With the "
            f"passphrase a new machine has the archive by\n\n"
            f"    coopfs recover {settings.shown_store} --published\n"
        )
        if settings.store.startswith("coop:"):
            ctx.echo(
                "The partner lets an unknown machine in by the admin key alone: its sheet is "
                "needed as well, by --recovery-kit.\n"
            )
    if generate and not ctx.json:
        click.echo(chosen)  # with --quiet too: it is said nowhere else
    if result.others:
        ctx.warn(
            f"published before, each with its own passphrase: {result.others}; "
            '"coopfs key list" shows them, "coopfs key withdraw ID" takes one away'
        )


def _ask_published() -> str:
    from coopfs.cli.passphrase import ask_new, has_terminal

    if not has_terminal():
        raise UsageError(
            "there is no terminal to ask for the passphrase to publish under; give it by "
            "--new-passphrase-file FILE, or have one made with --generate"
        )
    return ask_new(what="the published key (whoever keeps the store can try; better --generate)")


@command.command("withdraw")
@click.argument("ids", metavar="[ID]...", nargs=-1)
@admin_key_option
@click.pass_obj
def withdraw(ctx: Context, ids: tuple[str, ...], recovery_kit: Path | None) -> int:
    """Delete published keys from the store: those named, else all.

    Needs the right to delete there; at a partner's, the admin key.
    """
    from coopfs.cli.adminkey import optional_admin_key
    from coopfs.ops.owner import act_as_owner
    from coopfs.ops.publish import withdraw_keys

    with ctx.open_archive(refresh=False) as archive:
        admin = optional_admin_key(ctx, archive, recovery_kit)
        if admin is not None:
            act_as_owner(archive.store, admin)
        result = withdraw_keys(archive.store, ids)
    if ctx.json:
        ctx.emit_json(
            {
                "type": "withdrawn",
                "gone": [name.hex() for name in result.gone],
                "left": [name.hex() for name in result.left],
                "denial": result.denial or None,
            }
        )
    for name in result.gone:
        ctx.echo(f"keys/{name.hex()[:16]}: deleted")
    if result.denial:
        ctx.warn(
            f"the store does not let us delete ({result.denial}): what is published there stays, "
            "and opens with its passphrase"
        )
        return EXIT_FAILED
    ctx.echo(
        "Whoever copied a published key before, a store's trash included, still has it. Was its "
        "passphrase weak, or is it known: make a new archive, and snapshot into that one."
    )
    return EXIT_DONE
