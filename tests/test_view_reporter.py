"""What goes wrong in a request is one line in the log, whatever it is about."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from coopfs.errors import ChunkCorrupt
from coopfs.view.reporter import Reporter


def test_a_name_cannot_write_a_line_of_the_log_of_its_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reporter, "path", lambda self, ino: b"/a\nall is well\x1b[2J\xff")
    reporter = Reporter(cast(Any, None), cast(Any, None))
    with caplog.at_level(logging.ERROR):
        failure = ChunkCorrupt("entry \x1b]0;x\x07: is damaged")
        assert reporter.errno_for(7, failure) == failure.errno
    assert caplog.messages == ["/a?all is well?[2J?: entry ?]0;x?: is damaged"]
