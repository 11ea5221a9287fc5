"""Where traffic appeared that the reference has nothing of: balls that hold many new vectors and few known ones.

A spatial scan (Kulldorff, "A spatial scan statistic", Communications in Statistics 1997): every new vector is a centre,
every distance to one of its neighbours a radius, and a ball is judged by how many of what it holds is new. Cells are
not needed and none is cut through; two texts that mean the same need not share a word.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc, xlogy

from monitoring.arrays import IntArray, as_matrix
from monitoring.search import FlatIndex

SIZES: Final = (6, 8, 10, 12, 15, 19, 24, 30, 37, 46, 58, 72, 90, 112, 140, 175, 219, 256)
"""How many vectors a ball may hold: few sizes, since each is a further chance to find something by chance."""
MIN_MEMBERS: Final = 6
GROWN: Final = 3.0
"""A ball has appeared when it is surely more than this many times denser than the reference; else it merely grew."""
LEVEL: Final = 0.05
"""Chance of finding any such ball when nothing has grown more than that."""
MOST: Final = 3
REPEATED: Final = 0.995
"""Cosine from which vectors count as one text sent again: repeats would look like a cluster."""


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """Vectors that appeared together.

    members: their rows among the new vectors, centre first. known: how many reference vectors lie among them.
    similarity: cosine of the centre with the farthest member. likelihood: the log likelihood ratio of its density.
    """

    members: IntArray
    known: int
    similarity: float
    likelihood: float

    def shifted(self, by: int) -> "Ball":
        """The same ball where the new vectors begin at a later row."""
        return replace(self, members=self.members + by)


def appeared(new: ArrayLike, known: ArrayLike) -> list[Ball]:
    """Balls of `new` (n, d) where `known` (m, d) is sparse, surest first, at most MOST, without common members.

    Unit vectors. A ball counts when what it holds is rarer than LEVEL, shared over all balls, even in a neighbourhood
    GROWN times as dense as the reference: of the vectors beside its centre, the new ones are then at most binomial
    with p = GROWN n / (GROWN n + m), given how many there are.

    Raises:
        VectorsRefused: not matrices of one dimension, or not finite.
    """
    stream = as_matrix(new)
    reference = as_matrix(known, stream.shape[1])
    kept = distinct(stream)
    found: list[Ball] = []
    while len(found) < MOST:
        ball = _densest(stream[kept], reference) if len(kept) >= MIN_MEMBERS else None
        if ball is None:
            break
        found.append(Ball(kept[ball.members], ball.known, ball.similarity, ball.likelihood))
        kept = np.delete(kept, ball.members)
    return found


def distinct(vectors: NDArray[np.float32]) -> IntArray:
    """Rows without those that repeat an earlier one (cosine of REPEATED or more), ascending."""
    if not len(vectors):
        return np.zeros(0, np.int64)
    similarities, rows = FlatIndex(vectors).search(vectors, min(16, len(vectors)))
    earlier = (similarities >= REPEATED) & (rows < np.arange(len(vectors))[:, None]) & (rows >= 0)
    return np.flatnonzero(~earlier.any(axis=1)).astype(np.int64)


def _densest(stream: NDArray[np.float32], reference: NDArray[np.float32]) -> Ball | None:
    """The likeliest ball around any vector of the stream, recentred once on what it holds."""
    n, m = len(stream), len(reference)
    both = np.concatenate([stream, reference])
    sizes = np.array([size for size in SIZES if size <= n + m])
    similarities, rows = FlatIndex(both).search(stream, int(sizes[-1]))
    likelihood = _likelihood(rows < n, sizes, n, m)
    if not np.isfinite(likelihood).any():
        return None
    centre, size = np.unravel_index(int(likelihood.argmax()), likelihood.shape)
    first = _ball(rows[centre], similarities[centre], int(sizes[size]), float(likelihood[centre, size]), n)
    middle = stream[first.members].mean(axis=0)
    near = both @ (middle / np.linalg.norm(middle))
    order = np.argsort(-near, kind="stable")[: sizes[-1]]
    again = _likelihood((order < n)[None], sizes, n, m)[0]
    best = int(again.argmax())
    if again[best] <= first.likelihood:
        return first
    return _ball(order, near[order], int(sizes[best]), float(again[best]), n)


def _ball(rows: IntArray, similarities: NDArray[np.float32], size: int, likelihood: float, n: int) -> Ball:
    held = rows[:size]
    members = held[held < n].astype(np.int64)
    return Ball(members, size - len(members), float(similarities[size - 1]), likelihood)


def _likelihood(fresh: NDArray[np.bool_], sizes: IntArray, n: int, m: int) -> NDArray[np.float64]:
    """Log likelihood ratio of each centre's balls (c, sizes), minus infinity where a ball is no appearance."""
    inside = np.cumsum(fresh, axis=1)[:, sizes - 1].astype(np.float64)
    outside = sizes - inside
    enough = np.nonzero(inside >= MIN_MEMBERS)
    # The centre is new by choice and so is no evidence: one less of it in every count that is judged.
    chance = betainc(inside[enough] - 1, outside[enough] + 1, GROWN * n / (GROWN * n + m))
    sure = tuple(axis[chance <= LEVEL / ((n + m) * len(sizes))] for axis in enough)
    likelihood = np.full(inside.shape, -np.inf)
    likelihood[sure] = _log_ratio(inside[sure], n, outside[sure], m)
    return likelihood


def _log_ratio(inside: NDArray[np.float64], n: int, outside: NDArray[np.float64], m: int) -> NDArray[np.float64]:
    """Log likelihood ratio that a ball's share of n new vectors differs from its share of m known ones."""
    pooled = (inside + outside) / (n + m)
    separate = _log_binomial(inside, n, inside / n) + _log_binomial(outside, m, outside / max(1, m))
    together = _log_binomial(inside, n, pooled) + _log_binomial(outside, m, pooled)
    return separate - together


def _log_binomial(x: NDArray[np.float64], n: int, p: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = xlogy(x, p) + xlogy(n - x, 1 - p)
    return found
