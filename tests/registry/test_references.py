"""The reference of a version, replaced: bound to it, in a line, and with a monitor that begins afresh. Also: what
alerts have started, and which alarms of live versions stand."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from registry import alerts, jobs, readings, references, versions
from registry.errors import Conflict, InvalidName, NotFound
from registry.registry import Registry
from registry.states import JobState

Publish = Callable[..., versions.Version]
A, B, C = "aa" * 32, "bb" * 32, "cc" * 32


def test_a_reference_is_replaced_and_the_line_of_them_can_be_read(stocked: Registry, publish: Publish) -> None:
    version = publish()
    first = version.reference
    with stocked.writing() as session:
        readings.put_state(session, "banking", 1, state={"n": 1}, alarm_active=True)
        readings.add(session, adapter="banking", version=1, window_n=9, statistics={}, cells=[], alarm=True)
        entered = references.replace(session, "banking", 1, A, expected=first, by="ann", detail={"newer": {"rows": 9}})
    assert (entered.before, entered.after, entered.by, entered.detail) == (first, A, "ann", {"newer": {"rows": 9}})
    assert entered.number == (1 if first is None else 2)
    with stocked.writing() as session:
        assert references.replace(session, "banking", 1, B, expected=A, by="ben").number == entered.number + 1
    with stocked.reading() as session:
        found = versions.get(session, "banking", 1)
        assert found.reference == B
        assert (found.digest, found.state, found.metrics) == (version.digest, version.state, version.metrics)
        assert readings.get_state(session, "banking", 1) is None
        assert len(readings.latest(session, "banking")) == 1, "what was measured stays"
        line = references.history(session, "banking", 1)
        assert [(one.before, one.after, one.by) for one in line] == [(first, A, "ann"), (A, B, "ben")]
        assert references.history(session, "banking", 2) == references.history(session, "\x00", 1) == []


def test_it_is_replaced_only_as_expected(stocked: Registry, publish: Publish) -> None:
    first = publish().reference
    with stocked.writing() as session:
        references.replace(session, "banking", 1, A, expected=first, by="ann")
    for expected, reference, error in ((first, B, Conflict), (A, A, Conflict), (A, "no digest", InvalidName)):
        with pytest.raises(error), stocked.writing() as session:
            references.replace(session, "banking", 1, reference, expected=expected, by="ben")
    for adapter, number in (("banking", 9), ("other", 1), ("\x00", 1), ("banking", 2**40)):
        with pytest.raises(NotFound), stocked.writing() as session:
            references.replace(session, adapter, number, B, expected=A, by="ben")
    with stocked.reading() as session:
        assert versions.get(session, "banking", 1).reference == A


def test_only_jobs_that_alerts_began_are_counted(stocked: Registry, publish: Publish) -> None:
    publish()
    long_ago, soon = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    with stocked.writing() as session:
        dataset = versions.get(session, "banking", 1).dataset.split("@")[0]
        asked = jobs.enqueue(session, adapter="banking", dataset=dataset, requested_by="ann")
        assert alerts.claim(session, "f1", "t", "banking")
        alerts.attach_job(session, "f1", "t", asked.id)  # it waited already
        assert alerts.started(session, long_ago) == []
        jobs.request_cancel(session, asked.id)
        for fingerprint in ("f2", "f3"):
            assert alerts.claim(session, fingerprint, "t", "banking", by="policy")
        begun = jobs.enqueue(session, adapter="banking", dataset=dataset, requested_by="policy")
        for fingerprint in ("f2", "f3"):
            alerts.attach_job(session, fingerprint, "t", begun.id)
    with stocked.reading() as session:
        assert alerts.started(session, long_ago) == [JobState.QUEUED], (
            "a job counts once, however many alerts it answers"
        )
        assert alerts.started(session, long_ago, "banking") == [JobState.QUEUED]
        assert alerts.started(session, long_ago, "other") == alerts.started(session, soon) == []


def test_only_alarms_of_live_versions_stand(stocked: Registry, publish: Publish) -> None:
    publish(), publish()
    with stocked.writing() as session:
        versions.promote(session, "banking", 2, by="test")
        readings.put_state(session, "banking", 1, state={}, alarm_active=True)
        assert readings.standing(session) == []
        readings.put_state(session, "banking", 2, state={}, alarm_active=True)
        assert [(kept.adapter, kept.version) for kept in readings.standing(session)] == [("banking", 2)]
        readings.acknowledge(session, "banking", 2, by="ann")
        assert readings.standing(session) == []
