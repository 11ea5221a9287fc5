"""Cause: why a monitor alarms, and the alarm that tells of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from monitoring.alarms import Alarm, Contribution
from monitoring.evaluate import WindowReading, moved_cells, moved_to_json
from monitoring.ewma import NAMES
from monitoring.reference import Reference
from monitoring.window import Window


@dataclass(frozen=True, slots=True)
class Cause:
    """Who raised an alarm, largest part first, and the observation at which the change began."""

    named: tuple[Contribution, ...]
    begin: int


def of_windows(readings: Sequence[WindowReading], observations: int) -> Cause | None:
    """The cause that tumbling windows give, by the latest that alarms; `observations` were made by its end."""
    for reading in reversed(readings):
        if reading.alarms:
            named = tuple(Contribution(name, 1 / len(reading.alarms)) for name in reading.alarms)
            return Cause(named, max(0, observations - reading.n))
    return None


def alarm_of(cause: Cause, since: Window, reference: Reference, *, windows: int, observations: int) -> Alarm:
    """The alarm of a cause, with the neighbourhoods that moved in `since`, what was observed from its begin on."""
    statistics = tuple(dict.fromkeys(_statistic(contribution) for contribution in cause.named))
    return Alarm(
        statistics=statistics,
        window_number=windows,
        observation=observations,
        moved=tuple(moved_to_json(cell) for cell in moved_cells(since, reference, statistics)),
        detectors=cause.named,
        segment=cause.named[0].segment,
        change_observation=cause.begin,
    )


def _statistic(contribution: Contribution) -> str:
    """The statistic of a window that looks at the same thing as this detector."""
    if contribution.detector in ("cell", *NAMES):
        return "occupancy"
    return "novelty" if contribution.detector == "segment" else contribution.detector
