"""One request's claim on its texts: rows to fill, and a future that is done when all are filled."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.batching import Flight
from service.cache import Entry
from service.errors import EncodeFailed

if TYPE_CHECKING:
    from service.tracing import RequestTrace


class Ticket:
    """Lives on the event loop only.

    Attributes:
        rows: (n, d) float32, filled in the order of the request's texts.
        remaining: Rows that are still under way.
        allowed: Seconds the request may take; `give_up` is the monotonic time when they are over.
        tokens, truncated: Of all rows so far.
        keys: What each text is cached under, once they were looked up.
        flights: The texts under way that this request waits for.
        gone: Tells whether the caller has left.
        trace: The request's trace, if there is one.
    """

    __slots__ = (
        "allowed",
        "flights",
        "future",
        "give_up",
        "gone",
        "inference_seconds",
        "keys",
        "queue_seconds",
        "remaining",
        "rows",
        "since",
        "tokenize_seconds",
        "tokens",
        "trace",
        "truncated",
    )

    def __init__(self, count: int, dimension: int, allowed: float) -> None:
        self.rows: NDArray[np.float32] = np.empty((count, dimension), dtype=np.float32)
        self.remaining = 0
        self.tokens = 0
        self.truncated = 0
        self.keys: list[bytes] = []
        self.flights: list[Flight] = []
        self.allowed = allowed
        self.since = time.monotonic()
        self.give_up = self.since + allowed
        self.gone: Callable[[], Awaitable[bool]] | None = None
        self.trace: RequestTrace | None = None
        self.tokenize_seconds = 0.0
        self.queue_seconds = 0.0
        self.inference_seconds = 0.0
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fill(self, position: int, entry: Entry) -> None:
        """Take a row from the cache."""
        self.rows[position] = entry.vector
        self.tokens += entry.tokens
        self.truncated += entry.truncated

    def join(self, flight: Flight, position: int) -> None:
        """Wait for a text that is under way."""
        flight.waiters.append((self, position))
        self.flights.append(flight)
        self.remaining += 1
        self.tokens += flight.tokens
        self.truncated += flight.truncated

    def land(self, position: int, vector: NDArray[np.float32] | None, waited: float, seconds: float) -> None:
        """A text was computed (or could not be): fill its row, and wake the request when it was the last."""
        self.remaining -= 1
        if self.future.done():
            return
        if vector is None:
            self.future.set_exception(EncodeFailed(position))
            return
        self.rows[position] = vector
        self.queue_seconds = max(self.queue_seconds, waited)
        self.inference_seconds = max(self.inference_seconds, seconds)
        if self.remaining == 0:
            self.flights = []  # nothing to leave
            self.future.set_result(None)

    async def deserted(self, before: float) -> bool:
        """Whether the caller has left; asked only of requests that came before the monotonic time `before`."""
        return self.gone is not None and self.since < before and await self.gone()

    def fail(self, error: Exception) -> bool:
        """End the wait with an error; False when it had ended already."""
        if self.future.done():
            return False
        self.future.set_exception(error)
        return True
