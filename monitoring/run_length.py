"""Run length: does the monitor alarm as seldom as stated, on traffic of which it is known that nothing changed?

The replay items of a reference are held out like the calibration items, in the order they were recorded. A few thousand
of them cannot show a run length of a million, so the monitor is run over them at a reduced one, a tenth of their
number, and begins anew after each alarm. What is measured there stands beside what is stated. Items that are alike only
on average, and come in bursts or with the time of day, alarm more often than stated; then the promise does not hold for
this traffic, and "calibrated" is withdrawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

from scipy.special import gammaincinv

from monitoring.reference import Reference, Scored
from monitoring.sequential import Sequential
from monitoring.window import Window

MIN_REPLAY: Final = 500
"""Fewer observations cannot tell a run length from half of it."""
SHARE: Final = 10
"""The reduced run length is this part of the observations: so many alarms are due on average."""
LONGEST: Final = 1_000
FACTOR: Final = 2.0
"""A measured run length below the stated one divided by this withdraws "calibrated"."""
BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class RunLength:
    """`alarms` among `observations` at a stated run length, and the run length measured with its 95 % interval.

    measured: None for no alarm at all. high: infinite then.
    """

    stated: float
    observations: int
    alarms: int
    low: float
    high: float

    @property
    def measured(self) -> float | None:
        return self.observations / self.alarms if self.alarms else None

    @property
    def why_not(self) -> str | None:
        """Why the stated run length is not believed, in words; None where it is."""
        if self.measured is None or self.measured >= self.stated / FACTOR or self.high >= self.stated:
            return None
        return (
            f"not calibrated: on {self.observations} replayed items the monitor alarms every {self.measured:.0f} "
            f"observations, at a stated run length of {self.stated:.0f}"
        )


def measure(reference: Reference, stream: Scored, stated: float, batch: int = BATCH) -> RunLength:
    """Run the sequential judgement over a stream without change, at a stated run length, in batches of `batch`.

    The interval is the exact one of a Poisson count of alarms (Garwood 1936).
    """
    judge, alarms, before = Sequential(reference, stated), 0, 0
    for window in _batches(reference, stream, batch):
        judge.add(window, before)
        before += window.n
        if judge.cause() is not None:
            alarms += 1
            judge.reset(before)
    fewest = float(gammaincinv(alarms, 0.025)) if alarms else 0.0
    most = float(gammaincinv(alarms + 1, 0.975))
    return RunLength(stated, before, alarms, before / most, before / fewest if fewest else float("inf"))


def on_replay(reference: Reference) -> RunLength | None:
    """The run length measured on a reference's replay items, at the reduced line; None where there are too few.

    Measured once for each reference in memory.
    """
    if reference not in _known:
        _known[reference] = _on_replay(reference)
    return _known[reference]


_known: WeakKeyDictionary[Reference, RunLength | None] = WeakKeyDictionary()


def _on_replay(reference: Reference) -> RunLength | None:
    n = len(reference.replay)
    if n < MIN_REPLAY or not reference.calibrated:
        return None
    return measure(reference, reference.score(reference.replay), min(LONGEST, n / SHARE))


def _batches(reference: Reference, stream: Scored, size: int) -> Iterator[Window]:
    for start in range(0, len(stream), size):
        yield Window.of(reference, stream.part(start, start + size))
