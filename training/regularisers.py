"""Penalties that keep a head general: near to the base on other texts, spread out, with components that differ."""

import torch
from torch import Tensor


def distillation(adapted: Tensor, base: Tensor) -> Tensor:
    """How much the cosines among replayed texts have changed, beside how far each has moved.

    The sum of the mean cosine distance of each text from its base vector and of the mean squared change of the cosine
    of two different texts (relational distillation as in Park et al. 2019, arXiv 1904.05068, equation 5, with cosines).

    Args:
        adapted, base: (n, d) unit rows of the same texts.

    Returns:
        Scalar, 0 for the base itself.
    """
    moved = (1.0 - (adapted * base).sum(dim=1)).mean()
    changed = (adapted @ adapted.T - base @ base.T).square()
    n = len(adapted)
    return moved + (changed.sum() - changed.diagonal().sum()) / max(1, n * (n - 1))


def spread_out(vectors: Tensor, foreign: Tensor) -> Tensor:
    """Zhang et al. 2017 (arXiv 1708.06320), equation 6: foreign texts should lie like directions drawn at random.

    `M1^2 + max(0, M2 - 1/d)`, with M1 and M2 the mean of the cosine and of its square over foreign texts; 0 without
    any.

    Args:
        vectors: (n, d) unit rows.
        foreign: (n, n) bool, which pairs of rows are of different kinds.
    """
    cosines = (vectors @ vectors.T) * foreign
    count = foreign.sum().clamp_min(1)
    return (cosines.sum() / count).square() + torch.relu(cosines.square().sum() / count - 1.0 / vectors.shape[1])


def covariance(vectors: Tensor) -> Tensor:
    """Bardes et al. 2022 (VICReg, arXiv 2105.04906), equations 3 and 4: the squares off the covariance's diagonal.

    Divided by d, of vectors scaled by sqrt(d) so that components are of unit size. One row has none, and gives 0.

    Args:
        vectors: (n, d) unit rows.
    """
    n, d = vectors.shape
    if n < 2:
        return vectors.sum() * 0.0
    centred = (vectors - vectors.mean(dim=0)) * d**0.5
    squares: Tensor = (centred.T @ centred / (n - 1)).square()
    return (squares.sum() - squares.diagonal().sum()) / d
