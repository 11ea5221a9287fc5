"""The worker program: takes jobs out of the registry and runs them, one at a time, through the durable engine.

`python -m training worker --data-dir DIR`. Killed at any moment, it resumes at the next start where it was, unless
another worker of the registry has begun the job anew by then.
"""

import contextlib
import dataclasses
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import structlog

from registry import claims, jobs
from registry.errors import ClaimLost, Conflict, NotFound, Unavailable
from registry.home import Home
from registry.jobs import Job, JobState
from registry.lock import FileLock
from registry.registry import Registry
from training import leash, retrain
from training.child import FitProcess
from training.engine import Engine, Standing
from training.errors import WorkerRefused
from training.files import WorkFolder
from training.presence import Presence
from training.steps import JobContext, Runtime

log = structlog.get_logger()

T = TypeVar("T")

SWEEP_S = 0.5
# Between two looks while the database does not answer: growing up to the longest.
RETRY_S = 1.0
LONGEST_RETRY_S = 10.0
# A job waits this long for its database before it is ended as failed.
PATIENCE_S = 600.0
# Deaths of its worker after which a job is not taken up again; stops are none.
MAX_RECOVERY_ATTEMPTS = 3
WORKER_ID = "worker.id"
# Silence of a worker after which others take its job up, in seconds.
TAKE_OVER_S = 60.0
LEAST_TAKE_OVER_S = 2.0
# Who asks whether a worker runs holds its lock for a moment.
_LOCK_TRIES = 5
_LOCK_PAUSE_S = 0.2
# Every so many sweeps, running jobs are held against what the engine knows of them.
_AUDIT_EVERY = 4


