"""One watched version: evidence that waits for the registry, and the monitor that all services share there.

What this service scores becomes counts. At least once a second they go to the registry in one transaction: it reads the
monitor's state, applies the counts and puts the state back, so any number of services decide as one that sees all their
traffic would. The state keeps the number of the last batch it took of each service. When a commit fails nobody knows
whether it happened; the next transaction sees by that number whether it did, and the batch is counted once either way.
Writers take turns (see `registry.database`), so a transaction whose end was not heard of has ended before the next one
reads. What has not been committed is lost when the process is killed, and nothing else is.

All of this belongs to the watch thread.
"""

import math
import secrets
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.alarms import Confirmation
from monitoring.detectors import leading
from monitoring.errors import MonitoringError
from monitoring.evaluate import WindowReading
from monitoring.metrics import Metrics
from monitoring.monitor import UNEXPLAINED, Alarm, Monitor
from monitoring.monitor_settings import MonitorSettings
from monitoring.newest import Newest
from monitoring.window import Window
from registry import readings
from registry.errors import Conflict, RegistryError
from registry.readings import MonitorState, Reading
from registry.registry import Registry
from service.segments import Segments
from service.snapshot import LoadedVersion
from service.thinning import Thinning

log = structlog.get_logger()

# Vectors given to a reference at once: enough for an efficient search, few enough to yield to serving often.
CHUNK: Final = 256


