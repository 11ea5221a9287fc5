"""Datasets, jobs, adapters and alerts over HTTP."""

import contextlib
import json
import re
import threading
import time

import pytest

from monitoring.recipe import Recipe
from registry import alerts, jobs, versions
from registry.jobs import JobState

ROWS = "text,label\n" + "".join(f"question {n} about cards,{'card' if n % 2 else 'cash'}\n" for n in range(20))


def upload(client, name="support", data=ROWS, kind="text/csv"):
    return client.post(f"/admin/datasets/{name}", content=data, headers={"content-type": kind})


def test_a_dataset_is_stored_once_and_shown(client):
    made = upload(client)
    assert made.status_code == 201, made.text
    assert (made.json()["revision"], made.json()["rows"], made.json()["kind"]) == (1, 20, "labelled")
    assert upload(client).json()["revision"] == 1
    lines = "".join(json.dumps({"text": f"hello {n}", "label": "ab"[n % 2]}) + "\n" for n in range(6))
    assert upload(client, data=lines, kind="application/jsonl").json()["revision"] == 2
    assert [d["revision"] for d in client.get("/admin/datasets").json()["data"]] == [2, 1]
    assert client.get("/admin/datasets/support").json()["rows"] == 6
    assert client.get("/admin/datasets/support?revision=1").json()["rows"] == 20
    assert client.get("/admin/datasets/other").status_code == 404
    assert client.post("/admin/datasets/s2?format=csv", content=ROWS).status_code == 201


@pytest.mark.parametrize(
    ("data", "kind", "status", "message"),
    [
        ('text,label\nzyxwvut,"a\n', "text/csv", 422, "refused"),
        ("text,label\nzyxwvut,a,b,c\nx,b\n", "text/csv", 422, "row 1"),
        ("text,label\nzyxwvut,a\nfoo,a\n", "text/csv", 422, "label"),
        ('{"text":"zyxwvut","label":"a"}\n{"text":"cut o', "application/jsonl", 422, "line 2"),
        (b"text,label\n\xff\xfe,a\n", "text/csv", 422, "UTF-8"),
        ("", "text/csv", 400, "empty"),
        (ROWS, "application/octet-stream", 422, "Content-Type"),
    ],
    ids=["malformed csv", "too many fields", "one label", "truncated jsonl", "not utf-8", "empty", "unknown type"],
)
def test_bad_datasets_are_refused_whole(shared, data, kind, status, message):
    response = upload(shared, "bad", data, kind)
    assert response.status_code == status, response.text
    assert message in response.text
    assert "zyxwvut" not in response.text
    assert shared.get("/admin/datasets").json()["data"] == []


def test_a_bad_dataset_name(shared):
    assert upload(shared, "No Good").status_code == 422


def retrain(client, **more):
    return client.post("/admin/retrain", json={"adapter": "support", "dataset": "support", **more})


