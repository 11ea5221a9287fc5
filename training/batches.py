"""Which rows make a step: class-aware batches for labels, shuffled ones without repeats for pairs."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def labelled_batches(labels: Indices, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Endless batches of row numbers in which every label that appears has several rows, where it has them.

    A set no larger than a batch is one batch. Otherwise labels are visited in random order, each giving up to
    `max(4, size / labels)` random rows, until the batch is full: supervised contrast needs positives, and a rare label
    gets as many as a frequent one.

    Args:
        labels: (n,) label codes from 0.
        size: Rows of a batch.
        rng: Source of randomness.
    """
    if len(labels) <= size:
        everything = np.arange(len(labels), dtype=np.int64)
        while True:
            yield everything
    rows_of = [np.flatnonzero(labels == code) for code in range(int(labels.max()) + 1)]
    share = max(4, -(-size // len(rows_of)))
    while True:
        chosen: list[Indices] = []
        filled = 0
        for code in rng.permutation(len(rows_of)):
            rows = rows_of[code]
            taken = rng.choice(rows, min(share, len(rows), size - filled), replace=False)
            chosen.append(taken)
            filled += len(taken)
            if filled >= size:
                break
        yield np.concatenate(chosen).astype(np.int64)


def shuffled_batches(rows: int, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Endless batches without repeats inside an epoch; the last rows of an epoch that do not fill a batch wait for the
    next shuffle."""
    size = min(size, rows)
    while True:
        order = rng.permutation(rows).astype(np.int64)
        for start in range(0, rows - size + 1, size):
            yield order[start : start + size]
