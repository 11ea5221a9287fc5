"""How the drift monitor behaves on real traffic: `python benchmarks/drift_banking77.py DATA --data-dir HOME`.

DATA holds banking77/{train,test}.csv and clinc-part/oos_test.jsonl; HOME a data directory with an imported backbone.
train.csv is split as a retrain splits it; references are built for base vectors and for a head fitted with the default
recipe, from all of it and from a small part (24 intents, 35 rows each). Then streams of many windows are drawn:
held-out rows, shuffled test.csv, the same with 5 to 20 % out-of-scope texts, and with traffic concentrated on 5
intents. Takes a few minutes.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from machine import describe, read_texts
from numpy.typing import NDArray
from scipy.stats import binomtest

from encoder.encoder import Encoder
from monitoring.evaluate import MonitorSettings, WindowReading, evaluate
from monitoring.recipe import Recipe
from monitoring.reference import Reference, Scored, split_held_out
from monitoring.window import Window
from registry import backbones
from registry.home import Home
from registry.row import Row, RowKind
from registry.rows import parse
from registry.splits import split
from training.fit import fit_head
from training.problem import LabelledProblem
from training.weights import HeadWeights

Vectors = NDArray[np.float32]
Labels = NDArray[np.str_]
WINDOWS = 2000
STREAMS = 100
TRIALS = 400
LONGEST = 16


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Vectors to draw from, with the labels of the test texts."""

    test: Vectors
    labels: Labels
    foreign: Vectors


def rate(events: int, trials: int) -> str:
    """A rate with its exact 95 % interval, in per cent."""
    interval = binomtest(events, trials).proportion_ci(method="exact")
    return f"{100 * events / trials:.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})"


def take(scored: Scored, rows: NDArray[np.int64]) -> Scored:
    """Scored vectors of some rows, in that order; a stream resampled from scored traffic costs no search."""
    return Scored(scored.cells[rows], scored.ranks[rows], scored.p_values[rows])


def together(parts: Iterable[Scored]) -> Scored:
    """One stream of several."""
    listed = list(parts)
    return Scored(
        np.concatenate([p.cells for p in listed]),
        np.concatenate([p.ranks for p in listed]),
        np.concatenate([p.p_values for p in listed]),
    )


