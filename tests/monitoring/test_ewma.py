"""Averages of the neighbourhoods' shares: their thresholds are crossed as seldom as said, whatever the batches."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import binomtest

from monitoring.errors import StateRefused
from monitoring.ewma import LAMBDAS, STEP, Occupancy, expected_shares, thresholds
from monitoring.window import P_VALUE_EDGES, Window

COUNTS = tuple(int(c) for c in np.random.default_rng(3).multinomial(1500, np.random.default_rng(4).dirichlet([3] * 20)))


def window(cells: np.ndarray) -> Window:
    n, bins = int(cells.sum()), len(P_VALUE_EDGES)
    return Window("r", n, 0, tuple(cells.tolist()), (0,) * len(cells), (0,) * (bins - 1) + (n,))


def stream(rng: np.random.Generator, shares: np.ndarray, sizes: tuple[int, ...], n: int) -> Iterator[Window]:
    while n > 0:
        size = int(rng.choice(sizes))
        n -= size
        yield window(rng.multinomial(size, shares))


@pytest.mark.parametrize("sizes", [(STEP,), (1, 7, 30), (200, 256), (5, 60, 256)], ids=str)
def test_a_threshold_is_exceeded_at_most_as_often_as_its_hazard(sizes: tuple[int, ...]) -> None:
    """Fresh true shares for every stream, drawn as a reference of these counts leaves them open."""
    rng = np.random.default_rng(11)
    limits = {hazard: thresholds(COUNTS, hazard) for hazard in (0.02, 0.002)}
    steps, over = 0, dict.fromkeys(limits, np.zeros(len(LAMBDAS), dtype=np.int64))
    for _ in range(300):
        shares = rng.dirichlet(np.array(COUNTS) + 0.5)
        averages = Occupancy(COUNTS)
        for batch in stream(rng, shares, sizes, 1500):
            if averages.add(batch):
                steps += 1
                for hazard, limit in limits.items():
                    over[hazard] = over[hazard] + (averages.values >= limit)
    for hazard, counts in over.items():
        for lam, count in zip(LAMBDAS, counts, strict=True):
            # Steps of one stream, with one draw of shares, go together: as if there were a tenth as many.
            low = binomtest(int(count) // 10, steps // 10).proportion_ci(0.999, "exact").low
            assert low <= hazard, f"lambda {lam}: {count} of {steps} steps beyond the threshold of {hazard}"


def test_hazards_that_were_not_simulated_give_thresholds_further_out() -> None:
    hazards = [0.3, 1e-2, 1e-3, 2e-4, 1e-4, 1e-6, 1e-8]
    found = np.array([thresholds(COUNTS, hazard) for hazard in hazards])
    assert (np.diff(found, axis=0) > 0).all()
    # The chi-square's own quantile, with which a test of one large window would do, is always smaller.
    from scipy.special import chdtri

    assert (found[1:] > chdtri(len(COUNTS) - 1, np.array(hazards[1:]))[:, None]).all()


def test_one_cell_and_no_calibration_never_cross() -> None:
    assert np.isinf(thresholds((40,), 0.01)).all()
    assert np.isinf(thresholds((0, 0, 0), 0.01)).all()


def test_a_small_change_of_many_cells_is_seen() -> None:
    rng = np.random.default_rng(5)
    shares = expected_shares(COUNTS)
    moved = shares * np.where(np.arange(len(shares)) % 2, 1.6, 0.4)
    averages = Occupancy(COUNTS)
    seen = [
        bool((averages.values >= averages.thresholds(100_000)).any())
        for batch in stream(rng, moved / moved.sum(), (STEP,), 1500)
        if averages.add(batch)
    ]
    assert any(seen)


def test_small_batches_wait_and_the_state_survives_json() -> None:
    rng = np.random.default_rng(6)
    shares = expected_shares(COUNTS)
    averages = Occupancy(COUNTS)
    assert not averages.add(window(rng.multinomial(STEP - 1, shares)))
    again = Occupancy(COUNTS)
    again.read(json.loads(json.dumps(averages.to_json())))
    more = window(rng.multinomial(40, shares))
    assert averages.add(more)
    assert again.add(more)
    assert again.values == pytest.approx(averages.values, rel=1e-6)
    for bad in ({}, {**averages.to_json(), "z": [[0.0]]}, {**averages.to_json(), "v": [0.0, 1.0]}, {"z": "x"}):
        with pytest.raises(StateRefused):
            again.read(bad)
