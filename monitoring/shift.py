"""Where a cloud of vectors lies and how wide it is, beside the calibration items. For display: it decides nothing."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring import geometry
from monitoring.arrays import as_matrix
from monitoring.reference import Reference


@dataclass(frozen=True, slots=True)
class Shift:
    """How n vectors lie beside m calibration items.

    centroid: distance of the two mean vectors, of unit vectors, so in [0, 2]; centroid_by_chance: its root mean square
    without drift. covariance: Frobenius distance of the two covariances over the length of the calibration items' own;
    covariance_by_chance: its root mean square without drift. gauges, reference_gauges: the shape of each cloud
    (`geometry.summary`): mean cosine of two vectors, effective rank, participation ratio, uniformity and the like.
    """

    n: int
    m: int
    centroid: float
    centroid_by_chance: float
    covariance: float
    covariance_by_chance: float
    gauges: dict[str, float]
    reference_gauges: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the registry, the API and the report."""
        return asdict(self)


def shift(reference: Reference, vectors: ArrayLike) -> Shift | None:
    """Compare vectors (n, d) with the calibration items; None with fewer than two on either side (format 1 has none).

    Raises:
        VectorsRefused: of another dimension, or not finite.
    """
    window, known = as_matrix(vectors, reference.dimension), reference.calibration
    if known is None or min(len(window), len(known)) < 2:
        return None
    ours, theirs = window.astype(np.float64), known.astype(np.float64)
    parts = 1 / len(ours) + 1 / len(theirs)
    first, second = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    length = float(np.linalg.norm(second)) or 1.0
    return Shift(
        n=len(ours),
        m=len(theirs),
        centroid=float(np.linalg.norm(ours.mean(axis=0) - theirs.mean(axis=0))),
        centroid_by_chance=float(np.sqrt(np.trace(second) * parts)),
        covariance=float(np.linalg.norm(first - second)) / length,
        covariance_by_chance=float(np.sqrt(_squares_spread(theirs) * parts)) / length,
        gauges=dict(geometry.summary(window)),
        reference_gauges=dict(geometry.summary(known)),
    )


def _squares_spread(x: NDArray[np.float64]) -> float:
    """E |z z' - C|^2 of centred rows z of covariance C: n times the mean square error of a covariance of n rows."""
    z = x - x.mean(axis=0)
    covariance = z.T @ z / len(z)
    return max(0.0, float(np.mean(np.sum(z**2, axis=1) ** 2) - np.sum(covariance**2)))
