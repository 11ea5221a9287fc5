"""A worker among others: its entry in the registry, its beat, and which jobs are there to be taken up."""

import contextlib
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from registry import claims, jobs
from registry.errors import RegistryError
from registry.jobs import Job
from registry.registry import Registry
from training.silence import Silence

log = structlog.get_logger()

# So many beats may go missing before others take the worker's job up, and no two are further apart than this.
_BEATS: Final = 6
_LONGEST_BEAT_S: Final = 10.0
# A worker that stops tells of it, unless the database takes longer than this.
_LEAVE_S: Final = 5.0


class Presence:
    """Enters this worker, beats for it in a thread of its own, and watches the others.

    Args:
        registry: Shared by all workers.
        name: What this worker is called at every start; no two workers may share it.
        after_s: Seconds of silence after which a worker's job is free for others.
        refused: Called once when another worker was started under the name.
    """

    def __init__(self, registry: Registry, name: str, after_s: float, refused: Callable[[], None]) -> None:
        self.id = secrets.token_hex(16)
        self.silent: Mapping[str, int] = {}
        self._registry = registry
        self._name = name
        self._refused = refused
        self._silence = Silence(after_s)
        self._pace_s = min(after_s / _BEATS, _LONGEST_BEAT_S)
        self._left = threading.Event()

    def enter(self) -> None:
        """Enter the worker, with the jobs of the one that had the name before, and begin to beat."""
        with self._registry.writing() as session:
            claims.register(session, self.id, self._name)
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    def free_jobs(self) -> list[Job]:
        """Jobs that are nobody's, oldest first. To be asked often: who is silent is seen by looking again and again."""
        with self._registry.reading() as session:
            waiting = jobs.unfinished(session)
            beating = claims.beats(session)
        self.silent = self._silence.look(beating)
        held = {job.worker for job in waiting}
        if idle := {worker: count for worker, count in self.silent.items() if worker not in held}:
            with self._registry.writing() as session:
                claims.forget(session, idle)
        return [job for job in waiting if claims.free(job, beating, self.silent)]

    def leave(self, running: str | None) -> None:
        """Take this worker out, and hand the job that it runs back; given up when the database does not answer soon."""
        self._left.set()
        leaving = threading.Thread(target=self._leave, args=(running,), name="leave", daemon=True)
        leaving.start()
        leaving.join(_LEAVE_S)

    def _leave(self, running: str | None) -> None:
        with contextlib.suppress(RegistryError), self._registry.writing() as session:
            claims.leave(session, self.id, running)

    def _beat(self) -> None:
        while not self._left.wait(self._pace_s):
            try:
                with self._registry.writing() as session:
                    known = claims.beat(session, self.id, self._name)
            except RegistryError as error:
                log.warning("worker.beat_failed", error=type(error).__name__)
                continue
            if not known:
                log.error("worker.replaced", name=self._name)
                self._refused()
                return
