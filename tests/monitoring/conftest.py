"""Clouds of unit vectors with a known origin, for tests of the monitor."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from monitoring.reference import Reference

DIMENSION = 24
TOPICS = 12

Draw = Callable[..., NDArray[np.float32]]


def draw(
    rng: np.random.Generator, n: int, *, topics: NDArray[np.int64] | None = None, foreign: float = 0.0
) -> NDArray[np.float32]:
    """n unit vectors around TOPICS fixed centres (chosen among `topics`), a share of them around foreign centres."""
    centres = np.random.default_rng(99).normal(size=(TOPICS + 4, DIMENSION))
    allowed = np.arange(TOPICS) if topics is None else topics
    chosen = rng.choice(allowed, n)
    strange = rng.random(n) < foreign
    chosen = np.where(strange, TOPICS + rng.integers(0, 4, n), chosen)
    x = centres[chosen] + 0.6 * rng.normal(size=(n, DIMENSION))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def reference(rng: np.random.Generator, n_fit: int = 800, n_cal: int = 600, n_replay: int = 0) -> Reference:
    """A reference of exchangeable parts; labels are arbitrary."""
    fit = draw(rng, n_fit)
    return Reference.build(
        fit=fit,
        fit_ids=list(range(n_fit)),
        fit_labels=[f"topic-{i % TOPICS}" for i in range(n_fit)],
        calibration=draw(rng, n_cal),
        replay=draw(rng, n_replay),
        seed=3,
        version_info={"adapter": "banking", "version": 7},
        directions=64,
    )


@pytest.fixture(scope="session")
def make_vectors() -> Draw:
    return draw


@pytest.fixture(scope="session")
def make_reference() -> Callable[..., Reference]:
    return reference


@pytest.fixture(scope="session")
def small_reference() -> Reference:
    """800 fit, 600 calibration and 300 replay items; treat as read-only."""
    return reference(np.random.default_rng(5), n_replay=300)
