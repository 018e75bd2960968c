"""What commands that take away share: the admin key, kept here or on its sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coopfs.cli.context import Context

if TYPE_CHECKING:
    from coopfs.archive.archive import Archive
    from coopfs.format.keys import SigningKey

_Function = TypeVar("_Function", bound=Callable[..., Any])


def admin_key_option(function: _Function) -> _Function:
    """Add --recovery-kit, for where the admin key is not kept on this machine."""
    return click.option(
        "--recovery-kit",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Use the admin key in FILE once, where it is not kept on this machine.",
    )(function)


def optional_admin_key(
    ctx: Context, archive: Archive, recovery_kit: Path | None
) -> SigningKey | None:
    """Return the admin key if it is at hand (WrongKey: another archive's; ConfigError)."""
    admin = archive.ring.admin()
    if admin is None and recovery_kit is not None:
        from coopfs.cli.keyinput import obtain_key
        from coopfs.ops.keys import check_admin_key

        admin = check_admin_key(archive, obtain_key(ctx, "admin", recovery_kit))
    return admin


def required_admin_key(
    ctx: Context, archive: Archive, recovery_kit: Path | None, what: str
) -> SigningKey:
    """Return the admin key; *what* begins the sentence that says who needs it (WrongKey).

    From then on the store, if it is a partner's, is used as the archive's owner.
    """
    from coopfs.ops.forget import checked_admin_key
    from coopfs.ops.owner import act_as_owner

    admin = checked_admin_key(archive, optional_admin_key(ctx, archive, recovery_kit), what)
    act_as_owner(archive.store, admin)
    return admin
