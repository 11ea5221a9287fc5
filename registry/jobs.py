"""Retrain jobs: what is asked, how far it is, how it ended. The engine that runs them lives in `training`.

    queued ──start──► running ──finish──► succeeded | failed | cancelled
       └──request_cancel──► cancelled

One job an adapter may wait; another may run meanwhile. Every change writes a job event in the same transaction, and a
finished job never changes again.
"""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry import datasets
from registry import events as journal
from registry.clean import clean, clean_or_none
from registry.errors import Conflict, JobWaiting, NotFound
from registry.names import storable, valid_name
from registry.states import JobState
from registry.tables import JobEventRecord, JobRecord, now

__all__ = [
    "Job",
    "JobEvent",
    "JobState",
    "all",
    "enqueue",
    "events",
    "finish",
    "get",
    "last_ends",
    "progress",
    "recoveries",
    "release",
    "request_cancel",
    "start",
    "unfinished",
]


@dataclass(frozen=True, slots=True)
class Job:
    """One retrain run as it stood when it was read."""

    id: str
    adapter: str
    dataset: str
    revision: int
    recipe: dict[str, Any]
    state: JobState
    step: str | None
    progress: float
    """Share of the work done, 0 to 1."""
    metrics: dict[str, Any]
    verdict: dict[str, Any] | None
    version: int | None
    """Number of the version it published."""
    error: str | None
    requested_by: str
    reason: str | None
    cancel_requested: bool
    attempts: int
    """How often a worker took it up."""
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    """Id of the worker that has it or ended it; None before the first, and when it was handed back."""
    pauses: int
    """How often its worker was stopped on purpose while it ran."""

    @property
    def deaths(self) -> int:
        """How often a worker died over it: the times it was taken up before without being handed back."""
        return max(0, self.attempts - 1 - self.pauses)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One thing that happened to a job: queued, started, progress, cancel_requested or finished."""

    id: int
    job_id: str
    at: datetime
    kind: str
    data: dict[str, Any]


def enqueue(
    session: Session,
    *,
    adapter: str,
    dataset: str,
    revision: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    requested_by: str,
    reason: str | None = None,
    traceparent: str | None = None,
) -> Job:
    """Ask for a retrain; `revision` None means the dataset's newest, `traceparent` (W3C) goes with the event.

    The adapter need not exist yet. Raises InvalidName, NotFound for an unknown dataset, JobWaiting when a job already
    waits for the adapter.
    """
    valid_name(adapter)
    revision = datasets.get(session, dataset, revision).revision
    waiting = session.scalar(
        select(JobRecord.id).where(JobRecord.adapter == adapter, JobRecord.state == JobState.QUEUED)
    )
    if waiting is not None:
        raise JobWaiting(waiting)
    row = JobRecord(
        # Milliseconds first, so that ids sort by age.
        id=f"job_{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}",
        adapter=adapter,
        dataset=dataset,
        revision=revision,
        recipe=dict(recipe or {}),
        state=JobState.QUEUED,
        step=None,
        progress=0.0,
        metrics={},
        verdict=None,
        version=None,
        error=None,
        requested_by=clean(requested_by),
        reason=clean_or_none(reason),
        cancel_requested=False,
        attempts=0,
        created_at=now(),
        started_at=None,
        finished_at=None,
        worker=None,
        pauses=0,
    )
    session.add(row)
    session.flush()
    data = {"adapter": adapter, "dataset": f"{dataset}@{revision}", "reason": row.reason}
    _tell(session, row, "queued", data if traceparent is None else data | {"traceparent": traceparent})
    journal.record(session, "job.queued", row.id, requested_by, {"adapter": adapter})
    return _job(row)


def get(session: Session, job_id: str) -> Job:
    """The job of that id. Raises NotFound."""
    return _job(_row(session, job_id))


def all(session: Session, adapter: str | None = None, limit: int = 50) -> list[Job]:
    """Jobs, newest first, perhaps of one adapter."""
    query = select(JobRecord).order_by(JobRecord.created_at.desc(), JobRecord.id.desc()).limit(limit)
    if adapter is not None:
        if not storable(adapter):
            return []
        query = query.where(JobRecord.adapter == adapter)
    return [_job(row) for row in session.scalars(query)]


def unfinished(session: Session) -> list[Job]:
    """Jobs that wait or run, oldest first: what a starting worker has to take up."""
    query = select(JobRecord).where(JobRecord.state.in_([JobState.QUEUED, JobState.RUNNING]))
    return [_job(row) for row in session.scalars(query.order_by(JobRecord.created_at, JobRecord.id))]


def last_ends(session: Session) -> dict[tuple[str, JobState], datetime]:
    """When the last job of each adapter that ended in each state did so."""
    query = select(JobRecord.adapter, JobRecord.state, func.max(JobRecord.finished_at))
    found = session.execute(query.group_by(JobRecord.adapter, JobRecord.state))
    return {(adapter, state): at for adapter, state, at in found if at is not None}


def recoveries(session: Session) -> int:
    """How often jobs were taken up again because their worker had died or fallen silent."""
    again = JobRecord.attempts - 1 - JobRecord.pauses
    return int(session.scalar(select(func.sum(again)).where(again > 0)) or 0)


def start(session: Session, job_id: str, worker: str | None = None) -> Job:
    """A worker takes the job up, for the first time or again after a crash; `claims.take` asks whether it may.

    Raises NotFound; Conflict when finished.
    """
    row = _unfinished_row(session, job_id)
    row.state = JobState.RUNNING
    row.worker = worker
    row.attempts += 1
    row.started_at = row.started_at or now()
    _tell(session, row, "started", {"attempt": row.attempts})
    journal.record(session, "job.started", row.id, detail={"adapter": row.adapter, "attempt": row.attempts})
    return _job(row)


def release(session: Session, job_id: str) -> None:
    """A worker that stops hands its job back, for the next to take up. Raises NotFound; Conflict when finished."""
    row = _unfinished_row(session, job_id)
    row.worker = None
    row.pauses += 1
    session.flush()
    journal.record(session, "job.released", row.id, detail={"adapter": row.adapter, "attempt": row.attempts})


def progress(
    session: Session,
    job_id: str,
    *,
    step: str,
    fraction: float,
    message: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Job:
    """Note how far a running job is: `fraction` of the whole (0 to 1), `metrics` added to what is known.

    Raises NotFound; Conflict when the job is not running. The answer's `cancel_requested` says whether to stop.
    """
    row = _unfinished_row(session, job_id)
    if row.state is not JobState.RUNNING:
        raise Conflict(f"{job_id} is not running")
    row.step = step
    row.progress = min(max(float(fraction), 0.0), 1.0)
    row.metrics = {**row.metrics, **(metrics or {})}
    data = {"step": step, "fraction": row.progress, "message": clean_or_none(message), "metrics": dict(metrics or {})}
    _tell(session, row, "progress", {key: value for key, value in data.items() if value not in (None, {})})
    return _job(row)


def finish(
    session: Session,
    job_id: str,
    state: JobState,
    *,
    verdict: Mapping[str, Any] | None = None,
    version: int | None = None,
    error: str | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Job:
    """End a job. Ending it again the same way changes nothing, so a worker that died just after may repeat itself.

    Raises NotFound; Conflict when it ended another way; ValueError when `state` is no end.
    """
    if not state.finished:
        raise ValueError(f"{state} is not an end of a job")
    row = _row(session, job_id)
    if row.state.finished:
        if row.state is not state:
            raise Conflict(f"{job_id} has already {row.state}")
        return _job(row)
    row.verdict = None if verdict is None else dict(verdict)
    row.version = version
    row.error = clean_or_none(error)
    row.metrics = {**row.metrics, **(metrics or {})}
    if state is JobState.SUCCEEDED:
        row.progress = 1.0
    _end(session, row, state, "system")
    return _job(row)


def request_cancel(session: Session, job_id: str, *, by: str = "system") -> Job:
    """Ask a job to stop: a waiting one is cancelled at once, a running one when its worker next looks.

    Raises NotFound; Conflict when it succeeded or failed already. Asking again changes nothing.
    """
    row = _row(session, job_id)
    if row.state is JobState.CANCELLED or (row.state is JobState.RUNNING and row.cancel_requested):
        return _job(row)
    if row.state.finished:
        raise Conflict(f"{job_id} has already {row.state}")
    row.cancel_requested = True
    if row.state is JobState.QUEUED:
        _end(session, row, JobState.CANCELLED, by)
    else:
        _tell(session, row, "cancel_requested", {"by": clean(by)})
        journal.record(session, "job.cancel_requested", row.id, by, {"adapter": row.adapter})
    return _job(row)


def events(session: Session, job_id: str, after: int = 0, limit: int = 1000) -> list[JobEvent]:
    """What happened to a job after event `after`, oldest first; nothing for an unknown job."""
    if not storable(job_id):
        return []
    rows = session.scalars(
        select(JobEventRecord)
        .where(JobEventRecord.job_id == job_id, JobEventRecord.id > after)
        .order_by(JobEventRecord.id)
        .limit(limit)
    )
    return [JobEvent(row.id, row.job_id, row.at, row.kind, row.data) for row in rows]


def _end(session: Session, row: JobRecord, state: JobState, by: str) -> None:
    row.state = state
    row.finished_at = now()
    outcome = (row.verdict or {}).get("outcome")
    data = {"state": state.value, "version": row.version, "error": row.error, "outcome": outcome}
    _tell(session, row, "finished", data)
    journal.record(session, "job.finished", row.id, by, {"adapter": row.adapter, "state": state.value})


def _tell(session: Session, row: JobRecord, kind: str, data: dict[str, Any]) -> None:
    session.add(JobEventRecord(job_id=row.id, at=now(), kind=kind, data=data))
    session.flush()


def _row(session: Session, job_id: str) -> JobRecord:
    row = session.get(JobRecord, job_id) if storable(job_id) else None
    if row is None:
        raise NotFound("job", job_id)
    return row


def _unfinished_row(session: Session, job_id: str) -> JobRecord:
    row = _row(session, job_id)
    if row.state.finished:
        raise Conflict(f"{job_id} has already {row.state}")
    return row


def _job(row: JobRecord) -> Job:
    return Job(
        id=row.id,
        adapter=row.adapter,
        dataset=row.dataset,
        revision=row.revision,
        recipe=row.recipe,
        state=row.state,
        step=row.step,
        progress=row.progress,
        metrics=row.metrics,
        verdict=row.verdict,
        version=row.version,
        error=row.error,
        requested_by=row.requested_by,
        reason=row.reason,
        cancel_requested=row.cancel_requested,
        attempts=row.attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        worker=row.worker,
        pauses=row.pauses,
    )
