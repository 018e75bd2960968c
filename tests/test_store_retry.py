from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator

import pytest

from coopfs.errors import ObjectNotFound, StoreDenied, StoreUnavailable, UsageError
from coopfs.store import retry
from coopfs.store.retry import PAUSE_MAX_S, TIMEOUT_VARIABLE, Patience, Retrier, retrying


class Clock:
    """Time that passes only while somebody pauses."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(retry.time, "monotonic", clock.monotonic)
    monkeypatch.setattr(retry, "_pause", lambda seconds, _stopped: clock.sleep(seconds))
    yield clock


class Flaky:
    """Fails *times* times, then returns the number of calls; each call takes *takes_s*."""

    def __init__(self, times: int, clock: Clock | None = None, takes_s: float = 0.0) -> None:
        self.times = times
        self.calls = 0
        self._clock = clock
        self._takes_s = takes_s

    def __call__(self) -> int:
        self.calls += 1
        if self._clock:
            self._clock.now_s += self._takes_s
        if self.calls <= self.times:
            raise StoreUnavailable(f"refused {self.calls}")
        return self.calls


def test_what_passes_is_tried_again_and_pauses_grow_up_to_the_limit(clock: Clock) -> None:
    assert retrying("data/x", Flaky(12), 1000.0) == 13
    expected = 0.2
    for pause in clock.pauses:
        assert expected / 2 <= pause <= expected
        expected = min(expected * 2, PAUSE_MAX_S)
    assert len(clock.pauses) == 12
    assert expected == PAUSE_MAX_S


def test_pauses_are_not_the_same_for_all(clock: Clock) -> None:
    random.seed(0)
    retrying("x", Flaky(4), 100.0)
    first, clock.pauses = clock.pauses, []
    retrying("x", Flaky(4), 100.0)
    assert first != clock.pauses


def test_after_the_budget_the_last_error_is_raised_and_says_how_often(clock: Clock) -> None:
    flaky = Flaky(10**6)
    begun = clock.now_s
    with pytest.raises(StoreUnavailable, match=r"refused (\d+) \(given up on data/x after \1 tr"):
        retrying("data/x", flaky, 60.0)
    assert 60.0 - PAUSE_MAX_S <= clock.now_s - begun <= 60.0
    assert flaky.calls == len(clock.pauses) + 1 > 5


def test_a_call_that_takes_longer_than_the_budget_is_made_once(clock: Clock) -> None:
    flaky = Flaky(1, clock, takes_s=61.0)
    with pytest.raises(StoreUnavailable, match=r"^refused 1$"):
        retrying("x", flaky, 60.0)
    assert flaky.calls == 1


def test_an_upload_that_was_getting_somewhere_is_made_again(clock: Clock) -> None:
    """A pack takes longer than the budget on a slow line; a cut near its end is no outage."""
    flaky = Flaky(3, clock, takes_s=900.0)
    assert retrying("x", flaky, 300.0) == 4
    assert all(pause <= retry.PAUSE_FIRST_S for pause in clock.pauses)


def test_a_line_that_always_breaks_is_given_up_on(clock: Clock) -> None:
    flaky = Flaky(10**6, clock, takes_s=900.0)
    with pytest.raises(StoreUnavailable, match="given up on x"):
        retrying("x", flaky, 300.0)
    assert flaky.calls == retry.ANEW_MAX + 1


@pytest.mark.parametrize("error", [StoreDenied("no"), ObjectNotFound("none"), ValueError("bug")])
def test_what_does_not_pass_is_raised_at_once(clock: Clock, error: Exception) -> None:
    def call() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        retrying("x", call, 60.0)
    assert caught.value is error
    assert clock.pauses == []


def test_an_error_of_another_kind_ends_the_retries(clock: Clock) -> None:
    errors: list[Exception] = [StoreUnavailable("once"), StoreDenied("then denied")]

    def call() -> None:
        raise errors.pop(0)

    with pytest.raises(StoreDenied, match="then denied"):
        retrying("x", call, 60.0)
    assert len(clock.pauses) == 1


def test_a_store_that_is_away_is_tried_once_until_it_is_back(clock: Clock) -> None:
    retrier = Retrier(Patience(10.0, 10.0))
    with pytest.raises(StoreUnavailable):
        retrier.read("x", Flaky(10**6))
    for run in (retrier.read, retrier.write):
        flaky = Flaky(10**6)
        with pytest.raises(StoreUnavailable):
            run("x", flaky)
        assert flaky.calls == 1
    assert retrier.read("x", Flaky(0)) == 1
    assert retrier.write("x", Flaky(3)) == 4


def test_reading_and_writing_have_budgets_of_their_own(clock: Clock) -> None:
    retrier = Retrier(Patience(read_s=0.0, write_s=100.0))
    assert retrier.write("x", Flaky(5)) == 6
    flaky = Flaky(1)
    with pytest.raises(StoreUnavailable):
        retrier.read("x", flaky)
    assert flaky.calls == 1


def test_who_is_kept_waiting_is_told_once_until_the_store_answers(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    retrier = Retrier(Patience(1000.0, 1000.0))
    retrier.read("x", Flaky(2))
    assert caplog.messages == []  # over before anybody notices
    for _ in range(2):
        retrier.read("x", Flaky(12))
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert re.fullmatch(r"refused \d; trying again for up to 1000 s", message)


def test_closing_ends_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_FIRST_S", 60.0)
    retrier = Retrier(Patience(1000.0, 1000.0))
    is_pausing = threading.Event()
    outcome: list[BaseException] = []

    def call() -> None:
        is_pausing.set()
        raise StoreUnavailable("away")

    def run() -> None:
        try:
            retrier.read("x", call)
        except StoreUnavailable as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    begun = time.monotonic()
    thread.start()
    assert is_pausing.wait(10)
    retrier.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(outcome) == 1
    assert time.monotonic() - begun < 20


def test_the_environment_decides_how_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TIMEOUT_VARIABLE, raising=False)
    assert Patience.from_environment() == Patience(60.0, 300.0)
    monkeypatch.setenv(TIMEOUT_VARIABLE, "2.5")
    assert Retrier().patience == Patience(2.5, 2.5)


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1 min"])
def test_a_timeout_that_is_none_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_VARIABLE, text)
    with pytest.raises(UsageError, match=rf"{TIMEOUT_VARIABLE} is '{text}'"):
        Retrier()