class Watched:
    """One live version that has a reference.

    Args:
        keep: Readings the registry keeps of a version.
        per_session: Vectors of one session that are evidence in a minute.

    Attributes:
        monitor: What all services share, as it was when this one last saw it.
        newest: Vectors that this service counted as evidence lately.
        seen_at: When the state that is shown was stored; None before the first.

    Raises:
        ValueError: The version has no reference.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        settings: MonitorSettings,
        version: LoadedVersion,
        *,
        keep: int,
        per_session: int,
    ) -> None:
        if version.reference is None:
            raise ValueError("a version without a reference cannot be watched")
        self.version = version
        self.reference = version.reference
        self.settings = settings
        self.thinning = Thinning(per_session)
        self.newest = Newest(version.reference.dimension)
        self.monitor = Monitor(version.reference, settings)
        self.seen_at: datetime | None = None
        self._registry = registry
        self._keep = keep
        self._segments = Segments()
        self._recorder = metrics.drift(version.record.adapter, str(version.record.number), version.reference)
        self._replica = secrets.token_hex(8)
        self._sequence = 0
        self._pending = Window.empty(version.reference)
        self._since: float | None = None  # when the oldest of what is pending was scored
        self._doubtful: tuple[int, Window] | None = None  # a batch whose commit failed, and its number
        self._untrimmed = keep  # readings stored since the oldest ones were last deleted; at first nobody knows
        self._confirmed: int | None = None  # the alarm, by its observation, that was looked at again
        self._away = False
        self._prepared = False
        self.look()

    @property
    def unstored(self) -> int:
        """Vectors that are evidence and that the registry has not taken, as far as is known."""
        return self._pending.n + (self._doubtful[1].n if self._doubtful is not None else 0)

    @property
    def why_not(self) -> str | None:
        """Why alarms cannot be relied on, in words, as far as that was worked out; None when they can."""
        return self.monitor.why_not if self._prepared else self.reference.why_not

    def prepare(self) -> None:
        """Work out what the monitor works out once, thresholds and the run length on the reference's own items.

        It takes a second or so; neither the start of the service nor other writers of the registry wait for it.
        """
        if not self._prepared:
            self.monitor.occupancy()
            self._prepared = True
            self._show(self.monitor, self.seen_at)

    def waited(self, now: float) -> float:
        """Seconds that the oldest evidence has waited for the registry, on the monotonic clock; 0 without any."""
        return 0.0 if self._since is None else now - self._since

    def observe(self, vectors: NDArray[np.float32], segments: Sequence[str | None]) -> None:
        """Score vectors (n, d), all of them evidence, with the segment of each.

        Raises:
            VectorsRefused: of another dimension, or not finite; what came before in the same call is counted.
        """
        named = [self._segments.place(name) for name in segments]
        for start in range(0, len(vectors), CHUNK):
            part = vectors[start : start + CHUNK]
            own = named[start : start + CHUNK]
            scored = self.reference.score(part, features=np.arange(len(part)))
            self._pending += Window.of(self.reference, scored, own)
            self.newest.add(part)
            self._recorder.observed(scored, self.reference.novel_rank, 0, own)
        if self._since is None:
            self._since = time.monotonic()
        self._recorder.waits(self.unstored)

    def push(self) -> bool:
        """Add what was counted to the shared state; on an outage keep it for later and return False."""
        if not self.unstored:
            return True
        try:
            self.push_now()
        except RegistryError as error:
            if not self._away:  # once an outage
                log.error("drift_evidence_not_stored", version=self.version.record.name, error=type(error).__name__)
            self._away = True
            return False
        self._away = False
        return True

    def push_now(self) -> None:
        """As `push`, but an outage raises.

        Raises:
            RegistryError: The registry cannot be written; nothing is lost.
        """
        self.prepare()
        record, number = self.version.record, self._sequence + 1
        batch, settled, ended = self._pending, 0, False
        try:
            with self._registry.writing() as session:
                kept = readings.state_to_change(session, record.adapter, record.number, reference=record.reference)
                monitor = self._monitor(kept)
                if self._doubtful is not None and monitor.applied.get(self._replica, 0) < self._doubtful[0]:
                    batch = self._doubtful[1] + batch
                elif self._doubtful is not None:
                    settled = self._doubtful[1].n
                applied = monitor.apply(batch, self._replica, number)
                for reading in applied.readings:
                    readings.add(session, adapter=record.adapter, version=record.number, **_row(reading, monitor))
                fresh = self._untrimmed + len(applied.readings)
                # To find the oldest of ten thousand takes 20 ms, so a hundredth more may be there for a while.
                if fresh * 100 >= self._keep:
                    readings.trim(session, record.adapter, record.number, self._keep)
                    fresh = 0
                kept = readings.put_state(session, record.adapter, record.number, **_state(monitor))
                last = readings.latest(session, record.adapter, self._moved(monitor), version=record.number)
                ended = True
        except Conflict:  # the reference was replaced: the catalog is about to bring the new one
            self._doubtful, self._pending, self._since = None, Window.empty(self.reference), None
            return
        except RegistryError:
            if ended:
                self._recorder.stored(settled, batch.n)
                self._sequence, self._doubtful = number, (number, batch)
                self._pending = Window.empty(self.reference)
            raise
        self._recorder.stored(settled + batch.n, 0)
        self._sequence, self._untrimmed = number, fresh
        self._doubtful, self._pending, self._since = None, Window.empty(self.reference), None
        self._recorder.judged(len(applied.readings))
        if applied.raised and monitor.alarm is not None:
            self._recorder.raised(monitor.alarm)
            log.warning("drift_alarm", version=record.name, statistics=list(monitor.alarm.statistics))
        self._show(monitor, kept.updated_at, last)

    def look(self) -> None:
        """See what other services made of the shared state; an unreachable registry is asked again later."""
        record = self.version.record
        try:
            with self._registry.reading() as session:
                kept = readings.get_state(session, record.adapter, record.number)
                monitor = self._monitor(kept)
                last = readings.latest(session, record.adapter, self._moved(monitor), version=record.number)
        except RegistryError as error:
            log.warning("monitor_state_not_read", version=record.name, error=type(error).__name__)
            return
        self._show(monitor, None if kept is None else kept.updated_at, last)

    def acknowledge(self, by: str) -> bool:
        """Release the alarm for every service; False when none stood. Evidence from before is let go with it.

        Raises:
            RegistryError: The registry cannot be written; nothing is released then.
        """
        if self.unstored:
            self.push_now()
        record = self.version.record
        with self._registry.writing() as session:
            before = readings.state_to_change(session, record.adapter, record.number, reference=record.reference)
            if before is None:
                return False
            monitor = self._monitor(before)
            monitor.acknowledge()
            readings.put_state(session, record.adapter, record.number, **_state(monitor))
            kept = readings.acknowledge(session, record.adapter, record.number, by=by)
        self._show(monitor, kept.updated_at)
        return before.alarm_active

    def doubt(self, fewest: int) -> NDArray[np.float32] | None:
        """Vectors (n, d) for a second look at an alarm that nobody has had yet, `fewest` or more; None without cause.

        Each alarm is looked at once by this service. The vectors are what it counted since the change, as far as kept.
        """
        alarm = self.monitor.alarm
        if alarm is None or alarm.confirmation is not None or self._confirmed == alarm.observation:
            return None
        if len(self.newest) < fewest:
            return None
        self._confirmed = alarm.observation
        return self.newest.newest(max(fewest, self.monitor.observations - alarm.change_observation))

    def confirm(self, confirmation: Confirmation) -> None:
        """Note with the alarm what the second look found, unless another service was first or the alarm is gone.

        Raises:
            RegistryError: The registry cannot be written, or the reference was replaced.
        """
        record = self.version.record
        with self._registry.writing() as session:
            before = readings.state_to_change(session, record.adapter, record.number, reference=record.reference)
            monitor = self._monitor(before)
            alarm = monitor.alarm
            if alarm is None or alarm.confirmation is not None or alarm.observation != self._confirmed:
                return
            monitor.confirm(confirmation)
            kept = readings.put_state(session, record.adapter, record.number, **_state(monitor))
        self._show(monitor, kept.updated_at)

    def close(self) -> None:
        """Remove the version's gauges: it is watched no longer."""
        self._recorder.close()

    def reopen(self) -> None:
        """Show the gauges again: it is watched again."""
        self._recorder.open()
        self.look()

    def _monitor(self, kept: MonitorState | None) -> Monitor:
        """The monitor of a stored state, with the alarm as the registry has it: it alone says whether one stands."""
        if kept is None:
            return Monitor(self.reference, self.settings)
        try:
            monitor = Monitor(self.reference, self.settings, kept.state)
        except MonitoringError as error:
            log.warning("monitor_state_unusable", version=self.version.record.name, error=str(error))
            monitor = Monitor(self.reference, self.settings)
        if kept.alarm_active:
            monitor.latch(_alarm(kept))
        elif monitor.alarm is not None:  # acknowledged by whoever holds no monitor, such as the command line
            monitor.acknowledge()
        return monitor

    def _moved(self, monitor: Monitor) -> int:
        """How many readings to look for: the last, where a window was completed since this service last looked."""
        return 1 if monitor.windows != self.monitor.windows else 0

    def _show(self, monitor: Monitor, at: datetime | None, last: Sequence[Reading] = ()) -> None:
        """Show a monitor as it was stored at a time, with the last window's reading where that is news."""
        self.monitor = monitor
        self.seen_at = at
        for reading in last:
            self._recorder.window(reading.statistics["statistics"])
        self._recorder.shows(monitor, self.why_not, self._run_lengths(), None if at is None else at.timestamp())

    def _run_lengths(self) -> dict[str, float]:
        found = {"stated": float(self.settings.arl)}
        measured = self.monitor.run_length if self._prepared else None
        if measured is not None:
            found |= {"checked": measured.stated, "replay": measured.measured or math.inf}
        return found


