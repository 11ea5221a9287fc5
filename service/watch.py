"""Drift on the side: one thread gives every served vector to the monitor of the version that made it.

Serving only ever puts vectors into a bounded queue; what does not fit is counted and dropped. All monitors belong to
the thread, so they need no locks. Readings and the monitors' states, the latched alarm among them, go to the registry,
and a restart resumes from there. While the database is away, monitors go on and their states are stored later.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.errors import MonitoringError
from monitoring.evaluate import MonitorSettings, WindowReading
from monitoring.metrics import Metrics
from monitoring.monitor import Monitor
from registry import readings
from registry.errors import RegistryError
from registry.registry import Registry
from service.errors import Problem
from service.snapshot import LoadedVersion

log = structlog.get_logger()

T = TypeVar("T")

# Vectors given to a monitor at once: enough for an efficient search, few enough to yield to serving often.
CHUNK = 256
# A state that changed without completing a window is stored after this many seconds.
STORE_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class _Watched:
    """The monitor of one live version.

    `unstored` are readings the registry has not taken yet. `latched` is whether the registry last took an active alarm:
    if it shows none any more, somebody acknowledged it there.
    """

    version: LoadedVersion
    monitor: Monitor
    unstored: list[WindowReading]
    dirty: bool = False
    latched: bool = False


class Watch:
    """The thread, its queue and the monitors."""

    def __init__(self, registry: Registry, metrics: Metrics, settings: MonitorSettings, *, limit: int) -> None:
        self._registry = registry
        self._metrics = metrics
        self._settings = settings
        self._limit = limit
        self._waiting = 0
        self._count = threading.Lock()
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._watched: dict[str, _Watched] = {}
        self._stored_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="driftline-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, store every state and end the thread."""
        if self._thread.ident is not None:
            self._queue.put(None)
            self._thread.join(timeout=20)

    def offer(self, version: LoadedVersion, vectors: NDArray[np.float32]) -> bool:
        """Hand over vectors (n, d) that a version computed; False when they were dropped because too many wait."""
        count = len(vectors)
        with self._count:
            if self._waiting + count > self._limit:
                self._metrics.skipped_observations.labels(version.record.adapter).inc(count)
                return False
            self._waiting += count
        self._queue.put(lambda: self._observe(version, vectors))
        return True

    def follow(self, live: Mapping[str, LoadedVersion]) -> None:
        """Watch these versions, one an adapter, from now on; called whenever the catalog changes."""
        chosen = dict(live)
        self._queue.put(lambda: self._follow(chosen))

    def ask(self, question: Callable[[Mapping[str, Monitor]], T]) -> "Future[T]":
        """Run a question on the thread with the monitors by adapter name; the future holds the answer."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(question({name: w.monitor for name, w in self._watched.items()}))
            except BaseException as error:  # noqa: BLE001  it belongs to whoever asked
                answer.set_exception(error)

        self._queue.put(run)
        return answer

    def acknowledge(self, adapter: str, by: str) -> "Future[bool]":
        """Release an adapter's latched alarm, in memory and in the registry; the future says whether there was one."""

        def release(_: Mapping[str, Monitor]) -> bool:
            watched = self._watched.get(adapter)
            if watched is None:
                raise Problem(409, "The adapter has no live version that is watched.", code="not_watched")
            record, monitor = watched.version.record, watched.monitor
            self._store(watched, must=True)
            with self._registry.writing() as session:
                readings.acknowledge(session, adapter, record.number, by=by)
            released = monitor.acknowledge() is not None
            watched.dirty = True
            self._store(watched, must=True)
            return released

        return self.ask(release)

    def _run(self) -> None:
        while True:
            try:
                work = self._queue.get(timeout=STORE_SECONDS)
            except queue.Empty:
                self._store_all()
                continue
            if work is None:
                self._store_all()
                return
            try:
                work()
            except Exception as error:  # noqa: BLE001  the thread must outlive any one batch of vectors
                log.error("drift_monitor_failed", error=type(error).__name__)
            if time.monotonic() - self._stored_at > STORE_SECONDS:
                self._store_all()

    def _observe(self, version: LoadedVersion, vectors: NDArray[np.float32]) -> None:
        with self._count:
            self._waiting -= len(vectors)
        watched = self._watched.get(version.record.adapter)
        if watched is None or watched.version.record.digest != version.record.digest:
            return  # another version is live by now: these vectors say nothing about it
        for start in range(0, len(vectors), CHUNK):
            for reading in watched.monitor.observe(vectors[start : start + CHUNK]):
                watched.unstored.append(reading)
                if reading.alarm:
                    log.warning("drift_alarm", version=version.record.name, statistics=list(reading.alarms))
        watched.dirty = True
        if watched.unstored:
            self._store(watched)

    def _follow(self, live: Mapping[str, LoadedVersion]) -> None:
        for adapter in self._watched.keys() - live.keys():
            self._store(self._watched.pop(adapter))
            self._metrics.alarm_active.labels(adapter).set(0)
        for adapter, version in live.items():
            before = self._watched.get(adapter)
            if before is not None and before.version.record.digest == version.record.digest:
                # What changed may be an acknowledgement by the command line: storing the state looks for it.
                before.dirty = before.dirty or before.latched
                self._store(before)
                continue
            if before is not None:
                self._store(self._watched.pop(adapter))
            self._metrics.alarm_active.labels(adapter).set(0)
            if version.reference is not None:
                monitor = self._monitor(version)
                self._watched[adapter] = _Watched(version, monitor, [], latched=monitor.alarm_active)

    def _monitor(self, version: LoadedVersion) -> Monitor:
        """A monitor that resumes where the version was left, if the registry remembers."""
        record, reference = version.record, version.reference
        if reference is None:
            raise ValueError("a version without a reference cannot be watched")
        recorder = self._metrics.drift(record.adapter, str(record.number), reference)
        try:
            with self._registry.reading() as session:
                stored = readings.get_state(session, record.adapter, record.number)
            if stored is not None:
                monitor = Monitor(reference, self._settings, stored.state, recorder)
                if not stored.alarm_active:  # acknowledged while no service was running
                    monitor.acknowledge()
                return monitor
        except (RegistryError, MonitoringError) as error:
            log.warning("monitor_state_unusable", version=record.name, error=str(error))
        return Monitor(reference, self._settings, None, recorder)

    def _store_all(self) -> None:
        self._stored_at = time.monotonic()
        for watched in self._watched.values():
            self._store(watched)

    def _store(self, watched: _Watched, *, must: bool = False) -> None:
        """Store new readings and the state in one transaction; on an outage keep them for later, unless `must`."""
        if not watched.dirty and not must:
            return
        record, monitor = watched.version.record, watched.monitor
        try:
            with self._registry.writing() as session:
                for reading in watched.unstored:
                    readings.add(
                        session,
                        adapter=record.adapter,
                        version=record.number,
                        window_n=reading.n,
                        statistics=_summary(reading),
                        cells=reading.window.cells,
                        alarm=reading.alarm,
                    )
                kept = readings.get_state(session, record.adapter, record.number)
                if watched.latched and kept is not None and not kept.alarm_active:
                    monitor.acknowledge()
                readings.put_state(
                    session, record.adapter, record.number, state=monitor.to_json(), alarm_active=monitor.alarm_active
                )
        except RegistryError as error:
            if must:
                raise
            log.error("reading_not_stored", version=record.name, error=type(error).__name__)
            # An outage of hours must not fill the memory; the newest readings matter most.
            del watched.unstored[:-100]
            return
        watched.unstored.clear()
        watched.dirty, watched.latched = False, monitor.alarm_active


def _summary(reading: WindowReading) -> dict[str, Any]:
    """A reading as it is stored, with its two headline figures first."""
    return {
        "novelty_rate": reading.statistic("novelty").value,
        "total_variation": reading.statistic("occupancy").effect,  # above what chance alone gives
        **reading.to_json(),
    }
