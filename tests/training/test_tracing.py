"""What a trace tells of jobs: a span for each time one is taken up, its steps within it, and whose request it was."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from monitoring.tracing import open_tracing
from registry import jobs
from registry.errors import ClaimLost, Unavailable
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry
from training import retrain
from training.errors import DataRefused
from training.files import WorkFolder
from training.steps import JobContext, Runtime
from training.tracing import PROGRAM, JobTraces

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SECRET = "xyzzy"


class Keeper:
    def keep(self, process: object) -> None:
        """No child runs here."""


@pytest.fixture
def registry(small_home: Home) -> Iterator[Registry]:
    opened = small_home.registry()
    yield opened
    opened.close()


@pytest.fixture
def traces(exported: Any) -> Iterator[JobTraces]:
    made = JobTraces(open_tracing("on", PROGRAM, "1", lambda source: None))
    yield made
    made.close()


@pytest.fixture
def take_up(small_home: Home, registry: Registry, traces: JobTraces) -> Callable[..., JobContext]:
    """A new job as a worker takes it up, perhaps one that a traced request asked for."""

    def make(adapter: str = "desk", **more: Any) -> JobContext:
        with registry.writing() as session:
            job = jobs.enqueue(session, adapter=adapter, dataset="small", requested_by="test", **more)
            job = jobs.start(session, job.id)
        folder = WorkFolder(small_home.work_dir / job.id)
        folder.create()
        return JobContext(registry, job, folder, Runtime(traces=traces), Keeper())

    return make


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces steps."""

    def replace(**steps: Callable[[JobContext], None]) -> None:
        monkeypatch.setattr(retrain, "WORK", {**retrain.WORK, **steps})

    return replace


def raises(error: Exception) -> Callable[[JobContext], None]:
    def step(context: JobContext) -> None:
        raise error

    return step


def named(exported: Any, name: str) -> list[Any]:
    return [span for span in exported.get_finished_spans() if span.name == name]


def test_a_job_is_a_part_of_the_request_that_asked_for_it_and_its_steps_of_it(
    take_up: Callable[..., JobContext], work: Callable[..., None], exported: Any
) -> None:
    told: list[dict[str, Any]] = []
    work(**{name: lambda context: told.append(structlog.contextvars.get_contextvars()) for name in retrain.WORK})
    context = take_up(traceparent=PARENT)
    for name in retrain.WORK:
        assert retrain.run_step(context, name) == {"state": "done"}
    context.folder.write_json("promotion.json", {"promoted": True})
    context.folder.write_json("verdict.json", {"outcome": "pass"})
    context.folder.write_json("version.json", {"number": 3})
    retrain.finish(context, {"state": "done"})
    context.runtime.traces.close()
    *steps, job = exported.get_finished_spans()
    assert [span.name for span in steps] == list(retrain.WORK)
    assert job.name == "retrain"
    assert f"{job.context.trace_id:032x}" == TRACE_ID
    assert f"{job.parent.span_id:016x}" == PARENT.split("-")[2]
    assert {span.parent.span_id for span in steps} == {job.context.span_id}
    assert job.attributes == {
        "driftline.job.id": context.job.id,
        "driftline.adapter": "desk",
        "driftline.dataset": "small@1",
        "driftline.job.attempt": 1,
        "driftline.job.state": "succeeded",
        "driftline.job.verdict": "pass",
        "driftline.version": "desk@3",
    }
    assert [(ids["trace_id"], int(ids["span_id"], 16)) for ids in told] == [
        (TRACE_ID, span.context.span_id) for span in steps
    ]
    assert structlog.contextvars.get_contextvars() == {}


@pytest.mark.parametrize(
    ("error", "state"),
    [(DataRefused(SECRET), "failed"), (RuntimeError(SECRET), "failed"), (OSError(28, SECRET), "failed")],
)
def test_a_failed_step_is_marked_without_its_message(
    error: Exception, state: str, take_up: Callable[..., JobContext], work: Callable[..., None], exported: Any
) -> None:
    work(encode=raises(error))
    context = take_up()
    outcome = retrain.run_step(context, "encode")
    retrain.finish(context, outcome)
    context.runtime.traces.close()
    step, job = exported.get_finished_spans()
    assert outcome["state"] == state
    assert [span.status.status_code.name for span in (step, job)] == ["ERROR", "ERROR"]
    assert job.parent is None
    assert job.attributes["driftline.job.state"] == "failed"
    assert SECRET not in step.to_json() + job.to_json()


