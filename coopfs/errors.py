"""Every error coopfs raises on purpose: one root, one table.

Owns the mapping from a kind of failure to the command's exit code (restic's
numbers, which scripts already know) and to the errno a mount answers with.
Only ``cli/main.py`` and ``view/fuse.py`` catch :class:`CoopfsError` to report it.
"""

from __future__ import annotations

import errno

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOURCES_UNREADABLE = 3  # the snapshot was taken, but some sources could not be read
EXIT_NO_ARCHIVE = 10
EXIT_WRONG_KEY = 12
EXIT_INTERRUPTED = 130


class CoopfsError(Exception):
    """Base of every error coopfs raises on purpose."""

    exit_code = EXIT_FAILED
    errno = errno.EIO


class UsageError(CoopfsError):
    """What was asked for makes no sense as asked (a bad option, name or pattern)."""

    exit_code = EXIT_USAGE
    errno = errno.EINVAL


class ConfigError(CoopfsError):
    """A file in the config directory cannot be used as it is."""


class NoArchive(CoopfsError):
    """There is no archive where one was expected (locally or in the store)."""

    exit_code = EXIT_NO_ARCHIVE
    errno = errno.ENOENT


class WrongKey(CoopfsError):
    """A key, passphrase or archive that does not belong to what it was used on."""

    exit_code = EXIT_WRONG_KEY
    errno = errno.EACCES


class Interrupted(CoopfsError):
    """Stopped by SIGINT or SIGTERM; what was durable stays and is not done again."""

    exit_code = EXIT_INTERRUPTED
    errno = errno.EINTR


class NotFound(CoopfsError):
    """No such snapshot, or no such path in a snapshot."""

    errno = errno.ENOENT


class StateBusy(CoopfsError):
    """Another run holds a local lock (one run of a series at a time on one host)."""

    errno = errno.EBUSY


class MountError(CoopfsError):
    """A mount cannot be made or unmade; the message says what is missing."""


# --- the partner or the line -------------------------------------------------


class StoreError(CoopfsError):
    """The store refused or failed; the message names the object."""


class StoreUnavailable(StoreError):
    """Temporary: no route, refused, timed out.  Retried, then reported."""

    errno = errno.EHOSTDOWN


class StoreFull(StoreError):
    """No room left at the store (disk or quota).  Nothing half-written stays."""

    errno = errno.ENOSPC


class StoreDenied(StoreError):
    """The store is there but does not let us do this."""

    errno = errno.EACCES


class StoreIdentity(StoreError):
    """Not the machine that was expected (host key, certificate).  Nothing was sent."""

    errno = errno.EACCES


class NotAStore(StoreError):
    """The address exists but holds something that is not a coopfs store."""

    exit_code = EXIT_NO_ARCHIVE


class ObjectNotFound(StoreError):
    """The store has no object of that name."""


# --- damage or tampering: never retried --------------------------------------


class DataError(CoopfsError):
    """Stored bytes are damaged, forged or not what their name says."""


class ObjectCorrupt(DataError):
    """An object is truncated, altered or malformed."""


class ObjectKeyMismatch(ObjectCorrupt, WrongKey):
    """An object does not open with the archive's key: another archive's, or a damaged header.

    Both, as one cannot be told from the other: readers that go on past damage go on.
    """

    errno = errno.EIO


class SignatureInvalid(DataError):
    """A signature is missing, wrong, or by a writer who is not enrolled."""


class ChunkCorrupt(DataError):
    """A chunk's tag or id does not match; no unverified byte was returned."""


class ChunkMissing(DataError):
    """The index has no location for a chunk (or every location has failed)."""


class FormatUnsupported(DataError):
    """Written by a newer coopfs: unknown version, role, codec or critical key."""


class Rollback(DataError):
    """The store shows less than it has shown before."""
