"""Jobs: their life, one waiting an adapter, and a journal that misses nothing."""

from typing import Any

import pytest

from registry import alerts, events, jobs
from registry.errors import Conflict, InvalidName, JobWaiting, NotFound
from registry.jobs import Job, JobState
from registry.registry import Registry


def _enqueue(registry: Registry, adapter: str = "banking", **more: Any) -> Job:
    with registry.writing() as session:
        return jobs.enqueue(session, adapter=adapter, dataset="support", requested_by="test", **more)


def test_a_job_from_queue_to_end(stocked: Registry) -> None:
    job = _enqueue(stocked, recipe={"epochs": 3}, reason="drift\x00 \ud800")
    assert (job.state, job.revision, job.recipe, job.progress) == (JobState.QUEUED, 1, {"epochs": 3}, 0.0)
    assert job.id.startswith("job_")
    with stocked.writing() as session:
        jobs.start(session, job.id)
    with stocked.writing() as session:
        jobs.start(session, job.id)  # taken up again after a crash
        jobs.progress(session, job.id, step="fit", fraction=0.4, metrics={"loss": 1.5, "bad": float("nan")})
        jobs.progress(session, job.id, step="gate", fraction=7.0, message="judging", metrics={"accuracy": 0.93})
        done = jobs.finish(session, job.id, JobState.SUCCEEDED, verdict={"outcome": "pass"}, version=1)
    assert (done.attempts, done.step, done.progress, done.version) == (2, "gate", 1.0, 1)
    with stocked.reading() as session:
        kept = jobs.get(session, job.id)
        assert kept.metrics == {"loss": 1.5, "bad": None, "accuracy": 0.93}
        assert kept.finished_at is not None
        assert kept.started_at is not None
        assert kept.created_at <= kept.started_at <= kept.finished_at
        told = jobs.events(session, job.id)
        assert [event.kind for event in told] == ["queued", "started", "started", "progress", "progress", "finished"]
        assert told[-1].data == {"state": "succeeded", "version": 1, "error": None, "outcome": "pass"}
        assert jobs.events(session, job.id, after=told[3].id) == told[4:]
        assert jobs.unfinished(session) == []
        assert jobs.all(session) == jobs.all(session, "banking") == [kept]
        assert jobs.all(session, "other") == []


