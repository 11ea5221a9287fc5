"""What a trace tells of jobs: a span for each time a worker takes a job up, and within it one for each step.

A job that was asked for over the API goes on in the trace of that request. One that was interrupted has a span for each
worker that had it. Nothing here holds a text: of an error, only that there was one.
"""

import importlib.metadata
import os
from collections.abc import Callable
from typing import Final

import structlog

from monitoring.tracing import Span, Tracing, Value, open_tracing
from registry import jobs
from registry.jobs import Job, JobState
from registry.registry import Registry

log = structlog.get_logger()

PROGRAM: Final = "driftline-worker"

Outcome = dict[str, str]
"""How a step ended, as `retrain.run_step` gives it."""


class JobTraces:
    """The spans of one worker's jobs, of which it runs one at a time. Without `tracing` it does nothing."""

    def __init__(self, tracing: Tracing | None = None) -> None:
        self._tracing = tracing
        self._job: tuple[str, Span] | None = None
        self._step: Span | None = None

    @classmethod
    def open(cls) -> "JobTraces":
        """As DRIFTLINE_TRACING and the standard variables say.

        Raises:
            TracingUnusable: Traces are asked for and cannot be sent.
        """
        choice = os.environ.get("DRIFTLINE_TRACING", "auto")
        return cls(open_tracing(choice, PROGRAM, importlib.metadata.version("driftline"), _trouble))

    def step(self, registry: Registry, job: Job, name: str, act: Callable[[], Outcome]) -> Outcome:
        """What `act` gives, within a span of its own. Log lines in it carry `trace_id` and `span_id`."""
        if self._tracing is None:
            return act()
        span = self._step = self._span(self._tracing, registry, job).child(name, {"driftline.job.step": name})
        with structlog.contextvars.bound_contextvars(**span.ids):
            try:
                outcome = act()
                span.describe({"driftline.job.outcome": outcome["state"]})
                if outcome["state"] == "failed":
                    span.fail(None)
            except Exception as error:
                span.fail(type(error).__name__)
                raise
            finally:
                span.end()
                self._step = None
        if outcome["state"] == "lost" and self._job is not None:
            self._end_job(self._job[1], "lost")
        return outcome

    def ended(self, registry: Registry, job_id: str) -> None:
        """The job has ended, as the registry says."""
        if self._tracing is None:
            return
        known, span = self._job or (None, None)
        if span is None or known != job_id:  # all its steps were done by an earlier worker
            return
        with registry.reading() as session:
            job = jobs.get(session, job_id)
        told: dict[str, Value] = {}
        if job.version is not None:
            told["driftline.version"] = f"{job.adapter}@{job.version}"
        if job.verdict is not None:
            told["driftline.job.verdict"] = str(job.verdict.get("outcome"))
        span.describe(told)
        if job.state is JobState.FAILED:
            span.fail(None)
        self._end_job(span, job.state.value)

    def close(self) -> None:
        """End what is under way as interrupted and send everything, for `FLUSH_SECONDS` at most."""
        if self._tracing is None:
            return
        if self._step is not None:
            self._step.end()
        if self._job is not None:
            self._end_job(self._job[1], "interrupted")
        if not self._tracing.close():
            log.warning("traces.lost_at_stop")
        self._tracing = None

    def _end_job(self, span: Span, state: str) -> None:
        span.describe({"driftline.job.state": state})
        span.end()
        self._job = None

    def _span(self, tracing: Tracing, registry: Registry, job: Job) -> Span:
        """The span of the job in this worker; begun with its first step here."""
        if self._job is not None and self._job[0] == job.id:
            return self._job[1]
        if self._job is not None:  # left without an end, such as one whose steps are of another version
            self._end_job(self._job[1], "interrupted")
        with registry.reading() as session:
            asked = jobs.events(session, job.id, limit=1)
        traceparent = asked[0].data.get("traceparent") if asked else None
        about: dict[str, Value] = {
            "driftline.job.id": job.id,
            "driftline.adapter": job.adapter,
            "driftline.dataset": f"{job.dataset}@{job.revision}",
            "driftline.job.attempt": job.attempts,
        }
        parent = None if traceparent is None else {"traceparent": traceparent}
        span = tracing.begin("retrain", about, parent=parent)
        self._job = (job.id, span)
        return span


def _trouble(source: str) -> None:
    log.warning("traces.trouble", source=source)
