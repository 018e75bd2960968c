"""What every command has at hand: folders, the archive, and how to talk.

Made by ``main``, filled by the global options, passed with ``@click.pass_obj``.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported when first used: `coopfs --help` needs none of it
    from coopfs.archive.archive import Archive
    from coopfs.archive.keyring import KeyRing
    from coopfs.archive.line import Limits
    from coopfs.archive.settings import ArchiveSettings
    from coopfs.cli.passphrase import Passphrases
    from coopfs.cli.progress import ProgressReport
    from coopfs.dirs import Dirs


@dataclass(eq=False)
class Context:
    """The global options and what follows from them."""

    archive_name: str | None = field(default_factory=lambda: os.environ.get("COOPFS_ARCHIVE"))
    store_name: str | None = field(default_factory=lambda: os.environ.get("COOPFS_STORE"))
    json: bool = False  # machine-readable: JSON lines on stdout, nothing else there
    quiet: bool = False  # errors and warnings only
    verbosity: int = 0
    passphrase_file: Path | None = None
    limit_upload: str | None = field(
        default_factory=lambda: os.environ.get("COOPFS_LIMIT_UPLOAD") or None
    )
    limit_download: str | None = field(
        default_factory=lambda: os.environ.get("COOPFS_LIMIT_DOWNLOAD") or None
    )
    _progress: ProgressReport | None = None

    @cached_property
    def dirs(self) -> Dirs:
        """Where config, state and cache are."""
        from coopfs.dirs import Dirs

        return Dirs.from_environment()

    @cached_property
    def passphrases(self) -> Passphrases:
        """Where the passphrase comes from; asked once."""
        from coopfs.cli.passphrase import Passphrases

        return Passphrases(self.passphrase_file)

    @property
    def limits(self) -> Limits:
        """How fast lines may be used in this run, where the settings do not decide."""
        from coopfs.archive.line import Limits

        return Limits(self.limit_upload, self.limit_download)

    def load_settings(self) -> ArchiveSettings:
        """Read the settings of the chosen archive (NoArchive, ConfigError, UsageError)."""
        from coopfs.archive.settings import load_settings

        return load_settings(self.dirs, self.archive_name or None)

    def load_keyring(self, settings: ArchiveSettings) -> KeyRing:
        """Read this host's keys, with the passphrase if need be (WrongKey, ConfigError)."""
        from coopfs.archive.keyring import load_keyring

        return load_keyring(self.dirs, settings, self.passphrases)

    def open_archive(
        self,
        *,
        refresh: bool = True,
        memory_len: int | None = None,
        may_be_away: bool = False,
        is_for_reading: bool = False,
        is_uncached: bool = False,
        goes_first: bool | None = None,
    ) -> Archive:
        """Open the chosen archive; with *refresh* also take in what is new in the store.

        With *may_be_away* a store that cannot be reached is a warning, and what is known of
        the archive here is what there is.

        With *is_for_reading* a copy of the archive will do, if one was chosen by --store.
        With *is_uncached* every block is fetched from the store.
        With *goes_first* (default: as *may_be_away*) somebody waits for what is read, and
        uploads of other commands make way.

        *memory_len* bounds the decoded blocks kept in memory, in bytes.  What the
        refresh found and did not stop for is shown as warnings.

        Raises:
            NoArchive, WrongKey, NotAStore, StoreError, DataError: see ``Archive.open``.
            UsageError: a copy was chosen, and this command changes the archive.
        """
        from coopfs.store.retry import BROWSE_TIMEOUT_S, TIMEOUT_VARIABLE

        if may_be_away:
            # Somebody is looking (or a program waits for the mount, and nobody sees for what).
            os.environ.setdefault(TIMEOUT_VARIABLE, str(BROWSE_TIMEOUT_S))
        settings = self._aimed(self.load_settings(), is_for_reading=is_for_reading)
        ring = self.load_keyring(settings)
        return self.open_with(
            settings,
            ring,
            refresh=refresh,
            memory_len=memory_len,
            may_be_away=may_be_away,
            is_uncached=is_uncached,
            goes_first=may_be_away if goes_first is None else goes_first,
        )

    def _aimed(self, settings: ArchiveSettings, *, is_for_reading: bool) -> ArchiveSettings:
        if not self.store_name:
            return settings
        aimed = settings.aimed_at(self.store_name)
        if aimed.is_in_copy and not is_for_reading:
            from coopfs.errors import UsageError

            raise UsageError(
                f"--store {self.store_name}: holds a copy of the archive, which is for reading: "
                'change the archive where it is, then "coopfs copy" brings the copy up to date'
            )
        return aimed

    def open_with(
        self,
        settings: ArchiveSettings,
        ring: KeyRing,
        *,
        refresh: bool = True,
        memory_len: int | None = None,
        may_be_away: bool = False,
        is_uncached: bool = False,
        goes_first: bool = False,
    ) -> Archive:
        """Open the archive that *settings* and *ring* describe; see :meth:`open_archive`."""
        from coopfs.archive.archive import Archive
        from coopfs.archive.line import open_line
        from coopfs.store.open import open_store

        limits = {} if memory_len is None else {"memory_len": memory_len}
        line = open_line(self.dirs, settings, self.limits, goes_first=goes_first)
        store = open_store(settings.store, line)
        if settings.store.startswith("coop:"):
            from coopfs.ops.owner import lend_owner

            lend_owner(store, ring)
        try:
            archive = Archive.open(
                self.dirs,
                settings,
                ring,
                store,
                **limits,
                may_be_away=may_be_away,
                is_uncached=is_uncached,
            )
        except BaseException:
            store.close()
            raise
        try:
            if archive.away:
                self.warn(f"{archive.away}; showing what was known before")
            elif refresh:
                archive.refresh()
                for warning in archive.warnings:
                    self.warn(warning)
                self._warn_if_behind(archive)
        except BaseException:
            archive.close()
            raise
        return archive

    def _warn_if_behind(self, archive: Archive) -> None:
        """Say so when a copy does not have the newest of what the archive is known to have."""
        if not archive.settings.is_in_copy:
            return
        from coopfs.ops.stores import what_is_behind

        behind = what_is_behind(self.dirs, archive)
        if behind:
            self.warn(
                f"{archive.store.address}: the copy is behind: it has {'; '.join(behind[:3])}"
                f"{' and others' if len(behind) > 3 else ''}"
            )

    # --- talking ----------------------------------------------------------------

    def echo(self, text: str = "") -> None:
        """Print what the command is for, a line on stdout; nothing with --json or -q."""
        if not self.json and not self.quiet:
            self._print(text, sys.stdout)

    def info(self, text: str) -> None:
        """Print a remark on stderr, with -v only."""
        if self.verbosity and not self.quiet:
            self._print_safely(text)

    def warn(self, text: str) -> None:
        """Print a warning on stderr, always."""
        self._print_safely(f"coopfs: warning: {text}")

    def _print_safely(self, text: str) -> None:
        """Print what may name files, or repeat what a server has said: both may be anybody's."""
        from coopfs.ops.wording import printable_lines

        self._print(printable_lines(text), sys.stderr)

    def emit_json(self, value: dict[str, Any]) -> None:
        """Print *value* as one JSON line on stdout, whole and at once."""
        import json

        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    def _print(self, text: str, stream: Any) -> None:
        if self._progress is not None and self._progress.print_above(text, stream):
            return
        stream.write(text + "\n")
        stream.flush()

    def progress(self, verb: str) -> ProgressReport:
        """Return the progress display that suits where the output goes.

        A bar on a terminal; elsewhere nothing, or with -v a line now and then; JSON
        lines with --json; nothing with -q.  *verb* says what is going on ("reading").
        Use it as a context manager, or close it.
        """
        from coopfs.cli.progress import make_progress

        self._progress = make_progress(self, verb)
        return self._progress
