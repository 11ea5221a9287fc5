"""The cache's second tier: vectors shared by several services through a Valkey or Redis server, never at their cost.

Reads that come while one is under way leave together in the next, so requests share round trips without waiting for a
timer. A read is given up after its limit, and after a few such failures nobody asks until a background probe has
succeeded (service.breaker): requests never connect, probe or retry. Writes happen behind the requests from a bounded
queue. What comes back is checked (service.shared_values) and is otherwise a miss.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from monitoring.metrics import Metrics
from service.breaker import Breaker, BreakerState
from service.cache import Entry
from service.shared_server import CONNECT_SECONDS, Reason, ServerFailed, SharedServer
from service.shared_values import ValueFormat

log = structlog.get_logger()

# One round trip: 4 ms of a gigabit line, well below the limit of a read.
READ_BYTES: Final = 512 * 1024
WRITE_ENTRIES: Final = 64
WRITE_SECONDS: Final = 1.0
# Vectors that may wait to be written: some seconds of a fast machine's work.
QUEUE_BYTES: Final = 16 * 1024 * 1024
DRAIN_SECONDS: Final = 1.0
PROBE_KEY: Final = b"probe"


@dataclass(slots=True, eq=False)
class _Read:
    """One caller's keys, about what their values weigh, when it came, and the values to be: None for no answer."""

    keys: Sequence[bytes]
    weight: int
    since: float
    values: "asyncio.Future[list[Any] | None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def answer(self, values: list[Any] | None) -> None:
        """Give the caller its values, unless it has left."""
        if not self.values.done():
            self.values.set_result(values)


