"""From an address to a store: the one place that knows the schemes.

Addresses are listed in coopfs(1), "STORE".  Messages name the scheme only: what
follows it may hold a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from coopfs.errors import UsageError
from coopfs.store.base import Store
from coopfs.store.line import FREE_LINE, Line
from coopfs.store.local import LocalStore


@dataclass(frozen=True, slots=True)
class Scheme:
    """What is done with the addresses of one scheme; each gets the whole address."""

    check: Callable[[str], object]  # UsageError for a mistaken address; touches nothing
    open: Callable[[str], Store]  # as open_store(); may connect only when first used
    create: Callable[[str], Store]  # as create_store()


def _rest() -> Scheme:
    from coopfs.store import rest, restaddress

    return Scheme(restaddress.parse_address, rest.open_rest, rest.create_rest)


def _coop() -> Scheme:
    from coopfs.store import coop

    return Scheme(coop.check_coop, coop.open_coop, coop.create_coop)


def _rclone() -> Scheme:
    from coopfs.store import rclone

    return Scheme(rclone.check_rclone, rclone.open_rclone, rclone.create_rclone)


def _ftp() -> Scheme:
    from coopfs.store import ftp, ftpaddress

    return Scheme(ftpaddress.parse_ftp_address, ftp.ftp_store, ftp.create_ftp_store)


def _sftp() -> Scheme:
    from coopfs.store import sftp, sshchild

    return Scheme(sshchild.parse_sftp_address, sftp.sftp_store, sftp.create_sftp_store)


def _cloud() -> Scheme:
    from coopfs.store import cloud, cloudaddress

    return Scheme(cloudaddress.parse_cloud_address, cloud.CloudStore.open, cloud.CloudStore.create)


# One line a scheme, lower-case: what imports its module, only when it is needed, and
# says what is in there.  Folders are no business of this table.
SCHEMES: Final[dict[str, Callable[[], Scheme]]] = {
    "coop": _coop,
    "rclone": _rclone,
    "rest": _rest,  # "rest:https://…", as restic writes it
    "rest+http": _rest,
    "rest+https": _rest,
    "rest+http+unix": _rest,
    "ftp": _ftp,
    "ftps": _ftp,
    "sftp": _sftp,
    "s3": _cloud,
    "gs": _cloud,
    "az": _cloud,
}

# Schemes written with a colon alone: restic's and rclone's way.
PREFIXES: Final = frozenset({"rest", "rclone"})

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# Something before a colon before any slash: restic's "sftp:…", scp's "host:path".
_PREFIXED = re.compile(r"([^/:]+):(.*)", re.DOTALL)


def open_store(address: str, line: Line = FREE_LINE) -> Store:
    """Open the store at *address*: a path, or what coopfs(1) lists under "STORE".

    One elsewhere keeps to the pace of *line*.

    A store elsewhere may be connected to only when it is first used; what is raised here
    may then be raised by that first call.

    Raises:
        UsageError: no address, or one that this version cannot reach.
        NotAStore: nothing there, or something else.
        StoreError: it cannot be reached or looked at.
    """
    if scheme := _scheme_of(address):
        store = scheme.open(address)
        store.keep_to(line)
        return store
    return LocalStore(_local_path(address), address=address)


def create_store(address: str) -> Store:
    """Make a new, empty store at *address* and open it; its config is put later.

    Raises:
        UsageError: no address, or one that this version cannot reach.
        NotAStore: the place is taken by something that is not a store.
        StoreError: there is a store already, or it cannot be made.
    """
    if scheme := _scheme_of(address):
        return scheme.create(address)
    return LocalStore.create(_local_path(address), address=address)


def absolute_address(address: str) -> str:
    """Return *address* so that it means the same from every working directory.

    For what is kept in a configuration: a relative path becomes absolute, anything
    else stays as it is.

    Raises:
        UsageError: as :func:`open_store`.
    """
    if scheme := _scheme_of(address):
        scheme.check(address)
        return address
    path = _local_path(address)
    return address if _URL.fullmatch(address) else os.path.abspath(path)


def _scheme_of(address: str) -> Scheme | None:
    """Return the scheme *address* begins with; None: :func:`_local_path` knows more.

    Raises:
        UsageError: there is no address.
    """
    if not address or "\0" in address:
        raise UsageError("the address of a store is missing or has a NUL in it: give a folder")
    if url := _URL.fullmatch(address):
        load = SCHEMES.get(url[1].lower())
    else:
        prefix = address.partition(":")[0].lower()
        load = SCHEMES.get(prefix) if prefix in PREFIXES else None
    return load() if load else None


def _local_path(address: str) -> str:
    """Return the path that *address*, of no known scheme, names.

    Raises:
        UsageError: it names none.
    """
    if url := _URL.fullmatch(address):
        scheme, rest = url[1].lower(), url[2]
        if scheme == "file":
            return _file_url_path(rest)
        raise _unsupported(scheme)
    if prefixed := _PREFIXED.fullmatch(address):
        scheme = prefixed[1].lower()
        if scheme in (*SCHEMES, "file"):
            raise UsageError(
                f'the address begins with "{scheme}:"; expected "{scheme}://"; '
                f'a folder of that name is written "./{scheme}:…"'
            )
        raise UsageError(
            "the address has a colon before any slash: for a folder of that name write "
            '"./" before it, for another machine "sftp://USER@HOST/PATH"'
        )
    return os.path.expanduser(address) if address.startswith("~/") else address


def _unsupported(scheme: str) -> UsageError:
    known = ", ".join(name if name in PREFIXES else f"{name}://" for name in sorted(SCHEMES))
    return UsageError(
        f'unknown kind of store "{scheme}"; supported are folders (a path or file:///PATH), {known}'
    )


def _file_url_path(rest: str) -> str:
    host, slash, path = rest.partition("/")
    if not slash or host.lower() not in ("", "localhost"):
        raise UsageError("a file:// address names a folder of this machine: file:///absolute/path")
    path = unquote(slash + path, errors="surrogateescape")
    if "\0" in path:
        raise UsageError("a file:// address with a NUL in it names no folder")
    return path
