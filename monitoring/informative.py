"""Which texts to label next: unlike what was fitted, like many that are sent, unlike each other.

The product of three: novelty, so that a label teaches what the version does not know; density (Settles, Craven, "An
analysis of active learning strategies for sequence labeling tasks", EMNLP 2008, section 3.4), so that it is no oddity;
diversity (the first idea of maximal marginal relevance: Carbonell, Goldstein, SIGIR 1998), so that it is not the same
label twice.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from monitoring.appeared import REPEATED
from monitoring.arrays import as_matrix
from monitoring.reference import Reference
from monitoring.search import FlatIndex

NEIGHBORS: Final = 10
DENSITY_POWER: Final = 2.0
DIVERSITY_POWER: Final = 0.5
"""Weights of the product, by what they choose of real traffic with unseen intents and oddities in it:
with both at 1, a third of the first choices were oddities."""
ALIKE: Final = 0.8
"""Cosine from which another text counts as much the same."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One row to label, and why.

    row: of the vectors given. score: novelty x density^2 x diversity^(1/2), each in [0, 1]. p_value: the conformal
    p-value the novelty comes from. alike: how many of the other vectors have a cosine of ALIKE or more with it.
    closest: cosine with the most similar one picked before; 0 for the first.
    """

    row: int
    score: float
    novelty: float
    density: float
    diversity: float
    p_value: float
    alike: int
    closest: float


def informative(reference: Reference, vectors: ArrayLike, limit: int) -> list[Pick]:
    """The `limit` most informative of unit vectors (n, d), best first; fewer where the rest only repeats them.

    novelty = log(1/p) / log(n_cal + 1); density = mean cosine with the NEIGHBORS nearest others, at least 0;
    diversity = 1 - the largest cosine with one that was picked, 0 for a repeated text. The choice is greedy.

    Raises:
        VectorsRefused: of another dimension, or not finite.
    """
    matrix = as_matrix(vectors, reference.dimension)
    n = len(matrix)
    if not n:
        return []
    p_values = reference.novelty(matrix)
    novelty = np.log(1 / p_values) / np.log(reference.n_cal + 1) if reference.n_cal else np.ones(n)
    similarities, rows = FlatIndex(matrix).search(matrix, min(n, NEIGHBORS + 1))
    others = np.where(rows == np.arange(n)[:, None], np.nan, similarities.astype(np.float64))
    density = np.clip(np.nanmean(others, axis=1), 0.0, 1.0) if n > 1 else np.ones(n)
    closest = np.zeros(n)
    picks: list[Pick] = []
    while len(picks) < min(limit, n):
        diversity = np.where(closest >= REPEATED, 0.0, np.clip(1.0 - closest, 0.0, 1.0))
        scores = novelty * density**DENSITY_POWER * diversity**DIVERSITY_POWER
        scores[[pick.row for pick in picks]] = -1.0
        best = int(scores.argmax())
        if scores[best] <= 0:
            break
        cosines = (matrix @ matrix[best]).astype(np.float64)
        picks.append(
            Pick(
                best, float(scores[best]), float(novelty[best]), float(density[best]), float(diversity[best]),
                float(p_values[best]), int((cosines >= ALIKE).sum()) - 1, float(closest[best]),
            )
        )  # fmt: skip
        closest = np.maximum(closest, cosines)
    return picks
