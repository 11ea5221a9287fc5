"""Cost: time a vector by size of the reference, a million vectors at once, and the bytes of the state."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from operator import add
from statistics import median
from typing import Final

import numpy as np

from benchmarks.drift.corpus import Vectors
from benchmarks.drift.settings import Card
from monitoring.bets import MAX_SEGMENTS
from monitoring.evaluate import evaluate
from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from monitoring.search import FlatIndex
from monitoring.window import Window

CALIBRATION: Final = 2_000
ROUNDS: Final = 7
CHUNK: Final = 20_000


def cloud(rng: np.random.Generator, seeds: Vectors, n: int) -> Vectors:
    """n unit vectors around real ones."""
    found = seeds[rng.integers(0, len(seeds), n)] + 0.03 * rng.standard_normal((n, seeds.shape[1]), dtype=np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def build(rng: np.random.Generator, seeds: Vectors, rows: int) -> Reference:
    """A reference of this many fitted rows."""
    return Reference.build(
        fit=cloud(rng, seeds, rows),
        fit_ids=range(rows),
        fit_labels=None,
        calibration=cloud(rng, seeds, CALIBRATION),
        replay=cloud(rng, seeds, 1),
    )


def cost(card: Card) -> None:
    """Time on one core by reference and batch, then a million vectors, then the state."""
    rng = np.random.default_rng(0)
    seeds = card.corpus.vectors[card.corpus.pools["banking"]]
    print("\nMicroseconds of processor time a vector of 384 on one core, median (range) of rounds: search, p-values,")
    print("features, batch and evidence together, as `Monitor.observe` does them.\n")
    print("| reference | batches of 32 | batches of 256 | without features, 256 |\n| --- | ---: | ---: | ---: |")
    small, largest = build(rng, seeds, 5_000), build(rng, seeds, 50_000)
    queries = cloud(rng, seeds, 1_024)
    _by_reference("5,000 rows, exact", small, queries)
    _by_reference("50,000 rows (the most it keeps), exact", largest, queries)
    index = FlatIndex(cloud(rng, seeds, 100_000))
    searched = [_rounds(partial(_search, index, queries[:256], n), 256) for n in (32, 256)]
    print(f"| 100,000 rows, the exact search alone | {' | '.join(searched)} | |", flush=True)
    _million(rng, seeds, small)
    _state(small, cloud(rng, seeds, 4_096))


def _by_reference(name: str, reference: Reference, queries: Vectors) -> None:
    none = np.zeros(len(queries), bool)
    shown = [
        _rounds(lambda: Monitor(reference).observe(queries, batch=32), len(queries)),
        _rounds(lambda: Monitor(reference).observe(queries, batch=256), len(queries)),
        _rounds(lambda: Monitor(reference).observe(queries, evidence=none), len(queries)),
    ]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


def _search(index: FlatIndex, queries: Vectors, n: int) -> None:
    for start in range(0, len(queries), n):
        index.search(queries[start : start + n], 10)


def _rounds(work: Callable[[], object], vectors: int) -> str:
    taken = []
    for _ in range(ROUNDS):
        # Of this thread: what others do on the machine at the same time does not count.
        began = time.thread_time()
        work()
        taken.append(1e6 * (time.thread_time() - began) / vectors)
    return f"{median(taken):.0f} ({min(taken):.0f} to {max(taken):.0f})"


def _million(rng: np.random.Generator, seeds: Vectors, reference: Reference) -> None:
    """Chunks are made before the clock starts on each of them; two threads, as the machine has cores."""
    took = {}
    for name, features in (("novelty and occupancy", False), ("with random-feature MMD", True)):
        seconds, busy = 0.0, 0.0
        windows: list[Window] = []
        with ThreadPoolExecutor(2) as pool:

            def count(part: Vectors, wanted: bool = features) -> Window:
                scored = reference.score(part, features=np.arange(len(part)) if wanted else None)
                return Window.of(reference, scored)

            for _ in range(1_000_000 // (2 * CHUNK)):
                parts = np.split(cloud(rng, seeds, 2 * CHUNK), 2)
                began, used = time.perf_counter(), time.process_time()
                windows += pool.map(count, parts)
                seconds, busy = seconds + time.perf_counter() - began, busy + time.process_time() - used
        began = time.perf_counter()
        reading = evaluate(reduce(add, windows), reference, MonitorSettings())
        took[name] = (seconds + time.perf_counter() - began, busy)
        assert reading.n == 1_000_000, "every vector is counted"
    shown = "; ".join(f"{name} {wall:.0f} s ({busy:.0f} s of processor time)" for name, (wall, busy) in took.items())
    print(f"\n1,000,000 x 384 vectors against 5,000, two threads (aim at most 60 s): {shown}.", flush=True)


def _state(reference: Reference, vectors: Vectors) -> None:
    sizes = []
    for segments in (0, 1, MAX_SEGMENTS):
        monitor = Monitor(reference)
        names = [f"segment-{i % segments}" for i in range(len(vectors))] if segments else None
        monitor.observe(vectors, segments=names)
        sizes.append(len(json.dumps(monitor.to_json(), separators=(",", ":"))))
    each = (sizes[2] - sizes[0]) / MAX_SEGMENTS
    print(
        f"\nState of a monitor with {len(reference.cells)} cells, as JSON, after {len(vectors):,} vectors: "
        f"{sizes[0]:,} bytes without segments, {sizes[1]:,} with one, {sizes[2]:,} with {MAX_SEGMENTS}: {each:,.0f} "
        "bytes a segment (aim at most 20,000)."
    )
