"""Refusals as clients of Text Embeddings Inference (TEI) expect them: its statuses, and a flat body.

TEI answers `{"error": "a sentence", "error_type": "Validation"}`; its clients print `error` and cannot read an object
there. RFC 9457's members stay beside it. The statuses are those of TEI since 2026-02: 422 for whatever is wrong with
the texts or their number, 413 only for a body of too many bytes, 424 when the runtime fails.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encoder.errors import InputRefused
from service.errors import MEDIA_TYPE, EncodeFailed, Problem, input_problem, problem_of

PATHS = frozenset({"/", "/embed", "/similarity", "/rerank", "/tokenize", "/decode", "/health"})

# By code: what our own routes answer with another status.
_STATUSES = {
    "context_length_exceeded": 422,
    "too_many_inputs": 422,
    "too_many_tokens": 422,
    "encode_failed": 424,
    "encoder_unavailable": 424,
}
# By code, then by status; what is left is "Validation".
_TYPES: dict[str | int, str] = {
    "empty_input": "Empty",
    "token_arrays_refused": "Tokenizer",
    424: "Backend",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    504: "Overloaded",
}


@contextmanager
def tei_refusals(param: str, *alone: str) -> Iterator[None]:
    """Give what the block refuses TEI's status.

    Args:
        param: Field that holds the texts.
        alone: Fields of one text each that come before them.
    """
    try:
        yield
    except Exception as error:
        found = problem_of_texts(error, param, *alone)
        if found is None:
            raise
        status = _STATUSES.get(found.code, found.status)
        raise Problem(
            status, found.message, code=found.code, param=found.param, headers=found.headers, extra=found.extra
        ) from None


def problem_of_texts(error: Exception, param: str, *alone: str) -> Problem | None:
    """As `problem_of`, with the field of the request that holds the refused text; arguments as `tei_refusals`."""
    if not isinstance(error, InputRefused | EncodeFailed):
        return problem_of(error)
    first = error.index < len(alone)
    name = alone[error.index] if first else param
    error.index -= 0 if first else len(alone)
    if isinstance(error, InputRefused):
        return input_problem(error, name, alone=first)
    where = name if first else f"{name}[{error.index}]"
    message = f"{where} could not be computed; the other texts were not affected."
    return Problem(500, message, code="encode_failed", param=name)


class FlatErrors:
    """Writes problems of the TEI routes in TEI's shape, wherever in the service they arose."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS:
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def flat(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_problem(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    body = _flattened(body)
                    headers = MutableHeaders(scope=start)
                    headers["content-type"] = "application/json"
                    headers["content-length"] = str(len(body))
                    await send(start)
                    await send({"type": "http.response.body", "body": body})

        await self.app(scope, receive, flat)


def _is_problem(start: Message) -> bool:
    return any(name == b"content-type" and value == MEDIA_TYPE.encode() for name, value in start["headers"])


def _flattened(body: bytes) -> bytes:
    value = orjson.loads(body)
    nested = value["error"]
    kind = _TYPES.get(nested["code"]) or _TYPES.get(value["status"], "Validation")
    return orjson.dumps(
        {**value, "error": nested["message"], "error_type": kind, "code": nested["code"], "param": nested["param"]}
    )
