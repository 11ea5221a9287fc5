"""No log line of a service or its worker holds a text of a user, whatever goes wrong; every line is JSON."""

import json
import time

import pytest

MARK = "zqxmark"
TEXT = f"{MARK} my card was declined"
LABELLED = "text,label\n" + "".join(
    f"{MARK} my card {n} {'was declined' if n % 2 else 'is lost'},{MARK}{n % 2}\n" for n in range(80)
)
# Errors with words of a user in them, in a handler, after an answer has begun, in a thread, a task, and a library.
BREAK = f"""
import asyncio, logging, threading, warnings
import service.api.jobs, service.api.models, registry.datasets
def fail(*_, **__):
    raise RuntimeError({TEXT!r})
registry.datasets.all = fail
async def _stream(*_):
    yield b"retry: 2000\\n\\n"
    fail()
service.api.jobs._stream = _stream
import service.api.adapters as adapters
def noisy(*_, **__):
    threading.Thread(target=fail, name="test").start()
    async def forgotten():
        fail()
    asyncio.get_running_loop().create_task(forgotten())
    logging.getLogger("a.library").error("it was given %s", {TEXT!r})
    warnings.simplefilter("always")
    warnings.warn({TEXT!r})
    fail()
adapters._view = noisy
"""


def requests():
    """Every kind of route and of mistake, each with the mark in it: (method, path, body, content type)."""
    json_type = "application/json"
    for path, body in (
        ("/v1/embeddings", {"model": "support", "input": [TEXT], "user": MARK}),
        ("/v1/embeddings", {"model": MARK, "input": TEXT}),
        ("/v1/embeddings", {"model": "support", "input": [TEXT, 7]}),
        ("/v1/embeddings", {"model": "support", "input": TEXT, MARK: 1}),
        ("/v1/embeddings", {"model": "support", "input": f"{TEXT} " * 9000}),
        ("/v1/embeddings", {"model": "support", "input": TEXT, "dimensions": MARK}),
        ("/v1/similarity", {"model": "support", "a": [TEXT], "b": [TEXT], "mode": MARK}),
        ("/v1/neighbors", {"model": "support", "input": TEXT, "k": 10**9}),
        ("/v1/neighbors", {"model": "support", "input": TEXT, "k": 2}),
        ("/embed", {"inputs": [TEXT, None]}),
        ("/rerank", {"query": TEXT, "texts": [TEXT, TEXT]}),
        ("/tokenize", {"inputs": TEXT}),
        ("/v2/embed", {"model": "support", "texts": [TEXT], "input_type": MARK}),
        ("/admin/retrain", {"adapter": TEXT, "dataset": MARK, "recipe": {MARK: TEXT}}),
        ("/admin/alerts", {"alerts": [{"status": "firing", "labels": {"adapter": "support", "x": TEXT}}]}),
        ("/admin/adapters/support/promote", {"version": TEXT}),
        ("/admin/adapters/support/rollout", {"version": 1, "mode": MARK}),
        ("/admin/keys", {"name": MARK, "scopes": [MARK]}),
    ):
        yield "POST", path, json.dumps(body).encode(), json_type
    yield "POST", "/v1/embeddings", b'{"model": "support", "input": "' + TEXT.encode(), json_type
    yield "POST", "/v1/embeddings", TEXT.encode() + b"\xff\x00", json_type
    yield "POST", "/v1/embeddings", TEXT.encode(), f"text/{MARK}"
    yield "POST", f"/admin/datasets/{MARK}%20x", LABELLED.encode(), "text/csv"
    yield "POST", "/admin/datasets/broken", LABELLED.encode() + b'"' + TEXT.encode(), "text/csv"
    yield "POST", "/admin/datasets/bad", json.dumps({"text": TEXT, MARK: 1}).encode(), "application/jsonl"
    for path in (
        f"/{MARK}", f"/v1/models/{MARK}", f"/admin/adapters/{MARK}", f"/admin/jobs/{MARK}", f"/admin/datasets/{MARK}",
        f"/admin/audit?kind={MARK}&limit={MARK}", f"/admin/drift/{MARK}?history={MARK}", "/admin/datasets",
        "/admin/adapters",
    ):  # fmt: skip
        yield "GET", path, None, json_type


def lines(service):
    """The log, line by line; whatever is no JSON object fails the test."""
    found = []
    for line in service.log.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            pytest.fail(f"no JSON: {line}")
        assert {"event", "level", "timestamp"} <= set(found[-1]), line
    return found


def settled(service, job, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        found = service.get(f"/admin/jobs/{job}").json()
        if found["state"] in ("succeeded", "failed"):
            return found
        assert time.monotonic() < deadline, service.log.read_text()
        time.sleep(0.2)


def send(service, method, path, body, kind):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        headers = {"content-type": kind, "user-agent": MARK, "x-request-id": f"{MARK} 1", "x-driftline-session": MARK}
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_no_log_line_of_the_service_or_the_worker_holds_a_text(spawn, backbone_home, publish):
    publish("support", 1)
    options = {"log_level": "debug", "log_format": "json", "worker": True}
    service = spawn(backbone_home, before=BREAK, **options)
    given = {send(service, *request) // 100 for request in requests()}
    assert given == {2, 4, 5}
    # A job that cannot be run, and one that is run to its end, on rows with the mark in text and label.
    few = f"text,label\n{TEXT},{MARK}\n{TEXT} again,b\n".encode()
    states = []
    for name, rows in (("few", few), ("rows", LABELLED.encode())):
        assert send(service, "POST", f"/admin/datasets/{name}", rows, "text/csv") == 201
        recipe = {"method": "head", "steps": 24, "hidden": 64}
        asked = service.post("/admin/retrain", {"adapter": "desk", "dataset": name, "recipe": recipe})
        assert asked.status_code == 202
        job = asked.json()["job_id"]
        states.append(settled(service, job)["state"])
    assert states[0] == "failed"
    send_events(service, job)
    assert service.stop() == 0
    logged = service.log.read_text()
    assert MARK not in logged.lower()
    events = [line["event"] for line in lines(service)]
    assert {"request_failed", "thread_ended", "worker.started", "retrain.started", "worker.stopped"} <= set(events)
    told = [line["logger"] for line in lines(service) if line["event"] == "library_message"]
    assert {"asyncio", "a.library", "py.warnings"} <= set(told)
    assert events[-1] == "service_stopped"


def send_events(service, job):
    """Follow a job whose stream breaks after it has begun."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", f"/admin/jobs/{job}/events")
    response = connection.getresponse()
    assert response.status == 200
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()
