"""What a trace tells of serving: requests, the batches they share, rollouts and jobs; and what it never does."""

import contextlib
import json
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from registry import datasets, jobs
from service import Settings, create_app, run
from service.serve import ServeRefused
from service.tracing import Traced

MODEL = "all-MiniLM-L6-v2"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE_ID}-b7ad6b7169203331"
SECRET = "xyzzy"  # in every text, path and header of these tests


@pytest.fixture
def traced(exported, serving):
    """A service that is traced; its spans are there once the block has ended."""

    @contextlib.contextmanager
    def start(home, **settings):
        with serving(home, tracing="on", **settings) as client:
            yield client

    return start


def ask(client, text, model=MODEL, **headers):
    return client.post("/v1/embeddings", json={"model": model, "input": text}, headers=headers)


def named(exported, name):
    return [span for span in exported.get_finished_spans() if span.name == name]


def ids(span):
    return (f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}")


def test_a_request_is_told_by_route_version_and_counts_and_never_by_its_text(traced, publish, backbone_home, exported):
    version = publish("support", 1)
    with traced(backbone_home) as client:
        texts = [f"{SECRET} was declined", f"{SECRET} is late"]
        answer = ask(client, texts, "support", authorization=f"Bearer {SECRET}", traceparent=f"{PARENT}-01")
        assert answer.status_code == 200
        tokens = answer.json()["usage"]["total_tokens"]
        ask(client, f"{SECRET} " * 2000)
        client.get(f"/admin/jobs/{SECRET}", headers={"user-agent": SECRET})
        client.get(f"/{SECRET}?{SECRET}", headers={"x-request-id": "mine"})
        client.get("/healthz")
        client.get("/metrics")
    spans = exported.get_finished_spans()
    assert SECRET not in "".join(span.to_json() for span in spans)
    requests = [
        (span.name, span.attributes["http.response.status_code"]) for span in spans if span.kind.name == "SERVER"
    ]
    assert [(name, code) for name, code in requests if name.startswith(("POST", "GET /admin/jobs", "GET unm"))] == [
        ("POST /v1/embeddings", 200),
        ("POST /v1/embeddings", 400),
        ("GET /admin/jobs/{job_id}", 404),
        ("GET unmatched", 404),
    ]
    assert not any(name.endswith(("/healthz", "/readyz", "/metrics")) for name, _ in requests)
    request = named(exported, "POST /v1/embeddings")[0]
    assert ids(request)[0] == TRACE_ID
    assert f"{request.parent.span_id:016x}" == PARENT.split("-")[2]
    told = {name: request.attributes[f"driftline.{name}"] for name in ("model", "version", "texts", "tokens")}
    assert told == {"model": "support", "version": version.name, "texts": 2, "tokens": tokens}
    assert request.resource.attributes["service.name"] == "driftline-service"
    assert named(exported, "GET unmatched")[0].attributes["driftline.request_id"] == "mine"


def test_requests_that_share_a_batch_are_linked_to_it_and_it_to_them(traced, backbone_home, exported):
    with traced(backbone_home) as client:
        runtime = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher._runtime
        go, real = threading.Event(), runtime.forward
        runtime.forward = lambda feeds: go.wait(20) and real(feeds)
        with ThreadPoolExecutor(8) as pool:
            # The threads of the runtime take the first ones; the rest waits and is cut into one batch.
            first = [pool.submit(ask, client, f"{SECRET} first {n}") for n in range(2)]
            time.sleep(0.3)
            rest = [pool.submit(ask, client, [f"{SECRET} rest {n}", f"{SECRET} common"]) for n in range(4)]
            time.sleep(0.3)
            go.set()
            assert {task.result(20).status_code for task in first + rest} == {200}
    requests = {span.context.span_id: span for span in named(exported, "POST /v1/embeddings")}
    batches = {span.context.span_id: span for span in named(exported, "batch")}
    assert len(requests) == 6
    linked = [[link.context.span_id for link in batch.links] for batch in batches.values()]
    assert max(map(len, linked)) >= 4
    assert {one for links in linked for one in links} == requests.keys()
    shared = max(batches.values(), key=lambda batch: len(batch.links))
    assert shared.parent is None
    assert shared.attributes["driftline.batch.requests"] == len(shared.links)
    assert shared.attributes["driftline.batch.texts"] >= 5  # a text that four ask for is computed once
    for name in ("queue", "inference"):
        assert {span.parent.span_id for span in named(exported, name)} == requests.keys()
    for run_ in named(exported, "inference"):
        (link,) = run_.links
        batch, request = batches[link.context.span_id], requests[run_.parent.span_id]
        (queue,) = (span for span in named(exported, "queue") if span.parent.span_id == request.context.span_id)
        assert run_.parent.span_id in [each.context.span_id for each in batch.links]
        # The clock is read anew for each of them.
        close = 2_000_000
        assert request.start_time - close <= queue.start_time <= queue.end_time
        assert queue.end_time == pytest.approx(run_.start_time, abs=close)
        assert run_.end_time == pytest.approx(batch.end_time, abs=close)
        assert batch.end_time <= request.end_time + close


