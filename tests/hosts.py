"""A host for tests: its own config, state and cache, and the command run in this process."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from coopfs.cli.main import run
from coopfs.dirs import Dirs


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    def lines(self) -> list[Any]:
        """The JSON lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]


class Host:
    """One machine; *name* is what it is called in archives."""

    def __init__(self, base: Path, name: str = "anna") -> None:
        self.name = name
        self.base = base
        self.dirs = Dirs(base / "config", base / "state", base / "cache")
        self.environ = {
            "COOPFS_CONFIG_DIR": str(self.dirs.config),
            "COOPFS_STATE_DIR": str(self.dirs.state),
            "COOPFS_CACHE_DIR": str(self.dirs.cache),
        }

    def run(self, *args: object, stdin: str = "", **environ: str) -> Ran:
        """Run ``coopfs ARGS`` as this host would, without a terminal."""
        out, err = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with ExitStack() as stack:
                stack.enter_context(mock.patch.dict(os.environ, self.environ | environ))
                stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
                stack.enter_context(mock.patch("coopfs.cli.passphrase.has_terminal", bool))
                stack.enter_context(mock.patch("coopfs.cli.keyinput.has_terminal", bool))
                stack.enter_context(redirect_stdout(out))
                stack.enter_context(redirect_stderr(err))
                code = run([str(arg) for arg in args])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Ran(code, out.getvalue(), err.getvalue())

    def ok(self, *args: object, stdin: str = "", **environ: str) -> Ran:
        """Run as :meth:`run`; anything but exit code 0 fails the test."""
        ran = self.run(*args, stdin=stdin, **environ)
        assert ran.code == 0, f"coopfs {' '.join(map(str, args))}: {ran.code}\n{ran.out}{ran.err}"
        return ran

    def init(self, store: Path, *args: object) -> Ran:
        """Make an archive in *store*, keys unwrapped."""
        return self.ok("init", store, "--no-passphrase", "--host", self.name, *args)


def everything_below(folder: Path) -> dict[str, bytes]:
    """Return every file below *folder* with its content, to see whether anything changed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
