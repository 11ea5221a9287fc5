"""From texts to base vectors on the event loop: cache, single flight for identical texts, then the batcher.

All bookkeeping happens on the event loop, so there are no locks here: a text is either cached, already on its way (the
request joins its flight), or new (it is tokenised, admitted to the queue and becomes a flight).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder.encoder import Encoder
from encoder.errors import InputRefused
from encoder.tokens import Tokenized
from service.batching import Batcher, Flight
from service.cache import Entry, VectorCache, key_of
from service.errors import ClientGone, EncodeFailed, Overloaded, Problem
from service.recorder import ServingRecorder
from service.threads import Pool

# Texts up to this many characters together are tokenised in place: about 0.3 ms, less than handing them to a thread
# and back costs a loaded event loop. More go to a thread.
INLINE_CHARACTERS = 500
# How often a waiting request looks whether its caller is still there.
PRESENCE_SECONDS = 0.2

Gone = Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Base vectors (n, d) float32 of one request with its true token count and how many texts were cut."""

    vectors: NDArray[np.float32]
    tokens: int
    truncated: int
    cached: int


class _Ticket:
    """One request's claim on its texts: rows to fill and a future that is done when all are filled."""

    __slots__ = ("flights", "future", "remaining", "rows", "tokens", "truncated")

    def __init__(self, count: int, dimension: int) -> None:
        self.rows = np.empty((count, dimension), dtype=np.float32)
        self.remaining = 0
        self.tokens = 0
        self.truncated = 0
        self.flights: list[Flight] = []
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class _EncoderRuntime:
    """The encoder as the batcher sees it."""

    def __init__(self, encoder: Encoder) -> None:
        self._tokenizer = encoder.tokenizer
        self._session = encoder.session

    def prepare(self, ids: Sequence[list[int]]) -> Any:
        return self._tokenizer.pad(ids)

    def forward(self, feeds: Any) -> NDArray[np.float32]:
        return self._session.run(*feeds)


