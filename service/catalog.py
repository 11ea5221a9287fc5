"""What is served now: backbones and adapter versions, as one immutable snapshot that is swapped whole.

A request resolves its model name once and keeps what it got, so one version answers it however often the live pointer
moves meanwhile. A change in the registry, whoever made it, is seen by polling the newest event's id. A version is
loaded and proven on its probes in a thread before the snapshot points to it; one that cannot be loaded leaves the
version before it serving, and is reported. While the database is away the last snapshot goes on serving.

At most so many adapters have their live version in memory, and a start loads them for a few seconds only; the one that
was asked for the longest time ago is unloaded for another and loaded again when it is asked for, in a thread, while
everything else is served.
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from encoder.encoder import Encoder
from monitoring.reference import Reference
from registry import backbones, events, jobs, rollouts, versions
from registry.backbones import Backbone
from registry.errors import RegistryError
from registry.names import parse_model
from registry.registry import Registry
from registry.rollouts import Rollout
from registry.states import JobState
from registry.versions import Adapter, Version
from service.auth import Keyring
from service.embedder import Embedder
from service.errors import Problem, unknown_model
from service.loader import LOAD_ERRORS, Loader, unusable
from service.snapshot import AdapterView, LoadedBackbone, LoadedVersion, Snapshot, Target
from service.threads import Pool

log = structlog.get_logger()

# After a version failed to load it is tried again at most this often, in seconds.
RETRY_SECONDS = 15.0

# At the start adapters are loaded for so many seconds before the service is ready; the others begin asleep.
START_SECONDS = 10.0

# References of versions that are not live, kept for /v1/neighbors: each may take 150 MB.
REFERENCES = 2


@dataclass(slots=True)
class _Loaded:
    """What `_read` found in the registry, before embedders are started on the event loop."""

    latest: int
    backbones: list[Backbone]
    encoders: dict[str, Encoder]
    adapters: dict[str, AdapterView]
    faults: list[Version]
    jobs: Counter[str]
    rollouts: tuple[Rollout, ...]
    job_ends: dict[tuple[str, JobState], datetime]
    job_recoveries: int
    fault: str | None = None


class Catalog:
    """Keeps the snapshot in step with the registry."""

    def __init__(
        self,
        registry: Registry,
        keyring: Keyring,
        pool: Pool,
        *,
        open_encoder: Callable[[str], Encoder],
        make_embedder: Callable[[Encoder], Embedder],
        pinned_versions: int,
        resident_adapters: int,
        on_change: Callable[[Snapshot, Snapshot], None],
    ) -> None:
        self.registry = registry
        self.snapshot = Snapshot()
        self.registry_reachable = True
        self.loaded_once = False
        self.fault: str | None = None  # why a backbone is missing, if one could not be loaded
        self._keyring = keyring
        self._pool = pool
        self._open_encoder = open_encoder
        self._make_embedder = make_embedder
        self._on_change = on_change
        self._pinned: OrderedDict[str, LoadedVersion] = OrderedDict()
        self._pinned_limit = pinned_versions
        self._resident_limit = resident_adapters
        self._used: dict[str, float] = {}  # adapter -> when it was last asked for, monotonic
        self._opened: dict[str, Encoder] = {}  # backbones that are being loaded
        self._loader = Loader(registry, pool, self._encoder_of)
        self._references: OrderedDict[str, Reference | None] = OrderedDict()
        self._latest = -1
        self._reported: set[str] = set()
        self._retry_at = float("inf")
        self._refreshing = asyncio.Lock()
        self._catching_up: asyncio.Task[None] | None = None

    async def follow(self, seconds: float) -> None:
        """Refresh for ever, every `seconds`; a registry that cannot be reached is reported and tried again."""
        while True:
            try:
                await self.refresh()
                self.registry_reachable = True
            except Exception as error:  # noqa: BLE001  whatever the database raises, serving goes on
                if self.registry_reachable:
                    log.error("registry_unreachable", error=type(error).__name__)
                self.registry_reachable = False
            await asyncio.sleep(seconds)

    async def refresh(self, *, force: bool = False) -> Snapshot:
        """Bring the snapshot up to date with the registry and return it; cheap when nothing changed."""
        async with self._refreshing:
            loop = asyncio.get_running_loop()
            found = await self._pool(self._read, force or loop.time() >= self._retry_at)
            if found is not None:
                self._swap(found, loop.time())
                await self._pool(self._report, found.faults)
            return self.snapshot

    async def catch_up(self) -> None:
        """See whatever was written before this call, or go on as before when the registry is away.

        Before a name is refused as unknown: who has just been told of a new version may use it at once. Callers that
        come while a look has not begun share it, so that a flood of unknown names costs one look at a time.
        """
        if self._catching_up is None:
            self._catching_up = asyncio.create_task(self._look_again())
        await asyncio.shield(self._catching_up)

    async def _look_again(self) -> None:
        async with self._refreshing:
            self._catching_up = None  # who asks from now on needs a look that begins later
        try:
            await self.refresh()
        except Exception as error:  # noqa: BLE001  whatever the database raises, serving goes on
            log.debug("catch_up_failed", error=type(error).__name__)

    def _swap(self, found: _Loaded, now: float) -> None:
        """Point to a new snapshot made of what was read, keeping every backbone that is the same."""
        loaded: dict[str, LoadedBackbone] = {}
        for record in found.backbones:
            old = self.snapshot.backbones.get(record.name)
            if old is not None and old.record.digest == record.digest:
                loaded[record.name] = old
            elif record.digest in found.encoders:
                encoder = found.encoders[record.digest]
                embedder = self._make_embedder(encoder)
                embedder.start()
                loaded[record.name] = LoadedBackbone(record, encoder, embedder)
        adapters = self._within_limit({name: self._awake(view) for name, view in found.adapters.items()})
        snapshot = Snapshot(loaded, adapters, found.jobs, found.rollouts, found.job_ends, found.job_recoveries)
        before, self.snapshot = self.snapshot, snapshot
        for digest, version in list(self._pinned.items()):  # what was promoted has handed its reference on by now
            self._pinned[digest] = replace(version, reference=None)
        self._latest = found.latest
        self.loaded_once = True
        self.fault = found.fault
        retry = bool(found.faults) or found.fault is not None
        self._retry_at = now + RETRY_SECONDS if retry else float("inf")
        self._on_change(before, self.snapshot)

    def resolve(self, model: str) -> Target | None:
        """What a model name means now, or None when it names a version that must be loaded first (see `pin`).

        Raises:
            Problem: 404 for a name that is not served, 503 while nothing is loaded or the live version cannot be.
        """
        snapshot = self.snapshot
        if (backbone := snapshot.backbones.get(model)) is not None:
            return Target(backbone, None)
        if not snapshot.backbones:
            raise Problem(503, "No model is loaded yet.", code="not_ready")
        view, number = self._adapter(model)
        self._used[view.record.name] = time.monotonic()
        if number is None:
            if view.live is not None:
                return self._target(view.live)
            if view.asleep:
                return None
            if view.fault is not None:
                raise Problem(503, "The live version of this adapter cannot be loaded.", code="version_unusable")
            raise Problem(404, "The adapter has no live version yet.", code="model_not_found", param="model")
        if view.live is not None and view.live.record.number == number:
            return self._target(view.live)
        record = view.version(number)
        if record is None:
            raise unknown_model(model)
        pinned = self._pinned.get(record.digest)
        if pinned is None:
            return None
        self._pinned.move_to_end(record.digest)
        return self._target(pinned)

    async def load(self, model: str) -> Target:
        """As `resolve`, loading and proving the version first where needed; other requests are served meanwhile.

        Raises:
            Problem: as `resolve`, and 409 when the version cannot be loaded.
        """
        view, number = self._adapter(model)
        live = number is None
        record = view.version(view.record.live if number is None else number)
        if record is None:
            raise unknown_model(model)
        try:
            version = await self._loader.once(
                (record.digest, live), lambda: self._loader.version(record, reference=live)
            )
        except Problem as refused:
            if live:  # not the caller's conflict: nothing can answer under this name now
                raise Problem(503, refused.message, code=refused.code) from refused
            raise
        if live:
            self._wake(version)
        else:
            self.keep(version)
        return self._target(version)

    async def reference(self, version: LoadedVersion) -> Reference | None:
        """The reference of a version, loaded where the version does not carry it; None when it has none.

        Raises:
            Problem: 409 when it cannot be loaded.
        """
        record = version.record
        if version.reference is not None or record.reference is None:
            return version.reference
        found = self._references.pop(record.reference, None)
        if found is None:
            dimension = version.adapter.manifest.dimension
            try:
                found = await self._loader.once(record.reference, lambda: self._loader.reference(record, dimension))
            except LOAD_ERRORS as error:
                raise unusable(record, error) from error
        self._references[record.reference] = found
        while len(self._references) > REFERENCES:
            self._references.popitem(last=False)
        return found

    def prove(self, record: Version, *, reference: bool = False) -> LoadedVersion:
        """Load a version and prove it on its probes, whatever is being served (blocking).

        Args:
            reference: Load its reference too, as what is to go live needs.

        Raises:
            Problem: 409 when it cannot be loaded.
        """
        return self._loader.version(record, reference=reference)

    def keep(self, version: LoadedVersion) -> None:
        """Keep a loaded version at hand; the least recently used one beyond the limit goes."""
        self._pinned[version.record.digest] = version
        while len(self._pinned) > self._pinned_limit:
            self._pinned.popitem(last=False)

    def _wake(self, version: LoadedVersion) -> None:
        """Point a sleeping adapter to its live version, now loaded, unless the pointer moved meanwhile."""
        name = version.record.adapter
        view = self.snapshot.adapters.get(name)
        if view is None or not view.asleep or not _serves(view, version):
            return
        adapters = {**self.snapshot.adapters, name: replace(view, live=version, asleep=False)}
        before, self.snapshot = self.snapshot, replace(self.snapshot, adapters=self._within_limit(adapters))
        self._on_change(before, self.snapshot)

    def _awake(self, view: AdapterView) -> AdapterView:
        """The view as it was read, with the live version that was loaded since the reading began."""
        now = self.snapshot.adapters.get(view.record.name)
        if view.asleep and now is not None and now.live is not None and _serves(view, now.live):
            return replace(view, live=now.live, asleep=False)
        return view

    def _within_limit(self, adapters: dict[str, AdapterView]) -> dict[str, AdapterView]:
        """The adapters, with those asleep that were asked for the longest time ago and are too many."""
        awake = [name for name, view in adapters.items() if view.live is not None]
        awake.sort(key=lambda name: self._used.get(name, 0.0))
        for name in awake[: max(0, len(awake) - self._resident_limit)]:
            # A version that was kept because its successor cannot be loaded would not come back: it stays awake.
            if adapters[name].fault is None:
                adapters[name] = replace(adapters[name], live=None, asleep=True)
        return adapters

    def _encoder_of(self, digest: str) -> Encoder | None:
        backbone = self.snapshot.backbone_of(digest)
        return backbone.encoder if backbone is not None else self._opened.get(digest)

    def stop(self) -> None:
        """Stop every embedder's threads."""
        for backbone in self.snapshot.backbones.values():
            backbone.embedder.stop()

    def _adapter(self, model: str) -> tuple[AdapterView, int | None]:
        try:
            name, number = parse_model(model)
        except (RegistryError, ValueError):
            raise unknown_model(model) from None
        view = self.snapshot.adapters.get(name)
        if view is None:
            raise unknown_model(model)
        return view, number

    def _target(self, version: LoadedVersion) -> Target:
        backbone = self.snapshot.backbone_of(version.record.backbone)
        if backbone is None:
            raise Problem(503, "The backbone of this adapter is not loaded.", code="not_ready")
        return Target(backbone, version)

    def _read(self, force: bool) -> _Loaded | None:
        """Read the registry and load what is new (blocking, in a thread); None when nothing changed."""
        with self.registry.reading() as session:
            latest = events.latest_id(session)
            if latest == self._latest and not force:
                return None
            records = backbones.all(session)
            adapters = [(a, tuple(versions.history(session, a.name))) for a in versions.all_adapters(session)]
            waiting = Counter(job.state.value for job in jobs.unfinished(session))
            active = tuple(rollouts.all_active(session))
            ends, recoveries = jobs.last_ends(session), jobs.recoveries(session)
        self._keyring.load(self.registry)
        old = self.snapshot
        found = _Loaded(latest, records, {}, {}, [], waiting, active, ends, recoveries)
        for record in records:
            if old.backbone_of(record.digest) is None:
                try:
                    found.encoders[record.digest] = self._open_encoder(record.digest)
                except LOAD_ERRORS as error:
                    log.error("backbone_unusable", backbone=record.name, error=str(error))
                    found.fault = str(error)
        self._opened = found.encoders
        room = self._resident_limit - sum(view.live is not None for view in old.adapters.values())
        until = math.inf if self.loaded_once else time.monotonic() + START_SECONDS
        for adapter, history in adapters:
            before = old.adapters.get(adapter.name)
            fits = room > 0 and time.monotonic() < until
            view = found.adapters[adapter.name] = self._view(adapter, history, before, found, room=fits)
            room -= view.live is not None and (before is None or before.live is None)
        return found

    def _view(
        self, adapter: Adapter, history: tuple[Version, ...], old: AdapterView | None, found: _Loaded, *, room: bool
    ) -> AdapterView:
        wanted = next((v for v in history if v.number == adapter.live), None)
        before = old.live if old is not None else None
        if wanted is None:
            return AdapterView(adapter, history, None)
        if before is None and not room:
            return AdapterView(adapter, history, None, asleep=True)
        loaded = before if before is not None and before.record.digest == wanted.digest else None
        loaded = loaded or self._pinned.get(wanted.digest)
        try:
            # What is loaded stays; the record is renewed, since its state and promotion time have changed.
            module = loaded.adapter if loaded is not None else self._loader.adapter(wanted)
            # A reference that was rebuilt takes the place of the one that is loaded.
            kept = loaded is not None and loaded.record.reference == wanted.reference
            reference = loaded.reference if loaded is not None and kept else None
            if reference is None:
                reference = self._loader.reference(wanted, module.manifest.dimension)
            return AdapterView(adapter, history, LoadedVersion(wanted, module, reference))
        except LOAD_ERRORS as error:
            log.error("version_unusable", version=wanted.name, error=str(error))
            found.faults.append(wanted)
            return AdapterView(adapter, history, before, f"{wanted.name} cannot be loaded: {error}")

    def _report(self, faults: list[Version]) -> None:
        """Record one event for each version that could not be loaded, once a process."""
        for version in faults:
            if version.digest in self._reported:
                continue
            with self.registry.writing() as session:
                events.record(session, "version.unusable", version.name, "service")
            self._reported.add(version.digest)


def _serves(view: AdapterView, version: LoadedVersion) -> bool:
    """Whether a loaded version is the live one of the view, with the reference that counts."""
    record = view.version(view.record.live)
    loaded = version.record
    return record is not None and (record.digest, record.reference) == (loaded.digest, loaded.reference)
