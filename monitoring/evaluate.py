"""From a window's counts to a judgement: three statistics at one stated run length, each with an effect size."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from scipy.special import chdtri, ndtri

from monitoring import statistics
from monitoring.cells import Cell
from monitoring.errors import ReferenceMismatch
from monitoring.features import RandomFeatures
from monitoring.monitor_settings import MonitorSettings as MonitorSettings
from monitoring.reference import Reference
from monitoring.window import Window

STATISTICS: Final = ("novelty", "occupancy", "mmd")
# An alarm by features alone needs their mean to have moved by this part of the cloud's radius.
MIN_MMD_RATIO: Final = 0.05
# A neighbourhood is called moved when its own test, shared over all cells, is this rare.
MOVED_LEVEL: Final = 0.01
MOVED_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class StatisticReading:
    """One statistic of one window; an alarm needs `significant` and `large` together. interval: 95 %, of the effect."""

    name: str
    value: float
    threshold: float
    p_value: float
    level: float
    effect_name: str
    effect: float
    min_effect: float
    interval: tuple[float, float] | None

    @property
    def significant(self) -> bool:
        return self.p_value <= self.level

    @property
    def large(self) -> bool:
        return self.effect >= self.min_effect

    @property
    def alarm(self) -> bool:
        return self.significant and self.large


@dataclass(frozen=True, slots=True)
class MovedCell:
    """A neighbourhood whose traffic changed: what it holds, its expected and observed share, and its novel items."""

    cell: int
    label: str | None
    labels: tuple[tuple[str, float], ...]
    medoids: tuple[str, ...]
    expected: float
    observed: float
    z: float
    novel: int

    @property
    def direction(self) -> str:
        return "more" if self.observed >= self.expected else "less"


@dataclass(frozen=True, slots=True)
class WindowReading:
    """The judgement of one window. `number` counts the windows of a monitor from 1; 0 for a window judged alone."""

    window: Window
    statistics: tuple[StatisticReading, ...]
    moved: tuple[MovedCell, ...]
    calibrated: bool
    why_not: str | None
    number: int = 0
    alarms: tuple[str, ...] = field(default=())

    @property
    def n(self) -> int:
        return self.window.n

    @property
    def alarm(self) -> bool:
        """Whether this window by itself raises the alarm (the monitor's alarm stays latched after it)."""
        return bool(self.alarms)

    def statistic(self, name: str) -> StatisticReading:
        """The statistic of this name; KeyError when the window has none such."""
        for reading in self.statistics:
            if reading.name == name:
                return reading
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for the registry and the API."""
        return {
            "number": self.number, "n": self.n, "window": self.window.to_json(), "alarm": self.alarm,
            "alarms": list(self.alarms), "calibrated": self.calibrated, "why_not": self.why_not,
            "statistics": {
                s.name: {**asdict(s), "significant": s.significant, "large": s.large, "alarm": s.alarm}
                for s in self.statistics
            },
            "moved": [moved_to_json(m) for m in self.moved],
        }  # fmt: skip


def moved_to_json(moved: MovedCell) -> dict[str, Any]:
    """A moved neighbourhood as a plain dictionary."""
    return {
        **asdict(moved), "labels": [list(pair) for pair in moved.labels], "medoids": list(moved.medoids),
        "direction": moved.direction,
    }  # fmt: skip


def evaluate(window: Window, reference: Reference, settings: MonitorSettings, number: int = 0) -> WindowReading:
    """Judge the counts of one window, however many observations or replicas they come from.

    Raises:
        ReferenceMismatch: the window was counted against another reference.
    """
    if window.reference != reference.digest:
        raise ReferenceMismatch(reference.digest, window.reference)
    features = reference.features if window.features else None
    level = settings.level(window.n, len(STATISTICS) if features is not None else len(STATISTICS) - 1)
    readings = [_novelty(window, reference, settings, level), _occupancy(window, reference, settings, level)]
    if features is not None:
        readings.append(_mmd(window, features, level))
    alarms = tuple(r.name for r in readings if r.alarm) if reference.calibrated else ()
    return WindowReading(
        window=window,
        statistics=tuple(readings),
        moved=moved_cells(window, reference, alarms),
        calibrated=reference.calibrated,
        why_not=reference.why_not,
        number=number,
        alarms=alarms,
    )


def _novelty(window: Window, reference: Reference, settings: MonitorSettings, level: float) -> StatisticReading:
    n, n_cal, alpha0 = window.n, reference.n_cal, reference.alpha0
    expected = reference.novel_rank / (n_cal + 1)
    rate = window.novel / n if n else 0.0
    return StatisticReading(
        name="novelty",
        value=rate,
        threshold=statistics.novelty_threshold(n, n_cal, alpha0, level) / max(1, n),
        p_value=statistics.novelty_tail(n, window.novel, n_cal, alpha0),
        level=level,
        effect_name="novelty_ratio",
        effect=rate / expected if expected else 0.0,
        min_effect=settings.min_novelty_ratio,
        interval=statistics.novelty_ratio_interval(window.novel, n, n_cal, alpha0) if expected and n else None,
    )


def _occupancy(window: Window, reference: Reference, settings: MonitorSettings, level: float) -> StatisticReading:
    test = statistics.occupancy_test(window.cells, reference.pi, reference.n_cal)
    return StatisticReading(
        name="occupancy",
        value=test.statistic,
        threshold=float(chdtri(test.dof, level)) if test.dof else 0.0,
        p_value=test.p_value,
        level=level,
        effect_name="tv_excess",
        effect=statistics.total_variation_excess(window.cells, reference.pi, reference.n_cal),
        min_effect=settings.min_tv,
        interval=statistics.total_variation_interval(window.cells, reference.pi, reference.n_cal),
    )


def _mmd(window: Window, features: RandomFeatures, level: float) -> StatisticReading:
    found = features.judge(window.features, window.n, level)
    return StatisticReading(
        name="mmd",
        value=found.squared,
        threshold=found.threshold,
        p_value=found.p_value,
        level=level,
        effect_name="mmd_ratio",
        effect=found.ratio,
        min_effect=MIN_MMD_RATIO,
        interval=found.interval,
    )


def moved_cells(window: Window, reference: Reference, alarms: tuple[str, ...] = ()) -> tuple[MovedCell, ...]:
    """The neighbourhoods that moved, largest change first, at most MOVED_SHOWN.

    A cell has moved when its share differs by more than chance allows one of K cells at MOVED_LEVEL, or when it holds
    more novel items than chance allows the whole window. In a window that raised an alarm the explanation may be
    looser: after an occupancy alarm every cell two standard errors away is named, after a novelty alarm every cell
    with two novel items, since off-topic traffic has to land somewhere.
    """
    if not window.n or not reference.n_cal:
        return ()
    tail = MOVED_LEVEL / (2 * len(reference.cells))
    z = statistics.cell_z_scores(window.cells, reference.pi, reference.n_cal)
    limit = 2.0 if "occupancy" in alarms else float(-ndtri(tail / 2))
    found = []
    for cell, count, novel, score in zip(reference.cells, window.cells, window.novel_cells, z, strict=True):
        if "novelty" in alarms:
            crowded = novel >= 2
        else:
            crowded = statistics.novelty_tail(window.n, novel, reference.n_cal, reference.alpha0) <= tail
        if abs(score) >= limit or crowded:
            found.append(_moved(cell, count / window.n, float(score), novel))
    found.sort(key=lambda m: (-(abs(m.observed - m.expected) + m.novel / window.n), m.cell))
    return tuple(found[:MOVED_SHOWN])


def _moved(cell: Cell, observed: float, z: float, novel: int) -> MovedCell:
    return MovedCell(
        cell.index, cell.label, cell.labels, cell.medoids, cell.share, observed, float(np.round(z, 3)), novel
    )
