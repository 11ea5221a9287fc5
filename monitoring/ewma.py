"""EWMA of the neighbourhoods' shares: sees many small changes of the mix at once, which no single cell's bet does.

Z <- (1 - lambda)^n Z + (1 - (1 - lambda)^n) c / n for a step of n observations with counts c (K,), begun at the
expected shares p. T = sum_j (Z_j - p_j)^2 / (p_j (V + 1 / N)), with V the variance factor of Z, tracked along with it,
and 1 / N that of the shares, known from N calibration items only. Two lambdas: a fast one with a memory of some 65
observations and a slow one with some 400. T is held against a threshold that it exceeds at any one step with the same
small chance while nothing changes, the hazard: the mean run length is then at least about 1 / hazard steps (after Cobb
et al., Sequential multivariate change detection with calibrated and memoryless false detection rates, AISTATS 2022, who
condition on no earlier alarm; not to do so is safe, as crossings come in clumps). Thresholds need no vectors: true
shares are drawn from Dirichlet(counts + 1/2), streams of cells from those (as in QuantTree EWMA, Frittoli et al. 2022).
The run length is an average over these draws of the reference too.

Hazards below _TAIL are not simulated. They are reached by continuing the simulated tail as a power law, log chance
linear in log T, which falls more slowly than the tail of T does. With 45 cells and 2,000 calibration items, 2,000,000
steps of another simulation crossed the thresholds for a hazard of 3.2e-6 ten times, where 13 were due.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitoring.arrays import IntArray
from monitoring.errors import StateRefused
from monitoring.window import Window

Vector = NDArray[np.float64]

NAMES: Final = ("occupancy_fast", "occupancy_slow")
LAMBDAS: Final = (0.03, 0.005)
STEP: Final = 32
"""Observations that are gathered before Z takes a step: smaller batches wait."""

_STREAMS: Final = 2_000
_STEPS: Final = 120
_WARM: Final = 30
_TAIL: Final = 2e-4
_BODY: Final = 5e-3
_LEVELS: Final = np.geomspace(0.5, _TAIL, 48)


class Occupancy:
    """Both averages over one stream; `counts` (K,) are the calibration items of each cell."""

    def __init__(self, counts: tuple[int, ...]) -> None:
        self._counts = counts
        self._expected = expected_shares(counts)
        self._error = 1.0 / max(1, sum(counts))
        self.reset()

    def reset(self) -> None:
        """Begin at the expected shares."""
        self._z = np.tile(self._expected, (len(LAMBDAS), 1))
        self._v = np.array([_limit(lam, STEP) for lam in LAMBDAS])
        self._waiting = np.zeros(len(self._counts), dtype=np.int64)

    def add(self, batch: Window) -> bool:
        """Count a batch; True when the averages took a step."""
        self._waiting = self._waiting + np.array(batch.cells, dtype=np.int64)
        n = int(self._waiting.sum())
        if n < STEP:
            return False
        for i, lam in enumerate(LAMBDAS):
            self._z[i], self._v[i] = _step(self._z[i], self._v[i], self._waiting, n, lam)
        self._waiting[:] = 0
        return True

    @property
    def values(self) -> Vector:
        """T of both averages, (2,)."""
        squares = (self._z - self._expected) ** 2 / self._expected
        return np.asarray(squares.sum(axis=1) / (self._v + self._error))

    def thresholds(self, arl: float) -> Vector:
        """Thresholds (2,) that the averages together cross once in `arl` observations on average."""
        return thresholds(self._counts, STEP / (arl * len(LAMBDAS)))

    def to_json(self) -> dict[str, Any]:
        return {"z": np.round(self._z, 9).tolist(), "v": self._v.tolist(), "waiting": self._waiting.tolist()}

    def read(self, data: Mapping[str, Any]) -> None:
        """Go on from what `to_json` gave.

        Raises:
            StateRefused: damaged.
        """
        try:
            z, v = np.array(data["z"], dtype=np.float64), np.array(data["v"], dtype=np.float64)
            waiting = np.array(data["waiting"], dtype=np.int64)
        except (KeyError, TypeError, ValueError) as error:
            raise StateRefused(f"not a stored average ({type(error).__name__})") from error
        sound = (z.shape, v.shape, waiting.shape) == (self._z.shape, self._v.shape, self._waiting.shape)
        if not (sound and np.isfinite(z).all() and (v > 0).all() and (waiting >= 0).all()):
            raise StateRefused("stored averages that do not fit this reference")
        self._z, self._v, self._waiting = z, v, waiting


def expected_shares(counts: tuple[int, ...]) -> Vector:
    """Mean of Dirichlet(counts + 1/2), (K,)."""
    raised = np.array(counts, dtype=np.float64) + 0.5
    return np.asarray(raised / raised.sum())


@lru_cache(maxsize=256)
def thresholds(counts: tuple[int, ...], hazard: float) -> Vector:
    """T that each average crosses with this chance a step, (2,) in the order of LAMBDAS; infinite for one cell."""
    if len(counts) < 2 or not sum(counts):
        found = np.full(len(LAMBDAS), np.inf)
    else:
        found = np.array([_reach(quantiles, hazard) for quantiles in _simulated(counts)])
    found.setflags(write=False)
    return found


@lru_cache(maxsize=256)
def _simulated(counts: tuple[int, ...]) -> tuple[Vector, ...]:
    """For each lambda, the T that steps of many streams without drift exceed with the chances _LEVELS."""
    rng = np.random.default_rng(len(counts))
    expected, error = expected_shares(counts), 1.0 / sum(counts)
    shares = rng.dirichlet(np.array(counts) + 0.5, size=_STREAMS)
    z = [np.tile(expected, (_STREAMS, 1)) for _ in LAMBDAS]
    found: list[list[Vector]] = [[] for _ in LAMBDAS]
    for step in range(_WARM + _STEPS):
        drawn = rng.multinomial(STEP, shares)
        for i, lam in enumerate(LAMBDAS):
            keep = (1 - lam) ** STEP
            z[i] = keep * z[i] + (1 - keep) / STEP * drawn
            if step >= _WARM:
                found[i].append(((z[i] - expected) ** 2 / expected).sum(axis=1) / (_limit(lam, STEP) + error))
    return tuple(np.quantile(np.concatenate(values), 1 - _LEVELS) for values in found)


def _reach(quantiles: Vector, hazard: float) -> float:
    """The T exceeded with the chance `hazard`: between the simulated quantiles, or beyond them by the tail's slope."""
    if hazard >= _TAIL:
        return float(np.interp(-np.log(hazard), -np.log(_LEVELS), quantiles))
    near, far = np.log(np.interp(-np.log([_BODY, _TAIL]), -np.log(_LEVELS), quantiles))
    return float(np.exp(far + np.log(_TAIL / hazard) * (far - near) / np.log(_BODY / _TAIL)))


def _limit(lam: float, n: int) -> float:
    """Where the variance factor of Z settles with steps of n."""
    keep = (1 - lam) ** n
    return (1 - keep) ** 2 / n / (1 - keep**2)


def _step(z: Vector, v: float, counts: IntArray, n: int, lam: float) -> tuple[Vector, float]:
    keep = (1 - lam) ** n
    return keep * z + (1 - keep) / n * counts, keep**2 * v + (1 - keep) ** 2 / n
