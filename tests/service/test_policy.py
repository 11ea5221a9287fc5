"""What an alarm may start: by an alert or by the built-in policy, once, after a pause, within a budget, and never
without an effect of which our own state knows."""

from datetime import UTC, datetime, timedelta

import pytest

from monitoring.alarms import Alarm, Effect
from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from registry import alerts, datasets, jobs, readings, references, versions
from registry.jobs import JobState
from registry.tables import AlertRecord, EventRecord, JobRecord

ROWS = "text,label\n" + "".join(f"question {n} about {n % 2},{'card' if n % 2 else 'cash'}\n" for n in range(30))
LARGE = {"novelty_ratio": Effect(8.0, 6.0, 11.0, 500), "tv_excess": Effect(0.1, 0.06, 0.15, 500)}
SMALL = {"novelty_ratio": Effect(1.3, 1.1, 1.6, 5000), "tv_excess": Effect(0.01, 0.0, 0.02, 5000)}


@pytest.fixture
def drifted(publish):
    """Publishes an adapter whose stored monitor holds an alarm of these effects, and its dataset."""

    def make(adapter="support", effects=LARGE, seed=1):
        with publish.registry.writing() as session:
            datasets.add(session, publish.registry.artifacts, "support", ROWS.encode(), "csv")
        version = publish(adapter, seed)
        monitor = Monitor(Reference.from_bytes(publish.registry.fetch(version.reference)), MonitorSettings())
        raised = Alarm(("novelty",), 0, 500, ())
        monitor.latch(raised.judged(effects, MonitorSettings()))
        with publish.registry.writing() as session:
            readings.put_state(session, adapter, version.number, state=monitor.to_json(), alarm_active=True)
        return version

    return make


def more_rows(publish, mark):
    with publish.registry.writing() as session:
        data = ROWS + f"one more question {mark},cash\n"
        datasets.add(session, publish.registry.artifacts, "support", data.encode(), "csv")


def send(client, adapter="support", fingerprint="f1", annotations=None):
    alert = {
        "status": "firing", "fingerprint": fingerprint, "startsAt": "2026-11-23T10:00:00Z",
        "labels": {"adapter": adapter}, "annotations": annotations or {},
    }  # fmt: skip
    response = client.post("/admin/alerts", json={"alerts": [alert]})
    assert response.status_code == 202
    return response.json()["alerts"][0]


def look(client):
    return client.portal.call(client.app.state.service.policy.look)


def finish(publish, job_id, state=JobState.SUCCEEDED):
    with publish.registry.writing() as session:
        jobs.start(session, job_id)
        jobs.finish(session, job_id, state)


def all_jobs(publish):
    with publish.registry.reading() as session:
        return jobs.all(session)


def test_an_alert_acts_on_our_own_state_and_not_on_its_text(serving, backbone_home, publish, drifted):
    drifted("support", LARGE)
    drifted("small", SMALL, seed=2)
    publish("quiet", 3)
    with serving(backbone_home) as client:
        told = {"summary": "novelty is 40 times the expected", "novelty_ratio": "40", "actionable": "true"}
        assert send(client, "quiet", "q", annotations=told) == {
            "outcome": "not_advised", "adapter": "quiet", "advice": "nothing",
        }  # fmt: skip
        assert send(client, "small", "s", annotations=told)["advice"] == "recalibrate_thresholds"
        assert all_jobs(publish) == []
        assert send(client, annotations={"novelty_ratio": "1"})["outcome"] == "accepted"
        assert [job.adapter for job in all_jobs(publish)] == ["support"]
        # What led to nothing is not remembered: it may lead to a job once our own state says so.
        drifted("quiet", LARGE, seed=4)
        client.portal.call(client.app.state.service.catalog.refresh)
        assert send(client, "quiet", "q")["outcome"] == "accepted"


def test_the_advice_of_a_service_and_its_reasons(serving, backbone_home, publish, drifted):
    drifted("support", LARGE)
    publish("bare", 2, reference=False)
    with serving(backbone_home) as client:
        found = client.get("/admin/drift/support/advice").json()
        assert (found["adapter"], found["version"], found["action"]) == ("support", "support@1", "retrain")
        assert found["alarm"]["effects"]["novelty_ratio"]["value"] == 8.0
        assert [reason["code"] for reason in found["reasons"]][:2] == ["novel_texts", "novelty_ratio"]
        assert found["newer"] is None
        more_rows(publish, 1)
        job_id = send(client)["job_id"]
        finish(publish, job_id)
        found = client.get("/admin/drift/support/advice").json()
        assert (found["newer"], found["tried"]) == ("support@2", "succeeded")
        assert client.get("/admin/drift/bare/advice").json()["action"] == "rebuild_reference"
        assert client.get("/admin/drift/nothing/advice").status_code == 404