def _alarm(kept: MonitorState) -> Alarm:
    """The alarm that stands in the registry, as far as it can be read."""
    try:
        return Alarm.from_json(kept.state["alarm"])
    except (MonitoringError, KeyError):
        return UNEXPLAINED


def _state(monitor: Monitor) -> dict[str, Any]:
    """What `readings.put_state` wants of a monitor."""
    return {"state": monitor.to_json(), "alarm_active": monitor.alarm_active}


def _row(reading: WindowReading, monitor: Monitor) -> dict[str, Any]:
    """A reading as `readings.add` wants it: two headline figures first, few counts (`cells` has its own column), how
    near an alarm the monitor was, and the neighbourhoods that moved only where an alarm needs explaining.
    """
    whole = reading.to_json()
    del whole["window"]
    if not reading.alarm:
        del whole["moved"]
    statistics = {
        "novelty_rate": reading.statistic("novelty").value,
        "total_variation": reading.statistic("occupancy").effect,  # above what chance alone gives
        "novel": reading.window.novel,
        "p_values": list(reading.window.p_values),
        "evidence": {name: list(pair) for name, pair in leading(monitor).items()},
        **whole,
    }
    return {
        "window_n": reading.n, "statistics": statistics, "cells": reading.window.cells, "alarm": reading.alarm,
    }  # fmt: skip
