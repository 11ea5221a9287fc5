"""The tail of a weighted sum of squares, against the chi-square law where it is one, and against draws elsewhere."""

import numpy as np
import pytest
from scipy.stats import chi2

from monitoring.quadratic_form import quantile, tail


@pytest.mark.parametrize("dof", [3, 40, 300])
def test_equal_weights_are_a_scaled_chi_square(dof: int) -> None:
    for level in (0.9, 0.5, 0.05, 1e-3, 1e-6, 1e-12):
        q = 0.25 * chi2.isf(level, dof)
        assert tail(np.full(dof, 0.25), q) == pytest.approx(level, rel=0.03)


def test_uneven_weights_have_the_tail_that_draws_have() -> None:
    rng = np.random.default_rng(0)
    weights = 0.8 ** np.arange(40)
    draws = (rng.standard_normal((200_000, 40)) ** 2) @ weights
    for level in (0.8, 0.5, 0.1, 0.01, 1e-3):
        found = tail(weights, float(np.quantile(draws, 1 - level)))
        assert found == pytest.approx(level, abs=4 * np.sqrt(level / 200_000) + 0.02 * level)


def test_the_tail_falls_smoothly_through_the_mean() -> None:
    weights = 0.9 ** np.arange(30)
    at = weights.sum() + np.linspace(-0.02, 0.02, 41)
    steps = np.diff([tail(weights, float(q)) for q in at])
    assert (steps < 0).all()
    assert steps == pytest.approx(np.full(40, steps.mean()), rel=0.05)


@pytest.mark.parametrize("level", [0.9, 0.3, 0.01, 1e-5])
def test_the_quantile_is_where_the_tail_has_the_level(level: float) -> None:
    weights = np.concatenate([0.8 ** np.arange(30), np.zeros(5)])
    assert tail(weights, quantile(weights, level)) == pytest.approx(level, rel=1e-6)
    assert quantile(3 * weights, level) == pytest.approx(3 * quantile(weights, level))


def test_without_weight_nothing_varies() -> None:
    assert tail([0.0, 0.0], 1.0) == 0.0
    assert tail([1.0], 0.0) == 1.0
    assert quantile([0.0], 0.01) == 0.0
