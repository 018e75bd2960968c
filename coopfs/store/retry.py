"""Calls to a store elsewhere, made again while what hinders them can pass.

Owns the one policy all such stores share: only StoreUnavailable is temporary; pauses
grow, are jittered, and end when the budget does.  Any other error is raised at once.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from coopfs.errors import StoreUnavailable, UsageError

PAUSE_FIRST_S: Final = 0.2
PAUSE_MAX_S: Final = 30.0
PAUSE_GROWTH: Final = 2.0
# A call that fails later than this was getting somewhere: stores give up on silence after a
# minute.  Then the budget begins anew, or a pack on a slow line would never be sent again.
PROGRESS_S: Final = 75.0
ANEW_MAX: Final = 10  # times; a line that always breaks is reported in the end
NOTICED_S: Final = 2.0  # whoever waits longer wants to know for what
# Somebody waits for what is read; what is put at night may outlast a router's restart.
READ_BUDGET_S: Final = 60.0
WRITE_BUDGET_S: Final = 300.0
BROWSE_TIMEOUT_S: Final = 20  # where what is known will do; a sleeping disk wakes up within it
TIMEOUT_VARIABLE: Final = "COOPFS_STORE_TIMEOUT"  # seconds, for reading and writing alike

_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long calls are repeated, in seconds; 0: never."""

    read_s: float = READ_BUDGET_S
    write_s: float = WRITE_BUDGET_S

    @classmethod
    def from_environment(cls) -> Patience:
        """Return what COOPFS_STORE_TIMEOUT asks for, else the defaults.

        Raises:
            UsageError: it is not a number of seconds.
        """
        text = os.environ.get(TIMEOUT_VARIABLE)
        if not text:
            return cls()
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            raise UsageError(
                f"{TIMEOUT_VARIABLE} is {text!r}; expected for how many seconds a store that "
                f"does not answer is tried again, such as 60"
            )
        return cls(seconds, seconds)


def retrying(
    label: str,
    call: Callable[[], _Result],
    budget_s: float = READ_BUDGET_S,
    *,
    stopped: threading.Event | None = None,
    on_wait: Callable[[StoreUnavailable], object] | None = None,
) -> _Result:
    """Return what *call* returns, calling it again while it raises StoreUnavailable.

    *label* says in the message what was tried.  No pause is begun that would end after
    *budget_s* seconds of failing; once *stopped* is set nothing is repeated and a pause
    ends at once.  *on_wait* is told the error before each pause once they have become long
    enough to be noticed.

    Raises:
        StoreUnavailable: it still was when the budget was spent.
        CoopfsError: whatever else *call* raises, at once.
    """
    begun = time.monotonic()
    pause_s = PAUSE_FIRST_S
    tries = 1
    times_anew = 0
    while True:
        called = time.monotonic()
        try:
            return call()
        except StoreUnavailable as exc:
            if time.monotonic() - called > PROGRESS_S and times_anew < ANEW_MAX:
                begun, pause_s = time.monotonic(), PAUSE_FIRST_S
                times_anew += 1
            # Half of it is luck: clients cut off together do not come back together.
            wait_s = pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - a pause, no secret
            spent_s = time.monotonic() - begun
            if spent_s + wait_s > budget_s or (stopped is not None and stopped.is_set()):
                if tries == 1:
                    raise
                raise type(exc)(
                    f"{exc} (given up on {label} after {tries} tries in {spent_s:.0f} s)"
                ) from exc
            if on_wait is not None and spent_s > NOTICED_S:
                on_wait(exc)
        _pause(wait_s, stopped)
        pause_s = min(pause_s * PAUSE_GROWTH, PAUSE_MAX_S)
        tries += 1


def _pause(seconds: float, stopped: threading.Event | None) -> None:
    if stopped is None:
        time.sleep(seconds)
    else:
        stopped.wait(seconds)


class Retrier:
    """The retries of one store, shared by its threads.

    Once a call has spent its budget the store counts as away: until one call succeeds
    every other is made once only, so that a hundred of them do not each wait in vain.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        """*patience*: as the environment says unless given (UsageError)."""
        self.patience = Patience.from_environment() if patience is None else patience
        self._stopped = threading.Event()
        self._is_away = False
        self._has_told = False  # that it keeps somebody waiting, since it last answered

    def read(self, label: str, call: Callable[[], _Result]) -> _Result:
        """Run *call*, which changes nothing in the store; see :func:`retrying`."""
        return self._run(label, call, self.patience.read_s)

    def write(self, label: str, call: Callable[[], _Result]) -> _Result:
        """Run *call*, which may be repeated although it was done; see :func:`retrying`."""
        return self._run(label, call, self.patience.write_s)

    def close(self) -> None:
        """Let waiting calls fail now, and later ones try once only."""
        self._stopped.set()

    def _run(self, label: str, call: Callable[[], _Result], budget_s: float) -> _Result:
        budget_s = 0.0 if self._is_away else budget_s
        try:
            result = retrying(
                label,
                call,
                budget_s,
                stopped=self._stopped,
                on_wait=lambda exc: self._tell(exc, budget_s),
            )
        except StoreUnavailable:
            self._is_away = True
            raise
        self._is_away = self._has_told = False
        return result

    def _tell(self, exc: StoreUnavailable, budget_s: float) -> None:
        if not self._has_told:
            self._has_told = True
            # Where nobody listens to the log it is standard error that shows it.
            prefix = "" if log.hasHandlers() else "coopfs: warning: "
            log.warning("%s%s; trying again for up to %.0f s", prefix, exc, budget_s)
