"""Where a passphrase comes from, in the order coopfs(1), "Passphrase", promises.

Asked for only when a key file is wrapped, and once a run.  Never logged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from coopfs.errors import ConfigError, UsageError

PASSPHRASE_MAX: Final = 64 << 10  # bytes; more is the wrong file
CREDENTIAL_NAME: Final = "coopfs-passphrase"  # LoadCredential=coopfs-passphrase:FILE
COMMAND_TIMEOUT_S: Final = 120  # a password manager may ask for its own passphrase first
TRIES: Final = 3  # at the terminal, for a new passphrase typed differently

_WHERE = (
    "--passphrase-file FILE, COOPFS_PASSPHRASE_FILE, COOPFS_PASSPHRASE_COMMAND, "
    f'COOPFS_PASSPHRASE, or a systemd credential "{CREDENTIAL_NAME}"'
)


class Passphrases:
    """Finds the passphrase; a call gives the one in use (what the key ring asks for)."""

    def __init__(self, file: Path | None = None, environ: Mapping[str, str] | None = None) -> None:
        """*file* is --passphrase-file's; nothing is read yet."""
        self._file = file
        self._environ = os.environ if environ is None else environ
        self._found: str | None = None

    def __call__(self, prompt: str) -> str:
        """Return the passphrase in use, from a source or else the terminal.

        Raises:
            ConfigError: the source cannot be read.
            UsageError: there is neither a source nor a terminal.
        """
        if self._found is None:
            self._found = self.from_sources()
        if self._found is None:
            if not has_terminal():
                raise UsageError(
                    "the key is wrapped with a passphrase, and there is no terminal to ask on; "
                    f"give it by {_WHERE}"
                )
            self._found = _ask(prompt)
        return self._found

    def for_new_archive(self) -> str | None:
        """Return the passphrase to wrap new keys with; None: leave them unwrapped.

        Raises:
            ConfigError: a source cannot be read, or is empty.
            UsageError: nobody can be asked.
        """
        passphrase = self.from_sources()
        if passphrase is not None:
            if not passphrase:
                raise ConfigError("the passphrase is empty; for unwrapped keys: --no-passphrase")
        elif has_terminal():
            passphrase = ask_new()
        else:
            raise UsageError(
                "shall the keys be wrapped with a passphrase? There is no terminal to ask on: "
                f"give one by {_WHERE}; or, for a host that works unattended, say --no-passphrase "
                "(the keys are then kept as they are, readable by their owner only)"
            )
        self._found = passphrase
        return passphrase or None

    def from_sources(self) -> str | None:
        """Return the passphrase without asking anybody; None: no source is set."""
        environ = self._environ
        if self._file is not None:
            return read_passphrase_file(self._file, "--passphrase-file")
        if path := environ.get("COOPFS_PASSPHRASE_FILE"):
            return read_passphrase_file(Path(path), "COOPFS_PASSPHRASE_FILE")
        if command := environ.get("COOPFS_PASSPHRASE_COMMAND"):
            return _run(command)
        if passphrase := environ.get("COOPFS_PASSPHRASE"):
            return passphrase
        if folder := environ.get("CREDENTIALS_DIRECTORY"):
            credential = Path(folder) / CREDENTIAL_NAME
            if credential.exists():
                return read_passphrase_file(credential, "systemd credential")
        return None


def read_passphrase_file(path: Path, what: str) -> str:
    """Return the passphrase in *path*: its content without the line end (ConfigError)."""
    try:
        with path.open("rb") as file:
            data = file.read(PASSPHRASE_MAX + 1)
            status = os.fstat(file.fileno())
    except OSError as exc:
        raise ConfigError(f"{what}: {path}: cannot be read: {exc.strerror}") from exc
    if stat.S_ISREG(status.st_mode) and not data:
        raise ConfigError(f"{what}: {path} is empty; expected a passphrase")
    return _first_line(data, f"{what}: {path}")


def _first_line(data: bytes, what: str) -> str:
    if len(data) > PASSPHRASE_MAX:
        raise ConfigError(f"{what}: longer than {PASSPHRASE_MAX} bytes; is it the right one?")
    line = data.removesuffix(b"\n").removesuffix(b"\r")
    if b"\n" in line or b"\0" in line:
        raise ConfigError(f"{what}: has several lines; expected one with the passphrase")
    return line.decode("utf-8", "surrogateescape")


def _run(command: str) -> str:
    import shlex
    import subprocess

    what = "COOPFS_PASSPHRASE_COMMAND"
    try:
        words = shlex.split(command)
    except ValueError as exc:
        raise ConfigError(f"{what}: {exc}") from exc
    if not words:
        raise ConfigError(f"{what}: is empty; expected a command that prints the passphrase")
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, timeout=COMMAND_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise ConfigError(f"{what}: {words[0]}: no answer for {COMMAND_TIMEOUT_S} s") from exc
    except OSError as exc:
        raise ConfigError(f"{what}: {words[0]}: cannot be run: {exc.strerror}") from exc
    if done.returncode:
        raise ConfigError(f"{what}: {words[0]}: failed with exit code {done.returncode}")
    passphrase = _first_line(done.stdout, what)
    if not passphrase:
        raise ConfigError(f"{what}: {words[0]}: printed nothing; expected the passphrase")
    return passphrase


def has_terminal() -> bool:
    """Tell whether somebody can be asked: the process has a controlling terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


KEEP_UNWRAPPED: Final = "the keys on this machine (empty: keep them unwrapped)"


def ask_new(ask: Callable[[str], str] | None = None, what: str = KEEP_UNWRAPPED) -> str:
    """Ask twice for a new passphrase for *what*; it may be empty.

    Raises:
        UsageError: typed differently again and again.
    """
    ask = ask or _ask
    prompt = f"New passphrase for {what}: "
    for _ in range(TRIES):
        passphrase = ask(prompt)
        if ask("The same again: ") == passphrase:
            return passphrase
        prompt = "The two were different. New passphrase: "
    raise UsageError("the two passphrases were different each time; nothing was done")


def _ask(prompt: str) -> str:
    import getpass

    try:
        return getpass.getpass(prompt)  # /dev/tty, whatever stdin and stdout are
    except EOFError:
        raise UsageError("no passphrase was typed; nothing was done") from None
