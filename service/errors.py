"""One error shape for every answer that is not a success, and the table from domain errors to statuses.

    Problem            anything an endpoint refuses; carries status, code, message, param
    ClientGone         the caller closed the connection; nobody reads the answer
    EncodeFailed       the runtime could not compute one particular text
    Overloaded         the queue is full; carries the seconds after which it should have drained

The body is RFC 9457 problem+json with OpenAI's `error` member, so that both kinds of client read it. No message
repeats a caller's text: they name fields, indices, limits and digests only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from encoder.errors import ArtifactRefused, EmptyText, EncoderError, InputRefused, TextTooLong
from monitoring.errors import RecipeRefused, RulesRefused
from registry.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    Conflict,
    DatasetRefused,
    InvalidName,
    JobWaiting,
    NotFound,
    RegistryError,
)

MEDIA_TYPE = "application/problem+json"

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "overloaded_error",
    503: "unavailable_error",
    504: "timeout_error",
}
_CODES = {
    400: "bad_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid_value",
    429: "overloaded",
    500: "internal_error",
    503: "unavailable",
    504: "deadline_exceeded",
}


class Problem(HTTPException):
    """A refusal with everything its answer needs.

    It extends Starlette's HTTPException because FastAPI lets only those through when a body is being read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(status_code=status, detail=message, headers=dict(headers or {}))
        self.status = status
        self.message = message
        self.code = code or _CODES.get(status, "error")
        self.param = param
        self.extra = dict(extra or {})

    def body(self) -> dict[str, Any]:
        """The answer's JSON object."""
        return {
            "type": f"urn:driftline:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.message,
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            },
            **self.extra,
        }

    def response(self) -> Response:
        """The answer itself; 429 and 503 always say when to come back."""
        headers = dict(self.headers or {})
        if self.status in (429, 503):
            headers.setdefault("Retry-After", "1")
        return Response(orjson.dumps(self.body()), self.status, headers, media_type=MEDIA_TYPE)


class ServiceError(Exception):
    """Base of what this package raises beside `Problem`."""


class ClientGone(ServiceError):
    """The caller closed the connection before the answer was ready."""


class EncodeFailed(ServiceError):
    """The runtime could not compute the text at `index` of a request; its batch-mates were not harmed."""

    def __init__(self, index: int) -> None:
        super().__init__(f"the runtime could not compute input[{index}]")
        self.index = index


class Overloaded(ServiceError):
    """The queue of tokens is full; `retry_after` (s) is when it should have drained at the measured rate."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


def invalid(param: str, what: str) -> Problem:
    """422 that names the field."""
    return Problem(422, f"{param} {what}.", param=param)


def unknown_model(name: str) -> Problem:
    """404 in OpenAI's shape. A model name that is not a plausible name is not repeated."""
    shown = f" {name!r}" if len(name) <= 80 and name.isascii() and name.isprintable() and " " not in name else ""
    message = f"The model{shown} does not exist. GET /v1/models lists what is served."
    return Problem(404, message, code="model_not_found", param="model")


def problem_of(error: Exception) -> Problem | None:
    """The answer for a domain error, or None when the error is not one that a caller can understand."""
    match error:
        case Problem():
            return error
        case HTTPException():
            message = error.detail if error.status_code < 500 else HTTPStatus(error.status_code).phrase
            return Problem(error.status_code, str(message), headers=error.headers)
        case EncodeFailed():
            message = f"input[{error.index}] could not be computed; the other inputs were not affected."
            return Problem(500, message, code="encode_failed", param="input")
        case Overloaded():
            headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
            return Problem(429, "Too many tokens are waiting. Try again later.", code="queue_full", headers=headers)
        case InputRefused():
            return input_problem(error)
        case RecipeRefused():
            return Problem(422, str(error), code="recipe_refused", param="recipe")
        case RulesRefused():
            return Problem(422, str(error), code="rules_refused")
        case _:
            return _registry_problem(error)


def input_problem(error: InputRefused, param: str = "input", *, alone: bool = False) -> Problem:
    """The answer for one text that cannot be encoded; `param` is the field of the request that holds it.

    `alone` says that the field holds that one text and not a list.
    """
    where = param if alone else f"{param}[{error.index}]"
    if isinstance(error, TextTooLong):
        size = f"{error.tokens} tokens" if error.characters is None else f"{error.characters} characters"
        message = f'{where} has {size}; the limit is {error.limit} tokens. Send "truncate": true to have it cut.'
        return Problem(400, message, code="context_length_exceeded", param=param)
    if isinstance(error, EmptyText):
        return Problem(400, f"{where} is empty.", code="empty_input", param=param)
    return Problem(400, "The input was refused.", param=param)


def _registry_problem(error: Exception) -> Problem | None:
    match error:
        case NotFound():
            return Problem(404, str(error), code="not_found")
        case JobWaiting():
            message = "A job for this adapter is already waiting."
            return Problem(409, message, code="job_waiting", extra={"job_id": error.job_id})
        case Conflict():
            return Problem(409, str(error))
        case DatasetRefused():
            rows = [{"row": p.row, "line": p.line, "field": p.field, "problem": p.what} for p in error.problems]
            extra = {"problems": rows, "total_problems": error.total}
            return Problem(422, str(error), code="dataset_refused", extra=extra)
        case InvalidName():
            return Problem(422, str(error), code="invalid_name")
        case ArtifactMissing() | ArtifactCorrupt() | ArtifactRefused():
            return Problem(409, str(error), code="artifact_unusable")
        case RegistryError():
            return Problem(503, "The registry cannot be used now.", code="registry_unavailable")
        case EncoderError():
            return Problem(503, "The encoder cannot be used now.", code="encoder_unavailable")
        case _:
            return None


def validation_problem(errors: Sequence[Any]) -> Problem:
    """The answer for a body or parameter that pydantic refused: fields and reasons, never the value itself.

    FastAPI's own answer repeats the rejected input; for a service that is given texts this would put them in logs.
    """
    if any(error["type"] == "json_invalid" for error in errors):
        return Problem(400, "The body is not valid JSON.", code="malformed_json")
    fields = [(_field(error["loc"]), str(error["msg"])) for error in errors[:10]]
    message = "; ".join(f"{field}: {reason}" for field, reason in fields)
    more = f" (and {len(errors) - 10} more)" if len(errors) > 10 else ""
    return Problem(422, f"{message}{more}", param=fields[0][0] if fields else None)


def _field(location: Sequence[Any]) -> str:
    """The path of a field. Parts that are not plain identifiers may be a caller's text and are left out."""
    parts = [str(part) for part in location if part != "body"]
    plain = [part if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", part) else "?" for part in parts]
    return ".".join(plain) or "body"
