"""Running services that share one server: what one has computed the other answers, and its loss is not noticed."""

import re
import statistics
import threading
import time

MODEL = "all-MiniLM-L6-v2"
LONG = "word " * 400


def metric(service, name: str) -> float:
    found = re.search(rf"^driftline_{re.escape(name)} (\S+)$", service.get("/metrics").content.decode(), re.MULTILINE)
    return float(found[1])


def embed(service, texts, **more):
    return service.post("/v1/embeddings", {"model": MODEL, "input": texts, **more})


def vectors(answer):
    assert answer.status_code == 200, answer.content
    return [each["embedding"] for each in answer.json()["data"]]


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def closed(service) -> bool:
    return metric(service, 'shared_cache_state{state="closed"}') == 1


def test_the_second_service_answers_without_computing(valkey, spawn, backbone_home):
    settings = {"cache_url": valkey.url, "cache_salt": "a salt that is long enough", "cache_timeout_ms": 1000}
    one, other = spawn(backbone_home, **settings), spawn(backbone_home, **settings)
    stranger = spawn(backbone_home, **{**settings, "cache_salt": "another salt that is long"})
    for service in (one, other, stranger):
        wait_for(lambda service=service: closed(service))
    texts = [f"card number {n} was declined" for n in range(40)]
    first = embed(one, texts)
    cut = embed(one, LONG, truncate=True)
    wait_for(lambda: metric(one, "shared_cache_written_total") == 41)
    batches = metric(other, "batches_total")
    second = embed(other, texts)
    assert vectors(second) == vectors(first)
    assert second.json()["usage"] == first.json()["usage"]
    assert vectors(embed(other, LONG, truncate=True)) == vectors(cut)
    assert metric(other, "batches_total") == batches
    assert metric(other, "shared_cache_hits_total") == 41
    embed(other, texts)
    assert metric(other, "shared_cache_hits_total") == 41  # they are in its own memory now
    assert embed(other, LONG).status_code in (400, 413, 422)  # a cut text's entry is for those who asked for cutting
    embed(stranger, texts)
    assert metric(stranger, "shared_cache_hits_total") == 0
    assert metric(stranger, "batches_total") > 0


def test_no_request_fails_while_the_server_freezes_dies_and_comes_back(valkey, spawn, backbone_home):
    service = spawn(backbone_home, cache_url=valkey.url, cache_timeout_ms=30)
    wait_for(lambda: closed(service))
    stop = threading.Event()
    answers: list[tuple[int, float]] = []

    def keep_asking(worker: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            started = time.monotonic()
            answer = embed(service, f"worker {worker} asks for text {count}")
            answers.append((answer.status_code, time.monotonic() - started))

    workers = [threading.Thread(target=keep_asking, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    try:
        wait_for(lambda: metric(service, "shared_cache_written_total") > 20)
        before = len(answers)
        valkey.freeze()
        wait_for(lambda: not closed(service))
        during = len(answers)
        wait_for(lambda: len(answers) > during + 30)  # it goes on without
        valkey.stop()
        wait_for(lambda: len(answers) > during + 60)
        valkey.start()
        wait_for(lambda: closed(service))
        written = metric(service, "shared_cache_written_total")
        wait_for(lambda: metric(service, "shared_cache_written_total") > written + 20)
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert {status for status, _ in answers} == {200}
    calm = statistics.median(seconds for _, seconds in answers[:before])
    away = statistics.median(seconds for _, seconds in answers[during : during + 60])
    assert away < 2 * calm + 0.03  # one limit of a read, which only the first few requests pay


def test_a_service_starts_and_answers_where_the_server_never_was(valkey, spawn, backbone_home):
    valkey.stop()
    service = spawn(backbone_home, cache_url=f"redis://:hunter2@127.0.0.1:{valkey.port}")
    assert len(vectors(embed(service, ["a", "b"]))) == 2
    wait_for(lambda: metric(service, 'shared_cache_errors_total{operation="probe",reason="connection"}') >= 2)
    assert service.stop() == 0
    assert b"hunter2" not in service.log.read_bytes()
