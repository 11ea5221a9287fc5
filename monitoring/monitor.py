"""Monitor: cuts the stream of vectors into tumbling windows, judges each, and latches an alarm until acknowledged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike

from monitoring.arrays import IntArray
from monitoring.errors import MonitoringError, ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.evaluate import MonitorSettings, WindowReading, evaluate, moved_to_json
from monitoring.reference import Reference, Scored
from monitoring.window import Window

FORMAT: Final = 1


class Recorder(Protocol):
    """Who wants to know what a monitor saw; `metrics.DriftRecorder` is one."""

    def observed(self, scored: Scored, novel_rank: int, evidence: int) -> None: ...

    def evaluated(self, reading: WindowReading) -> None: ...

    def alarm_changed(self, active: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Alarm:
    """A latched alarm: the statistics and neighbourhoods of the window that raised it.

    `observation` is how many vectors the monitor had observed by then.
    """

    statistics: tuple[str, ...]
    window_number: int
    observation: int
    moved: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "statistics": list(self.statistics), "window_number": self.window_number,
            "observation": self.observation, "moved": list(self.moved),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Any) -> "Alarm":
        """Read `to_json` back.

        Raises:
            StateRefused: damaged.
        """
        try:
            return cls(
                tuple(str(s) for s in data["statistics"]),
                int(data["window_number"]),
                int(data["observation"]),
                tuple(dict(m) for m in data["moved"]),
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StateRefused(f"not a stored alarm ({type(error).__name__})") from error


# An alarm of which nothing is known but that it stands.
UNEXPLAINED: Final = Alarm((), 0, 0, ())


class Monitor:
    """The state of one watched version: a window being filled, counts, and an alarm.

    Every vector is counted; what enters the window, and so may raise the alarm, is the evidence. All state is counts,
    bound to the reference's digest, and goes to JSON and back exactly. Not safe for concurrent use: one task owns a
    monitor.
    """

    def __init__(
        self,
        reference: Reference,
        settings: MonitorSettings | None = None,
        state: Mapping[str, Any] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """Begin, or resume from `state` (what `to_json` gave).

        Raises:
            ReferenceMismatch: the state belongs to another reference.
            StateRefused: the state is damaged or of another format.
        """
        self.reference = reference
        self.settings = settings or MonitorSettings()
        self._recorder = recorder
        self._window = Window.empty(reference)
        self._observations = 0
        self._evidence = 0
        self._windows = 0
        self._alarm: Alarm | None = None
        self._last: WindowReading | None = None
        if state is not None:
            self._resume(state)
        if recorder is not None:
            recorder.alarm_changed(self.alarm_active)

    @property
    def alarm(self) -> Alarm | None:
        """The latched alarm, None when quiet."""
        return self._alarm

    @property
    def alarm_active(self) -> bool:
        return self._alarm is not None

    @property
    def observations(self) -> int:
        """Vectors observed since the monitor began."""
        return self._observations

    @property
    def evidence(self) -> int:
        """Vectors that entered a window since the monitor began."""
        return self._evidence

    @property
    def windows(self) -> int:
        """Windows judged since the monitor began."""
        return self._windows

    @property
    def pending(self) -> Window:
        """The window now being filled."""
        return self._window

    @property
    def last(self) -> WindowReading | None:
        """The latest reading of this process."""
        return self._last

    def observe(self, vectors: ArrayLike, evidence: ArrayLike | None = None) -> list[WindowReading]:
        """Count vectors (n, d); return a reading for each window they completed, in order.

        Args:
            evidence: Which vectors enter the window: a bool mask (n,), or ascending indices; None takes all. The
                statistics take the vectors of a window for independent draws, which those of one burst are not.

        Raises:
            VectorsRefused: of another dimension, not finite, or a mask of another length; nothing is counted then.
        """
        scored = self.reference.score(vectors)
        if not len(scored):
            return []
        rows = np.arange(len(scored)) if evidence is None else _rows(evidence, len(scored))
        if self._recorder is not None:
            self._recorder.observed(scored, self.reference.novel_rank, len(rows))
        chosen = Scored(scored.cells[rows], scored.ranks[rows], scored.p_values[rows])
        before = self._observations
        self._observations += len(scored)
        # A window that was stored under a larger setting may be full already: it is judged as it is.
        readings = self._close_if_full(before)
        start = 0
        while start < len(rows):
            stop = min(len(rows), start + self.settings.window - self._window.n)
            self._window += Window.of(self.reference, chosen.part(start, stop))
            self._evidence += stop - start
            start = stop
            readings += self._close_if_full(before + int(rows[stop - 1]) + 1)
        return readings

    def merge(self, other: "Monitor") -> list[WindowReading]:
        """Add what another monitor of the same reference counted, and its alarm where this one has none.

        The window is judged as a whole once it is full; it may be larger than the setting then.

        Raises:
            ReferenceMismatch: the other one is held against another reference.
        """
        self._window += other.pending
        self._observations += other.observations
        self._evidence += other.evidence
        self._windows += other.windows
        self._last = other.last or self._last
        if other.alarm is not None:
            self.latch(other.alarm)
        return self._close_if_full(self._observations)

    def latch(self, alarm: Alarm) -> None:
        """Take over an alarm that was raised elsewhere; the one that is latched already stays."""
        if self._alarm is None:
            self._alarm = alarm
            if self._recorder is not None:
                self._recorder.alarm_changed(True)

    def acknowledge(self) -> Alarm | None:
        """Release the latched alarm and return it; None when there was none. A later window may raise it again."""
        released, self._alarm = self._alarm, None
        if self._recorder is not None:
            self._recorder.alarm_changed(False)
        return released

    def _close_if_full(self, observation: int) -> list[WindowReading]:
        return [self._close(observation)] if self._window.n >= self.settings.window else []

    def _close(self, observation: int) -> WindowReading:
        self._windows += 1
        reading = evaluate(self._window, self.reference, self.settings, self._windows)
        self._window = Window.empty(self.reference)
        self._last = reading
        raised = reading.alarm and self._alarm is None
        if raised:
            moved = tuple(moved_to_json(m) for m in reading.moved)
            self._alarm = Alarm(reading.alarms, reading.number, observation, moved)
        if self._recorder is not None:
            self._recorder.evaluated(reading)
            if raised:
                self._recorder.alarm_changed(True)
        return reading

    def to_json(self) -> dict[str, Any]:
        """The state as a plain dictionary, for the registry."""
        return {
            "format": FORMAT, "reference": self.reference.digest, "window": self._window.to_json(),
            "observations": self._observations, "evidence": self._evidence, "windows": self._windows,
            "alarm": None if self._alarm is None else self._alarm.to_json(),
        }  # fmt: skip

    def _resume(self, state: Mapping[str, Any]) -> None:
        try:
            if state["format"] != FORMAT:
                raise StateRefused("a monitor state of another format")
            if state["reference"] != self.reference.digest:
                raise ReferenceMismatch(self.reference.digest, str(state["reference"]))
            self._window = Window.empty(self.reference) + Window.from_json(state["window"])
            self._observations, self._windows = int(state["observations"]), int(state["windows"])
            # States of before a request's share in the evidence was bounded: all of it was evidence.
            self._evidence = int(state.get("evidence", self._observations))
            if state["alarm"] is not None:
                self._alarm = Alarm.from_json(state["alarm"])
        except MonitoringError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise StateRefused(f"not a stored monitor state ({type(error).__name__})") from error


def _rows(evidence: ArrayLike, n: int) -> IntArray:
    """Row numbers of a mask (n,) or of indices."""
    given = np.asarray(evidence)
    if given.dtype != np.bool_:
        return np.asarray(given, dtype=np.int64)
    if given.shape != (n,):
        raise VectorsRefused(f"a mask over {n} vectors has the shape ({n},)")
    return np.flatnonzero(given).astype(np.int64)
