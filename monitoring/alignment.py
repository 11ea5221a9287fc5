"""Two clouds of vectors of the same texts: debiased linear CKA, and the rotation that maps one onto the other."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import as_matrix
from monitoring.errors import VectorsRefused
from monitoring.significance import Resampled, cluster_codes, drawn_counts

Matrix = NDArray[np.float64]
RANK_TOLERANCE = 1e-10
"""Singular values below this share of the largest are none."""
MIN_ITEMS = 5
"""Of fewer items the unbiased estimate is not defined, or is one of a single quadruple."""


def debiased_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear CKA of vectors (n, d) and (n, e) of the same n texts, from unbiased estimates of HSIC.

    1 for clouds that are equal up to rotation, shift and scale; 0 on average, and so now and then below it, where they
    have nothing to do with each other. The usual biased estimate tends to 1 as the dimension outgrows n. Kornblith et
    al., ICML 2019, equation 2, with the estimator of Song et al., JMLR 13 (2012), equation 5; the two were put
    together by Nguyen, Raghu and Kornblith, ICLR 2021.

    Raises:
        VectorsRefused: Fewer than MIN_ITEMS texts, lengths that differ, or a cloud that has no spread beyond chance.
    """
    kernels = _kernels(x, y)
    return _whole(*kernels)


def resampled_cka(
    x: ArrayLike, y: ArrayLike, clusters: ArrayLike | None = None, *, seed: int = 0, n: int = 1_000
) -> Resampled:
    """`debiased_cka` and its bootstrap over texts, or over clusters (n,) of them.

    A text that is drawn twice is never paired with itself: that pair would have the similarity of a text with itself,
    which is what the unbiased estimate leaves out.

    Raises:
        VectorsRefused: As `debiased_cka`, or not one mark for each text.
    """
    kernels = _kernels(x, y)
    size = len(kernels[0])
    codes = np.arange(size) if clusters is None else cluster_codes(clusters, size)
    drawn = int(codes.max()) + 1
    value = _whole(*kernels)
    draws = np.concatenate([_cka(*kernels, block) for block in _weights(drawn, codes, seed, n)])
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        raise VectorsRefused("CKA needs more independent texts")
    return Resampled(value, draws, size, drawn)


def rotation(x: ArrayLike, y: ArrayLike) -> NDArray[np.float32]:
    """The orthogonal matrix Q (d, d) with the least |x Q - y| over vectors (n, d) of the same texts.

    The orthogonal Procrustes problem (Schoenemann, Psychometrika 31, 1966): U V' of the singular value decomposition
    of x' y. Where fewer vectors than dimensions leave it open, it is the one that turns those directions least.

    Raises:
        VectorsRefused: Shapes that differ, or no vector.
    """
    first, second = _pair(x, y)
    if first.shape != second.shape or not len(first):
        raise VectorsRefused("a rotation needs vectors of the same texts and of one dimension")
    u, values, v = np.linalg.svd(first.T @ second)
    known = int((values > RANK_TOLERANCE * values[0]).sum())
    # Directions that no vector lies in go to those that none is found in, each as near to itself as can be.
    left, _, right = np.linalg.svd(u[:, known:].T @ v[known:].T)
    return np.asarray(u[:, :known] @ v[:known] + u[:, known:] @ left @ right @ v[known:], dtype=np.float32)


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[Matrix, Matrix]:
    first, second = as_matrix(x).astype(np.float64), as_matrix(y).astype(np.float64)
    if len(first) != len(second):
        raise VectorsRefused("both sides must have one vector for each text")
    return first, second


def _kernels(x: ArrayLike, y: ArrayLike) -> tuple[Matrix, Matrix]:
    """Similarities (n, n) of each side, without those of a text with itself.

    About the mean: the estimate does not change with a shift, and of small numbers it loses fewer digits.
    """
    pair = _pair(x, y)
    if len(pair[0]) < MIN_ITEMS:
        raise VectorsRefused(f"CKA needs at least {MIN_ITEMS} texts")
    found = []
    for side in pair:
        centred = side - side.mean(axis=0)
        if not centred.any():
            raise VectorsRefused("CKA is not defined where all vectors are alike")
        kernel = centred @ centred.T
        np.fill_diagonal(kernel, 0.0)
        found.append(kernel)
    return found[0], found[1]


def _whole(k: Matrix, m: Matrix) -> float:
    found = float(_cka(k, m, np.ones((1, len(k))))[0])
    if not np.isfinite(found):
        raise VectorsRefused("CKA is not defined where a cloud has no spread beyond chance")
    return found


def _weights(drawn: int, codes: NDArray[np.int64], seed: int, n: int) -> Iterator[Matrix]:
    """How often each text is in each bootstrap sample: blocks (some, texts), n rows in all."""
    for counts in drawn_counts(drawn, seed=seed, n=n):
        yield counts[:, codes]


def _cka(k: Matrix, m: Matrix, weights: Matrix) -> NDArray[np.float64]:
    """CKA (r,) of samples in which text i stands weights[r, i] times; NaN where a sample has no spread."""
    both, first, second = (_hsic(*pair, weights) for pair in ((k, m), (k, k), (m, m)))
    product = first * second
    spread = np.sqrt(np.maximum(product, 0))
    return np.asarray(np.divide(both, spread, out=np.full(len(both), np.nan), where=product > 0), dtype=np.float64)


def _hsic(k: Matrix, m: Matrix, weights: Matrix) -> NDArray[np.float64]:
    """HSIC (r,) as a U-statistic over quadruples of different texts, each counted as often as it was drawn.

    With all weights 1 it is the estimator of Song et al.: the mean of k_ij m_ij, less twice the mean of k_ij m_iq, plus
    the mean of k_ij m_qr, over different i, j, q, r. `k` and `m` have zeros on the diagonal.
    """
    w, w2 = weights, weights**2
    product = k * m
    row_k, row_m, row_2 = w @ k, w @ m, w2 @ product
    twos = np.einsum("ri,ri->r", w @ product, w)
    threes = np.einsum("ri,ri,ri->r", w, row_k, row_m) - np.einsum("ri,ri->r", w, row_2)
    sums = np.einsum("ri,ri->r", w, row_k) * np.einsum("ri,ri->r", w, row_m)
    fours = sums - 4 * np.einsum("ri,ri,ri->r", w2, row_k, row_m) + 2 * np.einsum("ri,ri->r", w2, row_2)
    # Sums over different texts of products of their weights, by Newton's identities.
    p1, p2, p3, p4 = (np.sum(w**power, axis=1) for power in (1, 2, 3, 4))
    n2, n3 = p1**2 - p2, p1**3 - 3 * p1 * p2 + 2 * p3
    n4 = p1**4 - 6 * p1**2 * p2 + 8 * p1 * p3 + 3 * p2**2 - 6 * p4
    return np.asarray(twos / n2 - 2 * threes / n3 + fours / n4, dtype=np.float64)
