"""A dataset's rows as index arrays: distinct texts, who plays which part, and what is asked of the fit and the gate."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from registry.row import Row, RowKind
from registry.splits import near_duplicate_groups, split_with
from training.errors import DataRefused
from training.problem import Indices, LabelledProblem, PairProblem, Problem, Vectors

# Up to this many pairs to an answer, answers are taken for a sample of many, and whole ones are held out.
PAIRS_PER_ANSWER = 5.0
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
    """

    kind: RowKind
    texts: list[str]
    subject: Indices
    positive: Indices
    negative: Indices
    labels: list[str]

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
        return cls(kind, list(numbers), table[:, 0], table[:, 1], table[:, 2], labels)

    @property
    def codes(self) -> Indices:
        """(n,) label codes, in the order of the sorted labels."""
        return np.unique(np.array(self.labels, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Parts:
    """Row numbers of the three parts, and (n,) marks of rows that share a source."""

    fit: Indices
    select: Indices
    gate: Indices
    clusters: Indices


def part(rows: Sequence[Row], kind: RowKind, seed: int) -> Parts:
    """Split rows into fit, select and gate, near-duplicates and groups whole.

    Pairs with few anchors to an answer are split by answer, so that the gate asks for answers no fit has seen. Where
    answers are few and asked for often (an FAQ), they are known and new questions are the test.

    Raises:
        DataRefused: A part would be empty or too small to fit on.
    """
    near = near_duplicate_groups([row.subject for row in rows])
    if kind is RowKind.PAIRS and len(rows) <= PAIRS_PER_ANSWER * len({row.positive for row in rows}):
        rows = [row if row.group is not None else dataclasses.replace(row, group=_answer(row)) for row in rows]
    splits = split_with(rows, near, seed=seed)
    groups: dict[str, int] = {}
    top = int(near.max(initial=0)) + 1
    marks = [
        n if r.group is None else top + groups.setdefault(r.group, len(groups)) for r, n in zip(rows, near, strict=True)
    ]
    if len(splits.fit) < MIN_FIT_ROWS or not len(splits.select) or not len(splits.gate):
        raise DataRefused(
            f"the dataset is too small: {len(splits.fit)} rows to fit, {len(splits.select)} to select and "
            f"{len(splits.gate)} to judge on; near-duplicates and groups stay together. Add more different rows"
        )
    return Parts(splits.fit, splits.select, splits.gate, np.array(marks, dtype=np.int64))


def fit_problem(corpus: Corpus, parts: Parts, vectors: Vectors) -> Problem:
    """What the fit is given: the rows of the fit and the select part, and no vector of the gate's rows.

    Raises:
        DataRefused: The fit part has a single label, or every label once.
    """
    if corpus.kind is RowKind.LABELLED:
        codes = corpus.codes
        counts = np.bincount(codes[parts.fit])
        if (counts > 0).sum() < 2 or counts.max() < 2:
            raise DataRefused("the rows to fit on need at least two labels and a label with two rows; add more rows")
        used, (fit, select) = _compact([corpus.subject[parts.fit], corpus.subject[parts.select]])
        return LabelledProblem(vectors[used], fit, codes[parts.fit], select, codes[parts.select])
    if len(np.unique(corpus.positive[parts.fit])) < 2:
        raise DataRefused("the pairs to fit on have a single positive text; add pairs with others")
    columns = [
        corpus.subject[parts.fit],
        corpus.positive[parts.fit],
        corpus.negative[parts.fit],
        corpus.subject[parts.select],
        corpus.positive[parts.select],
    ]
    used, compact = _compact(columns)
    return PairProblem(vectors[used], *compact)


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
    """Labels: gate rows against the fit rows. Pairs: the gate's distinct anchors against every positive there is."""
    if corpus.kind is RowKind.LABELLED:
        labels = np.array(corpus.labels, dtype=object)
        return GateItems(
            index=corpus.subject[parts.fit],
            queries=corpus.subject[parts.gate],
            index_labels=labels[parts.fit].tolist(),
            query_labels=labels[parts.gate].tolist(),
            relevant=[],
            clusters=parts.clusters[parts.gate],
        )
    index = np.unique(corpus.positive)
    queries, first, inverse = np.unique(corpus.subject[parts.gate], return_index=True, return_inverse=True)
    relevant: list[set[int]] = [set() for _ in queries]
    places = np.searchsorted(index, corpus.positive[parts.gate])
    for query, place in zip(inverse, places, strict=True):
        relevant[int(query)].add(int(place))
    return GateItems(index, queries, [], [], relevant, parts.clusters[parts.gate][first])


def _compact(columns: list[Indices]) -> tuple[Indices, list[Indices]]:
    """The text numbers that occur, ascending, and the columns renumbered into them; -1 stays."""
    used = np.unique(np.concatenate(columns))
    used = used[used >= 0]
    return used, [np.where(column < 0, -1, np.searchsorted(used, column)).astype(np.int64) for column in columns]


def _answer(row: Row) -> str:
    return "answer:" + hashlib.sha256((row.positive or "").encode("utf-8", "surrogatepass")).hexdigest()
