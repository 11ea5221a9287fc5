"""Which rows of a dataset make a reference: fitted rows as the index, held-out rows as calibration and replay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from monitoring.reference import Reference, split_held_out
from registry.row import RowKind
from training.data import Corpus, Parts
from training.problem import Indices, Vectors

NO_LABEL: Final = "(no label)"
"""Stands for the label of a newer row that has none, among fitted rows that do."""


@dataclass(frozen=True, eq=False)
class Material:
    """Rows with their vectors.

    Attributes:
        corpus: Their texts.
        parts: Who was fitted on.
        vectors: (n, d) float32 vectors of the distinct texts under the version.
    """

    corpus: Corpus
    parts: Parts
    vectors: Vectors


@dataclass(frozen=True, eq=False)
class Newer:
    """Rows that came later, none of which the version was fitted on.

    Attributes:
        corpus: Their texts.
        index: Row numbers of those that join the index.
        held_out: Of those that calibrate, and `clusters` (n,) marks of all rows.
        vectors: (m, d) float32 vectors of the distinct texts under the version.
        name: Before the row numbers in the ids of indexed rows, such as "support@4".
    """

    corpus: Corpus
    index: Indices
    held_out: Indices
    clusters: Indices
    vectors: Vectors
    name: str


def reference_of(
    material: Material | None,
    newer: Newer | None = None,
    *,
    seed: int,
    refit: bool | None,
    info: Mapping[str, Any],
) -> Reference:
    """The reference of a version.

    No held-out row was fitted on; of a dataset that a head was fitted on, the selection rows did choose the step at
    which the fit stopped, and alpha. Where the head was fitted once more, on them too, they are fitted rows. Newer rows
    calibrate in place of older ones, since it is they that traffic is like; some of them join the index, since a text
    must lie near something to be usual. At least one of `material` and `newer` is given.
    """
    indexed, calibration, replay = [], [], []
    ids: list[str] = []
    labels: list[str] | None = []
    if material is not None:
        corpus, parts = material.corpus, material.parts
        fit, named, marked = _fit_items(corpus, parts.seen(refit), "")
        indexed.append(material.vectors[fit])
        ids, labels = named, marked
        if newer is None:
            held_out = parts.gate if refit else np.concatenate([parts.select, parts.gate])
            first, second = split_held_out(len(held_out), seed=seed, clusters=parts.clusters[held_out])
            calibration.append(material.vectors[_traffic(corpus, held_out[first])])
            replay.append(material.vectors[_traffic(corpus, held_out[second])])
    if newer is not None:
        fit, named, marked = _fit_items(newer.corpus, newer.index, f"{newer.name}.")
        indexed.append(newer.vectors[fit])
        ids = [*ids, *named]
        if material is None:
            labels = marked
        elif labels is not None:
            labels = [*labels, *(marked or [NO_LABEL] * len(named))]
        first, second = split_held_out(len(newer.held_out), seed=seed, clusters=newer.clusters[newer.held_out])
        calibration.append(newer.vectors[_traffic(newer.corpus, newer.held_out[first])])
        replay.append(newer.vectors[_traffic(newer.corpus, newer.held_out[second])])
    return Reference.build(
        fit=np.concatenate(indexed),
        fit_ids=ids,
        fit_labels=labels,
        calibration=np.concatenate(calibration),
        replay=np.concatenate(replay),
        seed=seed,
        version_info=info,
    )


def _fit_items(corpus: Corpus, rows: Indices, before: str) -> tuple[Indices, list[str], list[str] | None]:
    """Text numbers, ids and labels of indexed rows; ids are the dataset's row numbers, from 1."""
    numbers = [f"{before}{row + 1}" for row in rows]
    if corpus.kind is RowKind.LABELLED:
        return corpus.subject[rows], numbers, [corpus.labels[row] for row in rows]
    if corpus.kind is RowKind.UNLABELLED:
        return corpus.subject[rows], numbers, None
    if corpus.views:
        return corpus.positive[rows], numbers, None
    texts = np.concatenate([corpus.subject[rows], corpus.positive[rows]])
    return texts, [f"{n}.anchor" for n in numbers] + [f"{n}.positive" for n in numbers], None


def _traffic(corpus: Corpus, rows: Indices) -> Indices:
    """Text numbers of rows as they would arrive: both sides of a pair are embedded in use, an answer once."""
    if corpus.kind is not RowKind.PAIRS:
        return corpus.subject[rows]
    if corpus.views:
        return corpus.positive[rows]
    return np.concatenate([corpus.subject[rows], np.unique(corpus.positive[rows])])
