"""A circuit breaker: after failures in a row nobody asks until a probe has succeeded; pauses grow while it fails."""

import random
from collections.abc import Callable
from enum import StrEnum
from typing import Final

FAILURES_TO_OPEN: Final = 3
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0


class BreakerState(StrEnum):
    """Closed: everybody asks. Open: nobody does. Half-open: one probe is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Starts open and without a pause, so that the first thing that meets the server is a probe.

    The pause doubles with every probe that fails, and also when the breaker opens again sooner after closing than the
    last pause lasted: a server that answers a probe and fails under load is not asked anew every quarter of a second.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.state = BreakerState.OPEN
        self._clock = clock
        self._failures = 0
        self._pause = 0.0
        self._closed_at = float("-inf")

    @property
    def closed(self) -> bool:
        """Whether to ask."""
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> None:
        """An answer came in the closed state."""
        self._failures = 0

    def failed(self) -> bool:
        """No answer came in the closed state; True when this opened the breaker."""
        self._failures += 1
        if not self.closed or self._failures < FAILURES_TO_OPEN:
            return False
        if self._clock() - self._closed_at > self._pause:
            self._pause = 0.0
        self._open()
        return True

    def pause(self) -> float:
        """Seconds to wait before the next probe, spread by a quarter so that replicas do not probe in step."""
        return self._pause * random.uniform(0.75, 1.25)

    def probe(self) -> None:
        """The pause is over: one probe goes out."""
        self.state = BreakerState.HALF_OPEN

    def probed(self, answered: bool) -> None:
        """The probe's outcome."""
        if not answered:
            self._open()
            return
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._closed_at = self._clock()

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
