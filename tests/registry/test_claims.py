"""Which worker has which job, on both databases: taken once, taken over from the silent, and fenced off afterwards."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from registry import claims, database, jobs, versions
from registry.errors import ClaimLost, Conflict, Unavailable
from registry.jobs import Job, JobState
from registry.registry import Registry
from registry.versions import Version


@pytest.fixture
def job(stocked: Registry) -> Job:
    with stocked.writing() as session:
        for worker in ("a", "b"):
            claims.register(session, worker, f"worker-{worker}")
        return jobs.enqueue(session, adapter="banking", dataset="support", requested_by="test")


def take(registry: Registry, job: Job, worker: str, **silent: int) -> Job:
    with registry.writing() as session:
        return claims.take(session, job.id, worker, silent)


def beat(registry: Registry, worker: str) -> bool:
    with registry.writing() as session:
        return claims.beat(session, worker, f"worker-{worker}")


def beats(registry: Registry) -> dict[str, int]:
    with registry.reading() as session:
        return claims.beats(session)


def look(registry: Registry, job: Job) -> Job:
    with registry.reading() as session:
        return jobs.get(session, job.id)


def test_a_job_is_taken_by_one_worker_and_by_another_only_once_that_one_is_silent(stocked: Registry, job: Job) -> None:
    first = take(stocked, job, "a")
    assert (first.state, first.worker, first.attempts) == (JobState.RUNNING, "a", 1)
    with pytest.raises(Conflict, match="another worker's"):
        take(stocked, job, "b")
    beat(stocked, "a")
    with pytest.raises(Conflict):  # it has beaten since
        take(stocked, job, "b", a=0)
    second = take(stocked, job, "b", a=1)
    assert (second.worker, second.attempts, second.deaths) == ("b", 2, 1)
    with stocked.reading() as session:
        assert jobs.recoveries(session) == 1


def test_nothing_comes_of_what_a_worker_writes_for_a_job_that_it_lost(
    stocked: Registry, job: Job, publish: Callable[..., Version]
) -> None:
    frozen = take(stocked, job, "a")
    with stocked.holding(frozen) as session:
        jobs.progress(session, job.id, step="fit", fraction=0.5)
    going_on = take(stocked, job, "b", a=0)
    before = look(stocked, job)
    with pytest.raises(ClaimLost), stocked.holding(frozen) as session:
        jobs.progress(session, job.id, step="gate", fraction=0.9)
    with pytest.raises(ClaimLost), stocked.holding(frozen) as session:
        jobs.finish(session, job.id, JobState.FAILED, error="too late")
    assert look(stocked, job) == before
    # Nor when the job is its own again meanwhile: that is another attempt.
    again = take(stocked, job, "a", b=0)
    with pytest.raises(ClaimLost), stocked.holding(going_on):
        pass
    with pytest.raises(ClaimLost), stocked.holding(dataclasses.replace(again, attempts=1)):
        pass
    with stocked.holding(again) as session:
        jobs.finish(session, job.id, JobState.SUCCEEDED)
    assert publish(job_id=job.id) == publish(job_id=job.id)
    with stocked.reading() as session:
        assert [version.job_id for version in versions.history(session, "banking")] == [job.id]


def test_a_worker_that_stops_hands_its_job_back_and_that_is_no_death(stocked: Registry, job: Job) -> None:
    held = take(stocked, job, "a")
    with stocked.writing() as session:
        claims.leave(session, "a", job.id)
    found = look(stocked, job)
    assert (found.state, found.worker, found.pauses) == (JobState.RUNNING, None, 1)
    with pytest.raises(ClaimLost), stocked.holding(held):
        pass
    taken = take(stocked, job, "b")
    assert (taken.worker, taken.attempts, taken.deaths) == ("b", 2, 0)
    assert beats(stocked) == {"b": 0}


def test_a_worker_that_starts_again_under_its_name_has_its_job_and_the_old_one_is_refused(
    stocked: Registry, job: Job
) -> None:
    old = take(stocked, job, "a")
    with stocked.writing() as session:
        claims.register(session, "c", "worker-a")
    assert beats(stocked) == {"b": 0, "c": 0}
    assert not beat(stocked, "a")
    with pytest.raises(ClaimLost), stocked.holding(old):
        pass
    with pytest.raises(Conflict):
        take(stocked, job, "b", a=0)
    assert take(stocked, job, "c").attempts == 2


def test_silent_workers_are_forgotten_once_nothing_is_theirs_and_come_back_with_a_beat(
    stocked: Registry, job: Job
) -> None:
    take(stocked, job, "a")
    with stocked.writing() as session:
        claims.forget(session, {"a": 0, "b": 7})
    assert set(beats(stocked)) == {"a", "b"}  # one has a job, and the other has not stopped there
    take(stocked, job, "b", a=0)
    with stocked.writing() as session:
        claims.forget(session, {"a": 0, "b": 0})
    assert set(beats(stocked)) == {"b"}
    assert beat(stocked, "a")
    assert beats(stocked) == {"a": 0, "b": 0}


@pytest.mark.parametrize("home", ["postgresql"], indirect=True)
def test_a_writer_that_freezes_in_the_middle_keeps_nobody_waiting_for_long(
    stocked: Registry, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "IDLE_SECONDS", 1)
    monkeypatch.setattr(database, "LOCK_SECONDS", 3)
    held = take(stocked, job, "a")
    others_turn = False
    with pytest.raises(Unavailable), stocked.holding(held) as session:  # noqa: PT012 - it ends where it writes again
        jobs.progress(session, job.id, step="gate", fraction=0.9)
        time.sleep(1.5)
        others_turn = beat(stocked, "b")
        jobs.progress(session, job.id, step="publish", fraction=0.9)
    assert others_turn
    assert look(stocked, job).step is None


def test_a_finished_job_is_taken_by_nobody(stocked: Registry, job: Job) -> None:
    take(stocked, job, "a")
    with stocked.writing() as session:
        jobs.finish(session, job.id, JobState.FAILED, error="no")
    for worker in ("a", "b"):
        with pytest.raises(Conflict):
            take(stocked, job, worker, a=0)


def test_of_several_processes_that_take_a_job_at_once_one_gets_it(stocked: Registry, job: Job, racers: Any) -> None:
    said = racers.run(
        4,
        f"""
from registry import claims
from registry.errors import Conflict
registry = home.registry()
with registry.writing() as session:
    claims.register(session, f"racer{{number}}", f"racer{{number}}")
ready()
try:
    with registry.writing() as session:
        claims.take(session, {job.id!r}, f"racer{{number}}", {{}})
    say("mine")
except Conflict:
    say("another's")
""",
    )
    assert sorted(said) == ["another's"] * 3 + ["mine"]
    assert look(stocked, job).attempts == 1