class Embedder:
    """Serves base vectors of one backbone.

    Args:
        encoder: The loaded backbone.
        cache: Shared between the embedders of all backbones; keys differ by backbone.
        pool: Threads that tokenise large requests.
        max_request_tokens: Most tokens of one request.
        deadline_seconds: How long a request may take, from the beginning of `embed`.
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
        max_request_tokens: int,
        deadline_seconds: float,
    ) -> None:
        self.encoder = encoder
        self.cache = cache
        self.dimension = encoder.manifest.dimension
        self.max_request_tokens = max_request_tokens
        self.deadline_seconds = deadline_seconds
        self._recorder = recorder
        self._pool = pool
        self._salt = bytes.fromhex(encoder.digest)[:32]
        self._flights: dict[bytes, Flight] = {}
        self.batcher = Batcher(
            _EncoderRuntime(encoder), self._deliver, recorder, batch_tokens=batch_tokens, queue_tokens=queue_tokens
        )

    def start(self) -> None:
        """Start the batcher's threads; call on the event loop."""
        self.batcher.start()

    def stop(self) -> None:
        """Stop the batcher's threads."""
        self.batcher.stop()

    async def embed(self, texts: Sequence[str], *, truncate: bool, gone: Gone | None = None) -> Embedded:
        """Base vectors of texts, in their order.

        Args:
            gone: Tells whether the caller has left; asked while waiting.

        Raises:
            EmptyText, TextTooLong: With the index of the text.
            Overloaded: The queue is full.
            EncodeFailed: The runtime could not compute one of the texts.
            ClientGone: The caller left; texts that nobody else waits for are skipped.
            Problem: 413 for too many tokens in one request, 504 past the deadline.
        """
        give_up = asyncio.get_running_loop().time() + self.deadline_seconds
        ticket = _Ticket(len(texts), self.dimension)
        missing = self._from_cache(ticket, texts, truncate)
        cached = len(texts) - len(missing)
        if missing:
            try:
                async with asyncio.timeout_at(give_up):
                    await self._board(ticket, texts, missing, truncate)
            except TimeoutError:
                raise self._late() from None
            if ticket.remaining:
                try:
                    await self._wait(ticket, gone, give_up)
                finally:
                    self._leave(ticket)
        return Embedded(ticket.rows, ticket.tokens, ticket.truncated, cached)

    def _from_cache(self, ticket: _Ticket, texts: Sequence[str], truncate: bool) -> list[tuple[int, bytes]]:
        """Fill what is cached; return (position, key) of the rest."""
        missing = []
        for position, text in enumerate(texts):
            key = key_of(self._salt, text)
            entry = self.cache.get(key, truncate=truncate)
            if entry is None:
                missing.append((position, key))
            else:
                _fill(ticket, position, entry)
        return missing

    async def _board(
        self, ticket: _Ticket, texts: Sequence[str], missing: Sequence[tuple[int, bytes]], truncate: bool
    ) -> None:
        """Join flights under way and start new ones; tokenising comes first, so nothing is queued if it refuses."""
        tokenized: dict[bytes, tuple[list[int], bool]] = {}
        while fresh := {
            key: position for position, key in missing if key not in tokenized and self._known(key, truncate) is None
        }:
            # In a thread this gives way to other requests, so what they started or finished is looked up again.
            result = await self._tokenize(texts, list(fresh.values()), truncate)
            tokenized.update(zip(fresh, zip(result.ids, result.truncated, strict=True), strict=True))
        known = [(position, key, self._known(key, truncate)) for position, key in missing]
        tokens = ticket.tokens
        for _, key, found in known:
            tokens += len(tokenized[key][0]) if found is None else found.tokens
        if tokens > self.max_request_tokens:
            message = f"The request has {tokens} tokens in all; the limit is {self.max_request_tokens}."
            raise Problem(413, message, code="too_many_tokens", param="input")
        queued: list[Flight] = []
        joined = 0
        for position, key, found in known:
            if isinstance(found, Entry):
                _fill(ticket, position, found)
                continue
            flight = self._flights.get(key)
            if flight is None:
                flight = Flight(key, *tokenized[key])
                self._flights[key] = flight
                queued.append(flight)
            else:
                joined += 1
            _join(ticket, flight, position)
        if joined:
            self._recorder.joined(joined)
        if queued:
            try:
                self.batcher.submit(queued)
            except Overloaded:
                self._leave(ticket)
                self._recorder.refused("queue_full")
                raise

    def _known(self, key: bytes, truncate: bool) -> Entry | Flight | None:
        """The text's flight or cache entry, if this caller may use it."""
        found = self._flights.get(key) or self.cache.peek(key)
        return None if found is None or (found.truncated and not truncate) else found

    async def _tokenize(self, texts: Sequence[str], positions: Sequence[int], truncate: bool) -> Tokenized:
        chosen = [texts[position] for position in positions]
        try:
            if sum(map(len, chosen)) <= INLINE_CHARACTERS:
                return self.encoder.tokenizer.encode(chosen, truncate)
            return await self._pool(self.encoder.tokenizer.encode, chosen, truncate)
        except InputRefused as error:
            error.index = positions[error.index]  # its place in the request, not among the misses
            raise

    async def _wait(self, ticket: _Ticket, gone: Gone | None, give_up: float) -> None:
        loop = asyncio.get_running_loop()
        while not (await asyncio.wait((ticket.future,), timeout=PRESENCE_SECONDS))[0]:
            if gone is not None and await gone():
                self._recorder.caller_left()
                raise ClientGone
            if loop.time() > give_up:
                raise self._late()
        ticket.future.result()

    def _late(self) -> Problem:
        self._recorder.refused("deadline")
        return Problem(504, f"The request was not computed within {self.deadline_seconds:g} s.")

    def _leave(self, ticket: _Ticket) -> None:
        """Take the request off the flights it still waits for; a flight that nobody waits for is skipped."""
        for flight in ticket.flights:
            flight.waiters = [waiter for waiter in flight.waiters if waiter[0] is not ticket]
            if not flight.waiters and self._flights.get(flight.key) is flight:
                flight.dead = True
                del self._flights[flight.key]
        ticket.flights = []

    def _deliver(self, flights: Sequence[Flight], vectors: Sequence[NDArray[np.float32] | None]) -> None:
        """Take computed texts from the batcher: cache them and fill the rows of everyone who waits."""
        for flight, vector in zip(flights, vectors, strict=True):
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            if vector is not None:
                # A copy: a view would keep the vectors of the whole batch in memory as long as one of them is cached.
                self.cache.put(flight.key, Entry(vector.copy(), flight.tokens, flight.truncated))
            for ticket, position in flight.waiters:
                _land(ticket, position, vector)
            flight.waiters = []


def _fill(ticket: _Ticket, position: int, entry: Entry) -> None:
    ticket.rows[position] = entry.vector
    ticket.tokens += entry.tokens
    ticket.truncated += entry.truncated


def _join(ticket: _Ticket, flight: Flight, position: int) -> None:
    flight.waiters.append((ticket, position))
    ticket.flights.append(flight)
    ticket.remaining += 1
    ticket.tokens += flight.tokens
    ticket.truncated += flight.truncated


def _land(ticket: _Ticket, position: int, vector: NDArray[np.float32] | None) -> None:
    ticket.remaining -= 1
    if ticket.future.done():
        return
    if vector is None:
        ticket.future.set_exception(EncodeFailed(position))
        return
    ticket.rows[position] = vector
    if ticket.remaining == 0:
        ticket.flights = []  # nothing to leave
        ticket.future.set_result(None)
