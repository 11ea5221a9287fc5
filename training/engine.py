"""The durable engine under the worker: DBOS on the home's job database, with one workflow, `retrain(job_id)`.

The registry says what jobs there are, which worker has which, and how they ended; DBOS remembers which steps of a
running one are done, in a file beside the work folders that those steps filled. What it stores is JSON: job ids, step
names, outcomes. A job that comes back after other workers had it is a run of its own, named `<job>.2` and so on.
"""

import logging
from collections.abc import Callable
from enum import Enum
from itertools import count
from typing import Any, Final

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

QUEUE: Final = "retrain"
# The file belongs to one home, and one worker owns a home.
EXECUTOR: Final = "worker"
WORKFLOW: Final = "retrain"
# Raise this when the steps of a job change: a job begun under other steps is ended instead of resumed.
APPLICATION_VERSION: Final = "driftline-retrain-2"
_POLL_S: Final = 0.2
_ENDED: Final = {"SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}


class Standing(Enum):
    """Where the engine has a job."""

    UNKNOWN = "unknown"
    ALIVE = "alive"
    ENDED = "ended"
    OTHER_VERSION = "other_version"


StepRunner = Callable[[str, str], dict[str, str]]
"""(job id, step name) -> outcome."""
Finisher = Callable[[str, dict[str, str]], None]
"""(job id, outcome of the last step) ends the job."""


class Engine:
    """DBOS, launched once in a process; jobs run one after the other."""

    def __init__(
        self,
        url: str,
        steps: tuple[str, ...],
        *,
        begin: Callable[[str, str], bool],
        run_step: StepRunner,
        finish: Finisher,
    ) -> None:
        """Prepare the engine.

        Args:
            url: Database of the engine.
            steps: Names of the steps, in order.
            begin: Takes a job up, given its id and the run's; False when there is nothing to do for it here.
            run_step, finish: What the worker does for a step and at the end.
        """
        logging.getLogger("dbos").setLevel(logging.ERROR)
        config: DBOSConfig = {
            "name": "driftline",
            "system_database_url": url,
            "executor_id": EXECUTOR,
            "application_version": APPLICATION_VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "ERROR",
            "enable_otlp": False,
        }
        DBOS(config=config)

        # The engine would count a worker that was merely stopped as one that died: the worker counts for itself.
        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        def retrain(job_id: str) -> str:
            if not begin(job_id, str(DBOS.workflow_id)):
                return "nothing to do"
            outcome: dict[str, str] = {}
            for name in steps:
                outcome = DBOS.run_step({"name": name}, run_step, job_id, name)
                if outcome["state"] != "done":
                    break
            DBOS.run_step({"name": "finish"}, finish, job_id, outcome)
            return outcome["state"]

        self._workflow: Callable[[str], str] = retrain

    def launch(self) -> None:
        """Connect, create the tables where they are missing, and take up what was left unfinished here."""
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=1, global_concurrency=1, polling_interval_sec=_POLL_S)

    def enqueue(self, job_id: str) -> None:
        """Hand over a job; handing it over again changes nothing until its last run here has ended."""
        run, standing = self.latest(job_id)
        if standing in (Standing.ENDED, Standing.OTHER_VERSION):
            run = _run_id(job_id, int(run.partition(".")[2] or 1) + 1)
        with SetWorkflowID(run):
            DBOS.enqueue_workflow(QUEUE, self._workflow, job_id)

    def latest(self, job_id: str) -> tuple[str, Standing]:
        """The last run of a job here and where it stands; the first, unknown, when there is none."""
        latest = job_id, self._standing(job_id)
        if latest[1] is Standing.UNKNOWN:
            return latest
        for number in count(2):
            run = _run_id(job_id, number)
            standing = self._standing(run)
            if standing is Standing.UNKNOWN:
                break
            latest = run, standing
        return latest

    @staticmethod
    def _standing(run: str) -> Standing:
        status: Any = DBOS.get_workflow_status(run)
        if status is None:
            return Standing.UNKNOWN
        if status.status in _ENDED:
            return Standing.ENDED
        if status.app_version not in (None, APPLICATION_VERSION):
            return Standing.OTHER_VERSION
        return Standing.ALIVE

    def close(self) -> None:
        """Disconnect. Only between jobs: a running one would be noted as failed."""
        DBOS.destroy()


def _run_id(job_id: str, number: int) -> str:
    return job_id if number == 1 else f"{job_id}.{number}"
