"""One watched version: its monitor, what the registry has not taken yet, and how the two are kept in step.

The registry holds the latched alarm for every service that watches the version. A service that finds it there shows it
too, and only an acknowledgement releases it. All of this belongs to the watch thread.
"""

from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.errors import MonitoringError
from monitoring.evaluate import MonitorSettings, WindowReading
from monitoring.metrics import Metrics
from monitoring.monitor import UNEXPLAINED, Alarm, Monitor
from registry import readings
from registry.errors import RegistryError, Unavailable
from registry.readings import MonitorState
from registry.registry import Registry
from service.snapshot import LoadedVersion

log = structlog.get_logger()

# Vectors given to a monitor at once: enough for an efficient search, few enough to yield to serving often.
CHUNK = 256
# Readings kept in memory while the registry is away: an outage of hours must not fill it, and the newest matter most.
UNSTORED = 100


class Watched:
    """The monitor of one live version, resumed from the registry as soon as that can be read.

    Until then vectors are counted by a monitor that begins at nothing, and nothing is stored; what it counted is added
    once the stored state is known.

    Args:
        keep: Readings the registry keeps of a version.

    Raises:
        ValueError: The version has no reference.
    """

    def __init__(
        self, registry: Registry, metrics: Metrics, settings: MonitorSettings, version: LoadedVersion, *, keep: int
    ) -> None:
        if version.reference is None:
            raise ValueError("a version without a reference cannot be watched")
        self.version = version
        self.dirty = False
        self._registry = registry
        self._settings = settings
        self._keep = keep
        self._reference = version.reference
        self._recorder = metrics.drift(version.record.adapter, str(version.record.number), version.reference)
        self.monitor = Monitor(version.reference, settings, None, self._recorder)
        self._resumed = False
        self._standing = False  # whether the registry last held an active alarm of this version
        self._unstored: list[WindowReading] = []
        self._untrimmed = keep  # readings stored since the oldest ones were last deleted; at first nobody knows
        self._resume()

    def observe(self, vectors: NDArray[np.float32], evidence: NDArray[np.bool_]) -> None:
        """Count vectors (n, d), of which those in the mask (n,) are evidence for an alarm."""
        self.dirty = True
        for start in range(0, len(vectors), CHUNK):
            part = slice(start, start + CHUNK)
            self._note(self.monitor.observe(vectors[part], evidence[part]))

    @property
    def has_news(self) -> bool:
        """Whether a window was completed that the registry does not know of."""
        return bool(self._unstored)

    def look(self) -> None:
        """See whether an alarm was raised or acknowledged elsewhere; an unreachable registry is asked again later."""
        record = self.version.record
        try:
            with self._registry.reading() as session:
                kept = readings.get_state(session, record.adapter, record.number)
        except RegistryError as error:
            log.warning("monitor_state_not_read", version=record.name, error=type(error).__name__)
            self.dirty = True
            return
        if kept is not None and kept.alarm_active != self.monitor.alarm_active:
            self.dirty = True
            self.store()

    def store(self) -> bool:
        """Store new readings and the state in one transaction; on an outage keep them for later and return False."""
        try:
            self.store_now()
        except RegistryError as error:
            log.error("reading_not_stored", version=self.version.record.name, error=type(error).__name__)
            return False
        return True

    def store_now(self) -> None:
        """As `store`, but an outage raises.

        Raises:
            RegistryError: The registry cannot be written.
        """
        if not self._resumed and not self._resume():
            raise Unavailable("the monitor's stored state cannot be read")
        if not self.dirty:
            return
        record = self.version.record
        with self._registry.writing() as session:
            for reading in self._unstored:
                readings.add(
                    session,
                    adapter=record.adapter,
                    version=record.number,
                    window_n=reading.n,
                    statistics=_compact(reading),
                    cells=reading.window.cells,
                    alarm=reading.alarm,
                )
            fresh = self._untrimmed + len(self._unstored)
            # To find the oldest of ten thousand takes 20 ms, so a hundredth more may be there for a while.
            trims = fresh * 100 >= self._keep
            if trims:
                readings.trim(session, record.adapter, record.number, self._keep)
            self._agree(readings.get_state(session, record.adapter, record.number))
            kept = readings.put_state(
                session,
                record.adapter,
                record.number,
                state=self.monitor.to_json(),
                alarm_active=self.monitor.alarm_active,
            )
        self._unstored.clear()
        self._untrimmed = 0 if trims else fresh
        self.dirty, self._standing = False, kept.alarm_active

    def acknowledge(self, by: str) -> bool:
        """Release the alarm for every service; False when none stood.

        Raises:
            RegistryError: The registry cannot be written; nothing is released then.
        """
        self.dirty = True
        self.store_now()
        record = self.version.record
        with self._registry.writing() as session:
            readings.acknowledge(session, record.adapter, record.number, by=by)
        released = self.monitor.acknowledge() is not None
        self._standing, self.dirty = False, True
        self.store()
        return released

    def close(self) -> None:
        """Remove the version's gauges: it is watched no longer."""
        self._recorder.close()

    def reopen(self) -> None:
        """Show the gauges again: it is watched again."""
        self._recorder.open()
        self._recorder.alarm_changed(self.monitor.alarm_active)

    def _resume(self) -> bool:
        """Go on from where the version was left; False when the registry cannot be read now."""
        record = self.version.record
        try:
            with self._registry.reading() as session:
                kept = readings.get_state(session, record.adapter, record.number)
        except RegistryError as error:
            log.warning("monitor_state_not_read", version=record.name, error=type(error).__name__)
            return False
        if kept is not None:
            self._take_over(kept)
        self._resumed = True
        return True

    def _take_over(self, kept: MonitorState) -> None:
        meanwhile = self.monitor
        try:
            self.monitor = Monitor(self._reference, self._settings, kept.state, self._recorder)
        except MonitoringError as error:
            log.warning("monitor_state_unusable", version=self.version.record.name, error=str(error))
            self.monitor = Monitor(self._reference, self._settings, None, self._recorder)
        self._standing = kept.alarm_active
        if kept.alarm_active:
            self.monitor.latch(_alarm(kept))
        else:
            self.monitor.acknowledge()  # done while no service was running
        self._note(self.monitor.merge(meanwhile))

    def _agree(self, kept: MonitorState | None) -> None:
        """Follow what the registry says of the alarm: it ends when acknowledged, and stands wherever it was raised."""
        if kept is None:
            return
        if self._standing and not kept.alarm_active:
            self.monitor.acknowledge()
        elif kept.alarm_active:
            self.monitor.latch(_alarm(kept))

    def _note(self, found: list[WindowReading]) -> None:
        for reading in found:
            if reading.alarm:
                log.warning("drift_alarm", version=self.version.record.name, statistics=list(reading.alarms))
        self._unstored += found
        del self._unstored[:-UNSTORED]


def _alarm(kept: MonitorState) -> Alarm:
    """The alarm that stands in the registry, as far as it can be read."""
    try:
        return Alarm.from_json(kept.state["alarm"])
    except (MonitoringError, KeyError):
        return UNEXPLAINED


def _compact(reading: WindowReading) -> dict[str, Any]:
    """A reading as it is stored: two headline figures first, no counts (`cells` has its own column), and the
    neighbourhoods that moved only where an alarm needs explaining.
    """
    whole = reading.to_json()
    del whole["window"]
    if not reading.alarm:
        del whole["moved"]
    return {
        "novelty_rate": reading.statistic("novelty").value,
        "total_variation": reading.statistic("occupancy").effect,  # above what chance alone gives
        "novel": reading.window.novel,
        **whole,
    }
