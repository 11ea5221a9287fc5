"""The outermost layer: request ids, counts and times, and an answer for whatever nobody foresaw.

An error nobody handles is logged by its type and the places it passed, never by its message: a message may hold a
caller's text, and logs are kept longer than requests.
"""

import random
import re
import time
import traceback
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientGone, Problem, problem_of
from service.recorder import ServingRecorder

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})


class Edge:
    """Counts every request by route template and status, names it, and turns errors into problem answers."""

    def __init__(self, app: ASGIApp, *, recorder: ServingRecorder) -> None:
        self.app = app
        self.recorder = recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        in_flight = self.recorder.metrics.requests_in_flight
        in_flight.inc()
        try:
            try:
                await self.app(scope, receive, named)
            except (ClientGone, ClientDisconnect):
                status = status or 499  # nobody reads it; 499 is nginx's code for this
            except Exception as error:
                problem = problem_of(error)
                if problem is None:
                    _log_unforeseen(error, scope, request_id)
                    problem = Problem(500, "The server failed. The request id names the log line.")
                if status:
                    raise  # the answer has begun; closing the connection is all that is left
                await problem.response()(scope, receive, named)
        finally:
            in_flight.dec()
            seconds = time.perf_counter() - started
            route = _route(scope)
            self.recorder.request(route, _method(scope), status, seconds)
            if route not in QUIET:
                log.debug("request", route=route, status=status, seconds=round(seconds, 4), request_id=request_id)


def _request_id(scope: Scope) -> str:
    """The caller's x-request-id if it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return f"{random.getrandbits(64):016x}"  # names a log line; nothing rests on its being hard to guess


def _route(scope: Scope) -> str:
    """The template of the route that answered, never the path itself: paths are unbounded and may hold anything."""
    context: Any = scope.get("fastapi", {})
    route = scope.get("route") or (context.get("route") if isinstance(context, dict) else None)
    return str(getattr(route, "path", "unmatched"))


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def _log_unforeseen(error: Exception, scope: Scope, request_id: str) -> None:
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
    log.error("request_failed", route=_route(scope), error=type(error).__name__, places=places, request_id=request_id)
