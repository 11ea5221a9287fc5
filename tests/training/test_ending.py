"""How a job ends that does not come through, and what counts as a death of its worker."""

import dataclasses
from collections.abc import Iterator

import pytest

from registry import jobs
from registry.home import Home
from registry.jobs import JobState
from registry.registry import Registry
from training import retrain
from training.files import WorkFolder
from training.steps import JobContext, Runtime
from training.worker import Worker

VERDICT = {"outcome": "pass", "reasons": []}


@pytest.fixture
def registry(small_home: Home) -> Iterator[Registry]:
    opened = small_home.registry()
    yield opened
    opened.close()


@pytest.fixture
def context(small_home: Home, registry: Registry) -> JobContext:
    with registry.writing() as session:
        job = jobs.enqueue(session, adapter="desk", dataset="small", requested_by="test")
        job = jobs.start(session, job.id)
    folder = WorkFolder(small_home.work_dir / job.id)
    folder.create()
    return JobContext(registry, job, folder, Runtime(), Worker(small_home, Runtime()))


def test_a_verdict_outlives_the_failure_of_a_later_step(registry: Registry, context: JobContext) -> None:
    context.folder.write_json("verdict.json", VERDICT)
    retrain.finish(context, {"state": retrain.FAILED, "error": "export: the disk refused"})
    with registry.reading() as session:
        job = jobs.get(session, context.job.id)
    assert (job.state, job.verdict, job.error) == (JobState.FAILED, VERDICT, "export: the disk refused")
    assert not context.folder.path.exists()


def test_without_a_verdict_there_is_none(registry: Registry, context: JobContext) -> None:
    retrain.finish(context, {"state": retrain.CANCELLED, "error": "cancelled"})
    with registry.reading() as session:
        job = jobs.get(session, context.job.id)
    assert (job.state, job.verdict, job.error) == (JobState.CANCELLED, None, None)


def test_only_deaths_are_counted_not_stops(registry: Registry, context: JobContext) -> None:
    job = context.job
    assert [dataclasses.replace(job, attempts=n).deaths for n in range(1, 7)] == [0, 1, 2, 3, 4, 5]
    for _ in range(3):
        with registry.writing() as session:
            jobs.release(session, job.id)
    with registry.reading() as session:
        job = jobs.get(session, job.id)
    assert [dataclasses.replace(job, attempts=n).deaths for n in range(1, 7)] == [0, 0, 0, 0, 1, 2]
