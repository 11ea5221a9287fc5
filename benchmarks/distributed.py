"""Services behind nginx, workers, PostgreSQL, S3 and a cache under load, while versions go live and processes die.

`python benchmarks/distributed.py --promotions 200 --minutes 3` prints requests, failures, vectors that are not those of
the version that the answer names, how long each replica took to follow a promotion, and what became of the job whose
worker was killed and lost its disk. Exit status 1 when anything is not as promised.
"""

import argparse
import base64
import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tiny as models
from cluster import Cluster, Process, missing, running, until
from kill_table import small_csv
from tiny import Tiny, Vectors

from registry import datasets, jobs, readings, versions
from registry.home import Home
from registry.jobs import Job, JobState
from registry.registry import Registry

ADAPTER = "support"
WATCHED = "watched"
REFITTED = "desk"
TEXTS = tuple(f"{what} number {number}" for number in range(64) for what in ("my card", "a parcel", "the flight"))
TOLERANCE = 1e-4
"""Largest difference of a vector's component from the right one, for the other order of float32 sums."""
FOLLOW_S = 5.0
REST_S = 0.1
"""Pause of a client after a request that failed."""
EVIDENCE = 400
LANES = 4
"""Connections that the evidence of drift is sent through."""
LOSS_EVERY = 12
"""Promotions between two kills of a service."""
REFIT = {"method": "head", "steps": 24, "hidden": 16}


@dataclass
class Figures:
    """What a drill saw; `late` names replicas that did not follow in time."""

    requests: int = 0
    vectors: int = 0
    wrong: int = 0
    failures: list[str] = field(default_factory=list)
    follows: list[float] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    kills: int = 0


class Truth:
    """The right vector of each of `TEXTS` under each version."""

    def __init__(self, tiny: Tiny) -> None:
        self._base = tiny.base(TEXTS)
        self._of: dict[str, Vectors] = {}

    def add(self, name: str, seed: int) -> None:
        """A version whose head has the weights of a seed. Raises ValueError when another's could be taken for it."""
        own = models.weights(seed).apply(self._base)
        if any(np.abs(own - other).max(axis=1).min() < 20 * TOLERANCE for other in self._of.values()):
            raise ValueError(f"the vectors of {name} are too near another version's")
        self._of[name] = own

    def wrong(self, name: str, rows: Sequence[int], vectors: Vectors) -> int:
        """How many of the vectors are not those of the texts in these rows under the version that was named."""
        right = self._of.get(name)
        if right is None or vectors.shape != (len(rows), right.shape[1]):
            return len(rows)
        return int((np.abs(vectors - right[rows]).max(axis=1) > TOLERANCE).sum())


