"""Drift over HTTP: the monitor's state, the alarm, its acknowledgement, and what a large request counts for."""

import threading


def test_a_busy_monitor_is_told_rather_than_waited_for(serving, backbone_home, publish, monkeypatch):
    import service.api.drift as module

    publish("support", 1)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with serving(backbone_home) as client:
        go = threading.Event()
        client.app.state.service.watch.ask(lambda _: go.wait(20))
        for method, path in (("GET", "/admin/drift/support"), ("POST", "/admin/drift/support/acknowledge")):
            response = client.request(method, path)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "monitor_busy")
            assert response.headers["retry-after"]
        go.set()
        module.ANSWER_SECONDS = 20
        assert client.get("/admin/drift/support").status_code == 200


def test_a_large_request_is_little_evidence_by_default(serving, backbone_home, publish):
    publish("support", 1)
    with serving(backbone_home) as client:
        texts = [f"my card {n} was declined" for n in range(256)]
        assert client.post("/v1/embeddings", json={"model": "support", "input": texts}).status_code == 200
        seen = client.get("/admin/drift/support").json()
        assert (seen["observations"], seen["evidence"], seen["window"]["filled"]) == (256, 16, 16)
        text = client.get("/metrics").text
        assert 'driftline_drift_observations_total{adapter="support"} 256.0' in text
        assert 'driftline_drift_evidence_total{adapter="support"} 16.0' in text


def test_drift_over_http(serving, backbone_home, publish):
    publish("support", 1)
    publish("bare", 2, reference=False)
    with serving(backbone_home, drift_window=64, drift_arl=10_000, drift_per_request=64) as client:
        assert client.get("/admin/drift/nothing").status_code == 404
        assert client.get("/admin/drift/bare").json()["state"] == "no_reference"
        first = client.get("/admin/drift/support").json()
        assert (first["state"], first["version"], first["readings"]) == ("warming", "support@1", [])
        assert first["reference"]["calibration"] == 110
        odd = [f"{animal} {n} eats leaves in {place}" for n in range(8) for animal in ("giraffe", "panda")
               for place in ("Kenya", "China", "Peru", "Chad")]  # fmt: skip
        assert client.post("/v1/embeddings", json={"model": "support", "input": odd}).status_code == 200
        client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": odd})  # the backbone is not watched
        seen = client.get("/admin/drift/support").json()
        assert (seen["state"], seen["alarm_active"], seen["observations"]) == ("alarm", True, 64)
        assert "novelty" in seen["alarm"]["statistics"]
        assert seen["alarm"]["moved"][0]["medoids"]
        assert seen["alarm_since"]
        assert seen["evidence"] == 64
        assert seen["readings"][0]["statistics"]["novelty"]["alarm"] is True
        assert (seen["readings"][0]["alarm"], sum(seen["readings"][0]["cells"])) == (True, 64)
        assert 'driftline_drift_alarm_active{adapter="support"} 1.0' in client.get("/metrics").text
        assert 'driftline_drift_alarm_active{adapter="bare"} 0.0' in client.get("/metrics").text
        released = client.post("/admin/drift/support/acknowledge").json()
        assert (released["released"], released["state"]) == (True, "watching")
        assert released["acknowledged_by"] == "local"
        assert client.post("/admin/drift/bare/acknowledge").status_code == 409
        assert client.post("/admin/drift/nothing/acknowledge").status_code == 404
        assert client.get("/admin/drift/support?history=501").status_code == 422
