"""Alerts that were taken: an alert is delivered many times and asks for one retrain.

The built-in policy's are entered here too, so that what holds retrains back counts them all.
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry import events, versions
from registry.errors import InvalidName, NotFound
from registry.states import JobState
from registry.tables import AlertRecord, JobRecord, now


def claim(session: Session, fingerprint: str, starts_at: str, adapter: str, *, by: str = "alertmanager") -> bool:
    """Take an alert: True the first time, False for every later delivery of the same (fingerprint, starts_at).

    `by` is who delivers it, for the journal.
    Raises NotFound for an unknown adapter, InvalidName for an empty or over-long fingerprint or time.
    """
    _check(fingerprint, 128)
    _check(starts_at, 64)
    versions.get_adapter(session, adapter)
    if session.get(AlertRecord, (fingerprint, starts_at)) is not None:
        return False
    session.add(
        AlertRecord(fingerprint=fingerprint, starts_at=starts_at, adapter=adapter, job_id=None, received_at=now())
    )
    session.flush()
    events.record(session, "alert.claimed", adapter, by, {"fingerprint": fingerprint})
    return True


def attach_job(session: Session, fingerprint: str, starts_at: str, job_id: str) -> None:
    """Note which job answers an alert. Raises NotFound for an alert that was never claimed."""
    row = session.get(AlertRecord, (fingerprint, starts_at))
    if row is None:
        raise NotFound("alert", fingerprint)
    row.job_id = job_id
    session.flush()


def job_of(session: Session, fingerprint: str, starts_at: str) -> str | None:
    """The job that answers an alert, None when there is none."""
    row = session.get(AlertRecord, (fingerprint, starts_at))
    return None if row is None else row.job_id


def started(session: Session, since: datetime, adapter: str | None = None) -> list[JobState]:
    """The states of the jobs that alerts have started since then, perhaps of one adapter; one that waited already when
    an alert came was not started by it."""
    query = select(JobRecord.id, JobRecord.state).join(AlertRecord, AlertRecord.job_id == JobRecord.id).distinct()
    query = query.where(AlertRecord.received_at <= JobRecord.created_at, JobRecord.created_at >= since)
    if adapter is not None:
        query = query.where(JobRecord.adapter == adapter)
    return [JobState(state) for _, state in session.execute(query)]


def _check(value: str, longest: int) -> None:
    if not value or len(value) > longest or not value.isascii() or not value.isprintable():
        raise InvalidName(f"an alert's fingerprint and time have 1 to {longest} printable ASCII characters")
