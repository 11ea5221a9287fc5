"""Penalties against numpy loops, numerical gradients, and the points where they must be zero."""

import numpy as np
import pytest
import torch

from training.regularisers import covariance, distillation, spread_out


def unit(n: int, d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)


def test_distillation_is_its_formula_and_zero_for_the_base() -> None:
    z, base = unit(6, 5, 1), unit(6, 5, 2)
    moved = np.mean([1 - float(z[i] @ base[i]) for i in range(6)])
    changed = [float(z[i] @ z[j] - base[i] @ base[j]) ** 2 for i in range(6) for j in range(6) if i != j]
    assert float(distillation(z, base)) == pytest.approx(moved + np.mean(changed))
    assert float(distillation(base, base)) == pytest.approx(0, abs=1e-12)
    assert torch.isfinite(distillation(z[:1], base[:1]))


def test_spread_out_is_its_formula() -> None:
    z, labels = unit(7, 3, 3), torch.tensor([0, 0, 1, 1, 2, 2, 2])
    foreign = labels[:, None] != labels
    cosines = [float(z[i] @ z[j]) for i in range(7) for j in range(7) if labels[i] != labels[j]]
    wanted = np.mean(cosines) ** 2 + max(0.0, float(np.mean(np.square(cosines))) - 1 / 3)
    assert float(spread_out(z, foreign)) == pytest.approx(wanted)
    assert float(spread_out(torch.eye(4), ~torch.eye(4, dtype=torch.bool))) == 0.0
    assert float(spread_out(z, torch.zeros(7, 7, dtype=torch.bool))) == 0.0


def test_covariance_is_its_formula() -> None:
    z = unit(9, 4, 4)
    matrix = np.cov((z * 2.0).numpy(), rowvar=False)  # sqrt(d) is 2
    wanted = sum(matrix[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    assert float(covariance(z)) == pytest.approx(wanted)
    assert float(covariance(z[:1])) == 0.0


def test_gradients_are_right() -> None:
    z, base = unit(6, 4, 5).requires_grad_(), unit(6, 4, 6)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    foreign = labels[:, None] != labels
    assert torch.autograd.gradcheck(lambda v: distillation(v, base), (z,))
    assert torch.autograd.gradcheck(lambda v: spread_out(v, foreign), (z,))
    assert torch.autograd.gradcheck(covariance, (z,))
