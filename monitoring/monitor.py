"""Monitor: counts batches exactly once, gathers evidence over them, and latches an alarm until acknowledged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike

from monitoring.alarms import UNEXPLAINED as UNEXPLAINED
from monitoring.alarms import Alarm as Alarm
from monitoring.alarms import Confirmation
from monitoring.arrays import IntArray
from monitoring.causes import alarm_of, of_windows
from monitoring.effects import effects
from monitoring.errors import MonitoringError, ReferenceMismatch, StateRefused, VectorsRefused
from monitoring.evaluate import WindowReading, evaluate
from monitoring.monitor_settings import MonitorSettings as MonitorSettings
from monitoring.reference import Reference, Scored
from monitoring.run_length import RunLength, on_replay
from monitoring.sequential import Sequential
from monitoring.window import Window

FORMAT: Final = 2
MAX_REPLICAS: Final = 64
BATCH: Final = 64


class Recorder(Protocol):
    """Who wants to know what a monitor saw; `metrics.DriftRecorder` is one."""

    def observed(
        self, scored: Scored, novel_rank: int, evidence: int, segments: Sequence[str | None] | None = None
    ) -> None: ...

    def evaluated(self, reading: WindowReading) -> None: ...

    def alarm_changed(self, active: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did: the readings of the windows it completed, whether it raised the alarm, and whether it was
    counted before, in which case it changed nothing.
    """

    readings: tuple[WindowReading, ...] = ()
    raised: bool = False
    duplicate: bool = False


