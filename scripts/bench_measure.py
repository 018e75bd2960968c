"""Running other programs and measuring them: time, peak memory, clean starting points.

Owns the hygiene every measured run needs, whichever tool it is of.  Standard
library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNT_DEADLINE_S = 120.0
WRITEBACK_DEADLINE_S = 60.0
WRITEBACK_DONE_KIB = 4096  # a running system is never quite at zero
CHILD_POLL_S = 0.1
READ_SIZE = 1 << 20


class BenchError(Exception):
    """A tool failed or delivered something wrong; its time would mean nothing."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured run of one command."""

    seconds: float
    cpu_s: float  # user and system, children included
    peak_bytes: int  # resident, the process and its children together
    stdout: bytes


def run(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None = None,
    ok_codes: tuple[int, ...] = (0,),
) -> Measured:
    """Run *command* to its end and measure it.

    Raises:
        BenchError: its exit code is not among *ok_codes*; the message ends with what
            it said last.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    watch = PeakWatch(process.pid)
    said: dict[str, bytes] = {}
    readers = [
        threading.Thread(target=lambda: said.update(out=_drain(process.stdout))),
        threading.Thread(target=lambda: said.update(err=_drain(process.stderr))),
    ]
    for reader in readers:
        reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    sampled_bytes = watch.stop()
    for reader in readers:
        reader.join()
    if process.returncode not in ok_codes:
        tail = (said["out"] + said["err"])[-2000:].decode(errors="replace")
        raise BenchError(f"{' '.join(command)}: exit code {process.returncode}\n{tail}")
    return Measured(
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=max(usage.ru_maxrss * 1024, sampled_bytes),
        stdout=said["out"],
    )


def run_all(commands: Sequence[Sequence[str]], env: Mapping[str, str]) -> Measured:
    """Run *commands* one after the other; times are added up, the peak is the highest."""
    runs = [run(command, env) for command in commands]
    return Measured(
        seconds=sum(measured.seconds for measured in runs),
        cpu_s=sum(measured.cpu_s for measured in runs),
        peak_bytes=max(measured.peak_bytes for measured in runs),
        stdout=b"".join(measured.stdout for measured in runs),
    )


def _drain(pipe: object) -> bytes:
    with pipe as stream:  # type: ignore[attr-defined]  # Popen types its pipes as optional
        data: bytes = stream.read()
    return data


class PeakWatch:
    """Watches what memory a process and its descendants take together while they run.

    A look every 0.1 s at each one's proportional set (proc(5), smaps_rollup): of pages
    that several of them map each is charged its part, so the sum is what the machine has
    to give.  (What the kernel says at the end is the largest of them, not the sum.)
    """

    def __init__(self, pid: int) -> None:
        """Watch the process *pid*."""
        self._pid = pid
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(CHILD_POLL_S):
            pids = (self._pid, *descendants(self._pid))
            self._peak = max(self._peak, sum(proportional_bytes(pid) for pid in pids))

    def stop(self) -> int:
        """End the watch and return the peak of the sum, in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak


def proportional_bytes(pid: int) -> int:
    """Return the proportional set size of *pid* in bytes; 0 when it has ended."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def descendants(pid: int) -> list[int]:
    """Return the ids of the processes started by *pid* that still run."""
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in listing.read_text().split():
                found.append(int(child))
                found += descendants(int(child))
    return found


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU seconds of this process so far, and of those it has started that run."""
    own = os.times()
    ticks = 0
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            # proc(5): the name, in parentheses, may hold anything; utime and stime follow.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return own.user + own.system, ticks / os.sysconf("SC_CLK_TCK")


def peak_of(pid: int) -> int:
    """Return the resident high-water mark of *pid* in bytes; 0 when it has ended."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM:")


def _kilobytes(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0


# --- the same starting point for every tool ----------------------------------


def read_all(path: Path) -> tuple[int, int]:
    """Read everything below *path*, so that it lies in the page cache.

    borg drops the files it has read from it; without this the next tool would read
    from the disk.  Returns the number of entries and of bytes.
    """
    entries, total = 0, 0
    buffer = bytearray(READ_SIZE)
    for file in walk(path):
        entries += 1
        if file.is_symlink() or not file.is_file():
            continue
        with file.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                total += count
    return entries, total


def walk(path: Path) -> Iterator[Path]:
    """Yield *path* and everything below it."""
    yield path
    if path.is_symlink() or not path.is_dir():
        return
    for folder, subfolders, files in os.walk(path):
        for name in subfolders + files:
            yield Path(folder, name)


def tree_size(path: Path) -> tuple[int, int]:
    """Return the number of entries below *path* and the bytes of its regular files."""
    entries, total = 0, 0
    for entry in walk(path):
        entries += 1
        if not entry.is_symlink() and entry.is_file():
            total += entry.stat().st_size
    return entries, total


def settle() -> None:
    """Write everything out and wait until the disk is at rest (at most a minute)."""
    os.sync()
    deadline = time.monotonic() + WRITEBACK_DEADLINE_S
    while _unwritten_kib() > WRITEBACK_DONE_KIB:
        if time.monotonic() > deadline:
            print("  (something else keeps writing to the disk; going on)")
            return
        time.sleep(0.1)


def _unwritten_kib() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("Dirty", "Writeback"))


def remove_tree(path: Path) -> None:
    """Remove *path* and everything below, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


# --- mounts ------------------------------------------------------------------


@dataclass(slots=True)
class Mounted:
    """A mount process in the foreground, our child."""

    process: subprocess.Popen[bytes]
    mountpoint: Path
    ready_s: float  # from the start of the command until the root could be listed

    def watch(self) -> PeakWatch:
        """Watch the memory of the process and its children from now on."""
        return PeakWatch(self.process.pid)


@contextlib.contextmanager
def mounted(
    command: Sequence[str], env: Mapping[str, str], mountpoint: Path, log_file: Path
) -> Iterator[Mounted]:
    """Run a mount *command* in the foreground; unmount and wait for it at the end."""
    mountpoint.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        while not (mountpoint.is_mount() and any(os.scandir(mountpoint))):
            waited = time.perf_counter() - started
            if process.poll() is not None or waited > MOUNT_DEADLINE_S:
                said = log_file.read_text(errors="replace")[-2000:]
                raise BenchError(f"{' '.join(command)}: no mount after {waited:.1f} s\n{said}")
            time.sleep(0.01)
        yield Mounted(process, mountpoint, time.perf_counter() - started)
    except subprocess.CalledProcessError as exc:
        said = log_file.read_text(errors="replace")[-2000:]
        raise BenchError(f"{exc}\nthe mount said:\n{said}") from exc
    finally:
        _unmount(process, mountpoint)


def _unmount(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    """Unmount, and make sure that the process we started has ended."""
    deadline = time.monotonic() + 20.0
    while mountpoint.is_mount() and time.monotonic() < deadline:
        unmount = ["fusermount3", "-u", str(mountpoint)]
        if subprocess.run(unmount, capture_output=True, check=False).returncode:
            time.sleep(0.2)
    for stop in (None, signal.SIGTERM, signal.SIGKILL):
        if stop is not None and process.poll() is None:
            process.send_signal(stop)
        try:
            process.wait(timeout=10)
            break
        except subprocess.TimeoutExpired:
            continue
