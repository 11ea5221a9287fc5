"""How far a model's view of texts that have nothing to do with its domain is still the base's.

No outside data is needed: what is compared is which generic sentences lie near each other, and in which order all pairs
lie. It says how much has changed and not whether for the worse; only judged similarities (STS) could say that.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from monitoring.arrays import as_matrix
from monitoring.errors import VectorsRefused
from monitoring.geometry import MAX_ROWS
from monitoring.quality import Scores
from monitoring.significance import Resampled, drawn_counts


def similarity_correlation(vectors: ArrayLike, base: ArrayLike, *, seed: int = 0, n: int = 500) -> Resampled:
    """Spearman's correlation of all pairwise cosines of unit vectors (r, d) with the base's (r, e); 1 is unchanged.

    At most MAX_ROWS rows. The bootstrap draws rows and keeps the ranks of all pairs: a pair weighs as often as both its
    rows were drawn.

    Raises:
        VectorsRefused: Fewer than three rows, numbers of rows that differ, or cosines that are all alike.
    """
    first, second = as_matrix(vectors)[:MAX_ROWS], as_matrix(base)[:MAX_ROWS]
    if len(first) != len(second) or len(first) < 3:
        raise VectorsRefused("similarities need the same rows of both models, at least three")
    ours, theirs = _ranks(first), _ranks(second)
    if not ours.any() or not theirs.any():
        raise VectorsRefused("a rank correlation is not defined where all similarities are alike")
    blocks = [_correlations(counts, ours, theirs) for counts in drawn_counts(len(first), seed=seed, n=n)]
    value = float(_correlations(np.ones((1, len(first))), ours, theirs)[0])
    return Resampled(value, np.concatenate(blocks), len(first), len(first))


def _ranks(x: np.ndarray) -> Scores:
    """(r, r) symmetric: each pair's rank less the mean rank; 0 on the diagonal."""
    upper = np.triu_indices(len(x), k=1)
    ranks = rankdata((x @ x.T)[upper])
    table = np.zeros((len(x), len(x)))
    table[upper] = ranks - ranks.mean()
    return np.asarray(table + table.T, dtype=np.float64)


def _correlations(counts: Scores, ours: Scores, theirs: Scores) -> Scores:
    """(n,) correlation of two tables of pairs, a pair weighing the product of its rows' counts (n, r)."""

    def weighed(table: Scores) -> Scores:
        return np.asarray(((counts @ table) * counts).sum(axis=1))

    total = np.maximum(weighed(1.0 - np.eye(len(ours))), 1e-12)
    mean_ours, mean_theirs = weighed(ours) / total, weighed(theirs) / total
    shared = weighed(ours * theirs) / total - mean_ours * mean_theirs
    spread = (weighed(ours**2) / total - mean_ours**2) * (weighed(theirs**2) / total - mean_theirs**2)
    return np.asarray(shared / np.sqrt(np.maximum(spread, 1e-12)))
