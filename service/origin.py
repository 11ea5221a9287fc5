"""What a request says of where its texts come from: a segment of the traffic, and a session.

The drift monitor watches each segment beside the whole, and takes little of one session as evidence. Neither changes
the answer.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from service.auth import CALLER
from service.errors import invalid

SEGMENT_HEADER: Final = "x-driftline-segment"
SESSION_HEADER: Final = "x-driftline-session"
_SEGMENT = re.compile(r"[\x20-\x7e]{1,64}")

PARAMETERS: Final[tuple[dict[str, Any], ...]] = (
    {
        "name": SEGMENT_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[ -~]+$"},
        "description": "The part of the traffic that the texts belong to, such as a channel or a language: drift is "
        "watched for in each segment as well. The first 64 have a place of their own.",
    },
    {
        "name": SESSION_HEADER,
        "in": "header",
        "required": False,
        "schema": {"type": "string"},
        "description": "The session or user that the texts come from: little of one session in a minute is evidence of "
        "drift. OpenAI's field `user` does the same.",
    },
)
"""How the OpenAPI document describes the two, for every route that embeds."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the texts of one request come from.

    Attributes:
        segment: As the caller named it; None without one.
        session: A hash of what the caller named, under its API key; None without one.
    """

    segment: str | None = None
    session: int | None = None


NOWHERE: Final = Origin()


def origin_of(request: Request, user: str | None = None) -> Origin:
    """What a request says, by its headers or else its body's `user`.

    Raises:
        Problem: 422 for a segment that is not 1 to 64 printable ASCII characters.
    """
    segment = request.headers.get(SEGMENT_HEADER)
    session = request.headers.get(SESSION_HEADER) or user
    if segment is None and not session:
        return NOWHERE
    if segment is not None and not _SEGMENT.fullmatch(segment):
        raise invalid(SEGMENT_HEADER, "must be 1 to 64 printable ASCII characters")
    return Origin(segment, hash((request.scope.get(CALLER), session)) if session else None)
