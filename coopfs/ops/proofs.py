"""Possession proofs: the partner's server shows that it has whole packs, none is transferred.

Owns which question is asked of which pack: each once, and noted durably before it is
sent.  Only packs this host wrote are asked about: the questions another host has used
are not known here, and to one asked before the old answer would do.  What is asked and
answered: coopfs-format(5), "Index object", "Answers".
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coopfs.archive.archive import Archive
from coopfs.archive.index_rows import PackInfo
from coopfs.archive.lock import file_lock
from coopfs.errors import CoopfsError, ObjectNotFound
from coopfs.format.audit import ANSWER_LEN, audit_question
from coopfs.format.keys import writer_id_of

USED_FILE: Final = "proofs-used"  # in the state folder, a line a question: pack, number


class Prover:
    """Asks a partner that can be asked; one an audit.  Thread-safe once made."""

    def __init__(self, archive: Archive) -> None:
        """Read which questions were used.

        Raises:
            CoopfsError: that cannot be read; nothing must be asked then.
        """
        self._archive = archive
        self._path = archive.state_folder / USED_FILE
        writer = archive.ring.writer() if archive.store.can_prove else None
        self._writer_id = None if writer is None else writer_id_of(writer.public_key)
        self._next = _used(self._path) if self._writer_id is not None else {}

    def can_ask(self, pack: PackInfo) -> bool:
        """Tell whether there is a question about *pack* that was never asked."""
        if pack.writer_id != self._writer_id:
            return False
        answers = self._archive.index.audit_answers(pack.pack_no)
        return self._next.get(pack.pack_id.hex(), 0) < len(answers) // ANSWER_LEN

    def take(self, packs: list[PackInfo]) -> dict[int, int]:
        """Use up the next question of each of *packs*: pack number -> question number.

        Raises:
            CoopfsError: it cannot be noted; nothing may be asked then.
        """
        taken = {pack.pack_no: self._next.get(pack.pack_id.hex(), 0) for pack in packs}
        lines = [f"{pack.pack_id.hex()} {taken[pack.pack_no]}\n" for pack in packs]
        try:
            with file_lock(self._path.with_name(f"{USED_FILE}.lock")), self._path.open("a") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise CoopfsError(
                f"{self._path}: {exc.strerror}; no question was sent, since a question counts once"
            ) from exc
        for pack in packs:
            self._next[pack.pack_id.hex()] = taken[pack.pack_no] + 1
        return taken

    def problem(self, pack: PackInfo, number: int) -> str:
        """Ask question *number* about *pack*; return what is wrong, "" when it was proved.

        Raises:
            StoreUnavailable: the partner does not answer, which shows nothing.
        """
        archive = self._archive
        question = audit_question(archive.keys.audit_key, pack.pack_id, number)
        try:
            answer = archive.store.prove(pack.pack_id, question)
        except ObjectNotFound as exc:
            return str(exc)
        start = number * ANSWER_LEN
        expected = archive.index.audit_answers(pack.pack_no)[start : start + ANSWER_LEN]
        if answer != expected:
            return "the partner's proof is wrong: it does not have it as it was stored"
        return ""


@dataclass(frozen=True, slots=True)
class QuestionsLeft:
    """Questions about this host's packs that were never asked."""

    packs: int  # of this host
    askable: int  # of those, with a question left
    questions: int


def questions_left(archive: Archive) -> QuestionsLeft:
    """Count what a partner can still be asked; marked and lost packs do not count.

    Raises:
        CoopfsError: what was asked cannot be read.
    """
    following = _used(archive.state_folder / USED_FILE)
    rows = archive.state.connection.execute(
        "SELECT pack_no, pack_id, LENGTH(audit_answers) FROM packs WHERE writer_id = ?",
        (archive.ring.writer_id or b"",),
    )
    left = [
        max(length // ANSWER_LEN - following.get(pack_id.hex(), 0), 0)
        for pack_no, pack_id, length in rows.fetchall()
        if archive.index.is_usable(pack_no)
    ]
    return QuestionsLeft(len(left), sum(number > 0 for number in left), sum(left))


def _used(path: Path) -> dict[str, int]:
    """Return the next question of every pack that was asked about."""
    following: dict[str, int] = {}
    try:
        text = path.read_text()
    except FileNotFoundError:
        return following
    except (OSError, UnicodeDecodeError) as exc:
        raise CoopfsError(f"{path}: cannot be read ({exc}); move it away, and audit anew") from exc
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.isdecimal():  # else torn by a crash: that question was not sent
            following[name] = max(following.get(name, 0), int(number) + 1)
    return following