def exchangeable(reference: Reference, held_out: Vectors, settings: MonitorSettings, rng: np.random.Generator) -> None:
    """Type-I error on held-out rows: each trial parts them anew into calibration items and a test window.

    Index and cells stay, as they rest on the fitted rows; the calibration scores and shares are taken anew.
    """
    index = 1 - reference.neighbors(held_out, reference.k)[0].astype(np.float64).mean(axis=1)
    cells = reference.assign(held_out)
    n = min(settings.window, len(held_out) // 3)
    found: dict[str, list[float]] = {"novelty": [], "occupancy": []}
    for _ in range(TRIALS):
        order = rng.permutation(len(held_out))
        calibration = order[n : n + reference.n_cal]
        fresh = dataclasses.replace(
            reference,
            calibration_scores=np.sort(index[calibration]),
            calibration_cells=np.bincount(cells[calibration], minlength=len(reference.cells)).astype(np.int64),
        )
        window = Window.of(fresh, fresh.score(held_out[order[:n]]))
        for reading in evaluate(window, fresh, settings).statistics:
            found[reading.name].append(reading.p_value)
    for name, values in found.items():
        levels = "; ".join(
            f"at {level:.0%} {rate(int((np.array(values) <= level).sum()), TRIALS)}" for level in (0.10, 0.05, 0.01)
        )
        print(f"  type-I error of {name}, {TRIALS} trials of {n} held-out rows: {levels}")


def readings(reference: Reference, settings: MonitorSettings, draw: Iterable[Scored]) -> list[WindowReading]:
    """A reading of each drawn window."""
    return [evaluate(Window.of(reference, scored), reference, settings) for scored in draw]


def study(
    name: str, reference: Reference, traffic: Traffic, settings: MonitorSettings, rng: np.random.Generator
) -> None:
    """Alarms and delays of one reference, on windows drawn with replacement from the real texts."""
    n = settings.window
    print(
        f"{name}: {len(reference.fit)} fitted, {reference.n_cal} calibration, {len(reference.cells)} cells, "
        f"alpha0 {reference.alpha0:g}, window {n}, level {settings.level(n):.2e}"
    )
    test, foreign = reference.score(traffic.test), reference.score(traffic.foreign)
    share_test, share_foreign = ((s.ranks <= reference.novel_rank).mean() for s in (test, foreign))
    print(f"  novel: {100 * share_test:.2f} % of test, {100 * share_foreign:.1f} % of out-of-scope")

    quiet = readings(reference, settings, (take(test, rng.integers(0, len(test), n)) for _ in range(WINDOWS)))
    effects = [r.statistic("occupancy").effect for r in quiet]
    significant = sum(r.statistic("occupancy").significant for r in quiet)
    print(
        f"  shuffled test, {WINDOWS} windows: alarms {rate(sum(r.alarm for r in quiet), WINDOWS)}; "
        f"mix shift significant in {rate(significant, WINDOWS)}, "
        f"its size 99 %: {np.quantile(effects, 0.99):.3f}, most: {max(effects):.3f}"
    )
    for share in (0.05, 0.10, 0.20):
        found = delays(reference, settings, partial(mixed, test, foreign, share, n, rng))
        print(f"  {share:.0%} out-of-scope: {found}")
    for share in (0.3, 0.5, 1.0):
        found = delays(reference, settings, partial(concentrated, test, traffic.labels, share, n, rng))
        print(f"  {share:.0%} of traffic on 5 intents: {found}")


def concentrated(test: Scored, labels: Labels, share: float, n: int, rng: np.random.Generator) -> Scored:
    """A window of test traffic of which this share comes from five intents, drawn anew for each window."""
    few = np.flatnonzero(np.isin(labels, rng.choice(np.unique(labels), 5, replace=False)))
    return take(test, np.where(rng.random(n) < share, rng.choice(few, n), rng.integers(0, len(test), n)))


def mixed(test: Scored, foreign: Scored, share: float, n: int, rng: np.random.Generator) -> Scored:
    """A window of test traffic, each text foreign with this probability."""
    strangers = rng.binomial(n, share)
    return together(
        [take(test, rng.integers(0, len(test), n - strangers)), take(foreign, rng.integers(0, len(foreign), strangers))]
    )


def delays(reference: Reference, settings: MonitorSettings, draw: Callable[[], Scored]) -> str:
    """How many windows until the alarm, over STREAMS streams."""
    needed = []
    for _ in range(STREAMS):
        count = next(
            (i for i in range(1, LONGEST + 1) if readings(reference, settings, [draw()])[0].alarm), LONGEST + 1
        )
        needed.append(count)
    delay = np.array(needed)
    within = ", ".join(f"within {w}: {100 * (delay <= w).mean():.0f} %" for w in (1, 2, 8))
    median = int(np.median(delay))
    requests = f"{median * settings.window} texts" if median <= LONGEST else f"over {LONGEST * settings.window} texts"
    return f"alarm {within}; median {requests}"


def fitted(rows: list[Row], vectors: Vectors, fit: NDArray[np.int64], select: NDArray[np.int64]) -> HeadWeights:
    """The weights of a head fitted with the default recipe."""
    codes = np.unique([row.label for row in rows], return_inverse=True)[1].astype(np.int64)
    problem = LabelledProblem(vectors, fit, codes[fit], select, codes[select])
    return fit_head(problem, Recipe().resolved(RowKind.LABELLED), lambda _: None).weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--window", type=int, default=MonitorSettings().window)
    arguments = parser.parse_args()
    print(describe())

    registry = Home.at(arguments.data_dir).registry()
    with registry.reading() as session:
        backbone = backbones.default(session)
    assert backbone is not None, "import a backbone into --data-dir first"
    encoder = Encoder.open(backbone.digest, registry.fetch)
    registry.close()

    train = parse((arguments.data / "banking77" / "train.csv").read_bytes(), "csv").rows
    test = parse((arguments.data / "banking77" / "test.csv").read_bytes(), "csv").rows
    foreign = read_texts(arguments.data / "clinc-part" / "oos_test.jsonl")
    base = encoder.encode([row.subject for row in train]).vectors
    base_test = encoder.encode([row.subject for row in test]).vectors
    base_foreign = encoder.encode(foreign).vectors
    test_labels = np.array([row.label for row in test])
    settings = MonitorSettings(window=arguments.window)
    rng = np.random.default_rng(0)

    labels = np.array([row.label for row in train])
    few = rng.choice(np.unique(labels), 24, replace=False)
    small = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:35] for label in few])
    of_few = np.isin(test_labels, few)
    for title, chosen, visible in (
        ("Banking77, all intents", np.arange(len(train)), np.ones(len(test), bool)),
        ("Banking77, 24 intents, 35 rows each", np.sort(small), of_few),
    ):
        rows, vectors = [train[i] for i in chosen], base[chosen]
        parts = split(rows)
        held_out = np.concatenate([parts.select, parts.gate])
        calibration, replay = split_held_out(len(held_out))
        weights = fitted(rows, vectors, parts.fit, parts.select)
        for kind, apply in (("base vectors", lambda x: x), ("adapted vectors", weights.apply)):
            adapted = apply(vectors)
            reference = Reference.build(
                fit=adapted[parts.fit],
                fit_ids=parts.fit.tolist(),
                fit_labels=[str(rows[i].label) for i in parts.fit],
                calibration=adapted[held_out[calibration]],
                replay=adapted[held_out[replay]],
            )
            traffic = Traffic(apply(base_test[visible]), test_labels[visible], apply(base_foreign))
            study(f"{title}, {kind}", reference, traffic, settings, rng)
            exchangeable(reference, adapted[held_out], settings, rng)


if __name__ == "__main__":
    main()
