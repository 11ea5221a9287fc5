"""Which rows make a step: class-balanced batches for labels, shuffled ones for pairs, no text twice in either."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def labelled_batches(
    labels: Indices, size: int, rng: np.random.Generator, texts: Indices | None = None
) -> Iterator[Indices]:
    """Endless batches of row numbers in which every label that appears has several rows, where it has them.

    A set no larger than a batch is one batch. Otherwise labels are visited in random order, each giving up to
    `max(4, size / labels)` random rows, until the batch is full: supervised contrast needs positives, and a rare label
    gets as many as a frequent one.

    Args:
        labels: (n,) label codes from 0.
        size: Rows of a batch.
        rng: Source of randomness.
        texts: (n,) numbers of the rows' texts, equal for equal texts: of such rows a batch holds the first alone. A
            batch may so have a few rows less.
    """
    if len(labels) <= size:
        everything = without_repeats(np.arange(len(labels), dtype=np.int64), texts)
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
        yield without_repeats(np.concatenate(chosen).astype(np.int64), texts)


def without_repeats(batch: Indices, texts: Indices | None) -> Indices:
    """The rows of a batch whose text no earlier one has, in their order."""
    if texts is None:
        return batch
    first: Indices = np.unique(texts[batch], return_index=True)[1]
    return batch[np.sort(first)]


def shuffled_batches(rows: int, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Endless batches without repeats inside an epoch; the last rows of an epoch that do not fill a batch wait for the
    next shuffle."""
    size = min(size, rows)
    while True:
        order = rng.permutation(rows).astype(np.int64)
        for start in range(0, rows - size + 1, size):
            yield order[start : start + size]


def pair_batches(anchors: Indices, positives: Indices, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Endless batches of pairs in which no text comes twice, be it as anchor or as positive.

    Pairs that would repeat a text wait for a later batch of the epoch. Where so few texts are asked for that no batch
    would be half full (an FAQ of a few answers), batches are merely shuffled, and the loss leaves repeats out.

    Args:
        anchors, positives: (n,) text numbers.
        size: Pairs of a batch.
        rng: Source of randomness.
    """
    size = min(size, len(anchors))
    fewest = min(len(np.unique(anchors)), len(np.unique(positives)))
    if 2 * fewest < size or len(np.unique(np.concatenate([anchors, positives]))) == 2 * len(anchors):
        yield from shuffled_batches(len(anchors), size, rng)
    while True:
        waiting = rng.permutation(len(anchors)).tolist()
        first = True
        while waiting:
            batch, waiting = _take(waiting, anchors, positives, size)
            if len(batch) < size and not first:
                break
            first = False
            yield np.array(batch, dtype=np.int64)


def _take(waiting: list[int], anchors: Indices, positives: Indices, size: int) -> tuple[list[int], list[int]]:
    """Up to `size` pairs without a common text, from the front, and the others in their order."""
    used: set[int] = set()
    batch: list[int] = []
    left: list[int] = []
    for place, row in enumerate(waiting):
        if len(batch) == size:
            return batch, left + waiting[place:]
        texts = {int(anchors[row]), int(positives[row])}
        if used & texts:
            left.append(row)
        else:
            used |= texts
            batch.append(row)
    return batch, left
