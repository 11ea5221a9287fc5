"""Clusters: rows that resemble each other or share a source, and the stable number each cluster is dealt by."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from registry.near import near_duplicate_groups, normal_form
from registry.row import Row

PAIRS_PER_ANSWER = 5.0
"""Up to this many pairs to an answer, answers are taken for a sample of many, and whole ones are held out."""


def answers_of(rows: Sequence[Row]) -> NDArray[np.int64] | None:
    """The answer of each pair, (n,) int64, when answers are held out whole; else None.

    Positives that are near-duplicates are one answer. Where answers are few and asked for often (an FAQ), they are
    known and new questions are the test; then, and for rows that are no pairs, nothing hangs on the answer.
    """
    positives = [row.positive for row in rows if row.positive is not None]
    if not rows or len(positives) < len(rows):
        return None
    answers = near_duplicate_groups(positives)
    return answers if len(rows) <= PAIRS_PER_ANSWER * (int(answers.max()) + 1) else None


def clusters_of(rows: Sequence[Row], *marks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that must stay together, (n,) int64 from 0 in the order of first appearance.

    Rows with an equal mark in any of `marks` ((n,) int64 each) or an equal `group` are together, and so is everything
    they are together with.
    """
    count = len(rows)
    names: dict[str, int] = {}
    grouped = np.array([at for at, row in enumerate(rows) if row.group is not None], np.int64)
    numbers = np.array([names.setdefault(str(rows[at].group), len(names)) for at in grouped], np.int64)
    # A graph of rows and of knots: each row hangs on the knot of each of its marks, and on its group's when it has one.
    starts, ends, size = [grouped], [numbers + count], count + len(names)
    for mark in marks:
        starts.append(np.arange(count, dtype=np.int64))
        ends.append(mark + size)
        size += int(mark.max(initial=-1)) + 1
    edges = (np.concatenate(starts), np.concatenate(ends))
    graph = coo_array((np.ones(len(edges[0]), np.int8), edges), shape=(size, size))
    parts = connected_components(graph, directed=False)[1][:count]
    _, first, inverse = np.unique(parts, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def draws(rows: Sequence[Row], clusters: NDArray[np.int64], *, by_answer: bool, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each cluster, (clusters,) float64, that depends on the seed and on its content alone.

    It is a keyed hash of the cluster's name: its first group, or else the first of its texts (of its answers with
    `by_answer`) in normal form. Other rows of the dataset and the order of rows play no part, so a cluster keeps its
    number from one revision of a dataset to the next.
    """
    names: list[tuple[int, str] | None] = [None] * (int(clusters.max(initial=-1)) + 1)
    for row, cluster in zip(rows, clusters.tolist(), strict=True):
        known = names[cluster]
        if row.group is not None:
            name = (0, row.group)
        elif known is not None and known[0] == 0:
            continue
        else:
            name = (1, normal_form((row.positive if by_answer else None) or row.subject))
        names[cluster] = name if known is None else min(known, name)
    key = str(seed).encode()
    drawn = [
        hashlib.blake2b(repr(name).encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest() for name in names
    ]
    # 53 bits are what a double holds.
    return np.array([int.from_bytes(digest) >> 11 for digest in drawn], np.float64) / 2.0**53
