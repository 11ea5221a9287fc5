"""Everything at once for half an hour: `python benchmarks/endurance.py --minutes 30`.

A whole distributed installation (see cluster.py) serves checked requests through nginx while versions go live, refits
run, traffic drifts, and services and workers are killed. Prints, for each tenth of the time, requests, failures, wrong
vectors and latencies, and how much memory, how many files and how large a database there are; then the slopes of the
service that is never killed. Exit status 1 when a request failed, a vector was wrong, or a job was lost.
"""

import argparse
import http.client
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tiny as models
from cluster import Cluster, missing, running, until
from distributed import ADAPTER, REFIT, REFITTED, TEXTS, WATCHED, Refused, Truth, embed
from kill_table import small_csv
from process import MIB, memory
from sqlalchemy import text as sql
from tiny import Tiny

from registry import datasets, jobs, readings, versions
from registry.errors import JobWaiting
from registry.home import Home
from registry.registry import Registry

VERSIONS = 40
"""Different heads that take turns to be live."""
KNOWN = [f"a known text of the kind {number % 7}, its number being {number}" for number in range(600)]
WARM_UP = 0.2
"""Share of the time whose samples are left out of the slopes: caches fill and allocators find their size."""


@dataclass
class Seen:
    """What the clients saw: (when, seconds) of each answer, failures in words, vectors and wrong ones."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)
    vectors: int = 0
    wrong: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the service that is never killed, and at the database."""

    at: float
    resident: int
    files: int
    database: int


class Drill:
    """Clients and troublemakers over one cluster, each in a thread of its own until `end` is set."""

    def __init__(self, cluster: Cluster, registry: Registry, tiny: Tiny, truth: Truth) -> None:
        self.cluster, self.registry, self.tiny, self.truth = cluster, registry, tiny, truth
        self.end = threading.Event()
        self.seen = [Seen() for _ in range(3)]
        self.samples: list[Sample] = []
        self.counts: dict[str, int] = {}
        self.jobs: list[str] = []
        self.broken: list[str] = []
        self._refits = 0

    def client(self, number: int) -> None:
        """Requests of one to eight texts, every vector checked."""
        seen, chance = self.seen[number], np.random.default_rng(number)
        with closing(http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=90)) as connection:
            while not self.end.wait(0.005):
                rows = chance.integers(len(TEXTS), size=int(chance.integers(1, 9))).tolist()
                began = time.monotonic()
                try:
                    name, vectors = embed(connection, ADAPTER, [TEXTS[row] for row in rows])
                except (OSError, http.client.HTTPException, Refused) as error:
                    seen.failures.append((began, f"{type(error).__name__}: {error}"))
                    connection.close()
                    continue
                seen.answers.append((began, time.monotonic() - began))
                seen.vectors += len(rows)
                seen.wrong += self.truth.wrong(name, rows, vectors)

    def drift(self) -> None:
        """Traffic of a watched adapter: new texts like the known ones, and in every other minute strange ones."""
        seen, turn = self.seen[2], 0
        with closing(http.client.HTTPConnection("127.0.0.1", self.cluster.port, timeout=90)) as connection:
            while not self.end.wait(0.1):
                turn += 1
                strange = turn % 1200 >= 600
                text = (
                    f"zebra {turn} quux {turn * 7}" if strange else f"a known text of the kind {turn % 7}, anew {turn}"
                )
                try:
                    embed(connection, WATCHED, [text])
                except (OSError, http.client.HTTPException, Refused) as error:
                    seen.failures.append((time.monotonic(), f"{type(error).__name__}: {error}"))
                    connection.close()

    def promote(self) -> None:
        """The next version goes live; an alarm that stands is acknowledged."""
        with self.registry.writing() as session:
            number = 1 + self.counts.get("promotions", 0) % VERSIONS
            versions.promote(session, ADAPTER, number, by="drill")
            state = readings.get_state(session, WATCHED)
            if state is not None and state.alarm_active:
                readings.acknowledge(session, WATCHED, by="drill")
                self._count("alarms acknowledged")
        self._count("promotions")

    def refit(self) -> None:
        """Ask for a retrain, unless one waits."""
        self._refits += 1
        try:
            with self.registry.writing() as session:
                job = jobs.enqueue(
                    session,
                    adapter=REFITTED,
                    dataset="small",
                    recipe={**REFIT, "seed": self._refits},
                    requested_by="drill",
                )
        except JobWaiting:
            return
        self.jobs.append(job.id)
        self._count("refits asked for")

    def kill_service(self) -> None:
        """The last service, once all answer."""
        until("every service", lambda: all(map(self.cluster.ready, range(len(self.cluster.services)))), within_s=120)
        self.cluster.services[-1].kill()
        self.cluster.services[-1].start()
        self._count("services killed")

    def kill_worker(self) -> None:
        """One worker after the other."""
        worker = self.cluster.workers[self.counts.get("workers killed", 0) % len(self.cluster.workers)]
        worker.kill()
        worker.start()
        self._count("workers killed")

    def sample(self) -> None:
        """Look at the first service and at the database."""
        pid = self.cluster.services[0].pid
        with self.registry.reading() as session:
            size = int(session.scalar(sql("SELECT pg_database_size(current_database())")) or 0)
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - the entries vanish while one looks
        self.samples.append(Sample(time.monotonic(), memory(pid).resident, files, size))

    def every(self, seconds: float, what: Callable[[], None]) -> Callable[[], None]:
        """Do this again and again; what fails is told and ends nothing else."""

        def loop() -> None:
            while not self.end.wait(seconds):
                try:
                    what()
                except Exception as error:  # noqa: BLE001 - the drill goes on and says so
                    self.broken.append(f"{what.__name__}: {type(error).__name__}: {error}")

        return loop

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def prepare(cluster: Cluster, registry: Registry, tiny: Tiny) -> Truth:
    """Versions, a watched adapter and a small dataset."""
    truth = Truth(tiny)
    for seed in range(VERSIONS):
        number = models.add_version(registry, tiny, ADAPTER, seed)
        truth.add(f"{ADAPTER}@{number}", seed)
    watched = models.add_version(registry, tiny, WATCHED, 10_000, KNOWN)
    with registry.writing() as session:
        versions.promote(session, ADAPTER, 1, by="drill")
        versions.promote(session, WATCHED, watched, by="drill")
        datasets.add(session, registry.artifacts, "small", small_csv(), "csv")
    for process in (*cluster.services, *cluster.workers):
        process.start()
    for number in range(len(cluster.services)):
        until("a service", lambda number=number: cluster.ready(number), within_s=120)  # type: ignore[misc]
    return truth