class SharedCache:
    """Entries by key in a server that several services use. Used on one event loop.

    Args:
        timeout_seconds: Limit of one read. A caller waits at most twice this, for the read before its own and its own
            (for each half megabyte that it asks for, and no longer after the first that fails).
        ttl_seconds: How long a value stays in the server.
        secret: The service's `cache_salt`: values made without it are not believed.
    """

    def __init__(
        self, server: SharedServer, metrics: Metrics, *, timeout_seconds: float, ttl_seconds: int, secret: bytes = b""
    ) -> None:
        self._server = server
        self._metrics = metrics
        self._timeout = timeout_seconds
        self._ttl = ttl_seconds
        self._format = ValueFormat(secret)
        self._breaker = Breaker(time.monotonic)
        self._reads: deque[_Read] = deque()
        self._writes: deque[tuple[bytes, Entry]] = deque()
        self._queued_bytes = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._away_logged = False
        self._refusal_logged = False
        self._closing = False
        self._pre_create()

    @property
    def state(self) -> BreakerState:
        """Whether the server is asked."""
        return self._breaker.state

    def start(self) -> None:
        """Connect in the background; the first `get_many` does so too, but its caller goes without an answer."""
        if not self._breaker.closed and not self._closing:
            self._run("prober", self._probe)

    async def get_many(self, keys: Sequence[bytes], dimension: int) -> list[Entry | None]:
        """The entries of keys with vectors of `dimension`, None for those that are not to be had; never raises.

        The caller sees to it that an entry of a cut text is used only where cutting was asked for.
        """
        found: list[Entry | None] = []
        weight = 4 * dimension + 64
        step = max(1, READ_BYTES // weight)
        for start in range(0, len(keys), step):
            part = keys[start : start + step]
            values = await self._read(part, len(part) * weight)
            if values is None:
                break
            found += self._believed(part, values, dimension)
        skipped = len(keys) - len(found)
        self._metrics.shared_cache_skipped.inc(skipped)
        return found + [None] * skipped

    def put_many(self, items: Sequence[tuple[bytes, Entry]]) -> None:
        """Write entries some time soon; never waits, never raises, drops what does not fit the queue."""
        if not self._breaker.closed or self._closing:
            self._drop(len(items), "unavailable")
            self.start()
            return
        for position, (key, entry) in enumerate(items):
            if self._queued_bytes + entry.vector.nbytes > QUEUE_BYTES:
                self._drop(len(items) - position, "queue_full")
                break
            self._writes.append((key, entry))
            self._queued_bytes += entry.vector.nbytes
        self._metrics.shared_cache_queued_bytes.set(self._queued_bytes)
        if self._writes:
            self._run("writer", self._write)

    async def close(self) -> None:
        """Write what waits, for a second at most, and leave the server; later calls find nothing and keep nothing."""
        self._closing = True
        if (writer := self._tasks.get("writer")) is not None:
            await asyncio.wait((writer,), timeout=DRAIN_SECONDS)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._answer_none()
        self._drop(len(self._taken(len(self._writes))), "unavailable")
        await self._server.close()

    async def _read(self, keys: Sequence[bytes], weight: int) -> list[Any] | None:
        if not self._breaker.closed or self._closing:
            self.start()
            return None
        read = _Read(keys, weight, time.monotonic())
        self._reads.append(read)
        self._run("reader", self._answer_reads)
        return await read.values

    async def _answer_reads(self) -> None:
        while batch := self._next_reads():
            values: list[Any] | None = None
            started = time.monotonic()
            try:
                values = await self._server.read([key for read in batch for key in read.keys], self._timeout)
                self._breaker.succeeded()
                self._read_seconds.observe(time.monotonic() - started)
            except ServerFailed as failure:
                self._failed(failure.reason)
                self._answer_none()  # those who came meanwhile would wait for the same server
            finally:
                position = 0
                for read in batch:
                    read.answer(None if values is None else values[position : position + len(read.keys)])
                    position += len(read.keys)

    def _next_reads(self) -> list[_Read]:
        """Who shares the next round trip; those who have waited as long as a read may take go without."""
        latest = time.monotonic() - self._timeout
        batch: list[_Read] = []
        weight = 0
        while self._reads and (not batch or weight + self._reads[0].weight <= READ_BYTES):
            read = self._reads.popleft()
            if read.since < latest:
                read.answer(None)
            elif not read.values.done():
                batch.append(read)
                weight += read.weight
        return batch

    def _believed(self, keys: Sequence[bytes], values: Sequence[Any], dimension: int) -> list[Entry | None]:
        entries = [
            None if value is None else self._format.decode(key, value, dimension)
            for key, value in zip(keys, values, strict=True)
        ]
        missing = entries.count(None)
        self._metrics.shared_cache_hits.inc(len(entries) - missing)
        self._metrics.shared_cache_misses.inc(missing)
        self._metrics.shared_cache_corrupt.inc(missing - values.count(None))
        return entries

    async def _write(self) -> None:
        while self._writes:
            taken = self._taken(WRITE_ENTRIES)
            if not self._breaker.closed:
                self._drop(len(taken), "unavailable")
                continue
            started = time.monotonic()
            values = [(key, self._format.encode(key, entry)) for key, entry in taken]
            try:
                written = await self._server.write(values, self._ttl, WRITE_SECONDS)
            except ServerFailed as failure:
                # The breaker is not told: reads find out by themselves whether the server is there, and a full or
                # read-only server still answers them.
                self._metrics.shared_cache_errors.labels("write", failure.reason).inc()
                self._drop(len(taken), "failed")
                continue
            except asyncio.CancelledError:
                self._drop(len(taken), "failed")
                raise
            self._write_seconds.observe(time.monotonic() - started)
            self._metrics.shared_cache_written.inc(written)
            self._note_refused(len(taken) - written)

    def _note_refused(self, refused: int) -> None:
        if refused:
            self._metrics.shared_cache_errors.labels("write", Reason.REFUSED).inc()
            self._drop(refused, "failed")
            if not self._refusal_logged:
                log.warning("shared_cache_refuses_writes")
        self._refusal_logged = bool(refused)

    async def _probe(self) -> None:
        """Until the server answers: wait, connect, and see whether it answers a read as fast as a request needs it."""
        while not self._breaker.closed:
            await asyncio.sleep(self._breaker.pause())
            self._breaker.probe()
            self._show_state()
            try:
                await self._server.read([PROBE_KEY], CONNECT_SECONDS)
                await self._server.read([PROBE_KEY], self._timeout)
            except ServerFailed as failure:
                self._metrics.shared_cache_errors.labels("probe", failure.reason).inc()
                self._breaker.probed(False)
                self._log_away(failure.reason)
            else:
                self._breaker.probed(True)
                self._away_logged = False
                log.info("shared_cache_reached")
            self._show_state()

    def _failed(self, reason: Reason) -> None:
        self._metrics.shared_cache_errors.labels("read", reason).inc()
        if self._breaker.failed():
            self._log_away(reason)
            self._show_state()
            self.start()

    def _log_away(self, reason: Reason) -> None:
        """Once for each time the server goes away, however often it is asked."""
        if not self._away_logged:
            log.warning("shared_cache_away", reason=str(reason))
        self._away_logged = True

    def _answer_none(self) -> None:
        while self._reads:
            self._reads.popleft().answer(None)

    def _taken(self, most: int) -> list[tuple[bytes, Entry]]:
        """The next entries to write, out of the queue."""
        taken = [self._writes.popleft() for _ in range(min(most, len(self._writes)))]
        self._queued_bytes -= sum(entry.vector.nbytes for _, entry in taken)
        self._metrics.shared_cache_queued_bytes.set(self._queued_bytes)
        return taken

    def _drop(self, entries: int, reason: str) -> None:
        self._metrics.shared_cache_dropped.labels(reason).inc(entries)

    def _run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """See to it that one task of this name is at work."""
        task = self._tasks.get(name)
        if task is None or task.done():
            self._tasks[name] = asyncio.create_task(work(), name=f"shared-cache-{name}")

    def _show_state(self) -> None:
        for state in BreakerState:
            self._metrics.shared_cache_state.labels(state).set(state is self._breaker.state)

    def _pre_create(self) -> None:
        """Every series is there from the first scrape."""
        self._read_seconds = self._metrics.shared_cache_seconds.labels("read")
        self._write_seconds = self._metrics.shared_cache_seconds.labels("write")
        for operation in ("read", "write", "probe"):
            for reason in Reason:
                self._metrics.shared_cache_errors.labels(operation, reason)
        for dropped in ("queue_full", "unavailable", "failed"):
            self._metrics.shared_cache_dropped.labels(dropped)
        self._show_state()
