"""Which workers have fallen silent: their beats stand still for so long, by this process's monotonic clock alone."""

import time
from collections.abc import Callable, Mapping
from typing import Final

# Beats may have been missed while this process could not look; then it waits anew. A share of the time of silence.
_LONGEST_PAUSE: Final = 0.5


class Silence:
    """Watches the beats of all workers. No wall clock is read, on no machine, so none that is set breaks anything.

    Args:
        after_s: Seconds without a beat from which on a worker counts as silent.
        clock: Seconds from any origin that never go back.
    """

    def __init__(self, after_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._after_s = after_s
        self._clock = clock
        self._since: dict[str, tuple[int, float]] = {}
        self._looked: float | None = None

    def look(self, beats: Mapping[str, int]) -> dict[str, int]:
        """Take note of each worker's number of beats, read just now; the silent ones, with their numbers."""
        now = self._clock()
        if self._looked is not None and now - self._looked > _LONGEST_PAUSE * self._after_s:
            self._since = {}
        self._looked = now
        known = self._since
        self._since = {
            worker: known[worker] if known.get(worker, (None,))[0] == count else (count, now)
            for worker, count in beats.items()
        }
        return {worker: count for worker, (count, since) in self._since.items() if now - since >= self._after_s}
