"""Failed authentication is counted by address: after a few, an address that shows wrong keys waits.

Only refusals are throttled. A right key is let in whatever its neighbours behind the same proxy did, so nobody can lock
others out; and a wrong one looks the same before and after, so nothing is learnt from the answer.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from service.errors import Problem

FAILURES = 20
"""Failures an address may make at once."""
PER_SECOND = 0.2
"""And how many it gets back a second."""
ADDRESSES = 10_000


class Doors:
    """Who knocked with a wrong key. Belongs to the event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (failures left, at)

    def failed(self, address: str | None, refused: Problem) -> Problem:
        """Count a failure; the answer it gets: as it was refused, or 429 once the address made too many."""
        address = address or ""
        now = self._clock()
        left, at = self._failed.pop(address, (float(FAILURES), now))
        left = min(float(FAILURES), left + (now - at) * PER_SECOND)
        self._failed[address] = (max(0.0, left - 1), now)
        while len(self._failed) > ADDRESSES:
            self._failed.popitem(last=False)
        if left >= 1:
            return refused
        wait = math.ceil((1 - left) / PER_SECOND)
        message = "Too many requests with a wrong key came from this address. Try again later."
        return Problem(429, message, code="too_many_failures", headers={"Retry-After": str(wait)})
