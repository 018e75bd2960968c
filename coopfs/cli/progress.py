"""How far a long run is: a bar, a line now and then, or JSON lines.

An operation only stores numbers; a thread of its own shows them, so that reporting
costs a run nothing however often it is done.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TextIO

from coopfs.ops.wording import duration_text as duration_text
from coopfs.ops.wording import size_text as size_text

if TYPE_CHECKING:
    from coopfs.cli.context import Context

BAR_INTERVAL_S: Final = 0.2
BAR_DELAY_S: Final = 0.4  # what is done sooner needs no bar (nor 80 ms to import rich)
LINE_INTERVAL_S: Final = 30.0
JSON_INTERVAL_S: Final = 1.0
BAR_WIDTH: Final = 24  # columns
PATH_SHOWN_MIN: Final = 12  # columns; less says nothing


class ProgressReport:
    """Keeps the numbers (see :class:`coopfs.ops.progress.Progress`); shows nothing itself."""

    interval_s: float | None = None  # None: never shown

    def __init__(self, verb: str) -> None:
        """Nothing is shown before :meth:`start`."""
        self.verb = verb
        self.total_files: int | None = None
        self.total_bytes: int | None = None
        self.files = 0
        self.bytes = 0
        self.current: bytes | str = ""
        self._started_s = time.monotonic()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, total_files: int | None, total_bytes: int | None) -> None:
        """See :class:`coopfs.ops.progress.Progress`."""
        self.total_files, self.total_bytes = total_files, total_bytes
        if self._thread is None and self.interval_s is not None and not self._stop.is_set():
            self._started_s = time.monotonic()
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def update(self, *, files: int, bytes_: int, current: bytes | str = "") -> None:
        """See :class:`coopfs.ops.progress.Progress`."""
        self.files = files
        self.bytes = bytes_
        self.current = current

    def close(self) -> None:
        """See :class:`coopfs.ops.progress.Progress`."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- for what shows them ----------------------------------------------------

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started_s

    @property
    def remaining_s(self) -> float | None:
        """Seconds left at the speed so far; None when it cannot be said."""
        done, total = self.bytes, self.total_bytes
        if not total:
            done, total = self.files, self.total_files
        if not total or not done or done > total:
            return None
        return self.elapsed_s * (total - done) / done

    def print_above(self, text: str, stream: TextIO) -> bool:
        """Print *text* without harming what is shown; False: nothing is, just print."""
        return False

    def show(self) -> None:
        """Show the numbers as they are now; called every *interval_s* seconds."""

    def hide(self) -> None:
        """Take away what is shown."""

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.interval_s):
                self._drop_wrong_totals()
                self.show()
        except (OSError, ValueError):
            pass  # whoever read the output is gone; the run itself will notice or need not
        finally:
            self.hide()

    def _drop_wrong_totals(self) -> None:
        """A source that has grown since its last snapshot has more than was expected."""
        if self.files > (self.total_files or self.files):
            self.total_files = None
        if self.bytes > (self.total_bytes or self.bytes):
            self.total_bytes = None


