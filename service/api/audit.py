"""GET /admin/audit: the registry's journal, page by page: who did what to what, and when."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from registry import events
from registry.events import LARGEST_ID, Event
from service import serialise
from service.auth import MayAdmin
from service.errors import invalid
from service.schemas import Moment, problems
from service.state import Running

router = APIRouter(prefix="/admin", tags=["audit"], responses=problems(401, 403))

MAX_EVENTS = 500
EventId = Annotated[int, Query(ge=0, le=LARGEST_ID)]


@router.get("/audit", summary="Who did what, and when", responses=problems(422))
async def audit(
    service: Running,
    caller: MayAdmin,
    before: EventId | None = None,
    after: EventId | None = None,
    kind: str | None = None,
    subject: str | None = None,
    actor: str | None = None,
    since: Moment | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 50,
) -> Response:
    """Events, newest first: `before` the last id of a page gives the next page; `after` an id gives what follows it,
    oldest first. `kind` is a kind such as version.promoted, or a group such as version; `actor` is the name of a key,
    `cli`, `local` (no key was needed), the id of a job, `service` or `system`."""
    if before is not None and after is not None:
        raise invalid("before", "and after do not go together")
    if since is not None and not 1970 <= since.year < 9999:
        raise invalid("since", "must be of the years 1970 to 9998")

    def read() -> list[Event]:
        with service.registry.reading() as session:
            return events.page(
                session,
                before=before,
                after=after,
                kind=kind,
                subject=subject,
                actor=actor,
                since=since,
                limit=limit,
            )

    return serialise.answer({"data": [event.to_json() for event in await service.blocking(read)]})
