"""Drift on the side: one thread takes what was served, scores what of it is evidence, and pushes it to the registry.

Serving only ever puts a request's vectors into a bounded queue, without waking the thread; what does not fit is counted
and dropped. What the thread takes is thinned (see `thinning`), sampled where traffic is busier than its rate, scored
together, and added to counts that go to the registry at least once a second: the monitor's state there is shared by all
services that watch the version, see `watched`. All of it belongs to the thread, so it needs no locks. While the
database is away, evidence adds up here.
"""

import contextlib
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from monitoring.alarms import Confirmation
from monitoring.metrics import Metrics
from monitoring.monitor_settings import MonitorSettings
from monitoring.two_sample import FEWEST, confirm
from registry import readings
from registry.errors import RegistryError
from registry.registry import Registry
from registry.versions import Version
from service.allowance import Allowance
from service.aside import Aside
from service.errors import Problem
from service.origin import NOWHERE, Origin
from service.snapshot import LoadedVersion
from service.watched import Watched

log = structlog.get_logger()

T = TypeVar("T")

# Served vectors are scored together, those of so many seconds: one at a time, a search of the reference is bound by
# reading its index.
GATHER_SECONDS: Final = 0.25
GATHER_VECTORS: Final = 512
# Evidence goes to the registry this long after the first of it was scored, or as soon as there is so much.
PUSH_SECONDS: Final = 0.75
PUSH_VECTORS: Final = 256
# Pushing takes at most one part in so many of the time: where the registry is slow or away, it is asked less often.
PUSH_PAUSE: Final = 4.0
# What the monitor takes at once after quieter times, however low the rate.
BURST: Final = 1024
# How often it is looked whether other services moved the states of monitors that have nothing to push.
LOOK_SECONDS: Final = 2.0
# Versions no longer live whose last evidence the registry has not taken; beyond it the oldest is given up.
LEAVING: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class _Served:
    """Vectors (n, d) of one request, made by a version, with a digest of each text."""

    version: LoadedVersion
    vectors: NDArray[np.float32]
    keys: Sequence[bytes]
    origin: Origin


_Work: TypeAlias = Callable[[], None] | _Served | None