class Client(threading.Thread):
    """Asks nginx for vectors, one request after the other, and checks every one."""

    def __init__(self, port: int, truth: Truth, seed: int, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.figures = Figures()
        self.done = threading.Event()
        self._port, self._truth, self._pause_s = port, truth, pause_s
        self._chance = np.random.default_rng(seed)

    def run(self) -> None:
        """Until `done` is set."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=90)
        while not self.done.wait(self._pause_s):
            rows = self._chance.integers(len(TEXTS), size=int(self._chance.integers(1, 9))).tolist()
            self.figures.requests += 1
            try:
                name, vectors = embed(connection, ADAPTER, [TEXTS[row] for row in rows])
            except (OSError, http.client.HTTPException, Refused) as error:
                self.figures.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
                self.done.wait(REST_S)
                continue
            self.figures.vectors += len(rows)
            self.figures.wrong += self._truth.wrong(name, rows, vectors)
        connection.close()


class Refused(Exception):
    """An answer other than 200."""


def embed(connection: http.client.HTTPConnection, model: str, texts: Sequence[str]) -> tuple[str, Vectors]:
    """The version that answered and its vectors (n, d). Raises Refused, OSError, HTTPException."""
    body = json.dumps({"model": model, "input": list(texts), "encoding_format": "base64"})
    connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise Refused(f"{answer.status} {data[:200]!r}")
    rows = [np.frombuffer(base64.b64decode(each["embedding"]), np.float32) for each in json.loads(data)["data"]]
    return str(answer.headers["x-driftline-version"]), np.stack(rows)


def followed(cluster: Cluster, number: int, name: str, since: float) -> float | None:
    """Seconds from `since` until a service answers with the version; None when it was away meanwhile.

    Raises TimeoutError when it stays with another.
    """
    process, starts = cluster.services[number], cluster.services[number].starts
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.ports[number], timeout=30)) as connection:
        while True:
            try:
                found, _ = embed(connection, ADAPTER, [TEXTS[0]])
            except (OSError, http.client.HTTPException, Refused):
                if process.starts != starts or not process.alive or not cluster.ready(number):
                    return None
                connection.close()
                continue
            took = time.monotonic() - since
            if found == name:
                return took
            if took > FOLLOW_S:
                raise TimeoutError(f"{process.name} answers with {found} {took:.1f} s after {name} went live")
            time.sleep(0.02)


def drill(
    cluster: Cluster, registry: Registry, tiny: Tiny, promotions: int, seconds: float, *, clients: int, pause_s: float
) -> Figures:
    """Promote one version after the other under load, killing and restarting a service now and then."""
    truth, figures = Truth(tiny), Figures()
    for seed in range(promotions + 1):
        number = models.add_version(registry, tiny, ADAPTER, seed)
        truth.add(f"{ADAPTER}@{number}", seed)
    _promote(registry, 1)
    for number in range(len(cluster.services)):
        until("the first version", lambda number=number: _serves(cluster, number, f"{ADAPTER}@1"))  # type: ignore[misc]
    load = [Client(cluster.port, truth, seed, pause_s) for seed in range(clients)]
    for client in load:
        client.start()
    began = time.monotonic()
    for turn in range(1, promotions + 1):
        since = _promote(registry, turn + 1)
        for number in range(len(cluster.services)):
            try:
                took = followed(cluster, number, f"{ADAPTER}@{turn + 1}", since)
            except TimeoutError as error:
                figures.late.append(str(error))
                continue
            if took is not None:
                figures.follows.append(took)
        if turn % min(LOSS_EVERY, max(promotions // 3, 1)) == 0:
            _lose(cluster, figures.kills % len(cluster.services))
            figures.kills += 1
        time.sleep(max(0.0, began + turn * seconds / promotions - time.monotonic()))
    for client in load:
        client.done.set()
    for client in load:
        client.join()
        figures.requests += client.figures.requests
        figures.vectors += client.figures.vectors
        figures.wrong += client.figures.wrong
        figures.failures += client.figures.failures
    return figures


def lose_a_worker(cluster: Cluster, registry: Registry) -> tuple[Job, float, int]:
    """Kill the worker of a job, delete its folder and start it anew; the job in the end, the seconds that it was
    nobody's, and the number of versions that it published."""
    with registry.writing() as session:
        datasets.add(session, registry.artifacts, "small", small_csv(), "csv")
        job = jobs.enqueue(session, adapter=REFITTED, dataset="small", recipe=REFIT, requested_by="drill")

    def look() -> Job:
        with registry.reading() as session:
            return jobs.get(session, job.id)

    until("the fit", lambda: look().step == "fit", within_s=120)
    holder = _holder(cluster, job.id)
    holder.kill()
    killed = time.monotonic()
    shutil.rmtree(holder.folder)
    until("a second attempt", lambda: look().attempts == 2, within_s=120)
    took = time.monotonic() - killed
    holder.start()
    until("the end of the job", lambda: look().state.finished, within_s=120)
    with registry.reading() as session:
        return look(), took, len(versions.history(session, REFITTED))


def merge_evidence(cluster: Cluster, registry: Registry, tiny: Tiny, count: int) -> tuple[int, int]:
    """Serve `count` different texts through nginx, and one that each service is asked for by itself.

    How many of them the shared monitor has counted, which should be `count` and the number of services, and how many
    services gave it some.
    """
    known = [f"a known text of the kind {number % 7}, its number being {number}" for number in range(600)]
    number = models.add_version(registry, tiny, WATCHED, 10_000, known)
    with registry.writing() as session:
        version = versions.promote(session, WATCHED, number, by="drill")
    for number in range(len(cluster.services)):
        until("the watched version", lambda number=number: _serves(cluster, number, version.name, WATCHED))  # type: ignore[misc]

    def serve(lane: int) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=60)) as connection:
            for number in range(lane, count, LANES):
                embed(connection, WATCHED, [f"what is asked under the number {number}"])

    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(serve, range(LANES)))

    def counted() -> tuple[int, int]:
        with registry.reading() as session:
            kept = readings.get_state(session, WATCHED, version.number)
        return (0, 0) if kept is None else (kept.state["evidence"], len(kept.state["applied"]))

    until("the evidence", lambda: counted()[0] >= count + len(cluster.services))
    time.sleep(1.0)  # what came now would be counted twice
    return counted()


