"""The reference of a version, replaced explicitly: which one counts, what was before, and who asked for it.

References are artifacts and never change; a version names the one that counts. Every replacement is an event, so that
the line of them can be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events
from registry.errors import Conflict, NotFound
from registry.names import storable, storable_number, valid_digest
from registry.tables import EventRecord, MonitorRecord, VersionRecord

REBUILT: Final = "reference.rebuilt"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """One replacement: `before` and `after` are digests; `number` counts the references of the version from 1."""

    at: datetime
    by: str
    before: str | None
    after: str
    number: int
    detail: dict[str, Any]


def replace(
    session: Session,
    adapter: str,
    version: int,
    reference: str,
    *,
    expected: str | None,
    by: str,
    detail: Mapping[str, Any] | None = None,
) -> Rebuild:
    """Bind another reference to a version; its monitor begins afresh, without evidence and without an alarm.

    Args:
        reference: Digest of the stored bytes.
        expected: Digest of the reference that it replaces, None where the version had none.
        detail: What the new one was built from, in names and numbers.

    Raises:
        NotFound: There is no such version.
        Conflict: Another reference is bound to it by now, or the new one is the same.
    """
    known = storable(adapter) and storable_number(version)
    row = session.get(VersionRecord, (adapter, version)) if known else None
    if row is None:
        raise NotFound("version", f"{adapter}@{version}")
    if row.reference != expected:
        raise Conflict(f"the reference of {adapter}@{version} was replaced meanwhile; look at it and try again")
    if valid_digest(reference) == expected:
        raise Conflict(f"{adapter}@{version} has exactly this reference already: no row it is built from has changed")
    row.reference = reference
    monitor = session.get(MonitorRecord, (adapter, version))
    if monitor is not None:
        session.delete(monitor)
    session.flush()
    past = history(session, adapter, version)
    first = past[0].before if past else expected
    number = len(past) + (1 if first is None else 2)
    told = {**(detail or {}), "before": expected, "after": reference, "number": number}
    event = events.record(session, REBUILT, f"{adapter}@{version}", by, told)
    return _rebuild(event.at, event.actor, event.detail)


def history(session: Session, adapter: str, version: int) -> list[Rebuild]:
    """Every replacement of a version's reference, oldest first."""
    if not storable(adapter):
        return []
    query = select(EventRecord).where(EventRecord.kind == REBUILT, EventRecord.subject == f"{adapter}@{version}")
    return [_rebuild(row.at, row.actor, row.detail) for row in session.scalars(query.order_by(EventRecord.id))]


def _rebuild(at: datetime, by: str, detail: Mapping[str, Any]) -> Rebuild:
    more = {name: value for name, value in detail.items() if name not in ("before", "after", "number")}
    return Rebuild(at, by, detail["before"], detail["after"], int(detail["number"]), more)
