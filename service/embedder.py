"""From texts to vectors on the event loop: cache, single flight for identical texts, then the batcher.

All bookkeeping happens on the event loop, so there are no locks here: a text is either cached, already on its way (the
request joins its flight), or new (it is tokenised, admitted to the queue and becomes a flight).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from encoder.batch import Batch
from encoder.encoder import Encoder
from encoder.errors import InputRefused
from encoder.lora import Lora
from encoder.tokens import Tokenized
from service.batching import Batcher, Flight, Landed
from service.cache import Entry, VectorCache, key_of, salt_of
from service.errors import ClientGone, Overloaded, Problem
from service.recorder import ServingRecorder
from service.shared_cache import SharedCache
from service.threads import Pool
from service.tickets import Ticket
from service.tracing import RequestTrace, trace_batch

log = structlog.get_logger()

# Texts up to this many characters together are tokenised in place: about 0.3 ms, less than handing them to a thread
# and back costs a loaded event loop. More go to a thread.
INLINE_CHARACTERS = 500
# Of ordinary prose, for a first guess of a request's tokens.
CHARACTERS_A_TOKEN = 4
# How often waiting requests are looked through: has the caller left, has the time passed?
SWEEP_SECONDS = 0.2

Gone = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors (n, d) float32 of one request and what they cost.

    Attributes:
        tokens: True token count of all texts.
        truncated, cached: How many texts were cut, and how many came from the cache.
        tokenize_seconds: Time spent tokenising.
        queue_seconds, inference_seconds: Of the text that took longest: its wait for the runtime, and its batch's run.
        keys: What each text is cached under: equal for equal texts.
    """

    vectors: NDArray[np.float32]
    tokens: int
    truncated: int
    cached: int
    tokenize_seconds: float
    queue_seconds: float
    inference_seconds: float
    keys: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A batch and the adapter of each of its texts."""

    batch: Batch
    adapters: list[Lora | None]

    @property
    def size(self) -> int:
        return self.batch.size


class _EncoderRuntime:
    """The encoder as the batcher sees it: one run computes texts of the backbone and of LoRA adapters together."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.streams = encoder.session.streams
        self.plan = encoder.plan

    def prepare(self, flights: Sequence[Flight]) -> _Prepared:
        return _Prepared(
            self._encoder.arrange([flight.ids for flight in flights]), [flight.adapter for flight in flights]
        )

    def forward(self, prepared: _Prepared) -> NDArray[np.float32]:
        return self._encoder.compute(prepared.batch, prepared.adapters)


