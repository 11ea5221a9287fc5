"""A collection is judged as one window, however it is cut into parts."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monitoring import bulk
from monitoring.evaluate import evaluate
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from monitoring.window import Window

Draw = Callable[..., NDArray[np.float32]]


def test_parts_and_chunks_do_not_matter(small_reference: Reference, make_vectors: Draw) -> None:
    x = make_vectors(np.random.default_rng(0), 2 * bulk.CHUNK + 100, foreign=0.05)
    whole = Window.of(small_reference, small_reference.score(x, np.arange(len(x))))
    assert bulk.count(small_reference, [x]) == whole
    assert bulk.count(small_reference, (x[:7], x[7:7], x[7:5000], x[5000:])) == whole
    assert bulk.judge(small_reference, [x]) == evaluate(whole, small_reference, MonitorSettings())
    assert set(bulk.judge(small_reference, [x]).alarms) >= {"novelty"}


def test_nothing_is_no_alarm(small_reference: Reference) -> None:
    assert bulk.count(small_reference, []) == Window.empty(small_reference)
    assert not bulk.judge(small_reference, []).alarm
