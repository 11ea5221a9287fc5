"""Dynamic batching without a timer: when a stream of the runtime is free, it takes what waits.

Callers submit flights (one distinct text each, already tokenised) from the event loop. The runtime runs best with a
certain number of batches under way at once, its streams. One thread more than there are streams empties the queue:
each cuts a batch, pads it, waits for a free stream, runs it. So the next batch is ready when a stream comes free, but
none is cut ahead of its time unless enough waits to fill it: that would make batches smaller than they need to be.

Texts are taken in turn from every waiting request, so that a small request never waits behind the whole of a large one,
then sorted by length and cut by a budget of tokens; everything taken is run before more is taken, which bounds
the wait of the oldest.
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

from service.drain import DrainRate
from service.errors import Overloaded

log = structlog.get_logger()

# Texts taken from one waiting request before the next request has its turn.
TURN = 16
# Full batches for each stream that are taken and sorted together: more texts to sort mean less padding, but also that
# a newcomer waits for more of those before it.
WINDOW = 2
# Fewer tokens than this are not split over two streams: a batch so small costs nearly as much as its half.
LEAST_TOKENS = 96
# A large request may wait this many times its own work: what would be long for a single text is little for a corpus.
STRETCH = 16
# Seconds after which an idle thread looks around all the same.
IDLE_BEAT = 1.0


@dataclass(slots=True, eq=False)
class Flight:
    """One distinct text on its way through the runtime.

    `adapter` is what it is computed under, for the runtime to know; texts of different adapters share batches.
    `waiters` are (ticket, position) pairs; when the last one leaves, `dead` is set and the text is skipped if it still
    waits. Only the event loop changes it; the runtime threads read `ids`, `adapter` and `dead`.
    """

    key: bytes
    ids: list[int]
    truncated: bool
    adapter: Any = None
    waiters: list[tuple[Any, int]] = field(default_factory=list)
    dead: bool = False
    since: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """Tokens of the text, special tokens included."""
        return len(self.ids)


class Runtime(Protocol):
    """What the batcher needs of an encoder; every method is called from many threads at once."""

    streams: int

    def plan(self, lengths: Sequence[int], token_budget: int) -> list[list[int]]:
        """Texts of so many tokens cut into batches within a budget, as positions."""

    def prepare(self, flights: Sequence[Flight]) -> Any:
        """What one run takes; its `size` is the tokens that are computed, padding included."""

    def forward(self, prepared: Any) -> NDArray[np.float32]:
        """Vectors (b, d) float32 in the order of the batch; raises if any number is not finite."""


class Observer(Protocol):
    """Who is told of batches and of what was left out, for metrics; called on the threads of the batcher."""

    def batch(self, *, texts: int, tokens: int, padded: int, seconds: float, waited: float) -> None:
        """One batch was computed; its oldest text had `waited` seconds for it."""

    def skipped(self, texts: int) -> None:
        """Texts were not computed because nobody waits for them any more."""


@dataclass(frozen=True, slots=True)
class Landed:
    """One computed batch: `vectors` has None for a text that could not be computed; times are monotonic seconds."""

    flights: Sequence[Flight]
    vectors: Sequence[NDArray[np.float32] | None]
    started: float
    seconds: float


Deliver = Callable[[Landed], None]


@dataclass(slots=True, eq=False)
class _Line:
    """The texts of one request that wait, and their tokens."""

    flights: deque[Flight]
    tokens: int


class Batcher:
    """The queue of tokens and the threads that empty it.

    Args:
        deliver: Called on the event loop with every computed batch.
        batch_tokens: Most tokens in a batch; a longer single text goes alone.
        queue_tokens: Most tokens that may wait.
        queue_seconds: Longest wait, at the measured rate, that a small request is let in to.
    """

    def __init__(
        self,
        runtime: Runtime,
        deliver: Deliver,
        observer: Observer,
        *,
        batch_tokens: int,
        queue_tokens: int,
        queue_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._deliver = deliver
        self._observer = observer
        self.batch_tokens = batch_tokens
        self.queue_tokens = queue_tokens
        self.queue_seconds = queue_seconds
        self.rate = DrainRate()
        self._lines: deque[_Line] = deque()  # one for each waiting request
        self._ready: deque[list[Flight]] = deque()  # batches that were cut and have no thread yet
        self._waiting = 0  # tokens that no thread has taken
        self._unplanned = 0  # tokens in `_lines`
        self._running = 0  # tokens that a thread has in hand
        self._busy = 0  # threads with a batch in hand
        self._begun: dict[int, float] = {}  # thread -> when the run began that it is in
        self._failing_since: float | None = None  # when the first run failed that no successful one followed
        self._stopping = False
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._slots = threading.Semaphore(runtime.streams)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run, name=f"driftline-runtime-{number}", daemon=True)
            for number in range(runtime.streams + 1)
        ]

    def start(self) -> None:
        """Start the threads; call on the event loop that will receive the vectors."""
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let the threads finish the batches under way and end; what still waits is not computed."""
        with self._lock:
            self._stopping = True
            self._work.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=10)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait now."""
        return self._waiting

    def alive(self, patience: float) -> bool:
        """Whether every thread runs, no run of the model has taken longer than `patience` seconds, and some run
        succeeded within them if any failed."""
        now = time.monotonic()
        if self._failing_since is not None and now - self._failing_since > patience:
            return False
        return all(thread.is_alive() for thread in self._threads) and all(
            now - begun < patience for begun in list(self._begun.values())
        )

    def admit(self, tokens: int = 1) -> None:
        """Say at once whether a request of so many tokens would be let in; the event loop asks before it tokenises.

        With requests taken in turn, a request waits for what it needs itself and for at most as much of every other
        one (processor sharing), so a large request ahead does not shut small ones out.

        Raises:
            Overloaded: It would wait for longer than `queue_seconds`, or `STRETCH` times its own work where that is
                more; or more than `queue_tokens` would wait.
        """
        waiting = self._waiting
        if not waiting:
            return  # an empty queue takes any one request
        if waiting + tokens > self.queue_tokens:
            raise Overloaded(self.rate.seconds(waiting))
        patience = max(self.queue_seconds, STRETCH * self.rate.seconds(tokens))
        if self.rate.seconds(waiting + self._running) > patience:
            share = max(tokens, self.batch_tokens)
            with self._lock:
                ahead = self._running + self._waiting - self._unplanned
                ahead += sum(min(share, line.tokens) for line in self._lines)
            if (seconds := self.rate.seconds(ahead)) > patience:
                raise Overloaded(seconds)

    def submit(self, flights: Sequence[Flight]) -> None:
        """Queue the texts of one request; `admit` has been asked."""
        tokens = sum(len(flight.ids) for flight in flights)
        with self._lock:
            self._lines.append(_Line(deque(flights), tokens))
            if not self._waiting and not self._busy:
                self.rate.wake()
            self._waiting += tokens
            self._unplanned += tokens
            self._work.notify()

    def _next(self) -> list[Flight] | None:
        """Wait for a batch and take it; None when the batcher stops."""
        with self._lock:
            while not self._stopping:
                if not self._ready and (self._busy < self._runtime.streams or self._unplanned >= self.batch_tokens):
                    self._cut()
                if self._ready:
                    self._busy += 1
                    if self._ready or self._unplanned:
                        self._work.notify()
                    flights = self._ready.popleft()
                    self._waiting -= sum(len(flight.ids) for flight in flights)
                    if wanted := self._still_wanted(flights):
                        self._running += sum(len(flight.ids) for flight in wanted)
                        return wanted
                    self._busy -= 1
                    continue
                self._work.wait(IDLE_BEAT)
        return None

    def _still_wanted(self, flights: list[Flight]) -> list[Flight]:
        """Texts that somebody waits for; those of callers who left since the batch was cut are counted."""
        wanted = [flight for flight in flights if not flight.dead]
        if len(wanted) < len(flights):
            self._observer.skipped(len(flights) - len(wanted))
        return wanted

    def _cut(self) -> None:
        """Move up to a window of texts from the lines to `_ready`, as sorted batches; the lock is held."""
        taken: list[Flight] = []
        tokens = skipped = 0
        streams = self._runtime.streams
        while self._lines and tokens < WINDOW * streams * self.batch_tokens:
            line = self._lines.popleft()
            for _ in range(min(TURN, len(line.flights))):
                flight = line.flights.popleft()
                size = len(flight.ids)
                line.tokens -= size
                self._unplanned -= size
                if flight.dead:
                    self._waiting -= size
                    skipped += 1
                    continue
                taken.append(flight)
                tokens += size
            if line.flights:
                self._lines.append(line)
        if skipped:
            self._observer.skipped(skipped)
        # When little waits it is shared between the streams that have nothing to do.
        idle = max(1, streams - self._busy)
        budget = min(self.batch_tokens, max(LEAST_TOKENS, -(-tokens // idle)))
        for rows in self._runtime.plan([len(flight.ids) for flight in taken], budget):
            self._ready.append([taken[row] for row in rows])

    def _run(self) -> None:
        me = threading.get_ident()
        while (flights := self._next()) is not None:
            try:
                prepared = self._runtime.prepare(flights)
                with self._slots:
                    self._begun[me] = time.monotonic()
                    landed = self._compute(flights, prepared)
            except Exception as error:  # noqa: BLE001  whatever the runtime raises, the thread must go on
                log.warning("batch_failed", texts=len(flights), error=type(error).__name__)
                landed = self._one_by_one(flights, me)
            finally:
                self._begun.pop(me, None)
                with self._lock:
                    self._busy -= 1
                    self._running -= sum(len(flight.ids) for flight in flights)
            self._hand_over(landed)

    def _compute(self, flights: list[Flight], prepared: Any) -> Landed:
        tokens = sum(len(flight.ids) for flight in flights)
        started = time.monotonic()
        vectors = self._runtime.forward(prepared)
        self._failing_since = None
        seconds = time.monotonic() - started
        self.rate.drained(tokens, saturated=self._saturated())
        self._observer.batch(
            texts=len(flights),
            tokens=tokens,
            padded=prepared.size,
            seconds=seconds,
            waited=started - min(flight.since for flight in flights),
        )
        return Landed(flights, list(vectors), started, seconds)

    def _saturated(self) -> bool:
        """Whether every stream had work: only then do tokens over time say how fast the queue empties."""
        with self._lock:
            return self._busy >= self._runtime.streams

    def _one_by_one(self, flights: Sequence[Flight], me: int) -> Landed:
        """Each text of a failed batch alone, so that only the one that is at fault fails."""
        started = time.monotonic()
        results: list[NDArray[np.float32] | None] = []
        for flight in flights:
            try:
                with self._slots:
                    self._begun[me] = time.monotonic()
                    results.append(self._runtime.forward(self._runtime.prepare([flight]))[0])
                self._failing_since = None
            except Exception as error:  # noqa: BLE001
                self._failing_since = self._failing_since or time.monotonic()
                log.warning("text_failed", tokens=len(flight.ids), error=type(error).__name__)
                results.append(None)
        return Landed(flights, results, started, time.monotonic() - started)

    def _hand_over(self, landed: Landed) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._deliver, landed)
        except RuntimeError:  # the loop closed in between: the service is stopping and nobody waits
            log.debug("vectors_dropped_at_stop", texts=len(landed.flights))