def test_a_cached_text_waits_for_nothing(traced, backbone_home, exported):
    with traced(backbone_home) as client:
        ask(client, f"{SECRET} a")
        ask(client, [f"{SECRET} a", f"{SECRET} b"])
        ask(client, [f"{SECRET} a", f"{SECRET} b"])
    looked = [
        tuple(span.attributes[f"driftline.cache.{name}"] for name in ("hits", "shared_hits", "misses"))
        for span in named(exported, "POST /v1/embeddings")
    ]
    assert looked == [(0, 0, 1), (1, 0, 1), (2, 0, 0)]
    assert len(named(exported, "batch")) == len(named(exported, "queue")) == 2


def test_a_request_that_gives_up_ends_its_wait_and_is_marked(traced, backbone_home, exported):
    with traced(backbone_home) as client:
        runtime = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher._runtime
        go, real = threading.Event(), runtime.forward
        runtime.forward = lambda feeds: go.wait(20) and real(feeds)
        assert ask(client, f"{SECRET} slow", **{"x-request-deadline-ms": "80"}).status_code == 504
        go.set()
    (request,) = named(exported, "POST /v1/embeddings")
    assert (request.status.status_code.name, request.attributes["error.type"]) == ("ERROR", "504")
    assert [span.parent.span_id for span in named(exported, "queue")] == [request.context.span_id]
    assert not named(exported, "inference")
    assert not named(exported, "batch")  # nobody waited for it any more


def test_a_text_that_cannot_be_computed_marks_its_batch(traced, backbone_home, exported):
    def broken(feeds):
        raise RuntimeError(SECRET)

    with traced(backbone_home) as client:
        runtime = client.app.state.service.catalog.snapshot.backbones[MODEL].embedder.batcher._runtime
        runtime.forward = broken
        assert ask(client, f"{SECRET} broken").status_code >= 500
    (batch,) = named(exported, "batch")
    assert (batch.status.status_code.name, batch.attributes["error.type"]) == ("ERROR", "EncodeFailed")
    assert SECRET not in "".join(span.to_json() for span in exported.get_finished_spans())


def test_what_the_caller_does_not_keep_is_not_kept(traced, backbone_home, exported):
    with traced(backbone_home) as client:
        assert ask(client, f"{SECRET} unsampled", traceparent=f"{PARENT}-00").status_code == 200
    assert TRACE_ID not in {ids(span)[0] for span in exported.get_finished_spans()}
    assert not named(exported, "batch")


def test_two_parents_are_none(traced, backbone_home, exported):
    with traced(backbone_home) as client:
        headers = [("traceparent", f"{PARENT}-01"), ("traceparent", f"{PARENT}-01")]
        assert client.post("/v1/embeddings", json={"model": MODEL, "input": "x"}, headers=headers).status_code == 200
    (request,) = named(exported, "POST /v1/embeddings")
    assert request.parent is None


def test_a_job_carries_the_trace_of_the_request_that_asked_for_it(traced, publish, backbone_home, exported):
    with publish.registry.writing() as session:
        datasets.add(session, publish.registry.artifacts, "rows", b"text,label\na,x\nb,y\n", "csv")
    with traced(backbone_home, alerts_need_effect=False, retrain_cooldown_seconds=0) as client:
        body = {"adapter": "support", "dataset": "rows"}
        asked = client.post("/admin/retrain", json=body, headers={"traceparent": f"{PARENT}-01"})
        assert asked.status_code == 202, asked.content
        untraced = client.post("/admin/retrain", json=body | {"adapter": "o"}, headers={"traceparent": f"{PARENT}-00"})
    (request,) = named(exported, "POST /admin/retrain")  # the other one's caller does not keep its trace
    with publish.registry.reading() as session:
        events = {each.json()["job_id"]: jobs.events(session, each.json()["job_id"])[0] for each in (asked, untraced)}
    first, second = (event.data for event in events.values())
    assert first["traceparent"] == f"00-{TRACE_ID}-{ids(request)[1]}-01"
    assert "traceparent" not in second


