"""A fixed plane for pictures of a reference: what lies where depends on the reference alone, so pictures compare."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import as_matrix
from monitoring.reference import Reference

SHOWN: Final = 1_200
"""Fitted items that are drawn at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """The two principal components of the fitted vectors.

    mean (d,), axes (d, 2): float64. explained: the part of the fitted vectors' variance in the plane, 0 to 1.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    explained: float

    @classmethod
    def of(cls, reference: Reference) -> "Plane":
        """The plane of a reference; of equal references an equal one. A component's largest entry is positive."""
        fit = reference.fit.astype(np.float64)
        mean = fit.mean(axis=0)
        values, vectors = np.linalg.eigh((fit - mean).T @ (fit - mean))
        axes = vectors[:, ::-1][:, :2]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        total = float(values.clip(0).sum())
        return cls(mean, axes, float(values[::-1][:2].clip(0).sum() / total) if total else 0.0)

    def place(self, vectors: ArrayLike) -> NDArray[np.float64]:
        """Where vectors (n, d) lie, (n, 2)."""
        return np.asarray((as_matrix(vectors, len(self.mean)).astype(np.float64) - self.mean) @ self.axes)


def shown(reference: Reference) -> NDArray[np.float32]:
    """The fitted vectors that are drawn, every so many of them, (at most SHOWN, d)."""
    step = -(-len(reference.fit) // SHOWN)
    return reference.fit[::step]
