"""A dataset's rows as index arrays: distinct texts, who plays which part, and what is asked of the fit and the gate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from registry.clusters import answers_of
from registry.near import near_duplicate_groups
from registry.row import Row, RowKind
from registry.splits import split
from training.errors import DataRefused
from training.problem import Indices, LabelledProblem, PairProblem, Problem, Vectors, Weights
from training.weak import weights_of

MIN_FIT_ROWS = 8


@dataclass(frozen=True, eq=False)
class Corpus:
    """Rows as indices into their distinct texts.

    Attributes:
        kind: labelled or pairs.
        texts: Distinct texts, in the order of their first appearance.
        subject: (n,) the text of a labelled row, or the anchor of a pair.
        positive: (n,) the positive of a pair; -1 for labelled rows.
        negative: (n,) the negative of a pair; -1 where there is none.
        labels: Label of each row; empty for pairs.
        weights: (n,) float32, how much each row's label is believed; 1 for pairs.
        views: Whether the pairs are two forms of one text each, of a dataset without labels (training/views.py).
    """

    kind: RowKind
    texts: list[str]
    subject: Indices
    positive: Indices
    negative: Indices
    labels: list[str]
    weights: Weights
    views: bool = False

    @classmethod
    def of(cls, rows: Sequence[Row], kind: RowKind) -> "Corpus":
        """The corpus of a dataset's rows."""
        numbers: dict[str, int] = {}

        def number(text: str | None) -> int:
            return -1 if text is None else numbers.setdefault(text, len(numbers))

        table = np.array(
            [(number(row.subject), number(row.positive), number(row.negative)) for row in rows], dtype=np.int64
        ).reshape(-1, 3)
        labels = [row.label or "" for row in rows] if kind is RowKind.LABELLED else []
        return cls(kind, list(numbers), table[:, 0], table[:, 1], table[:, 2], labels, weights_of(rows))

    @property
    def codes(self) -> Indices:
        """(n,) label codes, in the order of the sorted labels."""
        return np.unique(np.array(self.labels, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Parts:
    """Who plays which part.

    Attributes:
        fit, select, gate: Row numbers of the three parts.
        judged: The gate's rows that a verdict may rest on: those the champion was not fitted on either.
        clusters: (n,) marks; rows that resemble each other or share a source have one mark.
        known_negatives: Rows of the fit whose negative answers a row of the gate.
    """

    fit: Indices
    select: Indices
    gate: Indices
    judged: Indices
    clusters: Indices
    known_negatives: Indices

    def seen(self, refit: bool | None) -> Indices:
        """Rows that a version has seen: those of the fit; with a refit on them, those of the selection too."""
        return np.concatenate([self.fit, self.select]) if refit else self.fit


def part(rows: Sequence[Row], seed: int) -> Parts:
    """Split rows into fit, select and gate; near-duplicates, groups and, for pairs, held-out answers whole.

    Pairs with few anchors to an answer are split by answer, where answers that are near-duplicates count as one: the
    gate asks for answers no fit has seen as a positive, and fitted negatives among them are named. Where answers are
    few and asked for often (an FAQ), they are known and new questions are the test. Every gate row is judged.

    Raises:
        DataRefused: A part would be empty or too small to fit on.
    """
    splits = split(rows, seed=seed)
    if len(splits.fit) < MIN_FIT_ROWS or not len(splits.select) or not len(splits.gate):
        raise DataRefused(
            f"the dataset is too small: {len(splits.fit)} rows to fit, {len(splits.select)} to select and "
            f"{len(splits.gate)} to judge on; near-duplicates and groups stay together. Add more different rows"
        )
    known = _known_negatives(rows, splits.fit, splits.gate)
    return Parts(splits.fit, splits.select, splits.gate, splits.gate, splits.clusters, known)


def _known_negatives(rows: Sequence[Row], fit: Indices, gate: Indices) -> Indices:
    """Rows of the fit whose negative is, or nearly is, an answer the gate asks for; none where answers are known."""
    opposed = np.array([row for row in fit if rows[row].negative is not None], np.int64)
    if not len(opposed) or answers_of(rows) is None:
        return opposed[:0]
    texts = [rows[row].negative or "" for row in opposed] + [rows[row].positive or "" for row in gate]
    groups = near_duplicate_groups(texts)
    return opposed[np.isin(groups[: len(opposed)], groups[len(opposed) :])]


def fit_problem(corpus: Corpus, parts: Parts, vectors: Vectors) -> Problem:
    """What the fit is given: the rows of the fit and the select part, and no vector of a text held out for the gate.

    Fitted negatives that answer a row of the gate are left out; the rest of their rows stays.

    Raises:
        DataRefused: The fit part has a single label, or every label once.
    """
    used, columns = _compact(_columns(corpus, parts))
    if corpus.kind is RowKind.LABELLED:
        codes = corpus.codes
        counts = np.bincount(codes[parts.fit])
        if (counts > 0).sum() < 2 or counts.max() < 2:
            raise DataRefused("the rows to fit on need at least two labels and a label with two rows; add more rows")
        fit, select = columns
        weights = corpus.weights[parts.fit]
        return LabelledProblem(
            vectors[used], fit, codes[parts.fit], select, codes[parts.select], None if (weights >= 1).all() else weights
        )
    if len(np.unique(corpus.positive[parts.fit])) < 2:
        raise DataRefused("the pairs to fit on have a single positive text; add pairs with others")
    return PairProblem(vectors[used], *columns)


def fit_texts(corpus: Corpus, parts: Parts) -> list[str]:
    """The texts whose vectors `fit_problem` gives, in their order there."""
    used, _ = _compact(_columns(corpus, parts))
    return [corpus.texts[number] for number in used]


def _columns(corpus: Corpus, parts: Parts) -> list[Indices]:
    """Text numbers by row of what a fit is given."""
    if corpus.kind is RowKind.LABELLED:
        return [corpus.subject[parts.fit], corpus.subject[parts.select]]
    negatives = corpus.negative.copy()
    negatives[parts.known_negatives] = -1
    return [
        corpus.subject[parts.fit],
        corpus.positive[parts.fit],
        negatives[parts.fit],
        corpus.subject[parts.select],
        corpus.positive[parts.select],
    ]


@dataclass(frozen=True, eq=False)
class GateItems:
    """What the gate asks: queries against an index, by text number.

    Attributes:
        index, queries: Text numbers.
        index_labels, query_labels: Labels, for labelled rows.
        relevant: Places in `index` that answer each query, for pairs.
        clusters: (queries,) marks of queries that share a source.
    """

    index: Indices
    queries: Indices
    index_labels: list[str]
    query_labels: list[str]
    relevant: list[set[int]]
    clusters: Indices


def gate_items(corpus: Corpus, parts: Parts) -> GateItems:
    """Labels: judged rows against the fit rows whose label is not doubted. Pairs: the distinct judged anchors against
    every positive there is."""
    if corpus.kind is RowKind.LABELLED:
        labels = np.array(corpus.labels, dtype=object)
        sure = parts.fit[corpus.weights[parts.fit] >= 1]
        index = sure if len(sure) else parts.fit
        return GateItems(
            index=corpus.subject[index],
            queries=corpus.subject[parts.judged],
            index_labels=labels[index].tolist(),
            query_labels=labels[parts.judged].tolist(),
            relevant=[],
            clusters=parts.clusters[parts.judged],
        )
    index = np.unique(corpus.positive)
    queries, first, inverse = np.unique(corpus.subject[parts.judged], return_index=True, return_inverse=True)
    relevant: list[set[int]] = [set() for _ in queries]
    places = np.searchsorted(index, corpus.positive[parts.judged])
    for query, place in zip(inverse, places, strict=True):
        relevant[int(query)].add(int(place))
    return GateItems(index, queries, [], [], relevant, parts.clusters[parts.judged][first])


def _compact(columns: list[Indices]) -> tuple[Indices, list[Indices]]:
    """The text numbers that occur, ascending, and the columns renumbered into them; -1 stays."""
    used = np.unique(np.concatenate(columns))
    used = used[used >= 0]
    return used, [np.where(column < 0, -1, np.searchsorted(used, column)).astype(np.int64) for column in columns]