class Monitor:
    """The state of one watched version: evidence, averages, a window being filled, recent counts, and an alarm.

    A monitor is fed batches (`apply`), counted anywhere against the same reference. Its state is a few thousand
    numbers, bound to the reference's digest, and goes to JSON and back exactly, so that several replicas can share one
    monitor by reading the state, applying their batch and writing it back in one transaction. Not safe for concurrent
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
        self._empty = Window.empty(reference)
        self._window = self._empty
        self._observations = 0
        self._evidence_n = 0
        self._windows = 0
        self._sequential = Sequential(reference, self.settings.arl)
        self._applied: dict[str, int] = {}
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
        """Vectors that were evidence since the monitor began."""
        return self._evidence_n

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

    @property
    def applied(self) -> Mapping[str, int]:
        """The last sequence number counted of each replica."""
        return dict(self._applied)

    @property
    def run_length(self) -> RunLength | None:
        """The run length measured on the reference's replay items beside the stated one, None where there are few."""
        return on_replay(self.reference)

    @property
    def calibrated(self) -> bool:
        """Whether alarms may be raised: the reference has enough items, and the replay does not contradict."""
        return self.why_not is None

    @property
    def why_not(self) -> str | None:
        """Why no alarm can be raised, in words; None when calibrated."""
        measured = self.run_length
        return self.reference.why_not or (None if measured is None else measured.why_not)

    def evidence_log(self) -> dict[str, tuple[float, float]]:
        """Log evidence and the log line at which it would alarm alone, of "total" and of each detector by its name:
        "novelty", "cell:12", "segment:mobile".
        """
        return self._sequential.evidence_log()

    def occupancy(self) -> dict[str, tuple[float, float]]:
        """Value and threshold of each average of the neighbourhoods' shares, by its name."""
        return self._sequential.occupancy()

    def since(self, observation: int) -> Window:
        """Counts of the evidence since an observation, as near as is known; without features and segments."""
        return self._sequential.since(observation).window

    def observe(
        self,
        vectors: ArrayLike,
        evidence: ArrayLike | None = None,
        segments: Sequence[str | None] | None = None,
        *,
        batch: int = BATCH,
    ) -> Applied:
        """Score vectors (n, d) and apply them in batches: a monitor that one process has for itself.

        Args:
            evidence: Which vectors are evidence: a bool mask (n,), or ascending indices; None takes all. The tests
                take the evidence for independent draws, which the vectors of one burst are not.
            segments: The segment of each vector, (n,).
            batch: Vectors in one batch, at most; also a full window ends one.

        Raises:
            VectorsRefused: of another dimension, not finite, or a mask of another length; nothing is counted then.
        """
        n = len(np.asarray(vectors))
        rows = np.arange(n) if evidence is None else _rows(evidence, n)
        scored = self.reference.score(vectors, features=rows)
        if segments is not None and len(segments) != n:
            raise VectorsRefused(f"{len(segments)} segments for {n} vectors")
        if not n:
            return Applied()
        if self._recorder is not None:
            self._recorder.observed(scored, self.reference.novel_rank, len(rows), segments)
        chosen = scored.rows(rows)
        named = None if segments is None else [segments[int(i)] for i in rows]
        begun, readings, raised = self._observations, list(self._judge_window()), False
        start = seen = 0
        while start < len(rows):
            stop = min(len(rows), start + batch, start + self.settings.window - self._window.n)
            part = Window.of(self.reference, chosen.part(start, stop), None if named is None else named[start:stop])
            upto = int(rows[stop - 1]) + 1
            done = self.apply(part, observed=upto - seen)
            readings += done.readings
            raised = raised or done.raised
            start, seen = stop, upto
        self._observations = begun + n
        return Applied(tuple(readings), raised)

    def apply(
        self, batch: Window, replica: str = "", sequence: int | None = None, *, observed: int | None = None
    ) -> Applied:
        """Count a batch of evidence, once.

        Args:
            replica: Who counted it. sequence: The number of this batch among the replica's, ascending; a batch whose
                number is not above the last one counted changes nothing. None: the caller knows it is new.
            observed: How many vectors were observed along with it, evidence or not; None: the evidence alone.

        Raises:
            ReferenceMismatch: the batch was counted against another reference.
        """
        if batch.reference != self.reference.digest:
            raise ReferenceMismatch(self.reference.digest, batch.reference)
        if sequence is not None:
            if sequence <= self._applied.get(replica, -1):
                return Applied(duplicate=True)
            self._applied.pop(replica, None)
            self._applied[replica] = sequence
            while len(self._applied) > MAX_REPLICAS:
                del self._applied[next(iter(self._applied))]
        before = self._observations
        self._observations += batch.n if observed is None else observed
        if not batch.n:
            return Applied()
        batch = self._sequential.placed(batch)
        self._evidence_n += batch.n
        self._window += batch
        self._sequential.add(batch, before)
        readings = self._judge_window()
        raised = False
        if self._alarm is None and self.reference.calibrated:
            windows = self.settings.mode == "windows"
            cause = of_windows(readings, self._observations) if windows else self._sequential.cause()
            if cause is not None and self.calibrated:
                since, count = self.since(cause.begin), self._observations
                self.latch(alarm_of(cause, since, self.reference, windows=self._windows, observations=count))
                raised = True
        self._measure()
        return Applied(readings, raised)

    def latch(self, alarm: Alarm) -> None:
        """Take over an alarm that was raised elsewhere; the one that is latched already stays."""
        if self._alarm is None:
            self._alarm = alarm
            if self._recorder is not None:
                self._recorder.alarm_changed(True)

    def acknowledge(self) -> Alarm | None:
        """Release the latched alarm and return it; None when there was none. All evidence begins anew at nothing."""
        released, self._alarm = self._alarm, None
        self._sequential.reset(self._observations)
        if self._recorder is not None:
            self._recorder.alarm_changed(False)
        return released

    def confirm(self, confirmation: Confirmation) -> None:
        """Note what a second look at kept vectors said of the latched alarm."""
        if self._alarm is not None:
            self._alarm = replace(self._alarm, confirmation=confirmation)
            self._measure()

    def _judge_window(self) -> tuple[WindowReading, ...]:
        if self._window.n < self.settings.window:
            return ()
        self._windows += 1
        reading = evaluate(self._window, self.reference, self.settings, self._windows)
        if self.settings.mode != "windows":
            reading = replace(reading, alarms=())
        self._window = self._empty
        self._last = reading
        if self._recorder is not None:
            self._recorder.evaluated(reading)
        return (reading,)

    def _measure(self) -> None:
        """Measure the latched alarm's effects anew."""
        if self._alarm is not None:
            since = self._sequential.since(self._alarm.change_observation)
            segment = None if self._alarm.segment is None else since.segments.get(self._alarm.segment, (0, 0))
            self._alarm = self._alarm.judged(effects(since.window, self.reference, segment), self.settings)

    def to_json(self) -> dict[str, Any]:
        """The state as a plain dictionary, for the registry."""
        return {
            "format": FORMAT, "reference": self.reference.digest, "window": self._window.to_json(),
            "observations": self._observations, "evidence": self._evidence_n, "windows": self._windows,
            "sequential": self._sequential.to_json(), "applied": dict(self._applied),
            "alarm": None if self._alarm is None else self._alarm.to_json(),
        }  # fmt: skip

    def _resume(self, state: Mapping[str, Any]) -> None:
        try:
            if state["format"] not in (1, FORMAT):
                raise StateRefused("a monitor state of another format")
            if state["reference"] != self.reference.digest:
                raise ReferenceMismatch(self.reference.digest, str(state["reference"]))
            self._window = Window.empty(self.reference) + Window.from_json(state["window"])
            self._observations, self._windows = int(state["observations"]), int(state["windows"])
            # States of before a request's share in the evidence was bounded: all of it was evidence.
            self._evidence_n = int(state.get("evidence", self._observations))
            if state["alarm"] is not None:
                self._alarm = Alarm.from_json(state["alarm"])
            if state["format"] == FORMAT:
                self._sequential.read(state["sequential"])
                self._applied = {str(name): int(number) for name, number in state["applied"].items()}
            else:
                self._sequential.reset(self._observations)
        except MonitoringError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateRefused(f"not a stored monitor state ({type(error).__name__})") from error


def _rows(evidence: ArrayLike, n: int) -> IntArray:
    """Row numbers of a mask (n,) or of indices."""
    given = np.asarray(evidence)
    if given.dtype != np.bool_:
        return np.asarray(given, dtype=np.int64)
    if given.shape != (n,):
        raise VectorsRefused(f"a mask over {n} vectors has the shape ({n},)")
    return np.flatnonzero(given).astype(np.int64)
