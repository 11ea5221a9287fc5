"""Random Fourier features: a vector as bounded numbers whose mean tells two clouds apart, and the test of that (MMD).

The squared distance of two mean features estimates the squared maximum mean discrepancy of the clouds under the kernel
exp(-|x - y|^2 / (2 sigma^2)) (Gretton et al., A kernel two-sample test, JMLR 13, 2012; features after Rahimi, Recht,
NIPS 2007). It sees what cells and distances miss: any smooth change, inside a neighbourhood too. Features are kept in
fixed point, so that sums of them are integers, and adding them is exact in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.errors import VectorsRefused
from monitoring.quadratic_form import quantile, tail

Fixed = NDArray[np.int16]

UNIT: Final = 1024
"""A cosine or sine of 1.0 is stored as this many."""
DIRECTIONS: Final = 512
"""Random directions of a reference; there are twice as many features. More see finer changes."""
MIN_CALIBRATION: Final = 100
"""Calibration items from which the spread of the features is known well enough to test with."""
_SIGMA_ROWS: Final = 1_000
_CHUNK: Final = 2_048


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """What the features say of n vectors.

    squared: unbiased estimate of the squared MMD (may be negative). threshold: the value that is exceeded with the
    stated level. p_value. ratio: MMD over the root mean square distance of a calibration item from their mean, at
    least 0: by what part of the cloud's own radius its mean has moved. interval: of the ratio, 95 % or more.
    """

    squared: float
    threshold: float
    p_value: float
    ratio: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """The features of one reference, and what they come to on its calibration items.

    directions (m, d) float32: rows drawn from N(0, 1 / sigma^2). mean (2m,) float64: mean feature of the calibration
    items, cosines before sines, in [-1, 1]. spectrum (2m or n_cal - 1,) float64, descending: eigenvalues of the
    covariance of the features over sqrt(m). n_cal: calibration items these two rest on.
    """

    directions: NDArray[np.float32]
    mean: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    n_cal: int

    def __post_init__(self) -> None:
        for array in (self.directions, self.mean, self.spectrum):
            array.setflags(write=False)

    @classmethod
    def build(
        cls, fit: NDArray[np.float32], calibration: NDArray[np.float32], seed: int, directions: int = DIRECTIONS
    ) -> "RandomFeatures | None":
        """Features for vectors like fit (n, d), with their null from calibration (m, d); sigma is the median distance.

        None where there are too few calibration items to test with, or all fit vectors are alike.
        """
        rng = np.random.default_rng((seed, 2))
        sigma = _median_distance(fit[rng.choice(len(fit), min(len(fit), _SIGMA_ROWS), replace=False)])
        if len(calibration) < MIN_CALIBRATION or sigma <= 0 or directions < 1:
            return None
        drawn = (rng.standard_normal((directions, fit.shape[1])) / sigma).astype(np.float32)
        blank = cls(drawn, np.zeros(2 * directions), np.zeros(0), 0)
        total, n = 2 * directions, len(calibration)
        # Either the covariance or, for few items, their Gram matrix: the same eigenvalues.
        if n > total:
            mean, covariance = np.zeros(total), np.zeros((total, total))
            for start in range(0, n, _CHUNK):
                part = blank.of(calibration[start : start + _CHUNK]).astype(np.float64) / UNIT
                mean += part.sum(axis=0)
                covariance += part.T @ part
            mean /= n
            matrix = (covariance - n * np.outer(mean, mean)) / (n - 1)
        else:
            phi = blank.of(calibration).astype(np.float64) / UNIT
            mean = phi.mean(axis=0)
            matrix = (phi - mean) @ (phi - mean).T / (n - 1)
        spectrum = np.maximum(0.0, np.linalg.eigvalsh(matrix / directions))[::-1][: min(total, n - 1)]
        return cls(drawn, mean, np.ascontiguousarray(spectrum), n)

    @property
    def size(self) -> int:
        """Number of features."""
        return 2 * len(self.directions)

    @cached_property
    def _projection(self) -> NDArray[np.float64]:
        # In double precision a vector's rounded features do not depend on which others it is computed with.
        return np.ascontiguousarray(self.directions.T, dtype=np.float64)

    def of(self, vectors: NDArray[np.float32]) -> Fixed:
        """The features of vectors (n, d) in units of 1 / UNIT, cosines before sines: (n, size) int16."""
        angles = (vectors.astype(np.float64) @ self._projection).astype(np.float32)
        found = np.empty((len(vectors), self.size), dtype=np.int16)
        half = len(self.directions)
        found[:, :half] = np.rint(np.cos(angles) * np.float32(UNIT))
        found[:, half:] = np.rint(np.sin(angles) * np.float32(UNIT))
        return found

    def judge(self, sums: Sequence[int] | ArrayLike, n: int, level: float) -> Discrepancy:
        """Test n vectors by the integer sums (size,) of their features.

        u = (n |f|^2 - 1) / (n - 1) + (N |g|^2 - 1) / (N - 1) - 2 f.g with f the vectors' mean feature, g that of the
        N calibration items, both over sqrt(m) so that every feature vector has length 1. Without drift u has mean 0
        and (1 / n + 1 / N) (sum_i lambda_i (Z_i^2 - 1)) is its law for large n, whose tail `quadratic_form` gives.

        Raises:
            VectorsRefused: sums of another length.
        """
        total = np.asarray(sums, dtype=np.float64)
        if total.shape != (self.size,):
            raise VectorsRefused(f"sums of {len(total)} features, expected {self.size}")
        if n < 2:
            return Discrepancy(0.0, 0.0, 1.0, 0.0, (0.0, 1.0))
        scale, half, spread = 1 / n + 1 / self.n_cal, len(self.directions), float(self.spectrum.sum())
        found = total / (UNIT * n)
        near = (n * float(found @ found) / half - 1) / (n - 1)
        own = (self.n_cal * float(self.mean @ self.mean) / half - 1) / (self.n_cal - 1)
        squared = near + own - 2 * float(found @ self.mean) / half
        radius = float(np.sqrt(spread)) if spread > 0 else 1.0
        distance = float(np.sqrt(max(0.0, squared)))
        # The standard error of u around a distance D: at most 2 D sqrt(lambda_1 scale), and that of the null.
        error = 2 * distance * np.sqrt(float(self.spectrum[0]) * scale)
        error = 1.96 * float(np.hypot(error, scale * np.sqrt(2 * float(np.sum(self.spectrum**2)))))
        low, high = (float(np.sqrt(max(0.0, squared + side * error))) / radius for side in (-1, 1))
        return Discrepancy(
            squared=squared,
            threshold=scale * (quantile(self.spectrum, level) - spread),
            p_value=tail(self.spectrum, squared / scale + spread),
            ratio=distance / radius,
            interval=(low, high),
        )


def _median_distance(rows: NDArray[np.float32]) -> float:
    x = rows.astype(np.float64)
    squares = np.sum(x**2, axis=1)
    pairs = (squares[:, None] + squares[None, :] - 2 * (x @ x.T))[np.triu_indices(len(x), k=1)]
    return float(np.sqrt(max(0.0, float(np.median(pairs))))) if len(pairs) else 0.0
