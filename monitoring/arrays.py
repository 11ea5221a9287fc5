"""The array types of this package and the one check every public function on vectors makes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.errors import VectorsRefused

FloatArray = NDArray[np.float32] | NDArray[np.float64]
IntArray = NDArray[np.int64]


def as_matrix(vectors: ArrayLike, dimension: int | None = None) -> NDArray[np.float32]:
    """Vectors as a C-contiguous float32 (n, d) matrix.

    Raises:
        VectorsRefused: not two-dimensional, of another dimension, or with a NaN or an infinity.
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise VectorsRefused(f"vectors must be a matrix (n, d), not of {matrix.ndim} dimensions")
    if dimension is not None and matrix.shape[1] != dimension:
        raise VectorsRefused(f"vectors have dimension {matrix.shape[1]}, expected {dimension}")
    if not np.isfinite(matrix).all():
        raise VectorsRefused(f"{int((~np.isfinite(matrix).all(axis=1)).sum())} vectors hold a NaN or an infinity")
    return matrix
