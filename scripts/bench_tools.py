"""The tools that are measured, each driven the way its manual says.

All of them: zstd level 3, encryption on, the passphrase given for unattended use,
configuration and caches in the work folder and nowhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_measure import BenchError, Measured, remove_tree, run, run_all

PASSPHRASE = "correct horse battery staple"  # noqa: S105 - of throw-away archives
HOST = "bench"  # coopfs's name for this host


@dataclass(frozen=True, slots=True)
class Archive:
    """One tool's archive in the work folder."""

    folder: Path  # everything that belongs to it, removed as a whole
    store: Path
    with_passphrase: bool = True

    @property
    def mountpoint(self) -> Path:
        """Where it is mounted when it is."""
        return self.folder / "mnt"


@dataclass(frozen=True, slots=True)
class MountCommand:
    """How to mount an archive, and where its newest snapshot then shows a path."""

    command: list[str]
    env: dict[str, str]


class Tool:
    """What the rows need of a tool; one subclass each."""

    name = ""

    def __init__(self, command: str) -> None:
        """Use *command*, a name in PATH or a path."""
        self.command = command

    def version(self) -> str:
        """Return the tool's name and version for the head of the table."""
        said = subprocess.run(
            [self.command, "--version"], capture_output=True, text=True, check=False
        )
        words = [word for word in said.stdout.split() if word[:1].isdigit()]
        return f"{self.name} {words[0].rstrip(',') if words else '?'}"

    def help_command(self) -> list[str]:
        """Return the command whose time is the tool's start-up."""
        return [self.command, "--help"]

    def create(self, archive: Archive) -> None:
        """Make a new, empty archive in place of whatever is there."""
        remove_tree(archive.folder)
        archive.folder.mkdir(parents=True)
        run(self._init_command(archive), self.env(archive))

    def snapshot(self, archive: Archive, paths: Sequence[Path]) -> Measured:
        """Take a snapshot of *paths*."""
        return run(self._snapshot_command(archive, paths), self.env(archive))

    def restore(self, archive: Archive, target: Path) -> Measured:
        """Restore the newest snapshot into the empty folder *target*."""
        return run(self._restore_command(archive, target), self.env(archive), cwd=target)

    def forget(self, archive: Archive, keep: int) -> Measured:
        """Let all but the newest *keep* snapshots go and free what only they needed."""
        return run_all(self._forget_commands(archive, keep), self.env(archive))

    def check(self, archive: Archive, *, reads_data: bool, ok_code: int = 0) -> Measured:
        """Verify the archive's structure, or every byte of it."""
        command = self._check_command(archive)
        if reads_data:
            command.append(self._read_data_option)
        return run(command, self.env(archive), ok_codes=(ok_code,))

    def snapshot_count(self, archive: Archive) -> int:
        """Return how many snapshots the tool lists."""
        return len(self._listing(archive))

    def mount(self, archive: Archive) -> MountCommand:
        """Return the command for a mount in the foreground with empty caches."""
        cache = archive.folder / "mount-cache"
        remove_tree(cache)
        cache.mkdir()
        env = self.env(archive) | {self._cache_variable: str(cache)}
        return MountCommand(self._mount_command(archive), env)

    def mounted_path(self, archive: Archive, path: Path) -> Path:
        """Return where *path* appears in the newest snapshot of the mounted archive."""
        raise NotImplementedError

    def env(self, archive: Archive) -> dict[str, str]:
        """Return the environment for a command on *archive*."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("COOPFS_", "RESTIC_", "BORG_", "XDG_", "PYTHON"))
        }
        kept |= {"HOME": str(archive.folder / "home"), "LC_ALL": "C.UTF-8"}
        return kept | self._settings(archive)

    _cache_variable = ""
    _read_data_option = "--read-data"

    def _settings(self, archive: Archive) -> dict[str, str]:
        raise NotImplementedError

    def _init_command(self, archive: Archive) -> list[str]:
        raise NotImplementedError

    def _snapshot_command(self, archive: Archive, paths: Sequence[Path]) -> list[str]:
        raise NotImplementedError

    def _restore_command(self, archive: Archive, target: Path) -> list[str]:
        raise NotImplementedError

    def _mount_command(self, archive: Archive) -> list[str]:
        raise NotImplementedError

    def _forget_commands(self, archive: Archive, keep: int) -> list[list[str]]:
        raise NotImplementedError

    def _check_command(self, archive: Archive) -> list[str]:
        return [self.command, "check"]

    def _listing(self, archive: Archive) -> list[object]:
        """Return one item a snapshot."""
        raise NotImplementedError


class Restic(Tool):
    """restic; its default compression ("auto") is zstd at its level 3."""

    name = "restic"
    _cache_variable = "RESTIC_CACHE_DIR"

    def version(self) -> str:
        """Return the tool's name and version for the head of the table."""
        said = subprocess.run([self.command, "version"], capture_output=True, text=True, check=True)
        return " ".join(said.stdout.split()[:2])

    def mounted_path(self, archive: Archive, path: Path) -> Path:
        """Return where *path* appears in the newest snapshot of the mounted archive."""
        return archive.mountpoint / "snapshots/latest" / path.relative_to("/")

    def _settings(self, archive: Archive) -> dict[str, str]:
        password_file = archive.folder / "password"
        password_file.write_text(PASSPHRASE + "\n")
        return {
            "RESTIC_REPOSITORY": str(archive.store),
            "RESTIC_PASSWORD_FILE": str(password_file),
            "RESTIC_CACHE_DIR": str(archive.folder / "cache"),
        }

    def _init_command(self, archive: Archive) -> list[str]:
        return [self.command, "init"]

    def _snapshot_command(self, archive: Archive, paths: Sequence[Path]) -> list[str]:
        return [self.command, "backup", *map(str, paths)]

    def _restore_command(self, archive: Archive, target: Path) -> list[str]:
        return [self.command, "restore", "latest", "--target", str(target)]

    def _mount_command(self, archive: Archive) -> list[str]:
        return [self.command, "mount", str(archive.mountpoint)]

    def _forget_commands(self, archive: Archive, keep: int) -> list[list[str]]:
        return [[self.command, "forget", "--keep-last", str(keep), "--prune"]]

    def _listing(self, archive: Archive) -> list[object]:
        listed = run([self.command, "snapshots", "--json"], self.env(archive)).stdout
        found: list[object] = json.loads(listed)
        return found