def run(drill: Drill, minutes: float) -> float:
    """All of it for so long; the moment at which it began."""
    work = [lambda: drill.client(0), lambda: drill.client(1), drill.drift]
    work += [drill.every(*each) for each in (
        (9.0, drill.promote), (45.0, drill.refit), (60.0, drill.kill_service), (130.0, drill.kill_worker),
        (5.0, drill.sample),
    )]  # fmt: skip
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(60 * minutes)
    drill.end.set()
    for thread in threads:
        thread.join(120)
    return began


def show(drill: Drill, began: float, minutes: float) -> None:
    """The table by tenths, and the slopes."""
    answers = np.array([each for seen in drill.seen for each in seen.answers])
    failed = np.array([at for seen in drill.seen for at, _ in seen.failures])
    print("| minutes | requests | failed | p50 ms | p99 ms | resident MiB | open files | database MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    step = 6 * minutes
    for tenth in range(10):
        low, high = began + tenth * step, began + (tenth + 1) * step
        took = 1e3 * answers[(answers[:, 0] >= low) & (answers[:, 0] < high), 1]
        now = [sample for sample in drill.samples if low <= sample.at < high]
        p50, p99 = np.percentile(took, (50, 99)) if len(took) else (np.nan, np.nan)
        last = now[-1] if now else Sample(0, 0, 0, 0)
        lost = int(((failed >= low) & (failed < high)).sum())
        print(
            f"| {(tenth + 1) * step / 60:.0f} | {len(took)} | {lost} | {p50:.1f} | {p99:.1f} "
            f"| {last.resident / MIB:.0f} | {last.files} | {last.database / MIB:.1f} |"
        )
    kept = [sample for sample in drill.samples if sample.at >= began + WARM_UP * 60 * minutes]
    hours = np.array([sample.at for sample in kept]) / 3600
    for name, values, unit in (
        ("resident memory", [sample.resident / MIB for sample in kept], "MiB"),
        ("open files", [sample.files for sample in kept], ""),
        ("database", [sample.database / MIB for sample in kept], "MiB"),
    ):
        print(f"slope of {name}: {np.polyfit(hours, values, 1)[0]:+.1f} {unit} an hour")


def main() -> int:
    """Run the drill and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--home", type=Path, help="a home with a backbone, whose tokenizer is taken (default: yours)")
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    if lacking := missing():
        parser.exit(2, f"not installed: {', '.join(lacking)}\n")
    giver = Home.at(options.home).registry()
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch), take_over_s=6.0) as cluster:
        registry = Home.at(Path(scratch) / "driver").registry()
        tiny = models.add_backbone(giver, registry)
        drill = Drill(cluster, registry, tiny, prepare(cluster, registry, tiny))
        began = run(drill, options.minutes)
        ended = {}
        for job in drill.jobs:
            until("the end of a job", lambda job=job: _state(registry, job).finished, within_s=300)  # type: ignore[misc]
            ended[str(_state(registry, job))] = ended.get(str(_state(registry, job)), 0) + 1
        registry.close()
    giver.close()
    show(drill, began, options.minutes)
    failures = [words for seen in drill.seen for _, words in seen.failures]
    vectors, wrong = (sum(getattr(seen, name) for seen in drill.seen) for name in ("vectors", "wrong"))
    print(f"{', '.join(f'{name}: {count}' for name, count in drill.counts.items())}")
    print(f"jobs by their end: {ended}; vectors checked: {vectors}, wrong: {wrong}; failed requests: {len(failures)}")
    for words in [*failures[:5], *drill.broken[:5]]:
        print(f"    {words}")
    return 1 if failures or wrong or drill.broken or set(ended) - {"succeeded"} else 0


def _state(registry: Registry, job: str) -> jobs.JobState:
    with registry.reading() as session:
        return jobs.get(session, job).state


if __name__ == "__main__":
    raise SystemExit(main())
