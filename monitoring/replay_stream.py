"""Replays a recorded stream through a monitor: when it would have alarmed, what moved, and what each period held."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from monitoring.alarms import Alarm
from monitoring.arrays import as_matrix
from monitoring.errors import VectorsRefused
from monitoring.evaluate import WindowReading, evaluate
from monitoring.monitor import Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.reference import Reference, Scored
from monitoring.run_length import RunLength
from monitoring.window import Window

Period = Literal["hour", "day", "week", "month", "year"]
PERIODS: Final[dict[Period, Callable[[datetime], str]]] = {
    "year": lambda at: f"{at:%Y}",
    "month": lambda at: f"{at:%Y-%m}",
    "week": lambda at: f"{at:%G-W%V}",
    "day": lambda at: f"{at:%Y-%m-%d}",
    "hour": lambda at: f"{at:%Y-%m-%d %H}h",
}
MAX_PERIODS: Final = 60
"""The shortest period that makes no more of them than this is the one to read."""
CHUNK: Final = 512


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm that would have been raised after `item` items, from 1. began: the item at which the change is thought
    to begin. at, began_at: their dates.
    """

    item: int
    began: int
    at: datetime | None
    began_at: datetime | None
    alarm: Alarm


@dataclass(frozen=True, slots=True)
class PeriodReading:
    """All items of one period judged together; `first` is the number of its first item, from 1."""

    name: str
    first: int
    alarms: int
    reading: WindowReading


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a monitor made of n items.

    judged: items until the stream ended or, where alarms are not acknowledged, the first alarm. quiet: lengths of the
    runs without an alarm that ended in one. replay: the run length measured on the reference's own items.
    """

    n: int
    judged: int
    why_not: str | None
    raised: tuple[Raised, ...]
    quiet: tuple[int, ...]
    periods: tuple[PeriodReading, ...]
    replay: RunLength | None
    settings: MonitorSettings

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "items": self.n, "judged": self.judged, "calibrated": self.why_not is None, "why_not": self.why_not,
            "mode": self.settings.mode, "window": self.settings.window,
            "alarms": [
                {"item": r.item, "at": r.at, "change_item": r.began, "change_at": r.began_at, **r.alarm.to_json()}
                for r in self.raised
            ],
            "quiet_runs": list(self.quiet),
            "run_length": {
                "stated": self.settings.arl,
                "stream": {"observations": self.judged, "alarms": len(self.raised)},
                "replay": None if self.replay is None else {
                    "stated": self.replay.stated, "mean": self.replay.measured, "low": self.replay.low,
                    "high": None if np.isinf(self.replay.high) else self.replay.high,
                    "observations": self.replay.observations, "alarms": self.replay.alarms,
                },
            },
            "periods": [
                {"period": p.name, "first_item": p.first, "alarms": p.alarms, **_period(p.reading)}
                for p in self.periods
            ],
        }  # fmt: skip


def replay_stream(
    reference: Reference,
    vectors: ArrayLike,
    settings: MonitorSettings,
    *,
    at: Sequence[datetime] | None = None,
    segments: Sequence[str | None] | None = None,
    acknowledge: bool = False,
    period: Period | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Replayed:
    """Run unit vectors (n, d) through a fresh monitor, one by one, in the order given; all of them are evidence.

    Args:
        at: The date of each, ascending; None without dates.
        segments: The segment of each.
        acknowledge: Release each alarm at once, as a person would who has read it, and go on from nothing. Otherwise
            the first one stands until the end.
        period: What is read together; None takes the shortest that makes at most MAX_PERIODS. Without dates it is
            `settings.window` items.
        tell: Hears how many items are done.

    Raises:
        VectorsRefused: Of another dimension, not finite, or another number of dates or segments.
    """
    matrix = as_matrix(vectors, reference.dimension)
    n = len(matrix)
    if any(given is not None and len(given) != n for given in (at, segments)):
        raise VectorsRefused(f"dates and segments must be {n}, one for each vector")
    monitor = Monitor(reference, settings)
    names = _names(n, at, period, settings.window)
    counted: dict[str, tuple[int, Window]] = {}
    raised: list[Raised] = []
    for start in range(0, n, CHUNK):
        part = matrix[start : start + CHUNK]
        # Features are judged in windows alone; elsewhere nothing would look at them.
        scored = reference.score(part, features=np.arange(len(part)) if settings.mode == "windows" else None)
        for i in range(len(part)):
            item = start + i
            one = Window.of(reference, scored.part(i, i + 1), None if segments is None else [segments[item]])
            if monitor.apply(one).raised and monitor.alarm is not None:
                raised.append(_raised(monitor.alarm, item, at))
                if acknowledge:
                    monitor.acknowledge()
        _count(reference, scored, names[start : start + CHUNK], start, counted)
        tell(min(n, start + CHUNK))
    ends = [0, *(r.item for r in raised)]
    in_period = [names[r.item - 1] for r in raised]
    return Replayed(
        n=n,
        judged=n if acknowledge or not raised else raised[0].item,
        why_not=monitor.why_not,
        raised=tuple(raised),
        quiet=tuple(end - begin for begin, end in pairwise(ends)),
        periods=tuple(
            PeriodReading(name, first, in_period.count(name), evaluate(window, reference, settings, number))
            for number, (name, (first, window)) in enumerate(counted.items(), 1)
        ),
        replay=monitor.run_length,
        settings=settings,
    )


def _raised(alarm: Alarm, item: int, at: Sequence[datetime] | None) -> Raised:
    began = min(item, alarm.change_observation)
    return Raised(
        item + 1, began + 1, None if at is None else at[item], None if at is None else at[began], alarm
    )  # fmt: skip


def _count(
    reference: Reference, scored: Scored, names: Sequence[str], start: int, into: dict[str, tuple[int, Window]]
) -> None:
    """Add scored items to the window of the period that each of them is in."""
    for name in dict.fromkeys(names):
        rows = np.flatnonzero(np.array([other == name for other in names]))
        window = Window.of(reference, scored.rows(rows))
        first, before = into.get(name, (start + int(rows[0]) + 1, Window.empty(reference)))
        into[name] = (first, before + window)


def _names(n: int, at: Sequence[datetime] | None, period: Period | None, window: int) -> list[str]:
    """The period of each item."""
    if at is None:
        starts = [item // window * window for item in range(n)]
        return [f"{start + 1}-{min(n, start + window)}" for start in starts]
    if period is not None:
        return [PERIODS[period](when) for when in at]
    by_length = [[name(when) for when in at] for name in PERIODS.values()]
    fitting = [names for names in by_length if len(set(names)) <= MAX_PERIODS]
    return fitting[-1] if fitting else by_length[0]


def _period(reading: WindowReading) -> dict[str, Any]:
    """The figures of a period that a person reads."""
    novelty, occupancy = reading.statistic("novelty"), reading.statistic("occupancy")
    return {
        "n": reading.n, "novelty_rate": novelty.value, "novelty_ratio": novelty.effect,
        "novelty_ratio_interval": novelty.interval, "tv_excess": occupancy.effect,
        "tv_excess_interval": occupancy.interval,
        "moved": [cell.label or f"cell {cell.cell}" for cell in reading.moved],
    }  # fmt: skip