def test_an_alert_hands_its_trace_on(traced, publish, backbone_home, exported):
    publish("support", 1)
    with publish.registry.writing() as session:
        datasets.add(session, publish.registry.artifacts, "support", b"text,label\na,x\nb,y\n", "csv")
    alert = {
        "status": "firing",
        "labels": {"adapter": "support"},
        "startsAt": "2026-01-31T12:00:00Z",
        "fingerprint": "f",
    }
    with traced(backbone_home, alerts_need_effect=False, retrain_cooldown_seconds=0) as client:
        answer = client.post("/admin/alerts", json={"alerts": [alert]}, headers={"traceparent": f"{PARENT}-01"})
        (taken,) = answer.json()["alerts"]
    assert taken["outcome"] == "accepted"
    with publish.registry.reading() as session:
        assert TRACE_ID in jobs.events(session, taken["job_id"])[0].data["traceparent"]


def test_a_rollout_s_comparison_is_linked_to_the_requests_it_compares(traced, publish, backbone_home, exported):
    publish("support", 1)
    publish("support", 2, promote=False, verdict={"outcome": "pass"})
    with traced(backbone_home) as client:
        begun = client.post("/admin/adapters/support/rollout", json={"version": 2, "min_observations": 30})
        assert begun.status_code == 201, begun.content
        followed = client.app.state.service.rollouts._followed["support"]
        deadline = time.monotonic() + 30
        asked = 0
        while not followed.tally.observations:
            assert time.monotonic() < deadline
            ask(client, f"{SECRET} number {asked}", "support")
            asked += 1
            time.sleep(0.05)
    compared = named(exported, "rollout")
    requests = {span.context.span_id for span in named(exported, "POST /v1/embeddings")}
    assert {span.attributes["driftline.version"] for span in compared} == {"support@2"}
    linked = [link.context.span_id for span in compared for link in span.links]
    assert linked
    assert requests.issuperset(linked)
    assert sum(span.attributes["driftline.rollout.requests"] for span in compared) == len(linked)


def test_it_is_off_unless_asked_for(backbone_home, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    app = create_app(Settings(data_dir=backbone_home.data_dir))
    assert not isinstance(app.outermost, Traced)
    app.state.service.registry.close()


def test_a_start_without_the_library_is_refused_with_what_to_do(backbone_home, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ServeRefused, match=r"driftline\[trace\]"):
        run(Settings(data_dir=backbone_home.data_dir))


def test_a_stop_sends_what_was_traced_and_nothing_else_reports(spawn, backbone_home, collector, monkeypatch):
    # What the framework would send by itself has paths, queries and the messages of errors.
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing goes by itself: it is the stop that sends
    service = spawn(backbone_home, log_level="debug", log_format="json")
    assert service.post("/v1/embeddings", {"model": MODEL, "input": f"{SECRET} declined"}).status_code == 200
    assert service.get(f"/nothing?{SECRET}").status_code == 404
    assert not collector.posts
    assert service.stop() == 0
    assert {path for path, _ in collector.posts} == {"/v1/traces"}
    assert SECRET.encode() not in b"".join(body for _, body in collector.posts)
    spans = [span for name, span in collector.spans() if name == "driftline-service"]
    assert {"POST /v1/embeddings", "batch", "queue", "inference", "GET unmatched"} <= {span.name for span in spans}
    lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
    told = {(line["trace_id"], line["span_id"]) for line in lines if line["event"] == "request"}
    sent = {(span.trace_id.hex(), span.span_id.hex()) for span in spans if span.kind == 2}
    assert len(told) >= 2
    assert told <= sent


def test_a_collector_that_never_answers_costs_no_request(spawn, backbone_home, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{SECRET}@{address}")
        service = spawn(backbone_home, log_format="json")
        with ThreadPoolExecutor(4) as pool:
            body = {"model": MODEL}
            asked = [pool.submit(service.post, "/v1/embeddings", body | {"input": f"text {n}"}) for n in range(80)]
            assert {task.result(30).status_code for task in asked} == {200}
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 15  # the library itself would try for 30 s
    written = service.log.read_text()
    assert written.count("tracing_trouble") == 1
    assert "traces_lost_at_stop" in written
    assert SECRET not in written
    assert not re.search("Traceback|Transient|Queue full", written)
