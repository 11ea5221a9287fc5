"""Monitor: cuts the stream of vectors into tumbling windows, judges each, and latches an alarm until acknowledged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import ArrayLike

from monitoring.errors import ReferenceMismatch, StateRefused
from monitoring.evaluate import MonitorSettings, WindowReading, evaluate, moved_to_json
from monitoring.reference import Reference, Scored
from monitoring.window import Window

FORMAT: Final = 1


class Recorder(Protocol):
    """Who wants to know what a monitor saw; `metrics.DriftRecorder` is one."""

    def observed(self, scored: Scored, novel_rank: int) -> None: ...

    def evaluated(self, reading: WindowReading) -> None: ...

    def alarm_changed(self, active: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Alarm:
    """A latched alarm: the statistics and neighbourhoods of the window that raised it."""

    statistics: tuple[str, ...]
    window_number: int
    observation: int
    moved: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "statistics": list(self.statistics), "window_number": self.window_number,
            "observation": self.observation, "moved": list(self.moved),
        }  # fmt: skip


class Monitor:
    """The state of one watched version: a window being filled, a count, and an alarm.

    All state is counts, bound to the reference's digest, and goes to JSON and back exactly. Not safe for concurrent
    use: one task owns a monitor.
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

    def observe(self, vectors: ArrayLike) -> list[WindowReading]:
        """Count vectors (n, d); return a reading for each window they completed, in order.

        Raises:
            VectorsRefused: of another dimension, or not finite; nothing is counted then.
        """
        scored = self.reference.score(vectors)
        if not len(scored):
            return []
        if self._recorder is not None:
            self._recorder.observed(scored, self.reference.novel_rank)
        readings = []
        start = 0
        while start < len(scored):
            stop = min(len(scored), start + self.settings.window - self._window.n)
            self._window += Window.of(self.reference, scored.part(start, stop))
            self._observations += stop - start
            start = stop
            if self._window.n >= self.settings.window:
                readings.append(self._close())
        return readings

    def merge(self, window: Window) -> list[WindowReading]:
        """Add the counts of another replica; the window is judged as a whole once it is full (it may be larger).

        Raises:
            ReferenceMismatch: counted against another reference.
        """
        self._window += window
        self._observations += window.n
        return [self._close()] if self._window.n >= self.settings.window else []

    def acknowledge(self) -> Alarm | None:
        """Release the latched alarm and return it; None when there was none. A later window may raise it again."""
        released, self._alarm = self._alarm, None
        if self._recorder is not None:
            self._recorder.alarm_changed(False)
        return released

    def _close(self) -> WindowReading:
        self._windows += 1
        reading = evaluate(self._window, self.reference, self.settings, self._windows)
        self._window = Window.empty(self.reference)
        self._last = reading
        raised = reading.alarm and self._alarm is None
        if raised:
            moved = tuple(moved_to_json(m) for m in reading.moved)
            self._alarm = Alarm(reading.alarms, reading.number, self._observations, moved)
        if self._recorder is not None:
            self._recorder.evaluated(reading)
            if raised:
                self._recorder.alarm_changed(True)
        return reading

    def to_json(self) -> dict[str, Any]:
        """The state as a plain dictionary, for the registry."""
        return {
            "format": FORMAT, "reference": self.reference.digest, "window": self._window.to_json(),
            "observations": self._observations, "windows": self._windows,
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
            alarm = state["alarm"]
            if alarm is not None:
                self._alarm = Alarm(
                    tuple(str(s) for s in alarm["statistics"]),
                    int(alarm["window_number"]),
                    int(alarm["observation"]),
                    tuple(dict(m) for m in alarm["moved"]),
                )
        except (KeyError, TypeError) as error:
            raise StateRefused(f"not a stored monitor state ({type(error).__name__})") from error