@pytest.mark.parametrize("end", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_finished_job_never_changes(stocked: Registry, end: JobState) -> None:
    job = _enqueue(stocked)
    with stocked.writing() as session:
        jobs.start(session, job.id)
        done = jobs.finish(session, job.id, end, error="why")
    others = [state for state in JobState if state.finished and state is not end]
    with stocked.writing() as session:
        latest = events.latest_id(session)
        assert jobs.finish(session, job.id, end, error="another reason") == done
        for state in others:
            with pytest.raises(Conflict):
                jobs.finish(session, job.id, state)
        for change in (jobs.start, jobs.request_cancel if end is not JobState.CANCELLED else jobs.start):
            with pytest.raises(Conflict):
                change(session, job.id)
        with pytest.raises(Conflict):
            jobs.progress(session, job.id, step="fit", fraction=0.1)
        with pytest.raises(ValueError):
            jobs.finish(session, job.id, JobState.RUNNING)
        assert jobs.get(session, job.id) == done
        assert events.latest_id(session) == latest


def test_the_last_end_of_each_kind_is_known_of_every_adapter(stocked: Registry) -> None:
    def run(adapter: str, end: JobState) -> Job:
        job = _enqueue(stocked, adapter)
        with stocked.writing() as session:
            jobs.start(session, job.id)
            return jobs.finish(session, job.id, end)

    run("banking", JobState.FAILED)
    failed, succeeded = run("banking", JobState.FAILED), run("banking", JobState.SUCCEEDED)
    other = run("desk", JobState.FAILED)
    _enqueue(stocked, "bills")
    with stocked.reading() as session:
        assert jobs.last_ends(session) == {
            ("banking", JobState.FAILED): failed.finished_at,
            ("banking", JobState.SUCCEEDED): succeeded.finished_at,
            ("desk", JobState.FAILED): other.finished_at,
        }


def test_cancelling_a_waiting_job_is_immediate_and_a_running_one_is_asked(stocked: Registry) -> None:
    waiting = _enqueue(stocked)
    with stocked.writing() as session:
        assert jobs.request_cancel(session, waiting.id).state is JobState.CANCELLED
    running = _enqueue(stocked)
    with stocked.writing() as session:
        jobs.start(session, running.id)
        assert not jobs.progress(session, running.id, step="fit", fraction=0.1).cancel_requested
        assert jobs.request_cancel(session, running.id, by="someone").state is JobState.RUNNING
        told = jobs.events(session, running.id)
        jobs.request_cancel(session, running.id)
        assert jobs.events(session, running.id) == told
        assert jobs.progress(session, running.id, step="fit", fraction=0.2).cancel_requested
        assert jobs.finish(session, running.id, JobState.CANCELLED).state is JobState.CANCELLED
        assert jobs.request_cancel(session, running.id).state is JobState.CANCELLED


def test_one_job_waits_while_another_runs(stocked: Registry) -> None:
    first = _enqueue(stocked)
    with pytest.raises(JobWaiting) as caught:
        _enqueue(stocked)
    assert caught.value.job_id == first.id
    _enqueue(stocked, adapter="another")
    with stocked.writing() as session:
        jobs.start(session, first.id)
    second = _enqueue(stocked)
    with stocked.reading() as session:
        left = [job.id for job in jobs.unfinished(session)]
    assert (left[0], left[-1], len(left)) == (first.id, second.id, 3)


def test_a_job_needs_a_dataset_and_a_proper_name(stocked: Registry) -> None:
    for more in ({"revision": 2}, {"revision": -1}, {"revision": 2**70}):
        with pytest.raises(NotFound, match="dataset support@"):
            _enqueue(stocked, **more)
    with pytest.raises(InvalidName):
        _enqueue(stocked, adapter="../banking")
    with stocked.reading() as session:
        for job_id in ("job_unknown", "\x00", "\ud800"):
            with pytest.raises(NotFound):
                jobs.get(session, job_id)
            assert jobs.events(session, job_id) == []


def test_racing_requests_leave_one_waiting_job(stocked: Registry, racers: Any) -> None:
    printed = racers.run(
        4,
        """
registry = home.registry()
ready()
try:
    with registry.writing() as session:
        say("queued", jobs.enqueue(session, adapter="banking", dataset="support", requested_by=str(number)).id)
except errors.JobWaiting as waiting:
    say("waiting", waiting.job_id)
""",
    )
    words = [line.split() for line in printed]
    assert sorted(word for word, _ in words) == ["queued", "waiting", "waiting", "waiting"]
    assert len({job_id for _, job_id in words}) == 1
    with stocked.reading() as session:
        (job,) = jobs.all(session)
        assert [event.kind for event in jobs.events(session, job.id)] == ["queued"]


def test_an_alert_asks_once_however_often_it_is_delivered(stocked: Registry, racers: Any) -> None:
    printed = racers.run(
        4,
        """
registry = home.registry()
ready()
with registry.writing() as session:
    first = alerts.claim(session, "f1", "2026-01-01T00:00:00Z", "banking")
    if first:
        job = jobs.enqueue(session, adapter="banking", dataset="support", requested_by="alertmanager")
        alerts.attach_job(session, "f1", "2026-01-01T00:00:00Z", job.id)
say(first)
""",
    )
    assert sorted(printed) == ["False", "False", "False", "True"]
    with stocked.writing() as session:
        (job,) = jobs.all(session)
        assert alerts.job_of(session, "f1", "2026-01-01T00:00:00Z") == job.id
        assert alerts.claim(session, "f1", "2026-01-02T00:00:00Z", "banking")
        assert alerts.job_of(session, "f1", "2026-01-02T00:00:00Z") is None
        with pytest.raises(NotFound):
            alerts.claim(session, "f2", "t", "nobody")
        with pytest.raises(InvalidName):
            alerts.claim(session, "f\x00", "t", "banking")
        with pytest.raises(NotFound):
            alerts.attach_job(session, "unknown", "t", job.id)