def test_a_pause_follows_a_retrain_unless_it_failed(serving, backbone_home, publish, drifted):
    drifted()
    with serving(backbone_home, retrain_cooldown_seconds=3600) as client:
        first = send(client)["job_id"]
        assert send(client) == {"outcome": "duplicate", "adapter": "support", "job_id": first}
        assert send(client, fingerprint="f2")["outcome"] == "waiting"
        finish(publish, first)
        assert send(client, fingerprint="f3")["outcome"] == "nothing_new"
        more_rows(publish, 1)
        assert send(client, fingerprint="f3")["outcome"] == "cooling_down"
        with publish.registry.writing() as session:
            session.get(JobRecord, first).created_at = datetime.now(UTC) - timedelta(seconds=3601)
            for row in session.query(AlertRecord):
                row.received_at -= timedelta(seconds=3602)
        second = send(client, fingerprint="f3")
        assert second["outcome"] == "accepted"
        finish(publish, second["job_id"], JobState.FAILED)
        assert send(client, fingerprint="f4")["outcome"] == "accepted"


def test_a_day_has_a_budget_and_a_person_is_not_held_back(serving, backbone_home, publish, drifted):
    for number in range(3):
        drifted(f"desk{number}", seed=number + 1)
    with serving(backbone_home, retrain_budget=2) as client:
        assert [send(client, f"desk{n}", f"f{n}")["outcome"] for n in range(3)] == [
            "accepted", "accepted", "over_budget",
        ]  # fmt: skip
        asked = {"adapter": "desk2", "dataset": "support"}
        assert client.post("/admin/retrain", json=asked).status_code == 202
        # What a person asked for is none of the budget's.
        with publish.registry.reading() as session:
            assert len(alerts.started(session, datetime.now(UTC) - timedelta(days=1))) == 2
            assert alerts.started(session, datetime.now(UTC) + timedelta(seconds=1)) == []
            assert alerts.started(session, datetime.now(UTC) - timedelta(days=1), "desk2") == []


def test_the_policy_is_off_by_default_and_acts_once_for_each_alarm_where_it_is_on(
    serving, backbone_home, publish, drifted, monkeypatch
):
    drifted("support", LARGE)
    drifted("small", SMALL, seed=2)
    with serving(backbone_home) as client:
        client.portal.call(client.app.state.service.policy.run)  # ends at once
        assert all_jobs(publish) == []
    monkeypatch.setattr("service.policy.LOOK_SECONDS", 3600)
    with (
        serving(backbone_home, drift_policy="retrain") as client,
        serving(backbone_home, drift_policy="retrain") as other,
    ):
        assert look(client)["small"] == "not_advised"
        look(other)
        (job,) = all_jobs(publish)
        assert (job.adapter, job.requested_by, job.reason) == ("support", "policy", "drift alarm of support@1")
        assert look(client) == look(other) == {"small": "not_advised", "support": "duplicate"}
        text = client.get("/metrics").text + other.get("/metrics").text
        assert text.count('driftline_retrain_requests_total{outcome="accepted",source="policy"} 1.0') == 1
        assert 'outcome="not_advised",source="policy"} 1.0' in text
        # Its job ends; the same alarm starts none again, and an alert is held back by the same pause.
        finish(publish, job.id)
        more_rows(publish, 1)
        assert look(client)["support"] == "duplicate"
        assert send(client)["outcome"] == "cooling_down"
        # Another version goes live: the alarm of the old one asks for nothing any more.
        publish("support", 9)
        assert "support" not in look(client)
        with publish.registry.reading() as session:
            claimed = [e for e in session.query(EventRecord) if e.kind == "alert.claimed"]
        assert [event.actor for event in claimed] == ["policy"]


def test_a_rebuilt_reference_is_loaded_and_its_monitor_begins_afresh(serving, backbone_home, publish, drifted):
    version = drifted("support", LARGE)
    old = Reference.from_bytes(publish.registry.fetch(version.reference))
    new = Reference.build(
        fit=old.fit, fit_ids=old.fit_ids, fit_labels=old.fit_labels, calibration=old.replay, replay=old.fit[:60],
        version_info=old.version_info, seed=5,
    )  # fmt: skip
    with serving(backbone_home) as client:
        before = client.get("/admin/drift/support").json()
        assert (before["alarm_active"], before["reference"]["digest"]) == (True, old.digest)
        with publish.registry.writing() as session:
            digest = publish.registry.store(new.to_bytes())
            references.replace(session, "support", 1, digest, expected=old.digest, by="test")
        client.portal.call(client.app.state.service.catalog.refresh)
        client.post("/v1/embeddings", json={"model": "support", "input": ["my card was declined again"]})
        after = client.get("/admin/drift/support").json()
        assert (after["alarm_active"], after["reference"]["digest"]) == (False, digest)
        assert client.get("/v1/models").status_code == 200
        with publish.registry.reading() as session:
            assert versions.live(session, "support").digest == version.digest
        deadline = datetime.now(UTC) + timedelta(seconds=20)
        while datetime.now(UTC) < deadline:
            with publish.registry.reading() as session:
                kept = readings.get_state(session, "support", 1)
            if kept is not None:
                break
        assert kept is not None
        assert not kept.alarm_active
        assert kept.state["reference"] == digest
