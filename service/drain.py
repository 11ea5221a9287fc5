"""How fast the queue empties: tokens a second over wall time, measured while there is work."""

import math
import threading
import time

# Tokens a second that are assumed before the first batch.
FIRST_GUESS = 10_000.0
# Seconds after which an old measurement has lost most (1 - 1/e) of its weight.
MEMORY_SECONDS = 2.0


class DrainRate:
    """An exponentially weighted rate whose weights follow time, not the number of batches; safe from many threads.

    With several streams the batches overlap, so tokens over the duration of a run would count every stream as if it
    were alone; tokens over the time since the previous batch landed do not.
    """

    def __init__(self) -> None:
        self.tokens_per_second = FIRST_GUESS
        self._since = time.monotonic()
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Work begins after a pause, which is no part of the rate."""
        with self._lock:
            self._since = time.monotonic()

    def drained(self, tokens: int, *, saturated: bool = True) -> None:
        """A batch of so many tokens has been computed.

        What a machine does that has little to do is not what it can do: unless it was saturated, nothing is learnt.
        """
        with self._lock:
            now = time.monotonic()
            passed = max(now - self._since, 1e-6)
            self._since = now
            if not saturated:
                return
            weight = 1.0 - math.exp(-passed / MEMORY_SECONDS)
            self.tokens_per_second += weight * (tokens / passed - self.tokens_per_second)

    def seconds(self, tokens: int) -> float:
        """How long so many tokens take at the measured rate."""
        return tokens / max(self.tokens_per_second, 1.0)
