"""What operators and clients look at: models, info, health, metrics and the OpenAPI document."""

import re

MODEL = "all-MiniLM-L6-v2"


def test_the_first_model_is_the_backbone_and_adapters_name_their_parent(shared):
    body = shared.get("/v1/models").json()
    assert body["object"] == "list"
    assert [entry["id"] for entry in body["data"]] == [MODEL, "support", "support@2", "support@1"]
    backbone, adapter, second, first = body["data"]
    assert backbone["parent"] is None
    assert adapter["parent"] == second["parent"] == MODEL
    assert adapter["live"] == "support@2"
    assert adapter["digest"] == second["digest"] != first["digest"]
    assert (second["state"], first["state"]) == ("live", "retired")
    assert all(isinstance(entry["created"], int) for entry in body["data"])


def test_one_model(shared):
    assert shared.get("/v1/models/support@1").json()["state"] == "retired"
    assert shared.get("/v1/models/other").status_code == 404


def test_info_states_limits_digests_and_measurements(shared):
    info = shared.get("/info").json()
    backbone = info["backbones"][0]
    assert (backbone["provider"], backbone["precision"], backbone["dimension"], backbone["max_tokens"]) == (
        "cpu", "fp32", 384, 256,
    )  # fmt: skip
    assert backbone["batch_tolerance"] == 1e-5
    assert len(backbone["digest"]) == 64
    assert [m["chosen"] for m in backbone["measurements"]] == [True]
    measured = backbone["measurements"][0]
    assert measured["texts_per_second"] > 0 < measured["milliseconds"]
    assert measured["streams"] == backbone["streams"] in [tried["streams"] for tried in measured["tried"]]
    assert set(backbone["precisions"]["fp32"]) == {
        "providers", "texts", "max_abs_difference", "min_cosine", "batch_difference", "retrieval",
    }  # fmt: skip
    assert info["limits"]["max_inputs"] == 2048
    assert info["adapters"] == {"support": {"live": "support@2", "loaded": True, "fault": None}}
    assert info["authentication"] is False


def test_int8_serves_where_it_is_asked_for_and_info_says_what_it_keeps(backbone_home):
    import time

    from starlette.testclient import TestClient

    from service import Settings, create_app

    settings = Settings(data_dir=backbone_home.data_dir, worker=False, provider="cpu", precision="int8", streams=1)
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        until = time.monotonic() + 60
        while client.get("/readyz").status_code != 200 and time.monotonic() < until:
            time.sleep(0.05)
        assert 0.95 < client.get("/readyz").json()["probe_cosine"] < 0.9999
        backbone = client.get("/info").json()["backbones"][0]
    assert (backbone["precision"], backbone["streams"], backbone["batch_tolerance"]) == ("int8", 1, 5e-3)
    assert 0.95 < backbone["measurements"][0]["min_cosine"] < 0.9999
    assert backbone["precisions"]["int8"]["min_cosine"] < 0.9999
    assert backbone["precisions"]["int8"]["batch_difference"] <= backbone["batch_tolerance"]


def test_health_and_readiness(shared):
    assert shared.get("/healthz").json() == {"status": "alive"}
    ready = shared.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["probe_cosine"] > 0.99999
    assert ready["faults"] == {}


def test_an_ended_runtime_thread_is_not_alive(client):
    batcher = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher
    batcher.stop()
    response = client.get("/healthz")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "runtime_stuck"


def test_an_ended_monitor_thread_is_not_alive(client):
    client.app.state.service.watch.stop()
    response = client.get("/healthz")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "monitor_ended")


def test_readiness_does_not_wait_for_the_other_work(client):
    """Every other pool of threads is taken."""
    import threading

    threads = client.app.state.service.threads
    go = threading.Event()
    for pool in (threads.encode, threads.registry, threads.follow, threads.upload, threads.load):
        for _ in range(20):
            pool._executor.submit(go.wait, 20)
    client.app.state.probe.at = float("-inf")
    try:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "a few words"}).status_code == 200
    finally:
        go.set()


def test_a_deviating_model_is_not_ready(client, monkeypatch):
    encoder = client.app.state.service.catalog.snapshot.backbones[MODEL].encoder
    monkeypatch.setattr(encoder, "self_check", lambda: 0.4)
    client.app.state.probe.at = float("-inf")
    response = client.get("/readyz")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "probe_failed")
    assert response.headers["retry-after"]


def test_without_a_backbone_the_service_says_what_to_run(tmp_path):
    import time

    from starlette.testclient import TestClient

    from service import Settings, create_app

    app = create_app(Settings(data_dir=tmp_path, worker=False, poll_seconds=0.05))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        deadline = time.monotonic() + 20
        while "driftline backbone import" not in client.get("/readyz").text and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "driftline backbone import" in client.get("/readyz").json()["detail"]
        assert client.get("/healthz").status_code == 200
        refused = client.post("/v1/embeddings", json={"model": MODEL, "input": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")


def metric(client, name):
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.M)
    return None if found is None else float(found[1])


def test_metrics_count_what_was_served(shared):
    texts = metric(shared, 'driftline_texts_total{model="support"}') or 0
    hits = metric(shared, "driftline_cache_hits_total")
    for _ in range(2):
        shared.post("/v1/embeddings", json={"model": "support", "input": ["metrics one", "metrics two"]})
    assert metric(shared, 'driftline_texts_total{model="support"}') == texts + 4
    assert metric(shared, "driftline_cache_hits_total") == hits + 2
    assert metric(shared, "driftline_queue_tokens") == 0
    shared.get("/not/a/route/zyxwvut")
    text = shared.get("/metrics").text
    assert 'route="/v1/embeddings",status="200"' in text
    assert 'route="unmatched",status="404"' in text
    assert "zyxwvut" not in text
    assert 'driftline_live_version_info{adapter="support"' in text
    assert 'route="/v1/models/{model}"' in text or shared.get("/v1/models/x").status_code == 404


def test_the_alarm_gauge_is_there_from_the_start(shared):
    assert metric(shared, 'driftline_drift_alarm_active{adapter="support"}') == 0


def test_the_document_describes_every_route_and_one_error_shape(shared):
    document = shared.get("/openapi.json").json()
    for path in ("/v1/embeddings", "/v1/similarity", "/v1/neighbors"):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert "model" in body["required"]
        assert {"400", "401", "403", "404", "413", "422", "429", "503", "504"} <= set(operation["responses"])
    assert "HTTPValidationError" not in str(document)
    assert "ProblemBody" in document["components"]["schemas"]
    assert "ProblemError" in document["components"]["schemas"]
    served = {route for path in document["paths"] for route in [path]}
    assert {
        "/v1/models", "/info", "/healthz", "/readyz", "/metrics", "/admin/datasets/{name}", "/admin/datasets",
        "/admin/retrain", "/admin/jobs", "/admin/jobs/{job_id}", "/admin/jobs/{job_id}/events",
        "/admin/jobs/{job_id}/cancel", "/admin/adapters", "/admin/adapters/{name}", "/admin/adapters/{name}/promote",
        "/admin/adapters/{name}/rollback", "/admin/drift/{adapter}", "/admin/drift/{adapter}/acknowledge",
        "/admin/alerts", "/admin/keys", "/admin/keys/{key_id}",
    } <= served  # fmt: skip
