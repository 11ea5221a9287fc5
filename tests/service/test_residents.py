"""More adapters than may be in memory: the least recently used sleep, and wake when they are asked for."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from registry import readings, versions


def ask(client, model, text="my card was declined"):
    response = client.post("/v1/embeddings", json={"model": model, "input": text})
    assert response.status_code == 200, response.text
    assert response.headers["x-driftline-version"].startswith(model)
    return np.array(response.json()["data"][0]["embedding"], dtype=np.float32)


def awake(client):
    adapters = client.get("/info").json()["adapters"]
    return {name for name, view in adapters.items() if view["loaded"]}


@pytest.fixture
def crowd(publish, backbone_home, serving):
    """Six adapters, each another one, of which two fit."""
    made = {f"team-{n}": publish(f"team-{n}", n, reference=n < 3) for n in range(6)}
    with serving(backbone_home, resident_adapters=2) as client:
        yield client, made


def test_only_so_many_are_loaded_and_every_one_answers(crowd, publish, exact_encoder):
    client, made = crowd
    assert len(awake(client)) == 2
    base = exact_encoder.encode(["my card was declined"]).vectors
    for name in [*made, *reversed(made)]:
        expected = publish.head(made[name]).apply(base)[0]
        assert np.abs(ask(client, name) - expected).max() < 1e-5
        assert name in awake(client)
        assert len(awake(client)) == 2
    listed = {entry["id"] for entry in client.get("/v1/models").json()["data"]}
    assert set(made) < listed  # asleep or not
    assert {a["name"]: a["live"] for a in client.get("/admin/adapters").json()["data"]} == {n: f"{n}@1" for n in made}


def test_the_least_recently_used_goes(crowd):
    client, _ = crowd
    for name in ("team-0", "team-1", "team-0", "team-2"):
        ask(client, name)
    assert awake(client) == {"team-0", "team-2"}


def test_a_promotion_of_a_sleeping_adapter_is_seen(crowd, publish):
    client, _ = crowd
    for name in ("team-0", "team-1"):
        ask(client, name)
    before = ask(client, "team-5@1")
    publish("team-5", 99)
    with publish.registry.reading() as session:
        assert versions.history(session, "team-5")[0].number == 2
    assert client.post("/v1/embeddings", json={"model": "team-5@2", "input": "x"}).status_code == 200  # catches up
    response = client.post("/v1/embeddings", json={"model": "team-5", "input": "my card was declined"})
    assert response.headers["x-driftline-version"] == "team-5@2"
    assert np.abs(np.array(response.json()["data"][0]["embedding"]) - before).max() > 1e-3


def test_an_adapter_that_cannot_be_loaded_harms_no_other(publish, backbone_home, serving):
    publish("good", 1)
    publish("spare", 2)
    publish("broken", 3, break_it=True)
    with serving(backbone_home, resident_adapters=1) as client:
        for _ in range(2):
            refused = client.post("/v1/embeddings", json={"model": "broken", "input": "x"})
            assert refused.status_code == 503
            assert "Retry-After" in refused.headers
            ask(client, "good")
            ask(client, "spare")


def test_a_slow_load_holds_nobody_else_up(crowd, monkeypatch):
    client, _ = crowd
    ask(client, "team-0")
    loader = client.app.state.service.catalog._loader
    go, opened, real = threading.Event(), [], loader.adapter

    def slow(record):
        opened.append(record.adapter)
        if record.adapter == "team-4":
            go.wait(10)
        return real(record)

    monkeypatch.setattr(loader, "adapter", slow)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, client, "team-4") for _ in range(3)]
        while "team-4" not in opened:
            threading.Event().wait(0.005)
        ask(client, "team-0")
        ask(client, "team-5")  # another load, beside the slow one
        assert not any(task.done() for task in waiting)
        go.set()
        answers = [task.result(timeout=20) for task in waiting]
    assert opened.count("team-4") == 1  # who asks meanwhile shares the load
    assert all(np.array_equal(answers[0], answer) for answer in answers)


def test_drift_of_a_sleeping_adapter_can_be_asked_for(crowd):
    client, _ = crowd
    for name in ("team-4", "team-5"):
        ask(client, name)
    assert client.get("/admin/drift/team-0").json()["version"] == "team-0@1"


def test_the_alarm_of_a_sleeping_adapter_stays_in_the_metrics(crowd, publish):
    client, _ = crowd
    series = 'driftline_drift_alarm_active{adapter="team-0"}'
    ask(client, "team-0")
    with publish.registry.writing() as session:
        readings.put_state(session, "team-0", 1, state={}, alarm_active=True)
    for name in ("team-4", "team-5"):
        ask(client, name)
    assert "team-0" not in awake(client)
    deadline = time.monotonic() + 10
    while f"{series} 1.0" not in client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_load_takes_no_longer_than_the_request_may(crowd, monkeypatch):
    client, _ = crowd
    loader = client.app.state.service.catalog._loader
    go, real = threading.Event(), loader.adapter

    def slow(record):
        go.wait(10)
        return real(record)

    monkeypatch.setattr(loader, "adapter", slow)
    asleep = next(name for name in ("team-4", "team-5") if name not in awake(client))
    body = {"model": asleep, "input": "my card was declined"}
    late = client.post("/v1/embeddings", json=body, headers={"x-request-deadline-ms": "50"})
    assert late.status_code == 504
    assert "0.05 s" in late.json()["detail"]
    wrong = client.post("/v1/embeddings", json=body, headers={"x-request-deadline-ms": "soon"})
    assert wrong.status_code == 422
    go.set()
    assert client.post("/v1/embeddings", json=body).status_code == 200


def test_a_start_that_would_load_for_long_serves_and_loads_on_demand(publish, backbone_home, serving, monkeypatch):
    publish("desk", 1)
    monkeypatch.setattr("service.catalog.START_SECONDS", 0.0)
    with serving(backbone_home, tei_model="desk") as client:
        assert awake(client) == set()
        about = client.get("/info").json()
        assert about["model_id"] == "desk"
        assert about["model_sha"]
        assert about["max_input_length"] == 256  # known of a sleeping adapter too
        ask(client, "desk")
        assert awake(client) == {"desk"}
        assert client.get("/info").json()["model_sha"] == about["model_sha"]
