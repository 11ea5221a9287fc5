"""The stated run length holds for the whole monitor: measured on streams without change, everything but scoring as it
is served.

Cells and ranks are drawn instead of vectors. Given a reference, the chance of a rank at or below l is the l-th smallest
of n_cal uniforms, and the true shares of the cells are Dirichlet(counts + 1/2); every run draws its own. Runs are ended
at a few times the stated length, which makes their mean smaller, never larger.
"""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from monitoring.monitor import Monitor, MonitorSettings
from monitoring.reference import Reference
from monitoring.run_length import measure
from monitoring.statistics import novel_rank
from monitoring.window import P_VALUE_EDGES, SegmentCounts, Window

Law = NDArray[np.float64]


def true_law(reference: Reference, rng: np.random.Generator) -> tuple[Law, Law]:
    """True shares of the cells, and true chances of the p-value bins, as the reference leaves them open."""
    uniforms = np.sort(rng.random(reference.n_cal))
    ranks = [novel_rank(reference.n_cal, edge) for edge in P_VALUE_EDGES[:-1]]
    at_edges = [uniforms[rank - 1] if rank else 0.0 for rank in ranks]
    return rng.dirichlet(reference.calibration_cells + 0.5), np.diff([0.0, *at_edges, 1.0])


def drawn(reference: Reference, law: tuple[Law, Law], n: int, rng: np.random.Generator, segments: int) -> Window:
    """n observations of this law, spread evenly over so many segments."""
    cells, p_values = tuple(rng.multinomial(n, law[0]).tolist()), rng.multinomial(n, law[1])
    own, left = {}, p_values
    for i in range(segments):
        part = rng.binomial(left, 1 / (segments - i))
        own[f"segment {i}"] = SegmentCounts(int(part.sum()), 0, tuple(part.tolist()))
        left = left - part
    return Window(reference.digest, n, 0, cells, (0,) * len(cells), tuple(p_values.tolist()), (), own)


def run(reference: Reference, arl: int, sizes: tuple[int, ...], longest: int, rng: np.random.Generator) -> int:
    """Observations until the alarm, at most `longest`."""
    law, segments = true_law(reference, rng), 3 if sizes[0] % 2 else 0
    monitor = Monitor(reference, MonitorSettings(arl=arl, window=10**9))
    while monitor.observations < longest:
        batch = drawn(reference, law, int(rng.choice(sizes)), rng, segments)
        if monitor.apply(batch).raised:
            break
    return min(longest, monitor.observations)


@pytest.mark.parametrize(
    ("arl", "sizes", "runs", "times"),
    [(1_000, (32,), 200, 2.5), (1_000, (7, 64, 256), 200, 2.5), (10_000, (128, 256), 100, 1.5)],
    ids=["1,000 by 32", "1,000 by 7 to 256 in three segments", "10,000 by 128 and 256"],
)
def test_the_mean_run_length_is_not_below_the_stated(
    small_reference: Reference, arl: int, sizes: tuple[int, ...], runs: int, times: float
) -> None:
    rng = np.random.default_rng(arl + len(sizes))
    lengths = np.array([run(small_reference, arl, sizes, int(times * arl), rng) for _ in range(runs)])
    mean, error = lengths.mean(), lengths.std() / np.sqrt(runs)
    assert mean - 1.96 * error >= arl, f"mean run length {mean:.0f} +- {1.96 * error:.0f} at a stated {arl}"


def test_a_test_that_promises_too_much_is_found_out(small_reference: Reference) -> None:
    """Whether the measurement above can fail: small p-values eight times as often as calibrated end runs early."""
    rng = np.random.default_rng(4)
    lengths = []
    for _ in range(40):
        shares, p_values = true_law(small_reference, rng)
        p_values[:3] *= 8
        p_values /= p_values.sum()
        monitor = Monitor(small_reference, MonitorSettings(arl=10_000, window=10**9))
        while monitor.observations < 20_000:
            if monitor.apply(drawn(small_reference, (shares, p_values), 128, rng, 0)).raised:
                break
        lengths.append(monitor.observations)
    assert np.mean(lengths) < 10_000


def test_real_scores_of_fresh_draws_hold_the_run_length(
    make_reference: Callable[..., Reference], make_vectors: Callable[..., NDArray[np.float32]]
) -> None:
    """Vectors that are scored, and a new reference for every stream: 6 times 3,000 observations at 1,000."""
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(6):
        reference = make_reference(rng, n_fit=300, n_cal=400)
        alarms += measure(reference, reference.score(make_vectors(rng, 3000)), 1000).alarms
    assert alarms <= 18, f"{alarms} alarms in 18,000 observations at a stated run length of 1,000"
