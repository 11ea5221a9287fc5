"""The worker program: takes queued jobs out of the registry and runs them, one at a time, through the durable engine.

`python -m training worker --data-dir DIR`. Killed at any moment, it resumes at the next start where it was.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from types import FrameType

import structlog

from registry import jobs
from registry.errors import Conflict, NotFound
from registry.home import Home
from registry.jobs import Job, JobState
from registry.lock import FileLock
from registry.registry import Registry
from training import leash, retrain
from training.child import FitProcess
from training.engine import MAX_RECOVERY_ATTEMPTS, Engine, Standing
from training.errors import WorkerRefused
from training.files import WorkFolder
from training.steps import JobContext, Runtime

log = structlog.get_logger()

SWEEP_S = 0.5
# Every so many sweeps, running jobs are held against what the engine knows of them.
_AUDIT_EVERY = 4


class Worker:
    """One worker of a home. `run` blocks until it is told to stop."""

    def __init__(self, home: Home, runtime: Runtime) -> None:
        self._home = home
        self._runtime = runtime
        self._stop = threading.Event()
        self._handed: set[str] = set()
        self._active: str | None = None
        self._child: FitProcess | None = None
        self._guard = threading.Lock()
        self._registry: Registry
        self._engine: Engine

    def run(self) -> None:
        """Work until SIGTERM, SIGINT or `stop`.

        Raises:
            WorkerRefused: Another worker owns the home.
            RegistryError: The registry cannot be opened.
        """
        self._registry = self._home.registry()
        lock = FileLock(self._home.worker_lock)
        if not lock.acquire():
            self._registry.close()
            raise WorkerRefused(
                f"another worker already runs on {self._home.data_dir}; one worker owns a home. "
                "Stop it first (a service started without --no-worker has one)"
            )
        self._engine = Engine(
            self._home.jobs_url,
            executor_name(self._home),
            tuple(retrain.WORK),
            begin=self._begin,
            run_step=self._run_step,
            finish=self._finish,
        )
        self._sweep_folders()
        self._engine.launch()
        self._audit()
        log.info("worker.started", data_dir=str(self._home.data_dir))
        try:
            self._loop()
        finally:
            self._leave(lock)

    def stop(self) -> None:
        """Ask the worker to stop; a job in work is left as it stands and resumes at the next start."""
        self._stop.set()

    def keep(self, process: FitProcess | None) -> None:
        """Note the running fit, so that stopping ends it."""
        with self._guard:
            self._child = process

    def _loop(self) -> None:
        turn = 0
        while not self._stop.is_set():
            self._sweep()
            turn += 1
            if turn % _AUDIT_EVERY == 0:
                self._audit()
            self._stop.wait(SWEEP_S)

    def _sweep(self) -> None:
        """Hand queued jobs to the engine, oldest first."""
        with self._registry.reading() as session:
            waiting = [job for job in jobs.unfinished(session) if job.state is JobState.QUEUED]
        for job in waiting:
            if job.id not in self._handed:
                self._handed.add(job.id)
                self._engine.enqueue(job.id)

    def _audit(self) -> None:
        """Take up or end jobs that the engine lost, gave up, or began under other steps."""
        with self._registry.reading() as session:
            open_jobs = jobs.unfinished(session)
        for job in open_jobs:
            if job.id == self._active:
                continue
            standing = self._engine.standing(job.id)
            if standing is Standing.UNKNOWN and job.state is JobState.RUNNING:
                self._engine.enqueue(job.id)
            elif standing in _GIVEN_UP:
                # Read again: it may have ended between the two looks.
                with self._registry.reading() as session:
                    job = jobs.get(session, job.id)
                if not job.state.finished:
                    retrain.abandon(
                        self._context(job), JobState.FAILED, f"{job.step or 'start'}: {_GIVEN_UP[standing]}"
                    )

    def _sweep_folders(self) -> None:
        def ended(job_id: str) -> bool:
            with self._registry.reading() as session:
                return jobs.get(session, job_id).state.finished

        removed = retrain.sweep_folders(WorkFolder(self._home.work_dir), ended)
        if removed:
            log.info("worker.swept", folders=removed)

    def _context(self, job: Job) -> JobContext:
        return JobContext(self._registry, job, WorkFolder(self._home.work_dir / job.id), self._runtime, self)

    def _begin(self, job_id: str) -> bool:
        self._hold_if_stopping()
        self._active = job_id
        try:
            with self._registry.writing() as session:
                job = jobs.start(session, job_id)
        except (Conflict, NotFound):
            # Ended or cancelled while it waited, or ended just before a crash: only its folder may be left.
            WorkFolder(self._home.work_dir / job_id).remove()
            self._active = None
            return False
        log.info("retrain.started", job=job_id, adapter=job.adapter, attempt=job.attempts)
        return True

    def _run_step(self, job_id: str, name: str) -> dict[str, str]:
        self._hold_if_stopping()
        with self._registry.reading() as session:
            context = self._context(jobs.get(session, job_id))
        outcome = retrain.run_step(context, name)
        if outcome["state"] != retrain.DONE:
            # A fit that was ended because the worker stops has not failed.
            self._hold_if_stopping()
        return outcome

    def _finish(self, job_id: str, outcome: dict[str, str]) -> None:
        self._hold_if_stopping()
        with self._registry.reading() as session:
            context = self._context(jobs.get(session, job_id))
        retrain.finish(context, outcome)
        self._active = None

    def _hold_if_stopping(self) -> None:
        """Park this thread for good once the worker stops, so that the engine notes nothing more and resumes here."""
        if self._stop.is_set():
            threading.Event().wait()

    def _leave(self, lock: FileLock) -> None:
        with self._guard:
            child = self._child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        log.info("worker.stopped", unfinished=self._active)
        if self._active is not None:
            # Closing the engine would note the running job as failed. Everything on disk is safe at any moment, the
            # kernel gives the lock back, and the next start resumes.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        self._engine.close()
        self._registry.close()
        lock.release()


_GIVEN_UP = {
    Standing.ENDED: "the worker's engine ended this job with an error; the worker's log has it. Queue it again",
    Standing.EXHAUSTED: (
        f"the worker died {MAX_RECOVERY_ATTEMPTS + 1} times while it ran this job; most likely the machine has too "
        "little memory for it. Lower batch_size or the number of rows, then queue it again"
    ),
    Standing.OTHER_VERSION: "this job was begun by another version of Driftline; queue it again",
}


def executor_name(home: Home) -> str:
    """The name under which a worker's unfinished jobs are kept, the same at every start.

    A SQLite home has one worker. On PostgreSQL it is DRIFTLINE_WORKER_ID, else made of the host's name.
    """
    if home.database_url.startswith("sqlite"):
        return "worker"
    return os.environ.get("DRIFTLINE_WORKER_ID") or f"worker-{socket.gethostname()}"


def run_worker(home: Home, runtime: Runtime | None = None, *, leashed: bool = False) -> None:
    """Run a worker in this process until SIGTERM, SIGINT, or, leashed, the end of standard input.

    Raises:
        WorkerRefused: Another worker owns the home.
        RegistryError: The registry cannot be opened.
    """
    worker = Worker(home, runtime or Runtime())

    def on_signal(number: int, frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if leashed:
        leash.on_release(sys.stdin.fileno(), worker.stop)
    worker.run()
