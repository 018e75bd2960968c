"""The server's log: lines on standard error, with priorities where the journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from typing import Final

# sd-daemon(3): a prefix tells the journal how bad it is.
_PRIORITIES: Final = {
    logging.DEBUG: "<7>",
    logging.INFO: "<6>",
    logging.WARNING: "<4>",
    logging.ERROR: "<3>",
    logging.CRITICAL: "<2>",
}


class _Formatter(logging.Formatter):
    def __init__(self, *, for_journal: bool) -> None:
        super().__init__("%(message)s" if for_journal else "%(asctime)s %(message)s")
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._for_journal:
            return text
        # A line of the journal each, and none without its priority.
        prefix = _PRIORITIES.get(record.levelno, "")
        return "\n".join(prefix + line for line in text.splitlines())


def log_to_stderr(level: int) -> None:
    """Let the server's messages from *level* on go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(for_journal="JOURNAL_STREAM" in os.environ))
    log = logging.getLogger("coopfs")
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False
