"""What a trace tells of serving: a span for each request, what it waited for, and the batches that requests share.

A request's span has its route, status, version and counts, and within it the wait for the runtime and the run. Batches
and comparisons of a rollout are shared, so each is a trace of its own with a link to every request in it; a request
links back to the batch that ended its wait. Nothing here holds a text, a key, or a path.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitoring.tracing import Span, Tracing, open_tracing
from service.batching import Landed
from service.edge import NOT_ANSWERED, QUIET, method_of, route_of
from service.settings import Settings
from service.version import VERSION

if TYPE_CHECKING:  # compute needs this file
    from service.compute import Computed

log = structlog.get_logger()

PROGRAM: Final = "driftline-service"
# Where a scope has the request's trace; it is not there while tracing is off.
TRACE: Final = "driftline.trace"


class RequestTrace:
    """What is known of one request; belongs to the event loop."""

    __slots__ = ("_ended", "_queued", "_run", "span", "tracing")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self.tracing = tracing
        self.span = span
        self._queued = 0.0
        self._run: tuple[float, float] | None = None  # when the last batch with a text of this request began and ended
        self._ended: Span | None = None  # that batch

    def looked_up(self, texts: int, local: int, shared: int) -> None:
        """So many of the texts came from the cache here, and so many from the one that services share."""
        cache = {"hits": local, "shared_hits": shared, "misses": texts - local - shared}
        self.span.describe({f"driftline.cache.{name}": count for name, count in cache.items()})

    def queued(self, at: float) -> None:
        """Since the monotonic time `at` it waits for texts that are under way."""
        self._queued = at

    def landed(self, batch: Span, began: float, ended: float) -> None:
        """A batch was computed that has texts of this request."""
        self._ended, self._run = batch, (began, ended)

    def left(self) -> None:
        """It waits no longer: every text was computed, or it gave up."""
        queue = self.span.child("queue", began=self._queued)
        if self._run is None or self._ended is None:  # nothing of it was computed
            queue.end()
            return
        began, ended = self._run
        queue.end(max(began, self._queued))  # a text that it joined was perhaps computed already
        inference = self.span.child("inference", began=max(began, self._queued))
        inference.link(self._ended)
        inference.end(ended)

    def answered(self, computed: "Computed") -> None:
        """Its vectors are there."""
        cost = computed.cost
        self.span.describe(
            {
                "driftline.model": computed.target.family,
                "driftline.version": computed.target.name,
                "driftline.texts": len(computed.texts),
                "driftline.tokens": cost.tokens,
                "driftline.truncated": cost.truncated,
                "driftline.tokenize_seconds": cost.tokenize_seconds,
            }
        )


class Traced:
    """The outermost layer where tracing is on: a server span for every request, probes and scrapes left out.

    A valid `traceparent` header is continued. Log lines of the request carry `trace_id` and `span_id`.
    """

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self.app = app
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in QUIET:
            await self.app(scope, receive, send)
            return
        method = method_of(scope)
        span = self.tracing.begin(method, {"http.request.method": method}, parent=_carrier(scope), server=True)
        if span.recording:
            scope[TRACE] = RequestTrace(self.tracing, span)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with structlog.contextvars.bound_contextvars(**span.ids):
            try:
                await self.app(scope, receive, watched)
            except Exception as error:
                span.fail(type(error).__name__)
                raise
            finally:
                route = route_of(scope)
                span.describe(
                    {
                        "http.route": route,
                        "http.response.status_code": status or NOT_ANSWERED,
                        "driftline.request_id": scope["request_id"],
                    },
                    name=f"{method} {route}",
                )
                if status >= 500:
                    span.fail(str(status))
                span.end()


def trace_of(request: Request) -> RequestTrace | None:
    """The trace of a request; None where tracing is off, or this request is not among those that are kept."""
    trace: RequestTrace | None = request.scope.get(TRACE)
    return trace


def traceparent_of(request: Request) -> str | None:
    """What makes later work a part of the request's trace."""
    trace = trace_of(request)
    return None if trace is None else trace.span.traceparent


def trace_batch(waiting: Iterable[RequestTrace], landed: Landed) -> None:
    """A batch was computed for these requests, each of which may be named many times."""
    traces = [trace for trace in dict.fromkeys(waiting) if trace.span.recording]
    if not traces:
        return
    ended = landed.started + landed.seconds
    batch = traces[0].tracing.gather(
        "batch",
        [trace.span for trace in traces],
        {
            "driftline.batch.texts": len(landed.flights),
            "driftline.batch.tokens": sum(flight.tokens for flight in landed.flights),
            "driftline.batch.requests": len({id(ticket) for flight in landed.flights for ticket, _ in flight.waiters}),
        },
        began=landed.started,
    )
    if any(vector is None for vector in landed.vectors):
        batch.fail("EncodeFailed")
    batch.end(ended)
    for trace in traces:
        trace.landed(batch, landed.started, ended)


@contextmanager
def traced_comparison(answered: Iterable[RequestTrace | None], version: str) -> Iterator[None]:
    """Around the comparison of answered requests with what a rollout's other version makes of them."""
    traces = [trace for trace in answered if trace is not None]
    if not traces:
        yield
        return
    span = traces[0].tracing.gather(
        "rollout",
        [trace.span for trace in traces],
        {"driftline.version": version, "driftline.rollout.requests": len(traces)},
        began=time.monotonic(),
    )
    try:
        yield
    except Exception as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()


def service_tracing(settings: Settings) -> Tracing | None:
    """Tracing of a service, if it is asked for.

    Raises:
        TracingUnusable: It is, and cannot be.
    """
    return open_tracing(settings.tracing, PROGRAM, VERSION, _trouble)


async def close_tracing(tracing: Tracing) -> None:
    """Send what was traced and not sent yet, for `FLUSH_SECONDS` at most."""
    if not await asyncio.to_thread(tracing.close):
        log.warning("traces_lost_at_stop")


def _trouble(source: str) -> None:
    log.warning("tracing_trouble", source=source)


def _carrier(scope: Scope) -> dict[str, str]:
    """The W3C headers of a request; none where `traceparent` is there twice, as the recommendation has it."""
    parents = [value for name, value in scope["headers"] if name == b"traceparent"]
    if len(parents) != 1:
        return {}
    states = [value for name, value in scope["headers"] if name == b"tracestate"]
    return {"traceparent": parents[0].decode("latin-1"), "tracestate": b",".join(states).decode("latin-1")}
