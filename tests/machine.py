"""A machine for tests: a real systemd, booted in namespaces, with this coopfs installed.

systemd-nspawn (Debian's systemd-container) with an empty root, this machine's /usr and a
network of its own; our units lie in /etc/systemd/system, ``coopfs`` in /usr/local/bin.  It
is up in a second, runs one script as root and is gone.  Skipped, by name, where that is
not possible.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from servers import program

ROOT = Path(__file__).resolve().parent.parent
DEADLINE_S = 100
_CGROUPS = [
    Path("/sys/fs/cgroup"),
    *map(Path, ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified")),
]

_COOPFS = """#!/bin/sh
export LD_LIBRARY_PATH={home}/lib PYTHONHOME={home} PYTHONPATH=/opt/site PYTHONDONTWRITEBYTECODE=1
exec {home}/bin/{python} -P -c '
import sys
sys.path.insert(0, "/opt/coopfs")
from coopfs.cli.main import main
sys.exit(main())' "$@"
"""
_FAILS = 'fails() { if "$@"; then exit 1; fi; }\n'
_SERVICE = """[Unit]
After=basic.target
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
Environment=HOME=/root
ExecStart=/bin/bash -eux -o pipefail /opt/test/script
StandardOutput=file:/opt/test/log
StandardError=inherit
"""


@dataclass(frozen=True)
class Machine:
    """A machine that can be booted; *folder* is on both sides (there /opt/test)."""

    folder: Path
    files: dict[str, str] = field(default_factory=dict)  # more of them, by their path there

    def run(self, script: str) -> str:
        """Boot, run the lines of *script*, each of which must succeed; return what was said.

        A line "fails COMMAND" succeeds when the command does not (to bash, "!" always does).
        """
        home, python = "/opt/python", f"python{sys.version_info[0]}.{sys.version_info[1]}"
        (self.folder / "script").write_text(_FAILS + script)
        binds = {
            "/opt/site": Path(sysconfig.get_path("purelib")),
            "/opt/coopfs/coopfs": ROOT / "coopfs",
        }
        if sys.base_prefix == "/usr":
            home = "/usr"
        else:
            binds[home] = Path(sys.base_prefix)
        for unit in (ROOT / "systemd").iterdir():
            binds[f"/etc/systemd/system/{unit.name}"] = unit
        made = {
            "/usr/local/bin/coopfs": _COOPFS.format(home=home, python=python),
            "/etc/systemd/system/coopfs-test.service": _SERVICE,
            "/etc/machine-id": f"{7:032x}\n",  # else it would be a first boot
            **self.files,
        }
        for number, (place, text) in enumerate(made.items()):
            path = self.folder / f"made-{number}"
            path.write_text(text)
            path.chmod(0o755 if "/bin/" in place else 0o644)
            binds[place] = path
        status, said = self._boot([f"--bind-ro={path}:{place}" for place, path in binds.items()])
        log = self.folder / "log"
        text = log.read_text() if log.exists() else ""
        assert status == 0, f"{text}\n{said}"
        return text

    def _boot(self, binds: list[str]) -> tuple[int, str]:
        nspawn = program("systemd-nspawn")
        # Where no systemd runs outside there is nobody to register with.
        is_alone = not Path("/run/systemd/system").is_dir()
        command = [
            *(nspawn, "--quiet", "--directory=/", "--volatile=yes", "--boot", "--console=pipe"),
            *("--private-network", f"--machine=coopfs-test-{os.getpid()}"),
            *(("--register=no", "--keep-unit") if is_alone else ()),
            *("--tmpfs=/usr/local", f"--bind={self.folder}:/opt/test", "--bind=/dev/fuse"),
            *binds,
            *("--", "--unit=coopfs-test.service", "--show-status=0", "systemd.firstboot=no"),
        ]
        groups = [
            self._group(top) for top in _CGROUPS if is_alone and (top / "cgroup.procs").exists()
        ]
        # A group of its own: it takes the one that it finds itself in as the root of all.
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        booted = subprocess.Popen(
            ["/bin/sh", "-ec", f'{enter} exec "$@"', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            said, _ = booted.communicate(timeout=DEADLINE_S)
        except BaseException:
            for _ in range(2):  # the first asks the machine to halt, the second halts it
                booted.terminate()
                time.sleep(0.5)
            booted.communicate()
            raise
        finally:
            for group in groups:
                for folder, _, _ in os.walk(group, topdown=False):
                    os.rmdir(folder)
        return booted.returncode, said

    @staticmethod
    def _group(top: Path) -> Path:
        group = top / f"coopfs-test-{os.getpid()}"
        group.mkdir(exist_ok=True)
        return group


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Yield a machine, seen to boot; skip where none does."""
    if os.geteuid() != 0:
        pytest.skip("no root here: UNITS ARE NOT RUN BY A SYSTEMD")
    folder = tmp_path / "machine"
    folder.mkdir()
    machine = Machine(folder)
    try:
        machine.run("true")
    except (AssertionError, OSError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"no systemd boots here: UNITS ARE NOT RUN BY ONE: {exc}"[:300])
    return machine