class Worker:
    """One worker of a home. `run` blocks until it is told to stop.

    Args:
        home: Whose registry it works for, and where it keeps its files.
        runtime: How base vectors are computed.
        take_over_s: Seconds of another worker's silence after which this one takes its job up, and of this one's after
            which it has to expect that of others; at least 2.
    """

    def __init__(self, home: Home, runtime: Runtime, take_over_s: float = TAKE_OVER_S) -> None:
        self._home = home
        self._runtime = runtime
        self._take_over_s = take_over_s
        self._stop = threading.Event()
        self._handed: set[str] = set()
        self._active: str | None = None
        self._taken: Job
        self._folder: WorkFolder
        self._replaced = False
        self._child: FitProcess | None = None
        self._guard = threading.Lock()
        self._registry: Registry
        self._engine: Engine
        self._presence: Presence

    def run(self) -> None:
        """Work until SIGTERM, SIGINT or `stop`.

        Raises:
            WorkerRefused: Another worker owns the home, or was started under this one's name.
            RegistryError: The registry cannot be opened.
        """
        self._registry = self._home.registry()
        lock = FileLock(self._home.worker_lock)
        if not _acquired(lock):
            self._registry.close()
            raise WorkerRefused(
                f"another worker already runs on {self._home.data_dir}; one worker owns a home. "
                "Stop it first (a service started without --no-worker has one)"
            )
        self._engine = Engine(
            self._home.jobs_url,
            tuple(retrain.WORK),
            begin=self._begin,
            run_step=self._run_step,
            finish=self._finish,
        )
        self._sweep_folders()
        name = executor_name(self._home)
        self._presence = Presence(self._registry, name, self._take_over_s, self._give_way)
        self._presence.enter()
        self._engine.launch()
        log.info("worker.started", data_dir=str(self._home.data_dir))
        code = 1
        try:
            self._loop()
            code = 2 if self._replaced else 0
        finally:
            self._leave(lock, code)
        if self._replaced:
            raise WorkerRefused(f"another worker was started under the name {name}; give each a name of its own")

    def stop(self) -> None:
        """Ask the worker to stop; a job in work is left as it stands and resumes at the next start."""
        self._stop.set()

    def _give_way(self) -> None:
        self._replaced = True
        self._stop.set()

    def keep(self, process: FitProcess | None) -> None:
        """Note the running fit, so that stopping ends it."""
        with self._guard:
            self._child = process

    def _loop(self) -> None:
        turn = failures = 0
        while not self._stop.is_set():
            pause = SWEEP_S
            try:
                if turn % _AUDIT_EVERY == 0:
                    self._audit()
                self._sweep()
                turn += 1
                failures = 0
            except Exception as error:  # noqa: BLE001 - whatever a database says, the running job goes on
                failures += 1
                pause = min(RETRY_S * failures, LONGEST_RETRY_S)
                log.warning("worker.sweep_failed", error=type(error).__name__, times=failures)
            self._stop.wait(pause)

    def _sweep(self) -> None:
        """Hand jobs that are nobody's to the engine, oldest first; each is taken when its turn comes."""
        for job in self._presence.free_jobs():
            if job.state is JobState.QUEUED:
                if job.id not in self._handed:
                    self._engine.enqueue(job.id)
                    self._handed.add(job.id)
            elif job.id != self._active and self._engine.latest(job.id)[1] is not Standing.ALIVE:
                self._engine.enqueue(job.id)

    def _audit(self) -> None:
        """Take up or end jobs that the engine lost, gave up, or began under other steps."""
        with self._registry.reading() as session:
            open_jobs = jobs.unfinished(session)
        for job in open_jobs:
            mine = job.state is JobState.QUEUED or job.worker == self._presence.id
            if not mine or job.id == self._active:
                continue
            run, standing = self._engine.latest(job.id)
            if standing is Standing.UNKNOWN and job.state is JobState.RUNNING:
                self._engine.enqueue(job.id)
            elif standing in _GIVEN_UP:
                error = f"{job.step or 'start'}: {_GIVEN_UP[standing]}"
                # It may have gone on, or ended, between the two looks.
                with contextlib.suppress(ClaimLost, Conflict):
                    retrain.abandon(self._context(job, self._folder_of(run)), JobState.FAILED, error)

    def _sweep_folders(self) -> None:
        def ended(job_id: str) -> bool:
            with self._registry.reading() as session:
                return jobs.get(session, job_id).state.finished

        removed = retrain.sweep_folders(WorkFolder(self._home.work_dir), ended)
        if removed:
            log.info("worker.swept", folders=removed)

    def _folder_of(self, run: str) -> WorkFolder:
        return WorkFolder(self._home.work_dir / run)

    def _context(self, job: Job, folder: WorkFolder) -> JobContext:
        return JobContext(self._registry, job, folder, self._runtime, self)

    def _begin(self, job_id: str, run: str) -> bool:
        self._hold_if_stopping()
        self._active = job_id
        self._folder = self._folder_of(run)
        if self._take_up(job_id):
            return True
        self._folder.remove()
        self._active = None
        return False

    def _take_up(self, job_id: str) -> bool:
        """Take the job; False when it has ended, is another worker's, or has killed too many workers."""
        try:
            job = self._taken = self._patiently(lambda: self._take(job_id))
            if job.deaths > MAX_RECOVERY_ATTEMPTS:
                context = self._context(job, self._folder)
                self._patiently(lambda: retrain.abandon(context, JobState.FAILED, _died(job)))
                return False
        except (ClaimLost, Conflict, NotFound):
            return False
        anew = not self._folder.path.exists()
        log.info("retrain.started", job=job_id, adapter=job.adapter, attempt=job.attempts, from_the_beginning=anew)
        return True

    def _take(self, job_id: str) -> Job:
        with self._registry.writing() as session:
            return claims.take(session, job_id, self._presence.id, self._presence.silent)

    def _look(self, job_id: str) -> JobContext:
        """The job as it stands, and as it was taken: what is written for it has to be of that attempt."""
        with self._registry.reading() as session:
            job = jobs.get(session, job_id)
        taken = self._taken
        return self._context(dataclasses.replace(job, worker=taken.worker, attempts=taken.attempts), self._folder)

    def _run_step(self, job_id: str, name: str) -> dict[str, str]:
        self._hold_if_stopping()
        outcome = self._patiently(lambda: retrain.run_step(self._look(job_id), name))
        if outcome["state"] != retrain.DONE:
            # A fit that was ended because the worker stops has not failed.
            self._hold_if_stopping()
        return outcome

    def _finish(self, job_id: str, outcome: dict[str, str]) -> None:
        self._hold_if_stopping()
        try:
            self._patiently(lambda: retrain.finish(self._look(job_id), outcome))
        except ClaimLost:
            # Handed back by this worker's own stop, it goes on here at the next start.
            self._hold_if_stopping()
            retrain.finish(self._look(job_id), {"state": retrain.LOST})
        self._active = None

    def _patiently(self, act: Callable[[], T]) -> T:
        """What `act` gives, tried again while the registry's database is away; every step can be repeated.

        Raises Unavailable after `PATIENCE_S`.
        """
        deadline = time.monotonic() + PATIENCE_S
        pause = RETRY_S
        while True:
            try:
                return act()
            except Unavailable:
                self._hold_if_stopping()
                if time.monotonic() > deadline:
                    raise
                log.warning("worker.database_away", job=self._active)
                self._stop.wait(pause)
                self._hold_if_stopping()
                pause = min(pause + RETRY_S, LONGEST_RETRY_S)

    def _hold_if_stopping(self) -> None:
        """Park this thread for good once the worker stops, so that the engine notes nothing more and resumes here."""
        if self._stop.is_set():
            threading.Event().wait()

    def _leave(self, lock: FileLock, code: int) -> None:
        self._stop.set()
        with self._guard:
            child = self._child
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        active = self._active
        log.info("worker.stopped", unfinished=active)
        # Another worker may go on from here; where the database does not hear of it, this stop counts as a death.
        self._presence.leave(active)
        if active is not None:
            self._runtime.traces.close()
            # Closing the engine would note the running job as failed. Everything on disk is safe at any moment, the
            # kernel gives the lock back, and the next start resumes.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        self._engine.close()
        self._registry.close()
        lock.release()


