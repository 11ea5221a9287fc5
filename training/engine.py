"""The durable engine under the worker: DBOS on the home's job database, with one workflow, `retrain(job_id)`.

The registry says what jobs there are and how they ended; DBOS remembers which steps of a running one are done. What it
stores is JSON: job ids, step names, outcomes.
"""

import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

QUEUE: Final = "retrain"
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
        executor: str,
        steps: tuple[str, ...],
        *,
        begin: Callable[[str], bool],
        run_step: StepRunner,
        finish: Finisher,
    ) -> None:
        """Prepare the engine.

        Args:
            url: Database of the engine.
            executor: Name of this worker, the same at every start: what it left unfinished it takes up again.
            steps: Names of the steps, in order.
            begin: Notes that a job is taken up; False when there is nothing left to do for it.
            run_step, finish: What the worker does for a step and at the end.
        """
        logging.getLogger("dbos").setLevel(logging.ERROR)
        config: DBOSConfig = {
            "name": "driftline",
            "system_database_url": url,
            "executor_id": executor,
            "application_version": APPLICATION_VERSION,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "ERROR",
            "enable_otlp": False,
        }
        DBOS(config=config)

        # The engine would count a worker that was merely stopped as one that died: the worker counts for itself.
        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        def retrain(job_id: str) -> str:
            if not begin(job_id):
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
        """Connect, create the tables where they are missing, and take up what this executor left unfinished."""
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=1, global_concurrency=1, polling_interval_sec=_POLL_S)

    def enqueue(self, job_id: str) -> None:
        """Hand over a job; handing it over again changes nothing."""
        with SetWorkflowID(job_id):
            DBOS.enqueue_workflow(QUEUE, self._workflow, job_id)

    def standing(self, job_id: str) -> Standing:
        """Where the engine has a job."""
        status: Any = DBOS.get_workflow_status(job_id)
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
