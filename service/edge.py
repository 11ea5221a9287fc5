"""The outer layers: request ids, counts and times (Edge), and an answer for every error, foreseen or not (Answers).

An error nobody handles is logged by its type and the places it passed, never by its message: a message may hold a
caller's text, and logs are kept longer than requests.
"""

import random
import re
import time
import traceback
from typing import Any

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.deadline import BEGAN
from service.errors import ClientGone, Problem, problem_of
from service.recorder import ServingRecorder

log = structlog.get_logger()

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
NOT_ANSWERED = 499  # the caller left; nginx's code for this
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
        started = scope[BEGAN] = time.perf_counter()
        request_id = scope["request_id"] = _request_id(scope)
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        self.recorder.in_flight += 1
        try:
            await self.app(scope, receive, named)
        finally:
            self.recorder.in_flight -= 1
            seconds = time.perf_counter() - started
            route = route_of(scope)
            self.recorder.request(route, method_of(scope), status or NOT_ANSWERED, seconds)
            if route not in QUIET:
                log.debug("request", route=route, status=status, seconds=round(seconds, 4), request_id=request_id)


class Answers:
    """Turns errors into problem answers; a caller who left gets none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except (ClientGone, ClientDisconnect):
            return
        except Exception as error:
            problem = problem_of(error)
            if problem is None:
                _log_unforeseen(error, scope)
                problem = Problem(500, "The server failed. The request id names the log line.")
            if begun:
                raise  # closing the connection is all that is left
            await problem.response()(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """The caller's x-request-id if it is a plain one, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
    return f"{random.getrandbits(64):016x}"  # names a log line; nothing rests on its being hard to guess


def route_of(scope: Scope) -> str:
    """The template of the route that answered, never the path itself: paths are unbounded and may hold anything."""
    context: Any = scope.get("fastapi", {})
    route = scope.get("route") or (context.get("route") if isinstance(context, dict) else None)
    return str(getattr(route, "path", "unmatched"))


def method_of(scope: Scope) -> str:
    """The method, if it is one of HTTP's own; callers may send any word."""
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"


def _log_unforeseen(error: Exception, scope: Scope) -> None:
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames]
    request_id = scope.get("request_id")
    log.error("request_failed", route=route_of(scope), error=type(error).__name__, places=places, request_id=request_id)
