"""Rollouts beside serving: candidates are loaded and proven, answers are mirrored after they have gone, rules decide.

What a caller waits for is one look into a dictionary. Everything else happens behind a bounded queue that drops what
does not fit: the other version computes a sample of the answered requests, both versions look them up in their own
references, and what that shows is added to counts that the registry keeps. A head costs a matrix product on base
vectors that are at hand; a LoRA is run on a queue that is empty, or not at all.

Everything here belongs to the event loop; vectors are compared and the registry is written in threads.
"""

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import structlog

from monitoring.disagreement import Comparer
from monitoring.errors import MonitoringError
from monitoring.metrics import Metrics
from monitoring.rollout_metrics import RolloutRecorder
from monitoring.rollout_rules import Rules
from monitoring.rollouts import Standing, settle
from monitoring.tally import Tally
from registry import rollouts
from registry.errors import RegistryError, Unavailable
from registry.registry import Registry
from registry.rollouts import Rollout, RolloutState
from service.allowance import Allowance
from service.canary import Canary
from service.catalog import Catalog
from service.errors import Overloaded, Problem
from service.rollout_work import Answered, Mirrored, measure
from service.snapshot import LoadedVersion, Snapshot, Target
from service.threads import Threads
from service.tracing import traced_comparison

if TYPE_CHECKING:  # compute needs the state, which needs this file
    from service.compute import Computed

log = structlog.get_logger()

# Answers are compared together, those of so many seconds: one at a time, a search is bound by reading its index.
GATHER_SECONDS = 0.25
# Texts of one request that are compared, chosen at random.
PER_REQUEST = 16
# Texts compared in one go in a thread.
CHUNK_TEXTS = 256
# Counts that did not change are looked at this often all the same: the time may be over.
IDLE_SECONDS = 5.0
RETRY_SECONDS = 5.0
# How long the other version may take for one mirrored request that needs the backbone.
MIRROR_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class _Followed:
    """One active rollout in this process; `candidate` is set once it is loaded and proven."""

    rollout: Rollout
    rules: Rules
    recorder: RolloutRecorder
    candidate: LoadedVersion | None = None
    comparer: Comparer | None = None
    tally: Tally = field(default_factory=Tally)
    stored: Tally | None = None
    waiting: deque[Answered] = field(default_factory=deque)
    loading: asyncio.Task[None] | None = None
    retry_at: float = 0.0
    settled_at: float = 0.0
    over: bool = False
    from_start: bool = False


