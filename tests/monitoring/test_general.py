"""The correlation of similarities is Spearman's over all pairs, and its bootstrap weighs pairs by their rows."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from monitoring.errors import VectorsRefused
from monitoring.general import similarity_correlation
from monitoring.significance import drawn_counts


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(0)
BASE = unit(RNG.normal(size=(40, 12)))
MOVED = unit(BASE @ RNG.normal(size=(12, 9)) + 0.1 * RNG.normal(size=(40, 9)))
UPPER = np.triu_indices(40, k=1)


def test_it_is_scipys_on_all_pairs() -> None:
    found = similarity_correlation(MOVED, BASE, n=20)
    expected = spearmanr((MOVED @ MOVED.T)[UPPER], (BASE @ BASE.T)[UPPER]).statistic
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert (found.items, found.clusters, found.draws.shape) == (40, 40, (20,))


def test_what_has_not_moved_correlates_wholly_and_a_rotation_is_no_move() -> None:
    rotation = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    for same in (BASE, unit(BASE @ rotation)):
        found = similarity_correlation(same, BASE, n=50)
        assert found.value == pytest.approx(1.0, abs=1e-4)
        assert found.draws == pytest.approx(1.0, abs=1e-3)


def test_a_sample_is_the_weighted_correlation_of_the_ranks() -> None:
    ours, theirs = (rankdata((x @ x.T)[UPPER]) for x in (MOVED, BASE))
    expected = []
    for counts in np.concatenate(list(drawn_counts(40, seed=3, n=25))):
        covariance = np.cov(ours, theirs, aweights=counts[UPPER[0]] * counts[UPPER[1]])
        expected.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    assert similarity_correlation(MOVED, BASE, seed=3, n=25).draws == pytest.approx(expected, abs=1e-9)


def test_it_refuses_what_has_no_correlation() -> None:
    for vectors, base in ((BASE[:5], BASE[:6]), (BASE[:2], BASE[:2])):
        with pytest.raises(VectorsRefused, match="at least three"):
            similarity_correlation(vectors, base)
    with pytest.raises(VectorsRefused, match="alike"):
        similarity_correlation(np.eye(4, dtype=np.float32), BASE[:4])
