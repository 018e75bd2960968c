"""How hard blocks are compressed, and what the words for it mean."""

from __future__ import annotations

import pytest

from coopfs.archive.effort import AUTO, EFFORTS, Effort, check_effort
from coopfs.errors import UsageError


def test_auto_rises_behind_a_slow_store_and_falls_before_a_fast_one() -> None:
    effort = Effort(AUTO, is_near=False)
    seen = [effort.level]
    for _ in range(10):
        effort.note_pack(store_is_busy=True)
        seen.append(effort.level)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 2
    for _ in range(10):
        effort.note_pack(store_is_busy=False)
        seen.append(effort.level)
    assert seen[10:] == sorted(seen[10:], reverse=True)
    assert seen[-1] < seen[0]


def test_a_store_on_this_machine_is_taken_for_a_fast_one() -> None:
    assert Effort(AUTO, is_near=True).level < Effort(AUTO, is_near=False).level


@pytest.mark.parametrize("word", [word for word in EFFORTS if word != AUTO])
def test_other_words_are_kept_to(word: str) -> None:
    effort = Effort(word, is_near=False)
    level = effort.level
    for is_busy in (True, True, False, False, False):
        effort.note_pack(store_is_busy=is_busy)
        assert effort.level == level
    assert check_effort(word) == word


def test_better_words_ask_for_more() -> None:
    levels = [Effort(word, is_near=True).level for word in ("fastest", "better", "max")]
    assert levels == sorted(set(levels))


def test_an_unknown_word_is_refused() -> None:
    with pytest.raises(UsageError, match="'best': expected one of auto, fastest, better, max"):
        check_effort("best")
