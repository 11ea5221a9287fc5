"""Drift on the side: one thread gives every served vector to the monitor of the version that made it.

Serving only ever puts vectors into a bounded queue, without waking the thread; what does not fit is counted and
dropped. Busy traffic is sampled: a search of the reference costs as much as a text does, and a few hundred vectors a
second fill a window in a second or two. All monitors belong to the thread, so they need no locks. Readings and the
monitors' states, the latched alarm among them, go to the registry, and a restart resumes from there. While the database
is away, monitors go on and their states are stored later.

Of one request only a random few are evidence for the alarm: texts that arrive together
are seldom independent, and a corpus that is indexed in the order of its labels would look like drift.
"""

import contextlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.evaluate import MonitorSettings
from monitoring.metrics import Metrics
from monitoring.monitor import Monitor
from registry import readings
from registry.registry import Registry
from registry.versions import Version
from service.allowance import Allowance
from service.errors import Problem
from service.snapshot import LoadedVersion
from service.watched import Watched

log = structlog.get_logger()

T = TypeVar("T")

# Served vectors are scored together, those of so many seconds: one at a time, a search of the reference is bound by
# reading its index.
GATHER_SECONDS = 0.25
GATHER_VECTORS = 512
# What the monitor takes at once after quieter times, however low the rate.
BURST = 1024
# A state that changed without completing a window is stored after this many seconds.
STORE_SECONDS = 5.0
# Versions no longer live whose last state the registry has not taken; beyond it the oldest is given up.
LEAVING = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """Vectors (n, d) of one request, made by a version."""

    version: LoadedVersion
    vectors: NDArray[np.float32]


_Work: TypeAlias = Callable[[], None] | _Served | None


