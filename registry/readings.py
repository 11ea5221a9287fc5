"""Stored drift measurements, and the one monitor that all services which watch a version share.

A service adds what it has seen in one transaction: it reads the monitor's state for itself alone, applies its counts
and puts the state back. Whoever finds an alarm stores it; from then on it stands for all of them until somebody
acknowledges it, and nothing else releases it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry import events, versions
from registry.clean import clean
from registry.errors import Conflict, NotFound
from registry.names import storable, storable_number
from registry.states import VersionState
from registry.tables import MonitorRecord, ReadingRecord, VersionRecord, now


@dataclass(frozen=True, slots=True)
class Reading:
    """One measurement over a window of `window_n` vectors; `cells` counts them by neighbourhood."""

    id: int
    adapter: str
    version: int
    at: datetime
    window_n: int
    statistics: dict[str, Any]
    cells: list[int]
    alarm: bool


@dataclass(frozen=True, slots=True)
class MonitorState:
    """The monitor of one version: its own `state`, and whether its alarm stands."""

    adapter: str
    version: int
    state: dict[str, Any]
    alarm_active: bool
    alarm_since: datetime | None
    """When the alarm last began; kept after it ended."""
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    updated_at: datetime


def add(
    session: Session,
    *,
    adapter: str,
    version: int,
    window_n: int,
    statistics: Mapping[str, Any],
    cells: Sequence[int],
    alarm: bool,
    at: datetime | None = None,
) -> Reading:
    """Store a measurement of a version that exists; NaN and infinity become null."""
    row = ReadingRecord(
        adapter=adapter,
        version=version,
        at=at or now(),
        window_n=window_n,
        statistics=dict(statistics),
        cells=[int(count) for count in cells],
        alarm=bool(alarm),
    )
    session.add(row)
    session.flush()
    return _reading(row)


def trim(session: Session, adapter: str, version: int, keep: int) -> None:
    """Delete all but the newest `keep` measurements of a version."""
    mine = (ReadingRecord.adapter == adapter, ReadingRecord.version == version)
    oldest = session.scalar(
        select(ReadingRecord.id).where(*mine).order_by(ReadingRecord.id.desc()).offset(keep).limit(1)
    )
    if oldest is not None:
        session.execute(delete(ReadingRecord).where(*mine, ReadingRecord.id <= oldest))


def latest(session: Session, adapter: str, limit: int = 50, *, version: int | None = None) -> list[Reading]:
    """The last measurements of an adapter, newest first, perhaps of one version."""
    if not storable(adapter):
        return []
    query = select(ReadingRecord).where(ReadingRecord.adapter == adapter)
    if version is not None:
        query = query.where(ReadingRecord.version == version)
    return [_reading(row) for row in session.scalars(query.order_by(ReadingRecord.id.desc()).limit(limit))]


def get_state(session: Session, adapter: str, version: int | None = None) -> MonitorState | None:
    """What the monitor of a version (by default the live one) remembers, None when it never stored anything."""
    row = _row(session, adapter, version)
    return None if row is None else _state(row)


def state_to_change(session: Session, adapter: str, version: int, *, reference: str | None) -> MonitorState | None:
    """As `get_state`, for a caller that puts the state back, changed, in the same transaction.

    The row is the caller's alone until the transaction ends. Writers take turns in any case; the lock holds for whoever
    writes by other means.

    Args:
        reference: Digest of the reference that the caller measures against.

    Raises Conflict when the version has another reference: nothing measured against this one may be put.
    """
    if versions.get(session, adapter, version).reference != reference:
        raise Conflict(f"{adapter}@{version} has another reference by now")
    row = session.get(MonitorRecord, (adapter, version), with_for_update=True)
    return None if row is None else _state(row)


def last_changes(session: Session) -> dict[tuple[str, int], datetime]:
    """When each monitor's state was last put, by adapter and version: one look for all of them."""
    found = session.execute(select(MonitorRecord.adapter, MonitorRecord.version, MonitorRecord.updated_at))
    return {(adapter, version): at for adapter, version, at in found}


def standing(session: Session) -> list[MonitorState]:
    """The monitors of live versions whose alarm stands."""
    live = (VersionRecord.adapter == MonitorRecord.adapter) & (VersionRecord.number == MonitorRecord.version)
    query = select(MonitorRecord).join(VersionRecord, live)
    query = query.where(VersionRecord.state == VersionState.LIVE, MonitorRecord.alarm_active)
    return [_state(row) for row in session.scalars(query.order_by(MonitorRecord.adapter))]


def put_state(
    session: Session, adapter: str, version: int, *, state: Mapping[str, Any], alarm_active: bool
) -> MonitorState:
    """Store what the monitor remembers; an alarm that begins is an event, and unacknowledged.

    An alarm that stands is never ended here, whatever `alarm_active` says: the caller may be another service than the
    one that found it. The answer's `alarm_active` says whether one stands.
    """
    row = session.get(MonitorRecord, (adapter, version))
    if row is None:
        row = MonitorRecord(adapter=adapter, version=version, alarm_active=False)
        session.add(row)
    begins = alarm_active and not row.alarm_active
    row.state = dict(state)
    row.updated_at = now()
    if begins:
        row.alarm_active, row.alarm_since = True, row.updated_at
        row.acknowledged_at, row.acknowledged_by = None, None
    session.flush()
    if begins:
        events.record(session, "drift.alarm_began", f"{adapter}@{version}")
    return _state(row)


def acknowledge(session: Session, adapter: str, version: int | None = None, *, by: str) -> MonitorState:
    """Somebody has seen the alarm of a version (by default the live one): it no longer stands, and who saw it is kept.

    Without an alarm nothing changes. Raises NotFound when the version's monitor never stored anything.
    """
    row = _row(session, adapter, version)
    if row is None:
        raise NotFound("drift monitor of", adapter)
    if row.alarm_active:
        row.alarm_active = False
        row.acknowledged_at = row.updated_at = now()
        row.acknowledged_by = clean(by)
        session.flush()
        events.record(session, "drift.acknowledged", f"{adapter}@{row.version}", by)
    return _state(row)


def _row(session: Session, adapter: str, version: int | None) -> MonitorRecord | None:
    if version is None:
        live = versions.live(session, adapter)
        version = None if live is None else live.number
    if version is None or not (storable(adapter) and storable_number(version)):
        return None
    return session.get(MonitorRecord, (adapter, version))


def _reading(row: ReadingRecord) -> Reading:
    return Reading(
        row.id, row.adapter, row.version, row.at, row.window_n, row.statistics, [int(n) for n in row.cells], row.alarm
    )


def _state(row: MonitorRecord) -> MonitorState:
    return MonitorState(
        adapter=row.adapter,
        version=row.version,
        state=row.state,
        alarm_active=row.alarm_active,
        alarm_since=row.alarm_since,
        acknowledged_at=row.acknowledged_at,
        acknowledged_by=row.acknowledged_by,
        updated_at=row.updated_at,
    )