def test_a_retrain_is_queued_once(client):
    upload(client)
    first = retrain(client, recipe={"steps": 5}, reason="try")
    assert first.status_code == 202
    job_id = first.json()["job_id"]
    assert first.headers["location"] == f"/admin/jobs/{job_id}"
    second = retrain(client)
    assert (second.status_code, second.json()["job_id"], second.json()["error"]["code"]) == (409, job_id, "job_waiting")
    job = client.get(f"/admin/jobs/{job_id}").json()
    assert (job["state"], job["reason"], job["requested_by"]) == ("queued", "try", "local")
    assert job["recipe"] == Recipe(steps=5).to_dict()
    assert [j["id"] for j in client.get("/admin/jobs?adapter=support").json()["data"]] == [job_id]
    assert client.get("/admin/jobs?adapter=other").json()["data"] == []
    cancelled = client.post(f"/admin/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert client.post("/admin/jobs/job_none/cancel").status_code == 404
    assert retrain(client).status_code == 202


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"adapter": "support", "dataset": "nothing"}, 404),
        ({"adapter": "support"}, 422),
        ({"adapter": "Not A Name", "dataset": "support"}, 422),
        ({"adapter": "support", "dataset": "no such@name@x"}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": "fast"}, 422),
        ({"adapter": "support", "dataset": "support", "recpie": {}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": {"temprature": 0.1}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": {"temperature": -1}}, 422),
        ({"adapter": "all-minilm-l6-v2", "dataset": "support"}, 409),
        ({"adapter": "support", "dataset": "support", "recipe": {"x": "y" * 20_000}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": {"steps": 10**30}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": {"loss": "\ud800"}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": {"\ud800": 1}}, 422),
        ({"adapter": "support", "dataset": "support", "recipe": json.loads('{"gate":' * 400 + "1" + "}" * 400)}, 422),
        ({"adapter": "\ud800", "dataset": "support"}, 422),
        ({"adapter": "support", "dataset": "\ud800"}, 422),
        ({"adapter": "support", "dataset": f"support@{10**30}"}, 422),
        ({"adapter": "support", "dataset": "support", "reason": "\ud800"}, 422),
    ],
)
def test_bad_retrain_requests(client, body, status):
    upload(client)
    response = client.post("/admin/retrain", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == status, response.text


def test_a_body_that_is_not_json_is_400(shared):
    for content in (b'{"adapter":', b"\xff\xfe"):
        response = shared.post("/admin/retrain", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400, response.text


def events_of(text):
    found = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: (.+)\n\n", text)
    return [(int(i), kind, json.loads(data)) for i, kind, data in found]


def test_events_of_a_job_end_with_it_and_resume(client, publish):
    upload(client)
    job_id = retrain(client).json()["job_id"]

    def work():
        time.sleep(0.3)
        for act in (
            lambda s: jobs.start(s, job_id),
            lambda s: jobs.progress(s, job_id, step="fit", fraction=0.5, metrics={"loss": 1.5}),
            lambda s: jobs.finish(s, job_id, JobState.FAILED, error="no luck"),
        ):
            with publish.registry.writing() as session:
                act(session)

    worker = threading.Thread(target=work)
    worker.start()
    response = client.get(f"/admin/jobs/{job_id}/events")
    worker.join()
    assert response.headers["content-type"].startswith("text/event-stream")
    seen = events_of(response.text)
    assert [kind for _, kind, _ in seen] == ["queued", "started", "progress", "finished"]
    assert seen[2][2]["metrics"] == {"loss": 1.5}
    assert seen[3][2]["state"] == "failed"
    rest = client.get(f"/admin/jobs/{job_id}/events", headers={"last-event-id": str(seen[1][0])})
    assert events_of(rest.text) == seen[2:]
    assert client.get("/admin/jobs/job_none/events").status_code == 404
    assert client.get(f"/admin/jobs/{job_id}/events", headers={"last-event-id": "x"}).status_code == 422


def answered_by(client, model="support"):
    response = client.post("/v1/embeddings", json={"model": model, "input": "who answers?"})
    return response.json().get("model", response.status_code)


def eventually(check, seconds=15):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_promote_and_roll_back_answer_after_the_switch(client, publish):
    publish("support", 1, promote=False)
    publish("support", 2, promote=False)
    eventually(lambda: answered_by(client, "support@1") == "support@1")
    assert answered_by(client) == 404
    for number in (1, 2):
        moved = client.post("/admin/adapters/support/promote", json={"version": number})
        assert (moved.status_code, moved.json()["live"]) == (200, f"support@{number}")
        assert answered_by(client) == f"support@{number}"
    assert client.post("/admin/adapters/support/rollback").json()["live"] == "support@1"
    assert answered_by(client) == "support@1"
    assert client.post("/admin/adapters/support/rollback").status_code == 409
    stale = client.post("/admin/adapters/support/promote", json={"version": 2, "expect_live": 2})
    assert stale.status_code == 409
    for number in (9, 10**30):
        assert client.post("/admin/adapters/support/promote", json={"version": number}).status_code == 404
    assert client.get(f"/admin/datasets/support?revision={10**30}").status_code == 404
    assert client.post("/admin/adapters/nothing/promote", json={"version": 1}).status_code == 404
    shown = client.get("/admin/adapters/support").json()
    assert [(v["number"], v["state"]) for v in shown["versions"]] == [(2, "retired"), (1, "live")]
    assert client.get("/admin/adapters").json()["data"][0]["live"] == "support@1"
    assert client.get("/admin/adapters/nothing").status_code == 404


def test_a_rejected_version_needs_force(client, publish):
    publish("support", 1)
    publish("support", 2, promote=False, rejected=True)
    assert client.post("/admin/adapters/support/promote", json={"version": 2}).status_code == 409
    forced = client.post("/admin/adapters/support/promote", json={"version": 2, "force": True})
    assert forced.json()["live"] == "support@2"


def test_a_version_that_cannot_be_loaded_never_becomes_live(client, publish):
    publish("support", 1)
    publish("support", 2, promote=False, break_it=True)
    eventually(lambda: answered_by(client) == "support@1")
    refused = client.post("/admin/adapters/support/promote", json={"version": 2})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_unusable")
    with publish.registry.reading() as session:
        assert versions.live(session, "support").number == 1
    assert answered_by(client) == "support@1"
    assert answered_by(client, "support@2") == 409


def test_moved_elsewhere_to_a_broken_version_the_old_one_keeps_serving(client, publish):
    publish("support", 1)
    eventually(lambda: answered_by(client) == "support@1")
    publish("support", 2, break_it=True)  # as a CLI that does not prove what it promotes
    eventually(lambda: client.get("/readyz").json()["faults"])
    assert answered_by(client) == "support@1"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert "support@2 cannot be loaded" in ready.json()["faults"]["support"]
    assert 'driftline_version_swaps_total{adapter="support",outcome="refused"} 1.0' in client.get("/metrics").text
    publish("support", 3)
    eventually(lambda: answered_by(client) == "support@3")
    assert client.get("/readyz").json()["faults"] == {}


def test_changes_made_elsewhere_are_seen(client, publish):
    publish("support", 1)
    eventually(lambda: answered_by(client) == "support@1")
    publish("support", 2)
    eventually(lambda: answered_by(client) == "support@2")
    with publish.registry.writing() as session:
        versions.rollback(session, "support", by="cli")
    eventually(lambda: answered_by(client) == "support@1")


def test_a_version_published_a_moment_ago_is_served_at_once(serving, backbone_home, publish):
    """Who has been told of a version need not wait for the poll, which is slow here on purpose."""
    with serving(backbone_home, poll_seconds=3600) as client:
        version = publish("support", 1, promote=False)
        answer = client.post("/v1/embeddings", json={"model": version.name, "input": "hello"})
        assert answer.status_code == 200
        assert answer.json()["model"] == version.name
        assert client.post("/v1/embeddings", json={"model": "support@9", "input": "hello"}).status_code == 404


def test_serving_goes_on_while_the_database_is_away(client, publish, monkeypatch):
    from registry.errors import Unavailable

    publish("support", 1)
    eventually(lambda: answered_by(client) == "support@1")
    registry = client.app.state.service.registry

    @contextlib.contextmanager
    def away():
        raise Unavailable("gone")
        yield

    monkeypatch.setattr(registry, "reading", away)
    monkeypatch.setattr(registry, "writing", away)
    eventually(lambda: client.get("/readyz").json()["registry_reachable"] is False)
    assert client.get("/readyz").status_code == client.get("/healthz").status_code == 200
    assert answered_by(client) == "support@1"
    refused = client.get("/admin/jobs")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "registry_unavailable")
    assert client.get("/admin/drift/support").status_code == 200
    monkeypatch.undo()
    eventually(lambda: client.get("/readyz").json()["registry_reachable"] is True)


def alert(fingerprint="f1", adapter="support", status="firing", starts="2026-11-23T10:00:00Z"):
    return {
        "status": status, "fingerprint": fingerprint, "startsAt": starts, "generatorURL": "http://x",
        "labels": {"alertname": "DriftAlarm", "adapter": adapter}, "annotations": {"summary": "text"},
    }  # fmt: skip


def send(client, *found):
    body = {"version": "4", "groupKey": "g", "truncatedAlerts": 0, "status": "firing", "alerts": list(found)}
    response = client.post("/admin/alerts", json=body)
    assert response.status_code == 202, response.text
    return [(a["outcome"], a.get("job_id")) for a in response.json()["alerts"]]


@pytest.fixture
def trusting(serving, backbone_home):
    """A service that takes alerts from elsewhere, as often as they come."""
    with serving(backbone_home, alerts_need_effect=False, retrain_cooldown_seconds=0) as client:
        yield client


def test_an_alert_becomes_one_retrain_on_the_last_dataset(trusting, publish):
    client = trusting
    upload(client)
    publish("support", 1)
    [(outcome, job_id)] = send(client, alert())
    assert outcome == "accepted"
    job = client.get(f"/admin/jobs/{job_id}").json()
    assert (job["adapter"], job["dataset"], job["reason"]) == ("support", "support", "drift alert f1")
    assert send(client, alert()) == [("duplicate", job_id)]
    assert send(client, alert("f2")) == [("waiting", job_id)]
    assert send(client, alert(status="resolved"), alert(adapter="nothing"), alert("f1", starts="later")) == [
        ("resolved", None), ("unknown_adapter", None), ("waiting", job_id),
    ]  # fmt: skip
    assert len(client.get("/admin/jobs").json()["data"]) == 1
    with publish.registry.reading() as session:
        assert alerts.job_of(session, "f1", "2026-11-23T10:00:00Z") == job_id
    text = client.get("/metrics").text
    assert 'driftline_retrain_requests_total{outcome="accepted",source="alert"} 1.0' in text


def finish(publish, job_id, state=JobState.SUCCEEDED):
    with publish.registry.writing() as session:
        jobs.start(session, job_id)
        jobs.finish(session, job_id, state)


def test_an_alert_takes_the_last_recipe_and_queues_nothing_that_was_done_already(trusting, publish):
    client = trusting
    publish("support", 1)
    upload(client)
    recipe = {"steps": 7, "promote": False, "gate": {"confidence": 0.99, "min_effect": 0.0, "geometry": {
        "min_overlap": 0.0, "max_norm_error": 1e-5}}}  # fmt: skip
    done = retrain(client, recipe=recipe).json()["job_id"]
    finish(publish, done)
    [(outcome, first)] = send(client, alert())
    assert outcome == "accepted"
    taken = client.get(f"/admin/jobs/{first}").json()["recipe"]
    # As strict as the last one where that was stricter than the default, and nowhere laxer.
    gate = {"confidence": 0.99, "geometry": {"max_norm_error": 1e-5}}
    assert taken == Recipe.from_mapping({**recipe, "gate": gate}).to_dict()
    finish(publish, first)
    # The same rows and recipe once more would give the same version once more.
    assert send(client, alert("f2")) == [("nothing_new", None)]
    upload(client, data=ROWS + "one more question,cash\n")
    [(outcome, second)] = send(client, alert("f2"))  # it was not remembered
    assert outcome == "accepted"
    assert client.get(f"/admin/jobs/{second}").json()["recipe"] == taken
    finish(publish, second, JobState.FAILED)
    assert send(client, alert("f2")) == [("duplicate", second)]
    assert send(client, alert("f3"))[0][0] == "accepted"  # what failed may be tried again


def test_a_recipe_of_another_release_is_replaced_by_one_that_promotes_nothing(trusting, publish):
    client = trusting
    publish("support", 1)
    upload(client)
    with publish.registry.writing() as session:
        old = jobs.enqueue(session, adapter="support", dataset="support", recipe={"gone": 1}, requested_by="test")
    finish(publish, old.id)
    [(outcome, job_id)] = send(client, alert())
    assert outcome == "accepted"
    assert client.get(f"/admin/jobs/{job_id}").json()["recipe"] == Recipe(promote=False).to_dict()


def test_webhooks_are_read_leniently(trusting, publish):
    client = trusting
    publish("support", 1)
    assert send(client, {}, 5, {"status": "firing"}, {"status": "firing", "labels": {"adapter": ["x"]}}) == [
        ("not_understood", None), ("not_understood", None), ("not_understood", None), ("unknown_adapter", None),
    ]  # fmt: skip
    assert send(client, alert()) == [("no_dataset", None)]  # its dataset was never uploaded here
    bare = {"status": "firing", "labels": {"adapter": "support"}}
    assert send(client, bare, bare) == [("no_dataset", None)] * 2
    upload(client)
    (outcome, job_id), again, other = send(client, alert(), alert(), bare)
    assert (outcome, again, other) == ("accepted", ("duplicate", job_id), ("waiting", job_id))
    nested = json.loads('{"x":' * 300 + "1" + "}" * 300)
    assert send(client, {"status": "firing", "labels": {"adapter": "support", **nested}}) == [("waiting", job_id)]
    for content, status in ((b"{", 400), (b"[]", 400), (b'{"alerts": 5}', 400), (b'{"alerts": []}', 202)):
        assert client.post("/admin/alerts", content=content).status_code == status
