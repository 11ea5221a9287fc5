"""Writes what one adapter's monitor sees and thinks into the instruments.

Counts are of this process, so that those of replicas add up. What the monitor thinks is shared by all replicas and the
same in each, up to the moment at which it last looked.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from monitoring.evaluate import WindowReading
from monitoring.reference import Reference, Scored

if TYPE_CHECKING:  # it makes this file's recorders
    from monitoring.alarms import Alarm
    from monitoring.metrics import Metrics
    from monitoring.monitor import Monitor

State = Literal["not_calibrated", "warming", "watching", "alarm"]
STATES: Final[tuple[State, ...]] = ("not_calibrated", "warming", "watching", "alarm")
"""What a monitor may be: unable to raise alarms that mean what they say, without a whole window yet, quiet, latched."""


def state_of(monitor: "Monitor", why_not: str | None) -> State:
    """What a monitor is; `why_not` says why it is not calibrated, if so. An alarm that stands is shown in any case."""
    if monitor.alarm_active:
        return "alarm"
    if why_not is not None:
        return "not_calibrated"
    return "watching" if monitor.windows else "warming"


class DriftRecorder:
    """The series of one adapter, for the version that is watched now."""

    def __init__(
        self,
        metrics: "Metrics",
        adapter: str,
        version: str,
        reference: Reference,
        created: float | None = None,
    ) -> None:
        """Begin to show a version. `created`: unix time at which its reference was made, if known."""
        self._metrics = metrics
        self._adapter = adapter
        self._version = version
        self._reference = reference
        self._created = created
        self._closed = False
        self._detectors: set[str] = set()
        self.open()

    def open(self) -> None:
        """Show this version's series, in place of those of the adapter's former version."""
        metrics, adapter, reference = self._metrics, self._adapter, self._reference
        self._closed = False
        self._forget()
        metrics.reference_info.labels(
            adapter, self._version, reference.digest[:12], str(reference.n_cal), f"{reference.alpha0:g}"
        ).set(1)
        metrics.calibrated.labels(adapter).set(float(reference.calibrated))
        metrics.alarm_active.labels(adapter).set(0)
        metrics.alarm_actionable.labels(adapter).set(0)
        metrics.unstored.labels(adapter).set(0)
        if self._created is not None:
            metrics.reference_created.labels(adapter).set(self._created)
        metrics.observations.labels(adapter, "")
        metrics.evidence.labels(adapter)
        metrics.novel_observations.labels(adapter, "")
        for cell in reference.cells:
            metrics.cell_observations.labels(adapter, str(cell.index))
            metrics.reference_cell_ratio.labels(adapter, str(cell.index)).set(cell.share)

    def _forget(self) -> None:
        """Drop the series of the adapter's former version: its cells and statistics mean something else."""
        metrics = self._metrics
        for instrument in (
            metrics.cell_observations, metrics.reference_cell_ratio, metrics.reference_info, metrics.statistic,
            metrics.statistic_threshold, metrics.statistic_pvalue, metrics.effect_size, metrics.effect_size_threshold,
            metrics.evidence_log, metrics.evidence_log_threshold, metrics.run_length, metrics.reference_created,
        ):  # fmt: skip
            instrument.remove_by_labels({"adapter": self._adapter})
        self._detectors.clear()

    def close(self) -> None:
        """Remove this adapter's drift gauges, when it is watched no longer; until `open` nothing is shown."""
        self._closed = True
        self._forget()
        metrics = self._metrics
        for gauge in (
            metrics.alarm_active, metrics.alarm_actionable, metrics.calibrated, metrics.reading_timestamp,
            metrics.drift_state, metrics.unstored,
        ):  # fmt: skip
            gauge.remove_by_labels({"adapter": self._adapter})

    def observed(
        self, scored: Scored, novel_rank: int, evidence: int, segments: Sequence[str | None] | None = None
    ) -> None:
        """Count scored vectors, by the segment of each, of which `evidence` have entered a monitor's state."""
        if self._closed:
            return
        metrics, adapter = self._metrics, self._adapter
        names = [""] * len(scored) if segments is None else [name or "" for name in segments]
        metrics.evidence.labels(adapter).inc(evidence)
        for name, count in Counter(names).items():
            metrics.observations.labels(adapter, name).inc(count)
            # The histogram takes values one by one; it is looked up once.
            observe = metrics.novelty_pvalue.labels(adapter, name).observe
            for own, p_value in zip(names, scored.p_values.tolist(), strict=True):
                if own == name:
                    observe(p_value)
        novel = Counter(name for name, rank in zip(names, scored.ranks.tolist(), strict=True) if rank <= novel_rank)
        for name, count in novel.items():
            metrics.novel_observations.labels(adapter, name).inc(count)
        for cell, count in zip(*(a.tolist() for a in np.unique(scored.cells, return_counts=True)), strict=True):
            metrics.cell_observations.labels(adapter, str(cell)).inc(count)

    def stored(self, evidence: int, waiting: int) -> None:
        """Count vectors that the shared state has taken in, and show how many still wait for it."""
        self._metrics.evidence.labels(self._adapter).inc(evidence)
        self.waits(waiting)

    def waits(self, waiting: int) -> None:
        """Show how many vectors wait for the shared state."""
        if not self._closed:
            self._metrics.unstored.labels(self._adapter).set(waiting)

    def evaluated(self, reading: WindowReading) -> None:
        """Count a window that was judged, and show its judgement."""
        self.judged(1)
        self.window({statistic.name: asdict(statistic) for statistic in reading.statistics})
        if not self._closed:
            self._metrics.reading_timestamp.labels(self._adapter).set_to_current_time()

    def judged(self, windows: int) -> None:
        """Count windows that this process judged."""
        self._metrics.windows.labels(self._adapter).inc(windows)

    def window(self, statistics: Mapping[str, Mapping[str, Any]]) -> None:
        """Show the judgement of the last window, whoever judged it: statistics by name, as a reading stores them."""
        if self._closed:
            return
        metrics, adapter = self._metrics, self._adapter
        for name, found in statistics.items():
            metrics.statistic.labels(adapter, name).set(_number(found["value"]))
            metrics.statistic_threshold.labels(adapter, name).set(_number(found["threshold"]))
            metrics.statistic_pvalue.labels(adapter, name).set(_number(found["p_value"]))
            metrics.effect_size.labels(adapter, found["effect_name"]).set(_number(found["effect"]))

    def alarm_changed(self, active: bool) -> None:
        """Show whether the latched alarm is active."""
        if not self._closed:
            self._metrics.alarm_active.labels(self._adapter).set(float(active))

    def raised(self, alarm: "Alarm") -> None:
        """Count an alarm that was raised just now."""
        if not self._closed:
            for name in alarm.statistics:
                self._metrics.alarms.labels(self._adapter, name).inc()

    def shows(
        self, monitor: "Monitor", why_not: str | None, run_lengths: Mapping[str, float], at: float | None = None
    ) -> None:
        """Show what a monitor thinks.

        Args:
            why_not: Why it is not calibrated, if so.
            run_lengths: Mean run lengths by kind, see the metric.
            at: Unix time at which its state last changed; None for now.
        """
        if self._closed:
            return
        metrics, adapter, alarm = self._metrics, self._adapter, monitor.alarm
        metrics.reading_timestamp.labels(adapter).set(time.time() if at is None else at)
        metrics.calibrated.labels(adapter).set(float(why_not is None))
        metrics.alarm_active.labels(adapter).set(float(alarm is not None))
        metrics.alarm_actionable.labels(adapter).set(float(alarm is not None and alarm.actionable))
        now = state_of(monitor, why_not)
        for state in STATES:
            metrics.drift_state.labels(adapter, state).set(float(state == now))
        found = monitor.evidence_log()
        for name in self._detectors - found.keys():  # segments, which an acknowledgement forgets
            metrics.evidence_log.remove(adapter, name)
            metrics.evidence_log_threshold.remove(adapter, name)
        self._detectors = set(found)
        for name, (log, line) in found.items():
            metrics.evidence_log.labels(adapter, name).set(log)
            metrics.evidence_log_threshold.labels(adapter, name).set(line)
        for name, (value, threshold) in monitor.occupancy().items():
            metrics.statistic.labels(adapter, name).set(value)
            metrics.statistic_threshold.labels(adapter, name).set(threshold)
        if alarm is not None:
            for measure, effect in alarm.effects.items():
                metrics.effect_size.labels(adapter, measure).set(effect.value)
        if alarm is not None and alarm.confirmation is not None:
            metrics.effect_size.labels(adapter, "auc").set(alarm.confirmation.auc)
        else:
            metrics.effect_size.remove_by_labels({"adapter": adapter, "measure": "auc"})
        settings = monitor.settings
        least = {"novelty_ratio": settings.min_novelty_ratio, "tv_excess": settings.min_tv, "auc": settings.min_auc}
        for measure, limit in least.items():
            metrics.effect_size_threshold.labels(adapter, measure).set(limit)
        for kind, length in run_lengths.items():
            metrics.run_length.labels(adapter, kind).set(length)


def _number(value: float | None) -> float:
    """A stored number: what was infinite or none was stored as null."""
    return math.nan if value is None else value
