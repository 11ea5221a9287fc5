"""Which worker has which job: every worker counts its beats in one row, and a job goes to another when they stop.

    take ──► the job is this worker's, attempt n ──► check, in every transaction that writes for the job
                 │ its worker falls silent, or hands it back
                 └──► another takes it: attempt n + 1, and whatever attempt n still writes is refused

Writers take turns (see `database`), so of several that take a job at once one gets it. No clock is asked: a beat is a
number that rises, and who waits for it counts the seconds by a clock of its own that nobody sets.
"""

from collections.abc import Mapping

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry import jobs
from registry.errors import ClaimLost, Conflict
from registry.jobs import Job
from registry.states import JobState
from registry.tables import JobRecord, WorkerRecord

__all__ = ["beat", "beats", "check", "forget", "free", "leave", "register", "take"]


def register(session: Session, worker: str, name: str) -> None:
    """Enter a worker that starts. `worker` is an id of this start alone; `name` outlives restarts.

    The jobs of the one that had the name before are this one's now: it died, or it is refused from here on.
    """
    before = select(WorkerRecord.id).where(WorkerRecord.name == name)
    mine = JobRecord.worker.in_(before), JobRecord.state == JobState.RUNNING
    session.execute(update(JobRecord).where(*mine).values(worker=worker))
    session.execute(delete(WorkerRecord).where(WorkerRecord.name == name))
    session.add(WorkerRecord(id=worker, name=name, beats=0))
    session.flush()


def beat(session: Session, worker: str, name: str) -> bool:
    """Say that the worker lives; False once another was started under its name, and then nothing changes.

    One that was forgotten while it was frozen enters itself again, without the jobs that it had.
    """
    row = session.get(WorkerRecord, worker)
    if row is not None:
        row.beats += 1
        return True
    if session.scalar(select(WorkerRecord.id).where(WorkerRecord.name == name)) is not None:
        return False
    session.add(WorkerRecord(id=worker, name=name, beats=0))
    return True


def beats(session: Session) -> dict[str, int]:
    """How often each worker has beaten, by id."""
    return {row.id: row.beats for row in session.scalars(select(WorkerRecord))}


def free(job: Job, beating: Mapping[str, int], silent: Mapping[str, int]) -> bool:
    """Whether a worker may take the job: nobody has it, or who had it is gone or silent.

    Args:
        job: One that has not ended.
        beating: What `beats` gives now.
        silent: Workers that have been silent for long enough, with the number of beats at which they stopped.
    """
    if job.state is JobState.QUEUED or job.worker is None or job.worker not in beating:
        return True
    return silent.get(job.worker) == beating[job.worker]


def take(session: Session, job_id: str, worker: str, silent: Mapping[str, int]) -> Job:
    """Take a job up: one that waits, this worker's own after a restart, or one that is `free`.

    Raises NotFound; Conflict when it has ended or is another worker's.
    """
    job = jobs.get(session, job_id)
    if not job.state.finished and job.worker != worker and not free(job, beats(session), silent):
        raise Conflict(f"{job_id} is another worker's")
    return jobs.start(session, job_id, worker)


def check(session: Session, job: Job) -> None:
    """Make sure that the job is still held as `job` says, by the same worker in the same attempt.

    In a writing transaction nothing can change that before the commit. Raises NotFound, ClaimLost.
    """
    found = jobs.get(session, job.id)
    if (found.worker, found.attempts) != (job.worker, job.attempts):
        raise ClaimLost(job.id)


def leave(session: Session, worker: str, running: str | None) -> None:
    """Take a worker that stops out of the table; `running`, the job in its hands, is free at once, and so is any other
    that was left to it."""
    held = (JobRecord.worker == worker, JobRecord.state == JobState.RUNNING)
    for job_id in session.scalars(select(JobRecord.id).where(*held)).all():
        if job_id == running:
            jobs.release(session, job_id)
    session.execute(delete(WorkerRecord).where(WorkerRecord.id == worker))


def forget(session: Session, silent: Mapping[str, int]) -> None:
    """Take silent workers without a running job out of the table."""
    held = select(JobRecord.worker).where(JobRecord.state == JobState.RUNNING, JobRecord.worker.is_not(None))
    for worker, stopped_at in silent.items():
        still = (WorkerRecord.id == worker, WorkerRecord.beats == stopped_at)
        session.execute(delete(WorkerRecord).where(*still, WorkerRecord.id.not_in(held)))
