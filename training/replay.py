"""What a fit replays: inputs on which a head must stay the base, so that what it learns stays where it belongs."""

from typing import Final

import numpy as np

from training.problem import Vectors

DIRECTIONS: Final = 4_096


def replayed(dimension: int, seed: int, texts: Vectors | None = None) -> Vectors:
    """Unit vectors (r, d) float32 drawn evenly from all directions, and after them the given base vectors of texts.

    A text of a domain lies in a narrow cone of the space, and text of no domain lies anywhere. A head that is asked to
    leave random directions alone learns a change that fades outside its domain, for text of any kind, without a single
    text to show: docs/decisions/0012 has the measurements.
    """
    drawn = np.random.default_rng(seed).standard_normal((DIRECTIONS, dimension)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn if texts is None else np.concatenate([drawn, texts])