class Embedder:
    """Serves vectors of one backbone.

    Args:
        encoder: The loaded backbone.
        cache: Shared between the embedders of all backbones; keys differ by backbone.
        pool: Threads that tokenise large requests.
        max_request_tokens: Most tokens of one request.
        deadline_seconds: How long a request may take, from the beginning of `embed`, if it sets no deadline itself.
        shared: The cache's second tier, if there is one.
        secret: The service's `cache_salt`.
    """

    def __init__(
        self,
        encoder: Encoder,
        cache: VectorCache,
        recorder: ServingRecorder,
        pool: Pool,
        *,
        batch_tokens: int,
        queue_tokens: int,
        queue_seconds: float,
        max_request_tokens: int,
        deadline_seconds: float,
        shared: SharedCache | None = None,
        secret: bytes = b"",
    ) -> None:
        self.encoder = encoder
        self.cache = cache
        self.dimension = encoder.manifest.dimension
        self.max_request_tokens = max_request_tokens
        self.deadline_seconds = deadline_seconds
        self._recorder = recorder
        self._pool = pool
        self._shared = shared
        self._secret = secret
        self._base_salt = self._salt(None)
        self._flights: dict[bytes, Flight] = {}
        self._waiting: set[Ticket] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self.batcher = Batcher(
            _EncoderRuntime(encoder),
            self._deliver,
            recorder,
            batch_tokens=batch_tokens,
            queue_tokens=queue_tokens,
            queue_seconds=queue_seconds,
        )

    def _salt(self, lora: Lora | None) -> bytes:
        """All that a vector depends on beside its text; under a head it is the backbone's, so heads share it."""
        version, session = None if lora is None else lora.digest, self.encoder.session
        return salt_of(self.encoder.digest, f"{session.provider}+{session.precision}", version, self._secret)

    def start(self) -> None:
        """Start the batcher's threads and the look-out for callers who left; call on the event loop."""
        self.batcher.start()
        self._sweeper = asyncio.create_task(self._sweep())

    def stop(self) -> None:
        """Stop the batcher's threads; may be called from any thread."""
        self.batcher.stop()
        sweeper = self._sweeper
        if sweeper is not None and not sweeper.get_loop().is_closed():
            sweeper.get_loop().call_soon_threadsafe(sweeper.cancel)

    async def embed(
        self,
        texts: Sequence[str],
        *,
        truncate: bool,
        lora: Lora | None = None,
        gone: Gone | None = None,
        deadline: float | None = None,
        trace: RequestTrace | None = None,
    ) -> Embedded:
        """Vectors of texts, in their order.

        Args:
            lora: The adapter the vectors are computed under; None for the backbone's own.
            gone: Tells whether the caller has left; asked now and then while waiting.
            deadline: Seconds the caller gives; None takes the service's own.
            trace: Of the request, if there is one.

        Raises:
            EmptyText, TextTooLong: With the index of the text.
            Overloaded: The queue is full.
            EncodeFailed: The runtime could not compute one of the texts.
            ClientGone: The caller left; texts that nobody else waits for are skipped.
            Problem: 413 for too many tokens in one request, 504 past the deadline.
        """
        allowed = self.deadline_seconds if deadline is None else min(deadline, self.deadline_seconds)
        ticket = Ticket(len(texts), self.dimension, allowed)
        ticket.trace = trace
        missing = self._from_cache(ticket, texts, self._base_salt if lora is None else self._salt(lora), truncate)
        local = len(texts) - len(missing)
        if missing and self._shared is not None:
            missing = await self._from_shared(self._shared, ticket, missing, truncate)
        cached = len(texts) - len(missing)
        if trace is not None:
            trace.looked_up(len(texts), local, cached - local)
        if missing:
            await self._board(ticket, texts, missing, truncate, lora)
            if ticket.remaining:
                try:
                    await self._wait(ticket, gone, exact=deadline is not None)
                finally:
                    self._leave(ticket)
                    if trace is not None:
                        trace.left()
        return Embedded(
            ticket.rows,
            ticket.tokens,
            ticket.truncated,
            cached,
            ticket.tokenize_seconds,
            ticket.queue_seconds,
            ticket.inference_seconds,
            ticket.keys,
        )

    def _from_cache(self, ticket: Ticket, texts: Sequence[str], salt: bytes, truncate: bool) -> list[tuple[int, bytes]]:
        """Fill what is cached; return (position, key) of the rest."""
        missing = []
        for position, text in enumerate(texts):
            key = key_of(salt, text)
            ticket.keys.append(key)
            entry = self.cache.get(key, truncate=truncate)
            if entry is None:
                missing.append((position, key))
            else:
                ticket.fill(position, entry)
        return missing

    async def _from_shared(
        self, shared: SharedCache, ticket: Ticket, missing: list[tuple[int, bytes]], truncate: bool
    ) -> list[tuple[int, bytes]]:
        """Ask the second tier for what is not under way here; return (position, key) of the rest."""
        wanted = list(dict.fromkeys(key for _, key in missing if key not in self._flights))
        found = dict(zip(wanted, await shared.get_many(wanted, self.dimension), strict=True)) if wanted else {}
        rest = []
        for position, key in missing:
            entry = found.get(key)
            if entry is not None:
                self.cache.put(key, entry)
            if entry is None or (entry.truncated and not truncate):
                rest.append((position, key))
            else:
                ticket.fill(position, entry)
        return rest

    async def _board(
        self,
        ticket: Ticket,
        texts: Sequence[str],
        missing: Sequence[tuple[int, bytes]],
        truncate: bool,
        lora: Lora | None,
    ) -> None:
        """Join flights under way and start new ones; tokenising comes first, so nothing is queued if it refuses."""
        tokenized: dict[bytes, tuple[list[int], bool]] = {}
        while fresh := {
            key: position for position, key in missing if key not in tokenized and self._known(key, truncate) is None
        }:
            if not tokenized:  # a first look, by size: who is refused is not tokenised
                self._admit(sum(len(texts[position]) for position in fresh.values()) // CHARACTERS_A_TOKEN + 1)
            # In a thread this gives way to other requests, so what they started or finished is looked up again.
            result = await self._tokenize(ticket, texts, list(fresh.values()), truncate)
            tokenized.update(zip(fresh, zip(result.ids, result.truncated, strict=True), strict=True))
        known = [(position, key, self._known(key, truncate)) for position, key in missing]
        tokens = ticket.tokens
        new = {key: len(tokenized[key][0]) for _, key, found in known if found is None}
        for _, key, found in known:
            tokens += new[key] if found is None else found.tokens
        if tokens > self.max_request_tokens:
            message = f"The request has {tokens} tokens in all; the limit is {self.max_request_tokens}."
            raise Problem(413, message, code="too_many_tokens", param="input")
        if new:
            self._admit(sum(new.values()))
        queued: list[Flight] = []
        joined = 0
        for position, key, found in known:
            if isinstance(found, Entry):
                ticket.fill(position, found)
                continue
            flight = self._flights.get(key)
            if flight is None:
                flight = Flight(key, *tokenized[key], lora)
                self._flights[key] = flight
                queued.append(flight)
            else:
                joined += 1
            ticket.join(flight, position)
        if joined:
            self._recorder.joined(joined)
        if queued:
            self.batcher.submit(queued)

    def admit(self, texts: Sequence[str]) -> None:
        """Ask whether texts would be let in, by their size, before other work is done with them.

        Raises:
            Overloaded: The queue is full.
        """
        self._admit(sum(map(len, texts)) // CHARACTERS_A_TOKEN + 1)

    def _admit(self, tokens: int) -> None:
        try:
            self.batcher.admit(tokens)
        except Overloaded:
            self._recorder.refused("queue_full")
            raise

    def _known(self, key: bytes, truncate: bool) -> Entry | Flight | None:
        """The text's flight or cache entry, if this caller may use it."""
        found = self._flights.get(key) or self.cache.peek(key)
        return None if found is None or (found.truncated and not truncate) else found

    async def _tokenize(
        self, ticket: Ticket, texts: Sequence[str], positions: Sequence[int], truncate: bool
    ) -> Tokenized:
        chosen = [texts[position] for position in positions]
        started = time.monotonic()
        try:
            if sum(map(len, chosen)) <= INLINE_CHARACTERS:
                return self.encoder.tokenizer.encode(chosen, truncate)
            async with asyncio.timeout(ticket.give_up - started):
                return await self._pool(self.encoder.tokenizer.encode, chosen, truncate)
        except InputRefused as error:
            error.index = positions[error.index]  # its place in the request, not among the misses
            raise
        except TimeoutError:
            raise self._late(ticket) from None
        finally:
            ticket.tokenize_seconds += time.monotonic() - started

    async def _wait(self, ticket: Ticket, gone: Gone | None, *, exact: bool) -> None:
        """Wait for the ticket's texts; the sweep ends a wait that lasts too long, or for nobody."""
        ticket.gone = gone
        timer = None
        if ticket.trace is not None:
            ticket.trace.queued(time.monotonic())
        if exact:  # a deadline that the caller set is not left to the next sweep
            loop = asyncio.get_running_loop()
            timer = loop.call_later(max(0.0, ticket.give_up - time.monotonic()), self._expire, ticket)
        self._waiting.add(ticket)
        try:
            await ticket.future
        finally:
            self._waiting.discard(ticket)
            if timer is not None:
                timer.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for ticket in list(self._waiting):
                try:
                    if now > ticket.give_up:
                        self._expire(ticket)
                    elif await ticket.deserted(now - SWEEP_SECONDS) and ticket.fail(ClientGone()):
                        self._recorder.caller_left()
                except Exception as error:  # noqa: BLE001  one caller's connection must not end the look-out for all
                    log.warning("sweep_failed", error=type(error).__name__)

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.future.done():
            ticket.fail(self._late(ticket))

    def _late(self, ticket: Ticket) -> Problem:
        self._recorder.refused("deadline")
        return Problem(504, f"The request was not computed within {ticket.allowed:g} s.")

    def _leave(self, ticket: Ticket) -> None:
        """Take the request off the flights it still waits for; a flight that nobody waits for is skipped."""
        for flight in ticket.flights:
            flight.waiters = [waiter for waiter in flight.waiters if waiter[0] is not ticket]
            if not flight.waiters and self._flights.get(flight.key) is flight:
                flight.dead = True
                del self._flights[flight.key]
        ticket.flights = []

    def _deliver(self, landed: Landed) -> None:
        """Take computed texts from the batcher: cache them and fill the rows of everyone who waits."""
        computed: list[tuple[bytes, Entry]] = []
        if traces := [t.trace for flight in landed.flights for t, _ in flight.waiters if t.trace is not None]:
            trace_batch(traces, landed)
        for flight, vector in zip(landed.flights, landed.vectors, strict=True):
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if vector is not None:
                # A copy: a view would keep the vectors of the whole batch in memory as long as one of them is cached.
                entry = Entry(vector.copy(), flight.tokens, flight.truncated)
                self.cache.put(flight.key, entry)
                computed.append((flight.key, entry))
            waited = landed.started - flight.since
            for ticket, position in flight.waiters:
                ticket.land(position, vector, waited, landed.seconds)
            flight.waiters = []
        if self._shared is not None and computed:
            self._shared.put_many(computed)