class Rollouts:
    """All active rollouts of this process.

    Args:
        rate: Texts a second that are compared of busy traffic.
        limit: Most texts that may wait to be compared.
        store_seconds: How often changed counts are stored and judged.
        seed: Seed of the choice of requests and texts.

    `canaries` has, by adapter, what reroutes requests for its name; replaced as a whole.
    """

    def __init__(
        self,
        registry: Registry,
        catalog: Catalog,
        metrics: Metrics,
        threads: Threads,
        *,
        rate: float,
        limit: int,
        store_seconds: float,
        seed: int | None = None,
    ) -> None:
        self.canaries: Mapping[str, Canary] = {}
        self._registry = registry
        self._catalog = catalog
        self._metrics = metrics
        self._threads = threads
        self._limit = limit
        self._store_seconds = store_seconds
        self._random = np.random.default_rng(seed)
        self._allowance = Allowance(rate, limit)
        self._replica = secrets.token_hex(16)
        self._followed: dict[str, _Followed] = {}
        self._snapshot = Snapshot()
        self._waiting = 0
        self._began = False

    @property
    def starting(self) -> bool:
        """Whether a canary that was there when this process began is still to be loaded.

        Until then its callers would get the live version here and the candidate from another process.
        """
        return any(
            followed.from_start and followed.candidate is None and followed.loading is not None and not followed.over
            for followed in self._followed.values()
        )

    def follow(self, snapshot: Snapshot) -> None:
        """Take up the rollouts of a new snapshot and leave those that have ended; call on the event loop."""
        self._snapshot = snapshot
        wanted = {rollout.adapter: rollout for rollout in snapshot.rollouts}
        for adapter, followed in list(self._followed.items()):
            found = wanted.get(adapter)
            if found is None or found.id != followed.rollout.id:
                self._leave(adapter)
        for adapter, rollout in wanted.items():
            followed_now = self._followed.get(adapter)
            if followed_now is not None:
                # Read before this process's own step was written, a snapshot may be behind: nothing goes back.
                if rollout.stage >= followed_now.rollout.stage and not followed_now.over:
                    followed_now.rollout = rollout
                followed_now.settled_at = 0.0  # what is live may have changed: it is looked at next
                continue
            recorder = RolloutRecorder(self._metrics, adapter, rollout.name)
            recorder.stands(rollout.state.value, 0.0)
            try:
                rules = Rules.from_mapping(rollout.rules)
            except MonitoringError as error:
                log.error("rollout_rules_unusable", version=rollout.name, error=str(error))
                recorder.close()
                continue
            followed_now = self._followed[adapter] = _Followed(rollout, rules, recorder)
            followed_now.from_start = not self._began and rules.mode == "canary"
            followed_now.loading = asyncio.create_task(self._load(followed_now))
        self._began = True
        self._point()

    def offer(self, computed: "Computed") -> None:
        """Hand over a request after its answer has gone; it is compared later, or dropped."""
        version = computed.target.version
        followed = self._followed.get(computed.target.family)
        if followed is None or version is None or followed.candidate is None:
            return
        by_candidate = version is followed.candidate
        if by_candidate:
            followed.tally += Tally(attempts=1, served=1)
            followed.recorder.served()
        elif version.record.number != followed.rollout.champion:
            return
        if self._random.random() >= followed.rules.sample:
            followed.recorder.skipped("sampled")
            return
        count = len(computed.texts)
        wanted = min(count, PER_REQUEST)
        if self._waiting + wanted > self._limit:
            followed.recorder.skipped("behind")
            return
        if self._allowance.take(wanted) < wanted:
            followed.recorder.skipped("sampled")
            return
        chosen = np.arange(count) if count == wanted else np.sort(self._random.choice(count, wanted, replace=False))
        self._waiting += wanted
        followed.waiting.append(
            Answered(
                by_candidate=by_candidate,
                texts=[computed.texts[row] for row in chosen],
                computed=computed.cost.vectors[chosen],
                vectors=computed.vectors[chosen],
                part=wanted / count,
                seconds=computed.seconds,
                inference=computed.cost.inference_seconds,
                whole=count == wanted and not computed.cost.cached,
                trace=computed.trace,
            )
        )

    def failed(self, target: Target) -> None:
        """A request failed that a candidate was to answer, and not through its caller's fault or overload."""
        followed = self._followed.get(target.family)
        if followed is not None and followed.candidate is not None and target.version is followed.candidate:
            followed.tally += Tally(attempts=1, failures=1)
            followed.recorder.failed()

    async def run(self) -> None:
        """Compare, store and judge for ever."""
        while True:
            await asyncio.sleep(GATHER_SECONDS)
            for followed in list(self._followed.values()):
                try:
                    await self._turn(followed)
                except Exception as error:  # noqa: BLE001  one rollout must not end the others, nor any of them serving
                    log.error("rollout_failed", version=followed.rollout.name, error=type(error).__name__)

    async def close(self) -> None:
        """Store what was counted and not stored yet; nothing is compared any more."""
        for followed in self._followed.values():
            if followed.loading is not None:
                followed.loading.cancel()
            if followed.candidate is not None and followed.tally != followed.stored:
                with contextlib.suppress(RegistryError, MonitoringError):
                    await self._settle(followed)

    async def _turn(self, followed: _Followed) -> None:
        now = time.monotonic()
        if followed.candidate is None:
            if followed.loading is None and now >= followed.retry_at:
                followed.loading = asyncio.create_task(self._load(followed))
            return
        while followed.waiting and not followed.over:
            await self._compare(followed, followed.candidate)
        pause = IDLE_SECONDS if followed.tally == followed.stored else self._store_seconds
        if not followed.over and now - followed.settled_at >= pause:
            try:
                await self._settle(followed)
            except RegistryError as error:
                log.warning("rollout_not_stored", version=followed.rollout.name, error=type(error).__name__)

    async def _compare(self, followed: _Followed, candidate: LoadedVersion) -> None:
        """Compare some of what waits, as much as is worth one look into the references."""
        taken: list[Answered] = []
        texts = 0
        while followed.waiting and texts < CHUNK_TEXTS:
            taken.append(followed.waiting.popleft())
            texts += len(taken[-1].texts)
        self._waiting -= texts
        view = self._snapshot.adapters.get(followed.rollout.adapter)
        live = view.live if view is not None else None
        if live is None or live.record.number != followed.rollout.champion:
            followed.recorder.skipped("asleep", len(taken))
            return
        if followed.comparer is None and live.reference is not None and candidate.reference is not None:
            followed.comparer = await self._threads.compare(Comparer, live.reference, candidate.reference)
        with traced_comparison((one.trace for one in taken), followed.rollout.name):
            mirrored = [one for answered in taken if (one := await self._mirror(followed, answered, live)) is not None]
            found = await self._threads.compare(
                measure, mirrored, live, candidate, followed.comparer, followed.rules.max_latency_ratio
            )
        followed.tally += found
        followed.recorder.compared(found.observations, found.failures)

    async def _mirror(self, followed: _Followed, answered: Answered, live: LoadedVersion) -> Mirrored | None:
        """What the backbone gives for a request under the version that did not answer it; None when it was left out."""
        backbone = self._snapshot.backbone_of(live.record.backbone)
        candidate = followed.candidate
        if backbone is None or candidate is None:
            return None
        server, other = (Target(backbone, version) for version in _in_turn(live, candidate, answered.by_candidate))
        if server.lora is None and other.lora is None:
            return Mirrored(answered, answered.computed, None)
        if backbone.embedder.batcher.waiting_tokens:
            followed.recorder.skipped("busy")
            return None
        try:
            run = await backbone.embedder.embed(answered.texts, truncate=True, lora=other.lora, deadline=MIRROR_SECONDS)
        except (Overloaded, Problem):
            followed.recorder.skipped("busy")
            return None
        except Exception as error:  # noqa: BLE001  whatever a version does, it is its failure and nobody else's
            log.warning("mirrored_request_failed", version=other.name, error=type(error).__name__)
            if not answered.by_candidate:
                followed.tally += Tally(attempts=1, failures=1)
                followed.recorder.failed()
            return None
        return Mirrored(answered, run.vectors, 0.0 if run.cached else run.inference_seconds)

    async def _settle(self, followed: _Followed) -> None:
        tally = followed.tally
        standing = await self._threads.registry(settle, self._registry, followed.rollout.id, self._replica, tally)
        followed.stored, followed.settled_at = tally, time.monotonic()
        before, followed.rollout = followed.rollout, standing.rollout
        self._show(followed, standing)
        if standing.rollout.state.finished:
            followed.over = True
            log.info("rollout_ended", version=standing.rollout.name, state=standing.rollout.state.value)
            if standing.rollout.state is RolloutState.PROMOTED and followed.candidate is not None:
                self._catalog.keep(followed.candidate)  # proven already: the switch need not load it again
        if standing.rollout.stage != before.stage or followed.over:
            self._point()

    def _show(self, followed: _Followed, standing: Standing) -> None:
        rollout = standing.rollout
        followed.recorder.stands(
            rollout.state.value, 0.0 if rollout.state.finished else standing.rules.share(rollout.stage)
        )
        for name, found in standing.judgement.bounds.items():
            if found.n:
                followed.recorder.bound(name, found.mean, found.lower, found.upper)

    async def _load(self, followed: _Followed) -> None:
        """Load and prove the candidate; where that cannot be, the rollout is stopped and the reason kept."""
        rollout = followed.rollout
        view = self._snapshot.adapters.get(rollout.adapter)
        record = view.version(rollout.version) if view is not None else None
        followed.retry_at = time.monotonic() + RETRY_SECONDS
        try:
            if record is None or self._snapshot.backbone_of(record.backbone) is None:
                return  # this process has no backbone, which says nothing about the candidate
            version = await self._threads.load(lambda: self._catalog.prove(record, reference=True))
        except Problem as refused:
            if isinstance(refused.__cause__, Unavailable):
                return  # the registry or the store is away; it is tried again
            await self._give_up(followed, refused.message)
            return
        except Exception as error:  # noqa: BLE001  it is tried again
            log.error("rollout_not_loaded", version=rollout.name, error=type(error).__name__)
            return
        finally:
            followed.loading = None
        if self._followed.get(rollout.adapter) is followed:
            followed.candidate = version
            self._point()

    async def _give_up(self, followed: _Followed, reason: str) -> None:
        rollout = followed.rollout

        def stop() -> Rollout:
            with self._registry.writing() as session:
                return rollouts.stop(session, rollout.id, reason, by="service")

        try:
            followed.rollout = await self._threads.registry(stop)
        except RegistryError as error:
            log.warning("rollout_not_stopped", version=rollout.name, error=type(error).__name__)
            return
        followed.over = True
        followed.recorder.stands(followed.rollout.state.value, 0.0)

    def _leave(self, adapter: str) -> None:
        followed = self._followed.pop(adapter)
        followed.over = True
        self._waiting -= sum(len(answered.texts) for answered in followed.waiting)
        followed.waiting.clear()
        followed.recorder.close()

    def _point(self) -> None:
        """Make the canaries anew: those whose candidate is loaded, at the share of their stage."""
        canaries = {}
        for adapter, followed in self._followed.items():
            share = followed.rules.share(followed.rollout.stage)
            view = self._snapshot.adapters.get(adapter)
            champion = view.version(followed.rollout.champion) if view is not None else None
            # A candidate that was promoted answers its callers until the snapshot points everybody to it.
            ended = followed.over and followed.rollout.state is not RolloutState.PROMOTED
            if share and not ended and followed.candidate is not None and champion is not None:
                salt = bytes.fromhex(followed.rollout.salt)
                canaries[adapter] = Canary(salt, share, followed.rules.unit, champion.digest, followed.candidate)
        self.canaries = canaries


def _in_turn(live: LoadedVersion, candidate: LoadedVersion, by_candidate: bool) -> tuple[LoadedVersion, LoadedVersion]:
    """The version that answered, and the other one."""
    return (candidate, live) if by_candidate else (live, candidate)
