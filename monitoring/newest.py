"""The newest vectors that one process counted as evidence: what an explanation looks at, kept in memory alone."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monitoring.arrays import as_matrix

CAPACITY: Final = 4096
"""Vectors kept unless said otherwise; in half precision 3 MB at 384 dimensions."""
_FIRST: Final = 64


class Newest:
    """A ring of vectors (at most `capacity`, d), in half precision: a cosine keeps three digits.

    Not safe for concurrent use: the thread that owns the monitor owns it too. A restart begins with an empty one.
    """

    def __init__(self, dimension: int, capacity: int = CAPACITY) -> None:
        """Begin empty; memory is taken as vectors come. Raises ValueError for a capacity below 1."""
        if capacity < 1:
            raise ValueError("at least one vector must be kept")
        self.dimension = dimension
        self.capacity = capacity
        self._rows: NDArray[np.float16] = np.zeros((min(_FIRST, capacity), dimension), np.float16)
        self._seen = 0

    def __len__(self) -> int:
        return min(self._seen, self.capacity)

    def add(self, vectors: ArrayLike) -> None:
        """Keep vectors (n, d), oldest first; those before them go when there is no room.

        Raises:
            VectorsRefused: of another dimension, or not finite.
        """
        matrix = as_matrix(vectors, self.dimension)[-self.capacity :]
        needed = min(self.capacity, self._seen + len(matrix))
        if needed > len(self._rows):
            grown = np.zeros((min(self.capacity, max(needed, 2 * len(self._rows))), self.dimension), np.float16)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        self._rows[(self._seen + np.arange(len(matrix))) % self.capacity] = matrix
        self._seen += len(matrix)

    def newest(self, n: int | None = None) -> NDArray[np.float32]:
        """The newest n vectors (at most what is kept; all by default), oldest first, (m, d) float32."""
        count = len(self) if n is None else max(0, min(n, len(self)))
        chosen = (self._seen - count + np.arange(count)) % self.capacity
        return self._rows[chosen].astype(np.float32)
