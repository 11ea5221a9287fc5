"""Rollouts of real services in processes of their own: under load, through kill -9, and beside each other."""

import base64
import concurrent.futures
import itertools
import threading
import time

import httpx2
import numpy as np

PASS = {"outcome": "pass"}
TEXTS = [f"my card number {n} was declined at the shop" for n in range(40)]


class Clients:
    """Threads that ask without pause, each as one unit; what they got is checked against the version it names."""

    def __init__(self, urls, expected, count=6):
        self.wrong, self.seen = [], []
        self._stop = threading.Event()
        self._expected = expected
        self._pool = concurrent.futures.ThreadPoolExecutor(count)
        self._running = [self._pool.submit(self._ask, urls, worker) for worker in range(count)]

    def _ask(self, urls, worker):
        with httpx2.Client(timeout=30) as client:
            for turn in itertools.count(worker):
                if self._stop.is_set():
                    return
                rows = [(turn * 7 + k) % len(TEXTS) for k in range(1 + turn % 5)]
                body = {"model": "support", "input": [TEXTS[r] for r in rows], "encoding_format": "base64"}
                response = client.post(
                    f"{urls[turn % len(urls)]}/v1/embeddings", json=body, headers={"x-driftline-unit": f"unit {worker}"}
                )
                if response.status_code != 200:
                    self.wrong.append((response.status_code, response.text))
                    continue
                answer = response.json()
                vectors = np.array([np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in answer["data"]])
                if answer["model"] != response.headers["x-driftline-version"]:
                    self.wrong.append(("header", answer["model"]))
                if np.abs(vectors - self._expected[answer["model"]][rows]).max() > 1e-5:
                    self.wrong.append(("vectors", answer["model"]))
                self.seen.append((worker, answer["model"]))
                time.sleep(0.01)

    def finish(self):
        self._stop.set()
        for running in self._running:
            running.result()
        self._pool.shutdown()


def wait(service, wanted, seconds=60):
    deadline = time.monotonic() + seconds
    while not wanted(found := service.get("/admin/adapters/support/rollout").json()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def publish_two(publish, exact_encoder):
    made = (publish("support", 1), publish("support", 2, promote=False, verdict=PASS))
    base = exact_encoder.encode(TEXTS).vectors
    return {version.name: publish.head(version).apply(base) for version in made}


def test_a_canary_beside_load_on_two_services_fails_no_request_and_goes_live_in_both(
    spawn, backbone_home, publish, exact_encoder
):
    expected = publish_two(publish, exact_encoder)
    services = [spawn(backbone_home) for _ in range(2)]
    begun = services[0].post(
        "/admin/adapters/support/rollout",
        {"version": 2, "mode": "canary", "share": 0.5, "unit": "header", "min_observations": 150},
    )
    assert begun.status_code == 201, begun.content
    clients = Clients([service.url for service in services], expected)
    try:
        ended = wait(services[0], lambda found: found["state"] != "running")
        deadline = time.monotonic() + 20
        while any(
            service.post("/v1/embeddings", {"model": "support", "input": "now"}).json()["model"] != "support@2"
            for service in services
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        clients.finish()
    assert clients.wrong == []
    assert (ended["state"], ended["processes"]) == ("promoted", 2)
    assert ended["counts"]["failures"] == 0
    assert [service.stop() for service in services] == [0, 0]


def test_kill_9_loses_no_rollout_and_its_units_keep_their_version(spawn, backbone_home, publish, exact_encoder):
    expected = publish_two(publish, exact_encoder)
    first = spawn(backbone_home, rollout_rate=10_000)
    rules = {"version": 2, "min_observations": 800, "mode": "canary", "share": 0.5, "unit": "header"}
    assert first.post("/admin/adapters/support/rollout", rules).status_code == 201
    clients = Clients([first.url], expected)
    try:
        before = wait(first, lambda found: found["counts"]["observations"] >= 20)
    finally:
        clients.finish()
    assert (clients.wrong, before["state"]) == ([], "running")
    units = dict(clients.seen)  # the last version of each
    first.stop(9)
    second = spawn(backbone_home, rollout_rate=10_000)  # ready with the candidate loaded
    found = second.get("/admin/adapters/support/rollout").json()
    assert found["counts"]["observations"] >= before["counts"]["observations"]
    again = Clients([second.url], expected)
    try:
        ended = wait(second, lambda found: found["state"] != "running")
    finally:
        again.finish()
    assert again.wrong == []
    assert (ended["state"], ended["processes"]) == ("promoted", 2)
    assert dict(reversed(again.seen)) == units  # the first version of each
    assert not any(name == "support@1" for worker, name in again.seen if units[worker] == "support@2")
    assert second.stop() == 0
