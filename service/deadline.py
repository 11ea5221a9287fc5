"""How long a request may take: what its caller gives, and never more than the service allows."""

import math
import time

from starlette.requests import Request

from service.errors import invalid

DEADLINE_HEADER = "x-request-deadline-ms"
BEGAN = "driftline.began"
"""Key of the scope under which `Edge` notes the request's arrival, on `time.perf_counter`."""


def given(request: Request) -> float | None:
    """Seconds from its arrival that the caller gives for an answer, if it says so.

    Raises:
        Problem: 422 for a header that is no number of milliseconds.
    """
    header = request.headers.get(DEADLINE_HEADER)
    if header is None:
        return None
    try:
        milliseconds = float(header)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise invalid(DEADLINE_HEADER, "must be a number of milliseconds above 0")
    return milliseconds / 1000


def left(request: Request, allowed: float) -> float:
    """Seconds of `allowed` that are left since the request arrived; 0 where they are over."""
    began: float | None = request.scope.get(BEGAN)
    return max(0.0, allowed - (time.perf_counter() - began)) if began is not None else allowed
