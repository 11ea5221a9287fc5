"""How a job ends that does not come through, and what counts as a death of its worker."""

import dataclasses
from collections.abc import Iterator

import pytest

from registry import jobs
from registry.home import Home
from registry.jobs import JobState
from registry.registry import Registry
from training import attempts, retrain
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


def test_only_deaths_are_counted_not_stops(context: JobContext) -> None:
    taken_up = [dataclasses.replace(context.job, attempts=attempts) for attempts in range(1, 7)]
    assert [attempts.deaths(job, context.folder) for job in taken_up] == [0, 1, 2, 3, 4, 5]
    for _ in range(3):
        attempts.note_pause(context.folder)
    assert [attempts.deaths(job, context.folder) for job in taken_up] == [0, 0, 0, 0, 1, 2]
    # A worker may be stopped before the job has made its folder.
    context.folder.remove()
    attempts.note_pause(context.folder)
    assert attempts.deaths(taken_up[1], context.folder) == 0
