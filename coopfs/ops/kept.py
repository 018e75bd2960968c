"""Results that are kept on this machine, so that a trend can be shown: one JSON line each.

Owns ``KIND.jsonl`` in an archive's state folder: appended to, durable, oldest first.  A
line that was torn by a crash, or is a newer version's, is left out when they are read.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from coopfs.archive.lock import file_lock
from coopfs.errors import CoopfsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    R = TypeVar("R", bound=DataclassInstance)

SHOWN: Final = 12


class Kept(StrEnum):
    """What results are of; also the first part of their file's name."""

    AUDITS = "audits"
    DRILLS = "drills"


def keep_result(folder: Path, kind: Kept, result: DataclassInstance) -> None:
    """Append *result*, a flat dataclass of numbers and texts; durable on return.

    Raises:
        CoopfsError: it cannot be written.
    """
    path = folder / f"{kind}.jsonl"
    try:
        with file_lock(folder / f"{path.name}.lock"), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise CoopfsError(f"{path}: {exc.strerror}; the result was not kept") from exc


def kept_results(folder: Path, kind: Kept, result_type: type[R]) -> list[R]:
    """Return the last results of *kind*, oldest first, ``SHOWN`` at most.

    Raises:
        CoopfsError: the file is there and cannot be read.
    """
    path = folder / f"{kind}.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    except OSError as exc:
        raise CoopfsError(f"{path}: {exc.strerror}") from exc
    found = []
    for line in lines:
        try:
            found.append(result_type(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found[-SHOWN:]
