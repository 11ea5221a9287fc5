"""Level: how long the monitor runs without drift beside what it states, and how often single windows cry wolf."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.intervals import clustered_mean, rate_length, share
from benchmarks.drift.settings import Card
from benchmarks.drift.streams import Partition
from monitoring.evaluate import evaluate
from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference, Scored
from monitoring.window import Window

REFERENCES: Final = 30
RUNS: Final = 8
"""Streams of each reference at each stated run length."""
CAP: Final = 3
"""A run ends after this many stated run lengths: the mean of what was run is then a lower bound of the true mean."""
BATCHES: Final = {1_000: 16, 10_000: 32, 100_000: 256}
"""Items applied at once, by the stated run length."""
WINDOWS: Final = 16
"""Windows judged against each reference."""
LEVELS: Final = (0.05, 0.01, 0.001)


def until_alarm(
    reference: Reference, settings: MonitorSettings, scored: Scored, rows: NDArray[np.int64], batch: int
) -> int | None:
    """Items of the stream scored[rows] until the monitor alarms; None if it does not."""
    monitor = Monitor(reference, settings)
    for start in range(0, len(rows), batch):
        if monitor.apply(Window.of(reference, scored.rows(rows[start : start + batch]))).raised:
            return min(len(rows), start + batch)
    return None


class RunLengths:
    """Run lengths at one stated mean, grouped by reference."""

    def __init__(self, words: str, arl: int, batch: int) -> None:
        self.words, self.arl, self.batch = words, arl, batch
        self._found: list[list[float]] = []
        self._alarms = 0

    def add(self, reference: Reference, scored: Scored, streams: Iterator[NDArray[np.int64]]) -> None:
        """Run a monitor over each stream."""
        lengths = []
        for rows in streams:
            ended = until_alarm(reference, MonitorSettings(arl=self.arl), scored, rows, self.batch)
            self._alarms += ended is not None
            lengths.append(float(ended or len(rows)))
        self._found.append(lengths)

    def line(self) -> str:
        """One line of the table."""
        mean, low, high = clustered_mean(self._found)
        runs, items = sum(map(len, self._found)), int(sum(map(sum, self._found)))
        met = "yes" if low >= self.arl else "no"
        return (
            f"| {self.words} | {self.arl:,} | {runs} | {share(runs - self._alarms, runs)} | {mean:,.0f} ({low:,.0f} to "
            f"{high:,.0f}) | {rate_length(items, self._alarms)} | {met} |"
        )


HEADER: Final = (
    f"| streams | stated | runs | still quiet after {CAP} stated lengths | mean run, ended there at the latest | "
    "items an alarm | lower bound not below stated |\n| --- | ---: | ---: | ---: | ---: | ---: | --- |"
)


def run_lengths(card: Card, stated: tuple[int, ...], references: int = REFERENCES, runs: int = RUNS) -> None:
    """Run lengths on fresh draws: of a population without end, and of texts that are each seen once."""
    print(f"\n{references} references, each of its own random part of the texts, {runs} streams each.\n\n{HEADER}")
    drawn = [RunLengths("independent draws of real texts", arl, BATCHES[arl]) for arl in stated]
    once = RunLengths("each text at most once", 1_000, BATCHES[1_000])
    for seed in range(references):
        rng = np.random.default_rng((seed, 9))
        partition = Partition.drawn(card.corpus, seed)
        reference = card.reference(partition, bare=True)
        scored = reference.score(card.corpus.vectors[partition.traffic])
        for lengths in drawn:
            shape = (runs, CAP * lengths.arl)
            lengths.add(reference, scored, iter(rng.integers(0, len(scored), shape)))
        if 1_000 in stated:
            partition = Partition.disjoint(card.corpus, seed)
            reference = card.reference(partition, bare=True)
            scored = reference.score(card.corpus.vectors[partition.traffic])
            streams = (rng.permutation(len(scored))[: CAP * 1_000] for _ in range(runs))
            once.add(reference, scored, streams)
    for lengths in drawn:
        print(lengths.line(), flush=True)
    if 1_000 in stated:
        print(once.line(), flush=True)


def windows(card: Card, references: int = 300, each: int = WINDOWS) -> None:
    """Type-I errors of the statistics of single windows."""
    settings = MonitorSettings()
    found: dict[str, list[list[float]]] = {}
    for seed in range(references):
        rng = np.random.default_rng((seed, 10))
        partition = Partition.drawn(card.corpus, seed)
        reference = card.reference(partition)
        read: dict[str, list[float]] = {}
        for _ in range(each):
            vectors = card.corpus.vectors[rng.choice(partition.traffic, settings.window)]
            scored = reference.score(vectors, features=np.arange(len(vectors)))
            for reading in evaluate(Window.of(reference, scored), reference, settings).statistics:
                read.setdefault(reading.name, []).append(reading.p_value)
        for name, values in read.items():
            found.setdefault(name, []).append(values)
    print(
        f"\n{references * each} windows of {settings.window} without drift, {each} against each of {references} "
        "references. First interval: binomial, as if all windows were independent; second: references drawn anew.\n"
    )
    print("| statistic | " + " | ".join(f"at {level}" for level in LEVELS) + " |")
    print("| --- |" + " ---: |" * len(LEVELS))
    for name, groups in found.items():
        print(f"| {name} | " + " | ".join(_rejected(groups, level) for level in LEVELS) + " |", flush=True)


def _rejected(groups: list[list[float]], level: float) -> str:
    events = [[float(value <= level) for value in values] for values in groups]
    _, low, high = clustered_mean(events)
    alone = share(int(sum(map(sum, events))), sum(map(len, events)))
    return f"{alone}, ({100 * low:.2f} to {100 * high:.2f})"