class Watch:
    """The thread, its queue and the monitors.

    Args:
        limit: Most vectors that may wait.
        rate: Vectors a second that are taken of busy traffic.
        per_request: Most vectors of one request that are evidence.
        keep: Readings the registry keeps of a version.
        seed: Seed of the choice of evidence.
    """

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        settings: MonitorSettings,
        *,
        limit: int,
        rate: float,
        per_request: int,
        keep: int,
        seed: int = 0,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._settings = settings
        self._limit = limit
        self._per_request = per_request
        self._keep = keep
        self._seed = seed
        self._requests = 0
        self._waiting = 0
        self._count = threading.Lock()
        self._allowance = Allowance(rate, BURST)
        self._sampled = np.random.default_rng((seed, 1))
        self._items: deque[_Work] = deque()
        self._asked = threading.Event()  # set when there is more to do than to look at vectors
        self._watched: dict[str, Watched] = {}
        self._leaving: OrderedDict[str, Watched] = OrderedDict()
        self._resting: dict[str, str] = {}  # adapters asleep -> digest of the version whose alarm is shown
        self._stored_at = time.monotonic()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="driftline-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, store every state and end the thread."""
        if self._thread.ident is not None:
            self._put(None)
            self._thread.join(timeout=20)

    @property
    def alive(self) -> bool:
        """Whether the thread runs. How long it takes is no question of life: it waits for the database."""
        return self._thread.is_alive()

    def offer(self, version: LoadedVersion, vectors: NDArray[np.float32]) -> bool:
        """Hand over the vectors (n, d) of one request, made by a version; False when some were left out.

        Those of busy traffic are a random part; all are left out while too many wait.
        """
        count = len(vectors)
        skipped = self._metrics.skipped_observations.labels
        with self._count:
            if self._waiting + count > self._limit:
                skipped(version.record.adapter, "behind").inc(count)
                return False
            taken = self._allowance.take(count)
            self._waiting += taken
        if taken:
            chosen = vectors
            if taken < count:
                chosen = vectors[np.sort(self._sampled.choice(count, taken, replace=False))]
            self._items.append(_Served(version, chosen))
        if taken < count:
            skipped(version.record.adapter, "sampled").inc(count - taken)
        return taken == count

    def follow(self, live: Mapping[str, LoadedVersion], asleep: Mapping[str, Version] | None = None) -> None:
        """Watch these versions, one an adapter, from now on; called whenever the catalog changes.

        Args:
            asleep: Live versions that are not in memory; their alarms stay in the metrics.
        """
        chosen, resting = dict(live), dict(asleep or {})
        self._put(lambda: self._follow(chosen))
        self._put(lambda: self._rest(resting))

    def ask(self, question: Callable[[Mapping[str, Monitor]], T]) -> "Future[T]":
        """Run a question on the thread with the monitors by adapter name; the future holds the answer.

        A future that is cancelled before its turn is never run.
        """
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(question({name: w.monitor for name, w in self._watched.items()}))
            except BaseException as error:  # noqa: BLE001  it belongs to whoever asked
                answer.set_exception(error)

        self._put(run)
        return answer

    def acknowledge(self, adapter: str, by: str) -> "Future[bool]":
        """Release an adapter's latched alarm, in memory and in the registry; the future says whether there was one."""

        def release(_: Mapping[str, Monitor]) -> bool:
            watched = self._watched.get(adapter)
            if watched is None:
                raise Problem(409, "The adapter has no live version that is watched.", code="not_watched")
            return watched.acknowledge(by)

        return self.ask(release)

    def _run(self) -> None:
        while not self._ending:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001  the thread must outlive whatever happens to it
                with contextlib.suppress(Exception):
                    log.error("drift_monitor_failed", error=type(error).__name__)

    def _put(self, work: Callable[[], None] | None) -> None:
        """Have the thread do something after what it was given before; None ends it."""
        self._items.append(work)
        self._asked.set()

    def _turn(self) -> None:
        """Wait for work or for vectors to gather, then do all there is; store every state when it is time."""
        self._asked.wait(GATHER_SECONDS)
        self._asked.clear()
        while self._items and not self._ending:
            work = self._items.popleft()
            if isinstance(work, _Served):
                self._observe(self._gathered(work))
            elif work is None:
                self._ending = True
            else:
                work()
        if self._ending or time.monotonic() - self._stored_at > STORE_SECONDS:
            self._store_all()

    def _gathered(self, first: _Served) -> list[_Served]:
        """What was served until now, up to other work: scored together, it reads the reference's index once."""
        served = [first]
        count = len(first.vectors)
        while self._items and count < GATHER_VECTORS:
            following = self._items[0]
            if not isinstance(following, _Served):
                break
            served.append(following)
            self._items.popleft()
            count += len(following.vectors)
        return served

    def _observe(self, served: list[_Served]) -> None:
        with self._count:
            self._waiting -= sum(len(one.vectors) for one in served)
        by_version: dict[str, list[_Served]] = {}
        for one in served:
            by_version.setdefault(one.version.record.digest, []).append(one)
        for digest, requests in by_version.items():
            watched = self._watched.get(requests[0].version.record.adapter)
            if watched is None or watched.version.record.digest != digest:
                continue  # another version is live by now: these vectors say nothing about it
            evidence = [self._evidence(len(one.vectors)) for one in requests]
            watched.observe(np.concatenate([one.vectors for one in requests]), np.concatenate(evidence))
            if watched.has_news:
                watched.store()

    def _evidence(self, count: int) -> NDArray[np.bool_]:
        """A mask (count,) of one request's vectors: all of them, or `per_request` chosen at random."""
        self._requests += 1
        if count <= self._per_request:
            return np.ones(count, dtype=np.bool_)
        mask = np.zeros(count, dtype=np.bool_)
        mask[np.random.default_rng((self._seed, self._requests)).choice(count, self._per_request, replace=False)] = True
        return mask

    def _follow(self, live: Mapping[str, LoadedVersion]) -> None:
        for adapter in self._watched.keys() - live.keys():
            self._leave(adapter)
        for adapter, version in live.items():
            try:
                self._follow_one(adapter, version)
            except Exception as error:  # noqa: BLE001  the other adapters are watched all the same
                log.error("drift_monitor_not_started", version=version.record.name, error=type(error).__name__)

    def _follow_one(self, adapter: str, version: LoadedVersion) -> None:
        before = self._watched.get(adapter)
        if before is not None and before.version.record.digest == version.record.digest:
            before.look()  # what changed may be an alarm, raised or acknowledged elsewhere
            return
        if before is not None:
            self._leave(adapter)
        if version.reference is None:
            self._metrics.alarm_active.labels(adapter).set(0)  # the series is there for every adapter that serves
            return
        watched = self._leaving.pop(version.record.digest, None)
        if watched is None:
            watched = Watched(self._registry, self._metrics, self._settings, version, keep=self._keep)
        else:
            watched.reopen()  # rolled back to before the registry took its state: it knows more than the registry
        self._watched[adapter] = watched

    def _rest(self, asleep: Mapping[str, Version]) -> None:
        """Show the stored alarm of each adapter that fell asleep since the last change, or was so at the start."""
        for adapter, version in asleep.items():
            if self._resting.get(adapter) == version.digest:
                continue
            with self._registry.reading() as session:
                kept = readings.get_state(session, adapter, version.number)
            self._metrics.alarm_active.labels(adapter).set(float(kept is not None and kept.alarm_active))
        self._resting = {adapter: version.digest for adapter, version in asleep.items()}

    def _leave(self, adapter: str) -> None:
        """Watch an adapter's version no longer; what the registry does not take now is offered again later."""
        watched = self._watched.pop(adapter)
        watched.close()
        if not watched.store():
            self._leaving[watched.version.record.digest] = watched
            while len(self._leaving) > LEAVING:
                self._leaving.popitem(last=False)

    def _store_all(self) -> None:
        self._stored_at = time.monotonic()
        for digest, watched in list(self._leaving.items()):
            if not watched.store():
                return  # the registry is away for the others too: each would only wait as long
            del self._leaving[digest]
        for watched in self._watched.values():
            if not watched.store():
                return