class ProgressBar(ProgressReport):
    """A bar on a terminal's stderr."""

    interval_s = BAR_INTERVAL_S

    def __init__(self, verb: str) -> None:
        """Nothing is shown before :meth:`start`."""
        super().__init__(verb)
        self._bar: Any = None
        self._task: Any = None
        self._lock = threading.Lock()

    def show(self) -> None:
        """Draw the bar."""
        if self._bar is None:
            if self.elapsed_s < BAR_DELAY_S:
                return
            self._make_bar()
        by_bytes = bool(self.total_bytes)
        total = self.total_bytes if by_bytes else self.total_files or None
        numbers = self._numbers()
        # What is left of the line; the numbers matter more than the path.
        room = self._bar.console.width - len(self.verb) - len(numbers) - 3
        room -= BAR_WIDTH + 1 if total else 0
        self._bar.update(
            self._task,
            total=total,
            completed=self.bytes if by_bytes else self.files,
            numbers=numbers,
            current=shorten(self.current, room) if room >= PATH_SHOWN_MIN else "",
        )
        self._bar.refresh()

    def _make_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, Task, TextColumn
        from rich.progress_bar import ProgressBar as Drawn

        class KnownBar(BarColumn):
            """No bar without a total: one that only pulses says nothing."""

            def render(self, task: Task) -> Drawn:
                return super().render(task) if task.total else Drawn(width=0)

        bar = Progress(
            TextColumn("{task.description}"),
            KnownBar(bar_width=BAR_WIDTH),
            TextColumn("{task.fields[numbers]}", markup=False),
            TextColumn("{task.fields[current]}", markup=False, style="dim"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = bar.add_task(self.verb, total=None, numbers="", current="")
        bar.start()
        with self._lock:
            self._bar = bar

    def _numbers(self) -> str:
        files = f"{self.files:,}" + (f"/{self.total_files:,}" if self.total_files else "")
        size = size_text(self.bytes)
        if self.total_bytes:
            size += f"/{size_text(self.total_bytes)}"
        rate = size_text(int(self.bytes / max(self.elapsed_s, 0.001)))
        left = self.remaining_s
        return f"{files} files  {size}  {rate}/s" + (
            "" if left is None else f"  {duration_text(left)} left"
        )

    def print_above(self, text: str, stream: TextIO) -> bool:
        """Print above the bar if both go to a terminal."""
        with self._lock:
            if self._bar is None or not stream.isatty():
                return False
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return True

    def hide(self) -> None:
        """Remove the bar."""
        with self._lock:
            bar, self._bar = self._bar, None
        if bar is not None:
            bar.stop()


class ProgressLines(ProgressReport):
    """A line on stderr now and then, for a log."""

    interval_s = LINE_INTERVAL_S

    def show(self) -> None:
        """Write one line."""
        left = self.remaining_s
        rate = size_text(int(self.bytes / max(self.elapsed_s, 0.001)))
        line = f"{self.verb}: {self.files:,} files, {size_text(self.bytes)}, {rate}/s"
        if self.total_bytes:
            line += f", {100 * self.bytes / self.total_bytes:.0f} %"
        if left is not None:
            line += f", {duration_text(left)} left"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class ProgressJson(ProgressReport):
    """JSON lines on stdout."""

    interval_s = JSON_INTERVAL_S

    def __init__(self, verb: str, context: Context) -> None:
        """Lines go through *context*."""
        super().__init__(verb)
        self._context = context

    def show(self) -> None:
        """Write one object."""
        left = self.remaining_s
        self._context.emit_json(
            {
                "type": "progress",
                "verb": self.verb,
                "files": self.files,
                "total_files": self.total_files,
                "bytes": self.bytes,
                "total_bytes": self.total_bytes,
                "elapsed_s": round(self.elapsed_s, 1),
                "remaining_s": None if left is None else round(left, 1),
                "current": path_text(self.current),
            }
        )


def make_progress(context: Context, verb: str) -> ProgressReport:
    """Return the report that suits *context*; see ``Context.progress``."""
    if context.quiet:
        return ProgressReport(verb)
    if context.json:
        return ProgressJson(verb, context)
    if sys.stderr.isatty():
        return ProgressBar(verb)
    return ProgressLines(verb) if context.verbosity else ProgressReport(verb)


# --- numbers for people -------------------------------------------------------


def path_text(path: bytes | str) -> str:
    """Return *path* as text; bytes that are not UTF-8 become backslash escapes."""
    if isinstance(path, str):
        return path
    return path.decode("utf-8", "backslashreplace")


def shorten(path: bytes | str, width: int) -> str:
    """Return the end of *path*, printable, at most *width* characters."""
    text = "".join(c if c.isprintable() else "?" for c in path_text(path))
    return text if len(text) <= width else "…" + text[1 - width :]
