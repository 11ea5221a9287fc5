"""Explanation: whether the neighbourhood that was made to move is the one named first."""

from typing import Final

import numpy as np

from benchmarks.drift.corpus import Corpus, Rows
from benchmarks.drift.intervals import share
from benchmarks.drift.settings import Card
from benchmarks.drift.streams import Partition
from monitoring.explain import SCANNED, Explainer

ITEMS: Final = SCANNED
"""Vectors that are explained: as many as are scanned for neighbourhoods that appeared."""
RUNS: Final = 100
UNSEEN: Final = 20
"""References, each built without one intent; the runs are shared among them."""
UNSEEN_SHARE: Final = 0.05


def naming(card: Card) -> None:
    """Streams where one known intent is tripled, and where one intent arrives that the reference has never seen."""
    print(f"\nOf {RUNS} streams of {ITEMS:,} texts, the right neighbourhood named first (aim at 95 or more):\n")
    named, significant = _tripled(card)
    print(f"- one of 77 known intents tripled: {share(named, RUNS)}; significant as well: {share(significant, RUNS)}")
    found, as_new = _added(card)
    print(
        f"- one unseen intent added, {UNSEEN_SHARE:.0%} of the traffic, most texts of the first neighbourhood are of "
        f"it: {share(found, RUNS)}; told as one that appeared rather than a known one that grew: {share(as_new, RUNS)}",
        flush=True,
    )


def _labels(corpus: Corpus, rows: Rows) -> np.ndarray:
    return np.asarray(corpus.labels[rows - int(corpus.pools["banking"][0])])


def _tripled(card: Card) -> tuple[int, int]:
    """Streams whose tripled intent is named first as grown, and those where that is significant as well."""
    rng = np.random.default_rng(21)
    partition = Partition.disjoint(card.corpus, seed=21)
    explainer = Explainer(card.reference(partition))
    labels = _labels(card.corpus, partition.traffic)
    intents = np.unique(labels)
    named = significant = 0
    for run in range(RUNS):
        intent = intents[run % len(intents)]
        weights = np.where(labels == intent, 3.0, 1.0)
        rows = rng.choice(partition.traffic, ITEMS, p=weights / weights.sum())
        changes = explainer.explain(card.corpus.vectors[rows]).changes
        right = bool(changes) and changes[0].kind == "grew" and changes[0].name == intent
        named += right
        significant += right and changes[0].significant
    return named, significant


def _added(card: Card) -> tuple[int, int]:
    """Streams where most members of the first change are of the added intent, and those where it appeared as well.

    Some intents lie within a known one (why_verify_identity, verify_my_identity): that one has grown then.
    """
    rng = np.random.default_rng(22)
    partition = Partition.disjoint(card.corpus, seed=22)
    found = as_new = 0
    for intent in rng.choice(np.unique(card.corpus.labels), UNSEEN, replace=False):
        parts = (partition.fit, partition.calibration, partition.replay)
        fit, calibration, replay = (rows[_labels(card.corpus, rows) != intent] for rows in parts)
        explainer = Explainer(card.reference(Partition(fit, calibration, replay, partition.traffic)))
        labels = _labels(card.corpus, partition.traffic)
        for _ in range(RUNS // UNSEEN):
            usual = rng.choice(partition.traffic[labels != intent], ITEMS)
            added = rng.random(ITEMS) < UNSEEN_SHARE
            rows = np.where(added, rng.choice(partition.traffic[labels == intent], ITEMS), usual)
            changes = explainer.explain(card.corpus.vectors[rows]).changes
            right = bool(changes) and added[list(changes[0].members)].sum() > len(changes[0].members) / 2
            found += right
            as_new += right and changes[0].kind == "appeared"
    return found, as_new