def _promote(registry: Registry, number: int) -> float:
    with registry.writing() as session:
        versions.promote(session, ADAPTER, number, by="drill")
    return time.monotonic()


def _lose(cluster: Cluster, number: int) -> None:
    """Kill a service and start it again, once the others are back from the last time."""
    others = [other for other in range(len(cluster.services)) if other != number]
    until("the other services", lambda: all(map(cluster.ready, others)), within_s=120)
    cluster.services[number].kill()
    cluster.services[number].start()


def _holder(cluster: Cluster, job_id: str) -> Process:
    return next(worker for worker in cluster.workers if (worker.folder / "work" / job_id).exists())


def _serves(cluster: Cluster, number: int, name: str, model: str = ADAPTER) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.ports[number], timeout=30)) as connection:
        try:
            return embed(connection, model, [TEXTS[0]])[0] == name
        except (OSError, http.client.HTTPException, Refused):
            return False


def main() -> int:
    """Run the drill and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="a home with a backbone, whose tokenizer is taken (default: yours)")
    parser.add_argument("--promotions", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long the promotions take at least")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--take-over", type=float, default=6.0, help="seconds of silence before a job changes hands")
    options = parser.parse_args()
    if lacking := missing():
        parser.exit(2, f"not installed: {', '.join(lacking)}\n")
    giver = Home.at(options.home).registry()
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch), take_over_s=options.take_over) as cluster:
        registry = Home.at(Path(scratch) / "driver").registry()
        tiny = models.add_backbone(giver, registry)
        for process in (*cluster.services, *cluster.workers):
            process.start()
        for number in range(len(cluster.services)):
            until("a service", lambda number=number: cluster.ready(number))  # type: ignore[misc]
        evidence, sharers = merge_evidence(cluster, registry, tiny, EVIDENCE)
        with ThreadPoolExecutor(1) as pool:
            refit = pool.submit(lose_a_worker, cluster, registry)
            found = drill(
                cluster, registry, tiny, options.promotions, 60 * options.minutes, clients=options.clients, pause_s=0.0
            )
            job, took, published = refit.result()
        registry.close()
    giver.close()
    follows = np.array(found.follows)
    print(f"{options.promotions} promotions, {found.kills} services killed, {found.requests} requests")
    print(f"failed requests: {len(found.failures)}", *found.failures[:5], sep="\n    ")
    print(f"vectors: {found.vectors}, wrong: {found.wrong}")
    print(
        f"seconds to follow a promotion ({len(follows)}): p50 {np.percentile(follows, 50):.2f}, "
        f"p99 {np.percentile(follows, 99):.2f}, longest {follows.max():.2f}; later than {FOLLOW_S:g}: {len(found.late)}"
    )
    print(
        f"job of the killed worker: {job.state}, attempt {job.attempts}, {published} version, nobody's for {took:.1f} s"
    )
    expected = EVIDENCE + len(cluster.services)
    print(f"evidence of drift: {evidence} of {expected} counted, of {sharers} services")
    kept = not found.failures and not found.wrong and not found.late and evidence == expected
    return 0 if kept and job.state is JobState.SUCCEEDED and published == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
