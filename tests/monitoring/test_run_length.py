"""The run length on replayed items: measured with an interval, and "calibrated" withdrawn where it is far too short."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from monitoring.monitor import Monitor
from monitoring.reference import Reference
from monitoring.run_length import RunLength, measure, on_replay

Draw = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def replayed(make_reference: Callable[..., Reference]) -> Reference:
    return make_reference(np.random.default_rng(5), n_replay=1000)


def test_items_like_the_calibration_items_do_not_contradict(replayed: Reference) -> None:
    found = on_replay(replayed)
    assert found is not None
    assert (found.stated, found.observations) == (100, 1000)
    assert found.why_not is None
    assert found.measured is None or found.measured >= 50
    assert on_replay(replayed) is found
    monitor = Monitor(replayed)
    assert monitor.calibrated
    assert monitor.run_length is found


def test_bursts_withdraw_calibrated_and_then_nothing_alarms(replayed: Reference, make_vectors: Draw) -> None:
    """Replay items that come topic by topic: each is like the calibration items, their order is not."""
    rng = np.random.default_rng(7)
    ordered = replayed.replay[np.argsort(replayed.assign(replayed.replay), kind="stable")]
    bursty = replace(replayed, replay=ordered)
    found = on_replay(bursty)
    assert found is not None
    assert found.measured is not None
    assert found.measured < found.stated / 2
    monitor = Monitor(bursty)
    assert not monitor.calibrated
    assert monitor.why_not is not None
    assert monitor.why_not.startswith("not calibrated: on 1000 replayed items the monitor alarms every ")
    assert monitor.why_not.endswith(" at a stated run length of 100")
    assert not monitor.observe(make_vectors(rng, 256, foreign=1.0)).raised
    assert Monitor(replayed).observe(make_vectors(rng, 256, foreign=1.0)).raised


def test_the_interval_is_the_exact_one_of_a_count(small_reference: Reference, make_vectors: Draw) -> None:
    stream = small_reference.score(make_vectors(np.random.default_rng(8), 640, foreign=0.3))
    found = measure(small_reference, stream, 200)
    assert found.alarms >= 5
    assert found.measured == 640 / found.alarms
    assert 640 / found.high == pytest.approx(chi2.ppf(0.025, 2 * found.alarms) / 2)
    assert 640 / found.low == pytest.approx(chi2.ppf(0.975, 2 * found.alarms + 2) / 2)
    quiet = measure(small_reference, stream.part(0, 1), 200)
    assert (quiet.measured, quiet.high) == (None, float("inf"))
    assert quiet.why_not is None


@pytest.mark.parametrize(
    ("alarms", "high", "withdrawn"),
    [(0, float("inf"), False), (15, 90.0, False), (25, 60.0, True), (25, 120.0, False)],
)
def test_it_takes_half_the_stated_length_and_no_doubt(alarms: int, high: float, withdrawn: bool) -> None:
    assert (RunLength(100, 1000, alarms, 20.0, high).why_not is not None) is withdrawn


def test_few_replay_items_or_no_calibration_tell_nothing(
    small_reference: Reference, make_reference: Callable[..., Reference]
) -> None:
    assert on_replay(small_reference) is None
    uncalibrated = make_reference(np.random.default_rng(9), n_fit=100, n_cal=20, n_replay=600)
    assert on_replay(uncalibrated) is None
    assert Monitor(uncalibrated).why_not == uncalibrated.why_not