class Borg(Tool):
    """borg 1.x with `-C zstd,3` and the encryption its manual calls the faster one."""

    name = "borg"
    _cache_variable = "BORG_CACHE_DIR"
    _read_data_option = "--verify-data"

    def mounted_path(self, archive: Archive, path: Path) -> Path:
        """Return where *path* appears in the newest snapshot of the mounted archive."""
        newest = self._newest(archive)
        return archive.mountpoint / newest / path.relative_to("/")

    def _newest(self, archive: Archive) -> str:
        # Names are counted up, so the last one is the newest.
        listed = run(
            [self.command, "list", "--short", "--last", "1", str(archive.store)],
            self.env(archive),
        )
        return listed.stdout.decode().strip()

    def _settings(self, archive: Archive) -> dict[str, str]:
        return {
            "BORG_PASSPHRASE": PASSPHRASE,
            "BORG_BASE_DIR": str(archive.folder / "base"),
            "BORG_CACHE_DIR": str(archive.folder / "cache"),
        }

    def _init_command(self, archive: Archive) -> list[str]:
        # borg-init(1): BLAKE2b is faster, except where the processor does SHA-256 itself.
        # Measured on such a one, 1 GiB of noise: repokey 5.2 s, repokey-blake2 7.2 s.
        has_sha = "sha_ni" in Path("/proc/cpuinfo").read_text().split()
        encryption = "repokey" if has_sha else "repokey-blake2"
        return [self.command, "init", "-e", encryption, str(archive.store)]

    def _snapshot_command(self, archive: Archive, paths: Sequence[Path]) -> list[str]:
        name = f"{archive.store}::{{now:%Y-%m-%dT%H:%M:%S.%f}}"
        return [self.command, "create", "-C", "zstd,3", name, *map(str, paths)]

    def _restore_command(self, archive: Archive, target: Path) -> list[str]:
        return [self.command, "extract", f"{archive.store}::{self._newest(archive)}"]

    def _mount_command(self, archive: Archive) -> list[str]:
        return [self.command, "mount", "--foreground", str(archive.store), str(archive.mountpoint)]

    def _forget_commands(self, archive: Archive, keep: int) -> list[list[str]]:
        store = str(archive.store)
        return [
            [self.command, "prune", "--keep-last", str(keep), store],
            [self.command, "compact", store],
        ]

    def _check_command(self, archive: Archive) -> list[str]:
        return [self.command, "check", str(archive.store)]

    def _listing(self, archive: Archive) -> list[object]:
        command = [self.command, "list", "--short", str(archive.store)]
        return list(run(command, self.env(archive)).stdout.split())


