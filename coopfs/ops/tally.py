"""What a snapshot run has seen and done, and what it could not do."""

from __future__ import annotations

from dataclasses import dataclass, field

from coopfs.format.snapshot import PROBLEMS_LEN_MAX, PROBLEMS_MAX, Counts, Problem
from coopfs.format.tree import Entry, Kind


@dataclass(slots=True)
class Tally:
    """What a run has seen and done so far; becomes :class:`Counts`."""

    files: int = 0
    folders: int = 0
    others: int = 0
    size: int = 0
    files_new: int = 0
    files_changed: int = 0
    files_unchanged: int = 0
    read: int = 0
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    problems_len: int = 0  # bytes of their paths and reasons

    def counts(self, new_len: int, stored_len: int) -> Counts:
        """Return the numbers for the snapshot object; arguments in bytes."""
        return Counts(
            self.files,
            self.folders,
            self.others,
            self.size,
            self.files_new,
            self.files_changed,
            self.files_unchanged,
            self.read,
            new_len,
            stored_len,
        )

    def count(self, entry: Entry, what: str) -> None:
        """Count an entry that is no folder; *what* names the field for regular files."""
        if entry.kind is not Kind.FILE:
            self.others += 1
            return
        self.files += 1
        self.size += entry.size
        setattr(self, what, getattr(self, what) + 1)

    def report(self, path: bytes, problem: OSError | str) -> None:
        """Note that *path* could not be read, or changed; the run goes on."""
        reason = problem if isinstance(problem, str) else (problem.strerror or str(problem))
        self.problem_count += 1
        self.problems_len += len(path) + len(reason)
        if len(self.problems) < PROBLEMS_MAX and self.problems_len <= PROBLEMS_LEN_MAX:
            self.problems.append(Problem(path, reason))
