"""Drift over HTTP: the monitor's state, the alarm, its acknowledgement, segments, and what requests count for."""

import threading
import time

import pytest


def settled(client, evidence, adapter="support"):
    """The monitor's state, once so much evidence is stored in the registry."""
    deadline = time.monotonic() + 20
    while True:
        seen = client.get(f"/admin/drift/{adapter}").json()
        if seen["evidence"] >= evidence and not seen["unstored"]:
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


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
        seen = settled(client, 16)
        assert (seen["observations"], seen["evidence"], seen["window"]["filled"]) == (16, 16, 16)
        text = client.get("/metrics").text
        assert 'driftline_drift_observations_total{adapter="support",segment=""} 16.0' in text
        assert 'driftline_drift_evidence_total{adapter="support"} 16.0' in text
        assert 'driftline_drift_skipped_observations_total{adapter="support",reason="request"} 240.0' in text


ODD = [f"{animal} {n} eats leaves in {place}" for n in range(8) for animal in ("giraffe", "panda")
       for place in ("Kenya", "China", "Peru", "Chad")]  # fmt: skip


def test_drift_over_http(serving, backbone_home, publish):
    publish("support", 1)
    publish("bare", 2, reference=False)
    with serving(backbone_home, drift_window=64, drift_arl=10_000, drift_per_request=64) as client:
        assert client.get("/admin/drift/nothing").status_code == 404
        assert client.get("/admin/drift/bare").json()["state"] == "no_reference"
        first = client.get("/admin/drift/support").json()
        assert (first["state"], first["version"], first["readings"]) == ("warming", "support@1", [])
        assert first["reference"]["calibration"] == 110
        sizes = first["sizes"]
        assert (sizes["arl"], sizes["window"]) == (10_000, 64)
        needs = [(need["part"], need["have"], need["met"]) for need in sizes["needs"]]
        assert needs[0] == ("calibration", 110, True)  # enough to raise alarms
        assert needs[-1] == ("replay", 38, False)  # and too few to measure a run length on
        assert any("602 are missing" in words for words in sizes["words"])
        assert (first["mode"], first["mean_observations_between_false_alarms"]) == ("sequential", 10_000)
        # 38 replay items are too few to measure a run length on.
        assert first["run_length"] == {"stated": 10_000, "replay": None}
        assert first["detectors"]["total"]["value"] < first["detectors"]["total"]["line"]
        assert client.post("/v1/embeddings", json={"model": "support", "input": ODD}).status_code == 200
        client.post("/v1/embeddings", json={"model": "all-MiniLM-L6-v2", "input": ODD})  # the backbone is not watched
        seen = settled(client, 64)
        assert (seen["state"], seen["alarm_active"], seen["observations"]) == ("alarm", True, 64)
        assert "novelty" in seen["alarm"]["statistics"]
        assert seen["alarm"]["moved"][0]["medoids"]
        assert seen["alarm_since"]
        assert (seen["actionable"], seen["alarm"]["actionable"]) == (True, True)
        effect = seen["alarm"]["effects"]["novelty_ratio"]
        assert effect["low"] <= effect["value"] <= effect["high"]
        assert effect["low"] > 2
        assert seen["detectors"]["total"]["value"] >= seen["detectors"]["total"]["line"]
        assert seen["readings"][0]["statistics"]["novelty"]["significant"] is True
        assert sum(seen["readings"][0]["cells"]) == 64
        assert sum(seen["readings"][0]["p_values"]) == 64
        assert seen["readings"][0]["evidence"]["total"][0] >= seen["readings"][0]["evidence"]["total"][1]
        assert seen["last"] == seen["readings"][0]
        text = client.get("/metrics").text
        for series in (
            'alarm_active{adapter="support"} 1.0', 'alarm_active{adapter="bare"} 0.0',
            'alarm_actionable{adapter="support"} 1.0', 'state{adapter="support",state="alarm"} 1.0',
            'state{adapter="support",state="watching"} 0.0', 'run_length{adapter="support",kind="stated"} 10000.0',
            'alarms_total{adapter="support",statistic="novelty"} 1.0',
        ):  # fmt: skip
            assert f"driftline_drift_{series}" in text, series
        released = client.post("/admin/drift/support/acknowledge").json()
        assert (released["released"], released["state"]) == (True, "watching")
        assert released["acknowledged_by"] == "local"
        assert released["detectors"]["total"]["value"] < 0  # evidence begins anew
        assert client.post("/admin/drift/bare/acknowledge").status_code == 409
        assert client.post("/admin/drift/nothing/acknowledge").status_code == 404
        assert client.get("/admin/drift/support?history=501").status_code == 422


def test_segments_and_sessions_are_taken_from_the_request(serving, backbone_home, publish):
    publish("support", 1)
    with serving(backbone_home, drift_per_session=5) as client:

        def embed(text, path="/v1/embeddings", user=None, **headers):
            body = {"model": "support", "input" if path.startswith("/v1") else "inputs": text, "user": user}
            return client.post(
                path, json=body, headers={f"x-driftline-{name}": value for name, value in headers.items()}
            )

        assert embed("one", segment="mobile app").status_code == 200
        assert embed("two", "/embed", segment="mobile app", session="a").status_code == 200
        assert embed([f"hello {n}" for n in range(7)], session="a").status_code == 200
        assert embed([f"good bye {n}" for n in range(7)], user="b").status_code == 200
        assert embed("two", session="c").status_code == 200  # said before
        seen = settled(client, 11)
        assert (seen["evidence"], seen["segments"]["mobile app"]["evidence"]) == (11, 2)
        assert "segment:mobile app" in seen["detectors"]
        text = client.get("/metrics").text
        assert 'driftline_drift_observations_total{adapter="support",segment="mobile app"} 2.0' in text
        assert 'driftline_drift_skipped_observations_total{adapter="support",reason="session"} 5.0' in text
        assert 'driftline_drift_skipped_observations_total{adapter="support",reason="duplicate"} 1.0' in text
        for refused in ("", "x" * 65, "t\u00fcr".encode(), "tab\tbed"):
            for path in ("/v1/embeddings", "/embed"):
                answer = embed("three", path, segment=refused)
                assert answer.status_code == 422, refused
                assert "x-driftline-segment" in answer.text


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/similarity", "/v1/neighbors", "/embed", "/v1/rerank"])
def test_the_headers_are_described(shared, path):
    described = shared.get("/openapi.json").json()["paths"][path]["post"]["parameters"]
    assert {"x-driftline-segment", "x-driftline-session"} <= {one["name"] for one in described}


def test_texts_that_are_not_embedded_are_not_said_to_be_watched(shared):
    described = shared.get("/openapi.json").json()["paths"]["/tokenize"]["post"]["parameters"]
    assert "x-driftline-segment" not in {one["name"] for one in described}
