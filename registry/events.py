"""The registry's journal: what changed, when, and who asked for it.

An event is written in the transaction of the change it tells of. Writers take turns (see `database`), so ids rise in
the order of commits and a reader who asks for what came after the last id it saw misses nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.clean import clean
from registry.names import storable
from registry.tables import EventRecord, now

_MARKS: Final = "marks"
LARGEST_ID: Final = 2**63 - 1
"""The largest id that can be asked for."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `kind` such as "version.promoted", `subject` such as "banking@7", `actor` such as a key's id."""

    id: int
    at: datetime
    kind: str
    subject: str
    actor: str
    detail: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values for who reads the journal; fingerprints of judged rows, which are many, are left out."""
        detail = {name: value for name, value in self.detail.items() if name != _MARKS}
        return {**asdict(self), "detail": detail}


def record(
    session: Session, kind: str, subject: str, actor: str = "system", detail: Mapping[str, Any] | None = None
) -> Event:
    """Write an event; it becomes visible with the rest of the transaction."""
    row = EventRecord(at=now(), kind=kind, subject=subject, actor=clean(actor), detail=dict(detail or {}))
    session.add(row)
    session.flush()
    return _event(row)


def latest_id(session: Session) -> int:
    """The id of the last event, 0 when there is none; cheap enough to poll."""
    return session.scalar(select(func.max(EventRecord.id))) or 0


def page(
    session: Session,
    *,
    before: int | None = None,
    after: int | None = None,
    kind: str | None = None,
    subject: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
) -> list[Event]:
    """Events of the journal, newest first; with `after` those that follow an id, oldest first, for who keeps up.

    Args:
        before: Only events with a smaller id: the last one of a page asks for the next.
        kind: Exactly this kind, or all kinds of a group such as "version".
        since: Only events from this moment on (with a zone).
    """
    query = select(EventRecord)
    for name, column in ((subject, EventRecord.subject), (actor, EventRecord.actor)):
        if name is not None:
            query = query.where(column == clean(name))
    if kind is not None:
        if not storable(kind):
            return []
        query = query.where((EventRecord.kind == kind) | EventRecord.kind.startswith(f"{kind}.", autoescape=True))
    if since is not None:
        query = query.where(EventRecord.at >= since)
    if before is not None:
        query = query.where(EventRecord.id < before)
    if after is not None:
        query = query.where(EventRecord.id > after).order_by(EventRecord.id)
    else:
        query = query.order_by(EventRecord.id.desc())
    return [_event(row) for row in session.scalars(query.limit(limit))]


def _event(row: EventRecord) -> Event:
    return Event(row.id, row.at, row.kind, row.subject, row.actor, row.detail)