class Watch:
    """The thread, its queue and the watched versions.

    Args:
        limit: Most vectors that may wait.
        rate: Vectors a second that are taken of busy traffic.
        per_request: Most vectors of one request that are evidence, chosen at random.
        per_session: Most vectors of one session that are evidence in a minute.
        keep: Readings the registry keeps of a version.
        seed: Seed of the choices.
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
        per_session: int,
        keep: int,
        seed: int | None = None,
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._settings = settings
        self._limit = limit
        self._per_request = per_request
        self._per_session = per_session
        self._keep = keep
        # One of the two belongs to the callers of `offer`, the other to the thread; their difference is what waits.
        self._offered = 0
        self._taken = 0
        self._random = random.Random(seed)
        self._allowance = Allowance(rate, BURST)
        self._sampling = np.random.default_rng(seed)
        self._items: deque[_Work] = deque()
        self._asked = threading.Event()  # set when there is more to do than to look at vectors
        self._watched: dict[str, Watched] = {}
        self._leaving: OrderedDict[str, Watched] = OrderedDict()
        self._resting: dict[str, str] = {}  # adapters asleep -> digest of the version whose alarm is shown
        self._aside = Aside(self._put)
        self._push_at = 0.0
        self._look_at = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="driftline-watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Score what waits, push all evidence and end the thread."""
        if self._thread.ident is not None:
            self._put(None)
            self._thread.join(timeout=20)

    @property
    def alive(self) -> bool:
        """Whether the thread runs. How long it takes is no question of life: it waits for the database."""
        return self._thread.is_alive()

    def offer(
        self, version: LoadedVersion, vectors: NDArray[np.float32], keys: Sequence[bytes], origin: Origin = NOWHERE
    ) -> bool:
        """Hand over the vectors (n, d) of one request, made by a version; False when all were left out.

        Of a large request a random part is taken. Not safe for concurrent use: the event loop calls it.

        Args:
            keys: A digest of each text, equal for equal texts.
            origin: Where the texts come from, as the request says.
        """
        count = len(vectors)
        if count > self._per_request:
            rows = sorted(self._random.sample(range(count), self._per_request))
            vectors, keys = vectors[rows], [keys[row] for row in rows]
            self._skipped(version, "request", count - len(rows))
            count = len(rows)
        if self._offered - self._taken + count > self._limit:
            self._skipped(version, "behind", count)
            return False
        self._offered += count
        self._items.append(_Served(version, vectors, keys, origin))
        return True

    def follow(self, live: Mapping[str, LoadedVersion], asleep: Mapping[str, Version] | None = None) -> None:
        """Watch these versions, one an adapter, from now on; called whenever the catalog changes.

        Args:
            asleep: Live versions that are not in memory; their alarms stay in the metrics.
        """
        chosen, resting = dict(live), dict(asleep or {})
        self._put(lambda: self._follow(chosen))
        self._put(lambda: self._rest(resting))

    def ask(self, question: Callable[[Mapping[str, Watched]], T]) -> "Future[T]":
        """Run a question on the thread with what is watched, by adapter name; the future holds the answer.

        A future that is cancelled before its turn is never run.
        """
        answer: Future[T] = Future()

        def run() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                answer.set_result(question(self._watched))
            except BaseException as error:  # noqa: BLE001  it belongs to whoever asked
                answer.set_exception(error)

        self._put(run)
        return answer

    def acknowledge(self, adapter: str, by: str) -> "Future[bool]":
        """Release an adapter's latched alarm for every service; the future says whether there was one."""

        def release(watched: Mapping[str, Watched]) -> bool:
            one = watched.get(adapter)
            if one is None:
                raise Problem(409, "The adapter has no live version that is watched.", code="not_watched")
            return one.acknowledge(by)

        return self.ask(release)

    def _skipped(self, version: LoadedVersion, reason: str, count: int) -> None:
        if count:
            self._metrics.skipped_observations.labels(version.record.adapter, reason).inc(count)

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
        """Wait for work or for vectors to gather, do all there is, and push what has waited long enough."""
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
        now = time.monotonic()
        if self._ending or now >= self._push_at:
            self._push_all(now)
        if not self._ending and now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look()

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
        """Score what is evidence of these requests; of more than the allowance, a part drawn from all alike."""
        self._taken += sum(len(one.vectors) for one in served)
        evidence: list[tuple[Watched, _Served, int]] = []
        for one in served:
            watched = self._watched.get(one.version.record.adapter)
            if watched is None or not _same(watched.version, one.version):
                continue  # another version is live by now: these vectors say nothing about it
            rows, repeated, beyond = watched.thinning.take(one.keys, one.origin.session)
            self._skipped(one.version, "duplicate", repeated)
            self._skipped(one.version, "session", beyond)
            evidence += [(watched, one, row) for row in rows]
        taken = self._allowance.take(len(evidence))
        if taken < len(evidence):
            chosen = set(self._sampling.choice(len(evidence), taken, replace=False).tolist())
            for place, (_, one, _) in enumerate(evidence):
                if place not in chosen:
                    self._skipped(one.version, "sampled", 1)
            evidence = [evidence[place] for place in sorted(chosen)]
        by_version: dict[int, list[tuple[Watched, _Served, int]]] = {}
        for each in evidence:
            by_version.setdefault(id(each[0]), []).append(each)
        for group in by_version.values():
            vectors = np.stack([one.vectors[row] for _, one, row in group])
            group[0][0].observe(vectors, [one.origin.segment for _, one, _ in group])

    def _push_all(self, now: float) -> None:
        """Push the evidence that has waited long enough, at the end all of it; an outage ends the attempt for all."""
        for digest, watched in list(self._leaving.items()):
            if not watched.push():
                break
            del self._leaving[digest]
        else:
            for watched in self._watched.values():
                due = watched.unstored >= PUSH_VECTORS or watched.waited(now) >= PUSH_SECONDS
                if not (self._ending or due):
                    continue
                if not watched.push():
                    break
                self._check(watched)
        self._push_at = time.monotonic() + PUSH_PAUSE * (time.monotonic() - now)

    def _check(self, watched: Watched) -> None:
        """Have a second look at an alarm that nobody has had yet, aside: it takes seconds of computing."""
        vectors = watched.doubt(FEWEST)
        if vectors is None:
            return

        def look() -> Confirmation | None:
            found = confirm(watched.reference, vectors)
            return None if found is None else Confirmation(found.auc, *found.auc_interval, found.knn_p)

        self._aside.run(look, lambda found: None if found is None else watched.confirm(found))

    def _look(self) -> None:
        """See which monitors other services have moved since this one last had their state."""
        if not self._watched:
            return
        try:
            with self._registry.reading() as session:
                changed = readings.last_changes(session)
        except RegistryError as error:
            log.warning("monitor_states_not_read", error=type(error).__name__)
            return
        for watched in self._watched.values():
            if changed.get((watched.version.record.adapter, watched.version.record.number)) != watched.seen_at:
                watched.look()

    def _follow(self, live: Mapping[str, LoadedVersion]) -> None:
        for adapter in self._watched.keys() - live.keys():
            self._leave(adapter)
        for adapter, version in live.items():
            try:
                self._follow_one(adapter, version)
            except Exception as error:  # noqa: BLE001  the other adapters are watched all the same
                log.error("drift_monitor_not_started", version=version.record.name, error=type(error).__name__)
        self._look()  # what changed may be an alarm, raised or acknowledged elsewhere

    def _follow_one(self, adapter: str, version: LoadedVersion) -> None:
        before = self._watched.get(adapter)
        if before is not None and _same(before.version, version):
            return
        if before is not None:
            self._leave(adapter)
        if version.reference is None:
            self._metrics.alarm_active.labels(adapter).set(0)  # the series is there for every adapter that serves
            return
        watched = self._leaving.pop(version.record.digest, None)
        if watched is None or not _same(watched.version, version):
            watched = Watched(
                self._registry,
                self._metrics,
                self._settings,
                version,
                keep=self._keep,
                per_session=self._per_session,
            )
        else:
            watched.reopen()  # rolled back to before the registry took its evidence
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
        if not watched.push():
            self._leaving[watched.version.record.digest] = watched
            while len(self._leaving) > LEAVING:
                self._leaving.popitem(last=False)


def _same(a: LoadedVersion, b: LoadedVersion) -> bool:
    """Whether two are one version that is held against one reference: that can be replaced while the version stays."""
    return a.record.digest == b.record.digest and a.record.reference == b.record.reference