class Coopfs(Tool):
    """coopfs, its keys unwrapped, as on an unattended host, unless asked otherwise."""

    name = "coopfs"
    _cache_variable = "COOPFS_CACHE_DIR"

    def mounted_path(self, archive: Archive, path: Path) -> Path:
        """Return where *path* appears in the newest snapshot of the mounted archive."""
        for series in (archive.mountpoint / "by-host" / HOST).iterdir():
            return series / "latest" / path.relative_to("/")
        raise BenchError(f"{archive.mountpoint}: no series of host {HOST} is shown")

    def _settings(self, archive: Archive) -> dict[str, str]:
        settings = {
            f"COOPFS_{kind.upper()}_DIR": str(archive.folder / kind)
            for kind in ("config", "state", "cache")
        }
        if archive.with_passphrase:
            settings["COOPFS_PASSPHRASE"] = PASSPHRASE
        return settings

    def _init_command(self, archive: Archive) -> list[str]:
        unwrapped = [] if archive.with_passphrase else ["--no-passphrase"]
        return [self.command, "init", str(archive.store), "--host", HOST, *unwrapped]

    def _snapshot_command(self, archive: Archive, paths: Sequence[Path]) -> list[str]:
        return [self.command, "snapshot", *map(str, paths)]

    def _restore_command(self, archive: Archive, target: Path) -> list[str]:
        return [self.command, "restore", "latest", "--target", str(target)]

    def _mount_command(self, archive: Archive) -> list[str]:
        return [self.command, "mount", str(archive.mountpoint), "--foreground"]

    def _forget_commands(self, archive: Archive, keep: int) -> list[list[str]]:
        # The peers free at once what nobody needs; with no grace one run does so here too.
        return [
            [self.command, "forget", "--keep-last", str(keep)],
            [self.command, "prune", "--grace", "0"],
        ]

    def _listing(self, archive: Archive) -> list[object]:
        listed = run([self.command, "--json", "snapshots"], self.env(archive)).stdout
        found = [json.loads(line) for line in listed.splitlines()]
        return [item for item in found if item["type"] == "snapshot"]


def find_tools(names: Sequence[str], work: Path, coopfs_command: Path) -> list[Tool]:
    """Return the tools called *names*, in that order.

    borg is installed into a virtual environment of the work folder where there is none.

    Raises:
        BenchError: one is not there and cannot be had; the message says how to get it.
    """
    tools: list[Tool] = []
    for name in names:
        if name == "coopfs":
            tools.append(Coopfs(str(coopfs_command)))
        elif name == "restic":
            if shutil.which("restic") is None:
                raise BenchError("restic is not in PATH: apt-get install restic")
            tools.append(Restic("restic"))
        elif name == "borg":
            tools.append(Borg(_find_borg(work)))
        else:
            raise BenchError(f"unknown tool {name!r}: coopfs, restic or borg")
    return tools


def _find_borg(work: Path) -> str:
    """Return a borg that can mount: the one in PATH, else one made in the work folder."""
    if borg := shutil.which("borg"):
        return borg
    venv = work / "borg-venv"
    borg_command = venv / "bin/borg"
    if not borg_command.exists():
        print("borg is not in PATH: installing it into the work folder")
        try:
            subprocess.run(["python3", "-m", "venv", str(venv)], check=True)
            install = [str(venv / "bin/pip"), "install", "-q", "borgbackup[pyfuse3]"]
            subprocess.run(install, check=True)
        except subprocess.CalledProcessError as exc:
            needed = "python3-dev libacl1-dev libfuse3-dev liblz4-dev libssl-dev libxxhash-dev"
            raise BenchError(
                f"borg could not be built: apt-get install {needed} libzstd-dev pkg-config gcc"
            ) from exc
    return str(borg_command)
