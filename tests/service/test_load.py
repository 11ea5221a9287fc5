"""What callers meet under load: stage times, their own deadlines, refusals with a time to come back, a hung runtime."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

MODEL = "all-MiniLM-L6-v2"
TIMING = re.compile(r"(\w+);dur=([\d.]+)")


def ask(client, text, **headers):
    return client.post("/v1/embeddings", json={"model": MODEL, "input": text}, headers=headers)


@pytest.fixture
def held(client):
    """A service whose runtime waits for `go`."""
    runtime = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher._runtime
    go, real = threading.Event(), runtime.forward
    runtime.forward = lambda feeds: go.wait(20) and real(feeds)
    yield client, go
    go.set()


def test_an_answer_names_the_time_of_each_stage(client):
    first = ask(client, "how long does a text take")
    timing = {name: float(value) for name, value in TIMING.findall(first.headers["server-timing"])}
    assert timing.keys() == {"tokenize", "queue", "inference", "total"}
    assert timing["inference"] > 0
    assert timing["total"] >= timing["inference"]
    assert first.headers["x-compute-tokens"] == str(first.json()["usage"]["total_tokens"])
    assert first.headers["x-compute-characters"] == str(len("how long does a text take"))
    assert first.headers["x-compute-type"] == "cpu+fp32"
    assert int(first.headers["x-total-time"]) == int(timing["total"])
    cached = ask(client, "how long does a text take")
    timing = {name: float(value) for name, value in TIMING.findall(cached.headers["server-timing"])}
    assert timing["inference"] == timing["queue"] == 0


def test_a_callers_deadline_is_kept(held):
    client, go = held
    started = time.monotonic()
    late = ask(client, "this is too slow", **{"x-request-deadline-ms": "80"})
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    assert time.monotonic() - started < 5
    go.set()
    assert ask(client, "this is not", **{"x-request-deadline-ms": "20000"}).status_code == 200


@pytest.mark.parametrize("given", ["soon", "0", "-5", "nan", "inf"])
def test_a_deadline_that_is_none_is_named(client, given):
    refused = ask(client, "x", **{"x-request-deadline-ms": given})
    assert refused.status_code == 422
    assert refused.json()["error"]["param"] == "x-request-deadline-ms"


def test_a_hung_run_turns_health_red_and_ends_when_it_ends(publish, backbone_home, serving):
    with serving(backbone_home, stuck_seconds=0.2) as client:
        runtime = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher._runtime
        go, real = threading.Event(), runtime.forward
        runtime.forward = lambda feeds: go.wait(20) and real(feeds)
        assert client.get("/healthz").status_code == 200
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, client, "hangs")
            time.sleep(0.5)
            stuck = client.get("/healthz")
            assert (stuck.status_code, stuck.json()["error"]["code"]) == (503, "runtime_stuck")
            go.set()
            assert waiting.result(timeout=10).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_what_would_wait_too_long_is_refused_at_once_and_cached_texts_are_not(publish, backbone_home, serving):
    with serving(backbone_home, queue_seconds=0.5) as client:
        assert ask(client, "known already").status_code == 200
        batcher = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher
        runtime = batcher._runtime
        go, real = threading.Event(), runtime.forward
        runtime.forward = lambda feeds: go.wait(20) and real(feeds)
        batcher.rate.tokens_per_second = 20.0  # a slow machine
        with ThreadPoolExecutor(16) as pool:
            waiting = [pool.submit(ask, client, f"text number {n} waits for its turn") for n in range(12)]
            time.sleep(0.5)
            started = time.monotonic()
            refused = ask(client, "one too many")
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "queue_full"
            assert int(refused.headers["retry-after"]) >= 1
            assert ask(client, "known already").status_code == 200
            assert time.monotonic() - started < 5
            go.set()
            assert {task.result(timeout=20).status_code for task in waiting} <= {200, 429}
        metrics = client.get("/metrics").text
        assert re.search(r'driftline_queue_refused_requests_total\{reason="queue_full"\} [1-9]', metrics)


def test_a_refusal_leaves_no_trace_of_its_texts(held):
    client, go = held
    embedder = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder
    refused = client.post(
        "/v1/embeddings",
        json={"model": MODEL, "input": ["good", "word " * 2000]},
        headers={"x-request-deadline-ms": "500"},
    )
    assert refused.status_code == 400
    assert not embedder._flights
    assert embedder.batcher.waiting_tokens == 0
    go.set()
