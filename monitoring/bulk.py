"""A whole collection tested at once against a reference: a table of a million vectors, a day of recorded traffic."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from monitoring.evaluate import WindowReading, evaluate
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference
from monitoring.window import Window

CHUNK = 2_048
"""Vectors scored at a time: the memory taken does not grow with the collection."""


def count(reference: Reference, parts: Iterable[NDArray[np.floating]]) -> Window:
    """The window of all unit vectors in the parts, each (n, d), such as one matrix of a file mapped into memory.

    Raises:
        VectorsRefused: of another dimension, or not finite.
    """
    window = Window.empty(reference)
    for part in parts:
        for start in range(0, len(part), CHUNK):
            chunk = part[start : start + CHUNK]
            window += Window.of(reference, reference.score(chunk, features=np.arange(len(chunk))))
    return window


def judge(
    reference: Reference, parts: Iterable[NDArray[np.floating]], settings: MonitorSettings | None = None
) -> WindowReading:
    """Test all unit vectors in the parts, each (n, d), as one window. `calibrated` says whether an alarm was possible.

    Raises:
        VectorsRefused: of another dimension, or not finite.
    """
    return evaluate(count(reference, parts), reference, settings or MonitorSettings())
