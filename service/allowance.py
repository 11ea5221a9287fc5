"""An allowance that is used up and comes back with time: a token bucket."""

import time
from collections.abc import Callable


class Allowance:
    """So much a second, and what was not used before up to a limit. Not safe for concurrent use.

    Args:
        rate: What comes back in a second.
        most: What it holds at most, and at the beginning.
        clock: Seconds that only go forward.
    """

    def __init__(self, rate: float, most: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._most = most
        self._clock = clock
        self._left = most
        self._at = clock()

    def take(self, wanted: int) -> int:
        """Take as much of what is wanted as there is, in whole numbers."""
        self._refill()
        taken = min(wanted, int(self._left))
        self._left -= taken
        return taken

    def take_all(self, wanted: int) -> bool:
        """Take all that is wanted, or nothing when there is less."""
        self._refill()
        if wanted > self._left:
            return False
        self._left -= wanted
        return True

    def until(self, wanted: int) -> float:
        """Seconds until so much is there; infinite for more than it can hold."""
        self._refill()
        if wanted > self._most:
            return float("inf")
        return max(0.0, (wanted - self._left) / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