def test_a_step_that_is_repeated_is_told_each_time(
    take_up: Callable[..., JobContext], work: Callable[..., None], exported: Any
) -> None:
    work(encode=raises(Unavailable(SECRET)))
    context = take_up()
    for _ in range(2):
        with pytest.raises(Unavailable):
            retrain.run_step(context, "encode")
    work(encode=lambda context: None)
    retrain.run_step(context, "encode")
    context.runtime.traces.close()
    assert [span.attributes.get("error.type") for span in named(exported, "encode")] == [
        "Unavailable",
        "Unavailable",
        None,
    ]
    assert len({span.parent.span_id for span in named(exported, "encode")}) == 1


def test_what_is_under_way_at_a_stop_is_told_as_interrupted(
    take_up: Callable[..., JobContext], work: Callable[..., None], exported: Any
) -> None:
    context = take_up()
    work(encode=lambda context: context.runtime.traces.close())
    retrain.run_step(context, "encode")
    (step,), (job,) = named(exported, "encode"), named(exported, "retrain")
    assert step.parent.span_id == job.context.span_id
    assert job.attributes["driftline.job.state"] == "interrupted"


def test_a_job_that_another_worker_took_ends_here(
    take_up: Callable[..., JobContext], work: Callable[..., None], traces: JobTraces, exported: Any
) -> None:
    work(encode=raises(ClaimLost("another worker has it")), snapshot=lambda context: None)
    lost, other = take_up("desk"), take_up("other")
    retrain.finish(lost, retrain.run_step(lost, "encode"))
    retrain.run_step(other, "snapshot")
    traces.close()
    first, second = named(exported, "retrain")
    assert [span.attributes["driftline.job.state"] for span in (first, second)] == ["lost", "interrupted"]
    assert [span.attributes["driftline.adapter"] for span in (first, second)] == ["desk", "other"]


def test_without_tracing_nothing_is_asked_or_told(
    take_up: Callable[..., JobContext], work: Callable[..., None]
) -> None:
    context = take_up()
    off = JobContext(None, context.job, context.folder, Runtime(), Keeper())  # type: ignore[arg-type]
    seen: list[dict[str, Any]] = []
    work(encode=lambda context: seen.append(structlog.contextvars.get_contextvars()))
    assert retrain.run_step(off, "encode") == {"state": "done"}
    assert seen == [{}]


@contextlib.contextmanager
def worker(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "training", "worker", "--data-dir", str(home.data_dir)]
    environment = os.environ | {"DRIFTLINE_PROVIDER": "cpu", "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def wait(registry: Registry, job_id: str, wanted: Callable[[Job], bool]) -> Job:
    deadline = time.monotonic() + 60
    while True:
        with registry.reading() as session:
            job = jobs.get(session, job_id)
        if wanted(job):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def test_a_worker_sends_its_jobs_and_what_a_stop_interrupts(
    small_home: Home, registry: Registry, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing goes by itself: it is the stop that sends
    with registry.writing() as session:
        refused = jobs.enqueue(
            session, adapter="refused", dataset="small", recipe={"unlabelled": "small"}, requested_by="test",
            traceparent=PARENT,
        )  # fmt: skip
        endless = jobs.enqueue(
            session, adapter="endless", dataset="small", recipe={"steps": 100_000, "patience": 10_000},
            requested_by="test",
        )  # fmt: skip
    with worker(small_home) as process:
        assert wait(registry, refused.id, lambda job: job.state.finished).state is JobState.FAILED
        wait(registry, endless.id, lambda job: job.step == "fit")
        assert not collector.posts
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    spans = {(name, span.name, span.parent_span_id.hex()): span for name, span in collector.spans()}
    told = {name: span for (_, name, _), span in spans.items()}
    assert {program for program, _, _ in spans} == {"driftline-worker"}
    assert {"retrain", "snapshot", "encode", "fit"} <= told.keys()
    runs = [span for span in spans.values() if span.name == "retrain"]
    states = {
        attribute.value.string_value
        for span in runs
        for attribute in span.attributes
        if attribute.key == "driftline.job.state"
    }
    assert states == {"failed", "interrupted"}
    assert TRACE_ID in {span.trace_id.hex() for span in runs}


def test_a_worker_that_cannot_trace_says_what_to_do(small_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_TRACING", "on")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{SECRET}:4317")
    with worker(small_home) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"http://HOST:4318" in errors
    assert SECRET.encode() not in errors
