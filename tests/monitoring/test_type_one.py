"""Type-I error of each test end to end: fresh references and fresh exchangeable traffic, the alarm's own code path."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, kstest

from monitoring.evaluate import STATISTICS, MonitorSettings, evaluate
from monitoring.monitor import Monitor
from monitoring.reference import Reference
from monitoring.window import Window

Draw = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module", params=[600, 130], ids=["600 calibration items", "130 calibration items"])
def p_values(
    request: pytest.FixtureRequest, make_reference: Callable[..., Reference], make_vectors: Draw
) -> dict[str, NDArray[np.float64]]:
    """p-values of all statistics over 600 independent pairs of reference and window."""
    rng = np.random.default_rng(request.param)
    settings = MonitorSettings()
    found: dict[str, list[float]] = {name: [] for name in STATISTICS}
    for _ in range(600):
        reference = make_reference(rng, n_fit=300, n_cal=request.param)
        window = Window.of(reference, reference.score(make_vectors(rng, 256), np.arange(256)))
        for reading in evaluate(window, reference, settings).statistics:
            found[reading.name].append(reading.p_value)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("level", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("statistic", STATISTICS)
def test_the_type_one_error_is_at_most_the_level(
    p_values: dict[str, NDArray[np.float64]], statistic: str, level: float
) -> None:
    found = p_values[statistic]
    alarms = int((found <= level).sum())
    interval = binomtest(alarms, len(found)).proportion_ci(0.999, "exact")
    assert interval.low <= level, f"{alarms} of {len(found)} at level {level}, interval from {interval.low:.4f}"


def test_conformal_p_values_are_uniform_on_unseen_exchangeable_vectors(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    rng = np.random.default_rng(21)
    seen = [make_reference(rng, n_fit=200, n_cal=400).novelty(make_vectors(rng, 4)) for _ in range(250)]
    first = np.array([p[0] for p in seen])
    assert kstest(first, "uniform").pvalue > 1e-3
    assert (np.concatenate(seen) > 0).all()


def test_fitted_rows_as_calibration_would_break_the_promise(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    """Why calibration rows must be unseen: rows that are in the index sit at distance 0 of themselves."""
    rng = np.random.default_rng(8)
    fit = make_vectors(rng, 600)
    wrong = Reference.build(fit=fit, fit_ids=list(range(600)), fit_labels=None, calibration=fit, replay=fit[:0])
    fresh = wrong.novelty(make_vectors(rng, 2000))
    assert (fresh <= 0.05).mean() > 0.08


def test_the_whole_monitor_is_quiet_on_exchangeable_traffic(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    """200,000 observations against ten references at arl 50,000: four alarms allowed on average, all tests together.

    The effect sizes asked for are as good as none, so that the run length rests on the tests alone.
    """
    rng = np.random.default_rng(31)
    settings = MonitorSettings(arl=50_000, mode="windows", min_novelty_ratio=1.0, min_tv=0.0)
    alarms = 0
    for _ in range(10):
        monitor = Monitor(make_reference(rng, n_fit=300, n_cal=600), settings)
        alarms += sum(reading.alarm for reading in monitor.observe(make_vectors(rng, 20_000)).readings)
    # References differ, so alarms come in clumps; the bound is on twice the stated mean.
    assert alarms <= 12, f"{alarms} alarms in 200,000 observations at a stated run length of 50,000"


@pytest.mark.parametrize("size", [600, 130])
def test_off_topic_traffic_alarms_within_two_windows(
    make_reference: Callable[..., Reference], make_vectors: Draw, size: int
) -> None:
    rng = np.random.default_rng(size)
    share = 0.10 if size == 600 else 0.25
    found = []
    for _ in range(20):
        monitor = Monitor(make_reference(rng, n_fit=400, n_cal=size), MonitorSettings(mode="windows"))
        found.append(any(r.alarm for r in monitor.observe(make_vectors(rng, 512, foreign=share)).readings))
    assert sum(found) >= 17, f"{sum(found)} of 20 monitors alarmed within two windows"


def test_a_gross_mix_change_alarms_by_occupancy_and_names_the_neighbourhoods(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    rng = np.random.default_rng(17)
    monitor = Monitor(make_reference(rng), MonitorSettings(mode="windows"))
    (reading,) = monitor.observe(make_vectors(rng, 256, topics=np.array([0, 1]))).readings
    assert reading.alarms == ("occupancy", "mmd")
    assert reading.statistic("occupancy").effect > 0.5
    assert reading.moved
    grown = [m for m in reading.moved if m.direction == "more"]
    assert grown
    assert all(m.observed > m.expected and m.medoids and m.label for m in grown)


def test_a_significant_but_small_shift_does_not_alarm(
    make_reference: Callable[..., Reference], make_vectors: Draw
) -> None:
    """An alarm needs an effect size as well: two of twelve topics twice as frequent is news, not drift."""
    rng = np.random.default_rng(19)
    reference = make_reference(rng, n_cal=4000)
    mix = np.array([*range(12), 0, 1])
    window = Window.of(reference, reference.score(make_vectors(rng, 4096, topics=mix)))
    reading = evaluate(window, reference, MonitorSettings(min_tv=0.12))
    occupancy = reading.statistic("occupancy")
    assert occupancy.significant
    assert not occupancy.large
    assert "occupancy" not in reading.alarms