_GIVEN_UP = {
    Standing.ENDED: "the worker's engine ended this job with an error; the worker's log has it. Queue it again",
    Standing.OTHER_VERSION: "this job was begun by another version of Driftline; queue it again",
}


def _died(job: Job) -> str:
    return (
        f"{job.step or 'start'}: the worker died {job.deaths} times while it ran this job; most likely the machine has "
        "too little memory for it. Lower batch_size or the number of rows, then queue it again"
    )


def _acquired(lock: FileLock) -> bool:
    for _ in range(_LOCK_TRIES):
        if lock.acquire():
            return True
        time.sleep(_LOCK_PAUSE_S)
    return False


def executor_name(home: Home) -> str:
    """The name of a home's worker, the same at every start; the caller owns the home.

    The registry in a SQLite file has one worker. On PostgreSQL it is DRIFTLINE_WORKER_ID, else a random name that is
    kept in the home: a host's name would not do, since a container comes back under another.
    """
    if home.database_url.startswith("sqlite"):
        return "worker"
    if given := os.environ.get("DRIFTLINE_WORKER_ID"):
        return given
    kept = WorkFolder(home.data_dir)
    if not kept.has(WORKER_ID):
        kept.write(WORKER_ID, f"worker-{secrets.token_hex(8)}\n".encode())
    return kept.read(WORKER_ID).decode().strip()


def take_over_seconds() -> float:
    """DRIFTLINE_TAKE_OVER_SECONDS, 60 by default. Raises WorkerRefused when it is no number from 2 up."""
    given = os.environ.get("DRIFTLINE_TAKE_OVER_SECONDS")
    if given is None:
        return TAKE_OVER_S
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not LEAST_TAKE_OVER_S <= seconds < float("inf"):
        raise WorkerRefused(f"DRIFTLINE_TAKE_OVER_SECONDS must be a number of seconds, at least {LEAST_TAKE_OVER_S:g}")
    return seconds


def run_worker(home: Home, runtime: Runtime | None = None, *, leashed: bool = False) -> None:
    """Run a worker in this process until SIGTERM, SIGINT, or, leashed, the end of standard input.

    Raises:
        WorkerRefused: Another worker owns the home or has the name, or DRIFTLINE_TAKE_OVER_SECONDS is no such number.
        RegistryError: The registry cannot be opened.
    """
    worker = Worker(home, runtime or Runtime(), take_over_seconds())

    def on_signal(number: int, frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if leashed:
        leash.on_release(sys.stdin.fileno(), worker.stop)
    worker.run()
