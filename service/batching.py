"""Dynamic batching without a timer: when the runtime is free it takes what waits.

Callers submit flights (one distinct text each, already tokenised) from the event loop. One runtime thread takes them:
in turn from every waiting request, so that a small request never waits behind the whole of a large one; sorted by
length and cut by a budget of padded tokens. While a batch runs, a second thread cuts and pads the next one, but only
once enough waits to fill it: cutting early would otherwise make batches smaller than they need to be.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from encoder.tokens import plan_batches
from service.errors import Overloaded

log = structlog.get_logger()

# Texts taken from one waiting request before the next request has its turn.
TURN = 16
# Batches' worth of tokens that are taken and sorted together: more texts to sort mean less padding, but also that a
# newcomer waits for more of those before it.
WINDOW = 4
# Seconds after which an idle runtime thread beats all the same.
IDLE_BEAT = 1.0


@dataclass(slots=True, eq=False)
class Flight:
    """One distinct text on its way through the runtime.

    `waiters` are (ticket, position) pairs; when the last one leaves, `dead` is set and the text is skipped if it still
    waits. Only the event loop changes it; the runtime threads read `ids` and `dead`.
    """

    key: bytes
    ids: list[int]
    truncated: bool
    waiters: list[tuple[Any, int]] = field(default_factory=list)
    dead: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """Tokens of the text, special tokens included."""
        return len(self.ids)


class Runtime(Protocol):
    """What the batcher needs of an encoder: padding (numpy only) and one forward pass (releases the GIL)."""

    def prepare(self, ids: Sequence[list[int]]) -> Any:
        """Feeds of one batch."""

    def forward(self, feeds: Any) -> NDArray[np.float32]:
        """Vectors (b, d) float32 in the order of the batch; raises if any number is not finite."""


class Observer(Protocol):
    """Who is told of batches and of what was left out, for metrics; called on the threads of the batcher."""

    def batch(self, *, texts: int, tokens: int, padded: int, seconds: float, waited: float) -> None:
        """One batch was computed; its oldest text had `waited` seconds for it."""

    def skipped(self, texts: int) -> None:
        """Texts were not computed because nobody waits for them any more."""


@dataclass(slots=True)
class _Batch:
    flights: list[Flight]
    feeds: Any = None


Deliver = Callable[[Sequence[Flight], Sequence[NDArray[np.float32] | None]], None]


class Batcher:
    """The queue of tokens and the threads that empty it.

    Args:
        deliver: Called on the event loop with flights and their vectors, None for a text that could not be computed.
        batch_tokens: Most padded tokens in a batch; a longer single text goes alone.
        queue_tokens: Most tokens that may wait.
    """

    def __init__(
        self, runtime: Runtime, deliver: Deliver, observer: Observer, *, batch_tokens: int, queue_tokens: int
    ) -> None:
        self._runtime = runtime
        self._deliver = deliver
        self._observer = observer
        self.batch_tokens = batch_tokens
        self.queue_tokens = queue_tokens
        self._lines: deque[deque[Flight]] = deque()  # one line of texts for each waiting request
        self._ready: deque[_Batch] = deque()
        self._waiting = 0  # tokens in `_lines` and `_ready`
        self._unplanned = 0  # tokens in `_lines`
        self._rate = 10_000.0  # tokens a second, smoothed; the start value only matters before the first batch
        self._stopping = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._plan = threading.Condition(self._lock)
        self.last_beat = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run, name="driftline-runtime", daemon=True),
            threading.Thread(target=self._prepare_ahead, name="driftline-prepare", daemon=True),
        ]

    def start(self) -> None:
        """Start the threads; call on the event loop that will receive the vectors."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the threads finish the batch under way and end; what still waits is not computed."""
        with self._lock:
            self._stopping = True
            self._work.notify_all()
            self._plan.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=10)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait now."""
        return self._waiting

    def alive(self, patience: float) -> bool:
        """Whether the runtime thread turned within the last `patience` seconds."""
        return self._threads[0].is_alive() and time.monotonic() - self.last_beat < patience

    def submit(self, flights: Sequence[Flight]) -> None:
        """Queue the texts of one request.

        Raises:
            Overloaded: More than `queue_tokens` would wait. An empty queue takes any one request.
        """
        tokens = sum(len(flight.ids) for flight in flights)
        with self._lock:
            if self._waiting and self._waiting + tokens > self.queue_tokens:
                raise Overloaded(self._waiting / self._rate)
            self._lines.append(deque(flights))
            self._waiting += tokens
            self._unplanned += tokens
            self._work.notify()
            if self._unplanned >= self.batch_tokens and not self._ready:
                self._plan.notify()

    def _cut(self) -> None:
        """Move up to a window of texts from the lines to `_ready`, as sorted batches; the lock is held."""
        taken: list[Flight] = []
        tokens = skipped = 0
        while self._lines and tokens < WINDOW * self.batch_tokens:
            line = self._lines.popleft()
            for _ in range(min(TURN, len(line))):
                flight = line.popleft()
                size = len(flight.ids)
                self._unplanned -= size
                if flight.dead:
                    self._waiting -= size
                    skipped += 1
                    continue
                taken.append(flight)
                tokens += size
            if line:
                self._lines.append(line)
        if skipped:
            self._observer.skipped(skipped)
        for rows in plan_batches([len(flight.ids) for flight in taken], self.batch_tokens):
            self._ready.append(_Batch([taken[row] for row in rows]))

    def _prepare_ahead(self) -> None:
        while True:
            with self._lock:
                while not self._stopping and (self._ready or self._unplanned < self.batch_tokens):
                    self._plan.wait()
                if self._stopping:
                    return
                self._cut()
                batches = list(self._ready)
            for batch in batches:
                if batch.feeds is None:
                    batch.feeds = self._feeds(batch)

    def _feeds(self, batch: _Batch) -> Any:
        return self._runtime.prepare([flight.ids for flight in batch.flights])

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._ready or self._stopping):
                    self.last_beat = time.monotonic()
                    if self._lines:
                        self._cut()
                    else:
                        self._work.wait(IDLE_BEAT)
                if self._stopping:
                    return
                batch = self._ready.popleft()
                if self._unplanned >= self.batch_tokens and not self._ready:
                    self._plan.notify()
            self.last_beat = time.monotonic()
            tokens = sum(len(flight.ids) for flight in batch.flights)
            vectors = self._compute(batch, tokens)
            with self._lock:
                self._waiting -= tokens
            self._hand_over(batch.flights, vectors)

    def _compute(self, batch: _Batch, tokens: int) -> Sequence[NDArray[np.float32] | None]:
        started = time.monotonic()
        try:
            vectors = self._runtime.forward(batch.feeds if batch.feeds is not None else self._feeds(batch))
        except Exception as error:  # noqa: BLE001  whatever the runtime raises, the thread must go on
            log.warning("batch_failed", texts=len(batch.flights), error=type(error).__name__)
            return self._one_by_one(batch.flights)
        seconds = time.monotonic() - started
        self._rate += 0.1 * (tokens / max(seconds, 1e-6) - self._rate)
        self._observer.batch(
            texts=len(batch.flights),
            tokens=tokens,
            padded=max(len(flight.ids) for flight in batch.flights) * len(batch.flights),
            seconds=seconds,
            waited=started - min(flight.since for flight in batch.flights),
        )
        return list(vectors)

    def _one_by_one(self, flights: Sequence[Flight]) -> Sequence[NDArray[np.float32] | None]:
        """Each text of a failed batch alone, so that only the one that is at fault fails."""
        results: list[NDArray[np.float32] | None] = []
        for flight in flights:
            self.last_beat = time.monotonic()
            try:
                results.append(self._runtime.forward(self._runtime.prepare([flight.ids]))[0])
            except Exception as error:  # noqa: BLE001
                log.warning("text_failed", tokens=len(flight.ids), error=type(error).__name__)
                results.append(None)
        return results

    def _hand_over(self, flights: Sequence[Flight], vectors: Sequence[NDArray[np.float32] | None]) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._deliver, flights, vectors)
        except RuntimeError:  # the loop closed in between: the service is stopping and nobody waits
            log.debug("vectors_dropped_at_stop", texts=len(flights))
