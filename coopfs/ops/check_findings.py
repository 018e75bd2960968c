"""What a check finds: facts about objects, and the files of snapshots they hurt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from coopfs.archive.snapshots import Snapshot


class Severity(StrEnum):
    """What a finding means for whoever relies on the archive."""

    DAMAGE = "damage"  # something that was promised is not there, or not as it was
    NOTE = "note"  # worth knowing; nothing is wrong


class Subject(StrEnum):
    """What a finding is about."""

    PACK = "pack"
    INDEX = "index"
    SNAPSHOT = "snapshot"  # any object under snapshots/
    TREE = "tree"
    CONFIG = "config"
    LOCAL = "local"  # the local state, rebuilt from the store


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth telling; a sentence that names its object."""

    severity: Severity
    subject: Subject
    object_id: bytes  # 32 bytes; empty where it is about no single object
    message: str


@dataclass(frozen=True, slots=True)
class HurtFile:
    """A file (or a folder with all below it) of a snapshot that cannot be read whole."""

    snapshot: Snapshot
    path: bytes  # absolute
    is_folder: bool  # everything below it is unreadable
    size: int  # bytes; 0 for a folder
    lost_len: int  # bytes of the file that cannot be read
    first_lost: int  # offset of the first of them
    reason: str  # empty: its chunks are missing or damaged


Report = Callable[[Finding | HurtFile], None]  # told at once, so that nothing piles up


class Findings:
    """Counts what is found and passes it on."""

    def __init__(self, report: Report, totals: CheckTotals) -> None:
        """Count in *totals*."""
        self._report = report
        self._totals = totals

    def damage(self, subject: Subject, object_id: bytes, message: str) -> None:
        """Something that was promised is not there, or not as it was."""
        self._totals.damages += 1
        self._report(Finding(Severity.DAMAGE, subject, object_id, message))

    def note(self, subject: Subject, object_id: bytes, message: str) -> None:
        """Something worth knowing."""
        self._report(Finding(Severity.NOTE, subject, object_id, message))

    def hurt(self, item: HurtFile) -> None:
        """Something of a snapshot cannot be read."""
        self._totals.hurt_files += 1
        self._report(item)


@dataclass(slots=True)
class CheckTotals:
    """What a check has looked at and what came of it."""

    snapshots: int = 0
    index_objects: int = 0
    packs: int = 0  # that the index names
    pack_len: int = 0  # bytes of them
    chunks: int = 0  # copies in those packs, nodes of trees included
    tree_nodes: int = 0  # distinct, reached from snapshots
    files: int = 0  # entries that are not folders, in distinct trees
    packs_read: int = 0  # whole, every block opened
    read_len: int = 0  # bytes of them
    unindexed_packs: int = 0  # in the store but in no index object
    unindexed_len: int = 0
    unneeded_chunks: int = 0  # that no snapshot refers to
    unneeded_len: int = 0
    marked_packs: int = 0
    damages: int = 0
    hurt_files: int = 0
    hurt_snapshots: int = 0
    duration_s: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not self.damages and not self.hurt_files
