"""The registry's journal: what changed, when, and who asked for it.

An event is written in the transaction of the change it tells of. Writers take turns (see `database`), so ids rise in
the order of commits and a reader who asks for what came after the last id it saw misses nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.clean import clean
from registry.tables import EventRecord, now


@dataclass(frozen=True, slots=True)
class Event:
    """One change: `kind` such as "version.promoted", `subject` such as "banking@7", `actor` such as a key's id."""

    id: int
    at: datetime
    kind: str
    subject: str
    actor: str
    detail: dict[str, Any]


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


def _event(row: EventRecord) -> Event:
    return Event(row.id, row.at, row.kind, row.subject, row.actor, row.detail)
