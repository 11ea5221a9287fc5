"""The canary: every hour the serving runtime encodes the recorded probes once more, and a change of a number is told.

Traffic that drifts changes which texts come, never what a text's vector is. Where the same text gets another vector,
the cause is arithmetic: another library or driver, memory that fails, an artifact that was changed. They are compared
with the vectors recorded in the manifest, which were computed in float32. Coarser arithmetic differs from those on
every machine, by what was accepted when the backbone was loaded; there it is the process's own first answer.

A difference is a warning: an event, a metric, a word in /readyz. It does not make the service unready, since the
loading, and the readiness probe, judge whether vectors are good enough to be served.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from encoder.adapters import Head, probes_of
from encoder.encoder import Encoder
from encoder.lora import Lora
from encoder.probes import Probes
from encoder.runtime import Precision
from monitoring.metrics import Metrics
from registry import events
from registry.errors import RegistryError
from registry.registry import Registry
from service.snapshot import LoadedBackbone, LoadedVersion, Snapshot
from service.threads import Pool

log = structlog.get_logger()

Vectors = NDArray[np.float32]

LIMIT: Final = 1e-3
"""Largest difference of a component that is no warning, where the precision itself promises no less."""
BATCH_TOKENS: Final = 512
STARTING_SECONDS: Final = 0.5
"""How often a service that has loaded nothing yet is looked at."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one look found of a backbone or version.

    Attributes:
        name: Such as `banking@7`, or the backbone's.
        family: The adapter's or backbone's name: the metric's label.
        difference: Largest absolute difference of a component; infinite where the probes could not be computed.
        limit: Above it the difference is a warning.
    """

    name: str
    family: str
    difference: float
    limit: float

    @property
    def differs(self) -> bool:
        """Whether it is a warning."""
        return not self.difference <= self.limit


class ProbeWatch:
    """Looks at what is served, every `seconds`.

    Args:
        registry: Holds the recorded probes, and is told of differences.
        snapshot: Gives what is served now.
        pool: Threads that compute.
        seconds: Between two looks.
    """

    def __init__(
        self, registry: Registry, metrics: Metrics, snapshot: Callable[[], Snapshot], pool: Pool, *, seconds: float
    ) -> None:
        self._registry = registry
        self._metrics = metrics
        self._snapshot = snapshot
        self._pool = pool
        self._seconds = seconds
        self._first: dict[str, Vectors] = {}  # digest -> this process's own first answer
        self._found: dict[str, Found] = {}
        self._shown: dict[str, list[tuple[str, str, float]]] = {}
        self._looking = asyncio.Lock()
        self._told: set[str] = set()  # names of which the registry knows that they differ

    @property
    def warnings(self) -> dict[str, str]:
        """What differs now, by name, in words."""
        return {
            name: f"encodes its probes otherwise than before: largest difference {found.difference:.2e}"
            for name, found in self._found.items()
            if found.differs
        }

    async def run(self) -> None:
        """Look for ever; whatever goes wrong, the next look comes."""
        while True:
            try:
                found = await self.look()
            except Exception as error:  # noqa: BLE001  serving goes on, and so does the watch
                log.error("probe_watch_failed", error=type(error).__name__)
                found = True
            await asyncio.sleep(self._seconds if found else STARTING_SECONDS)

    async def look(self) -> bool:
        """Encode every recorded probe once and tell what differs; False while no backbone is loaded."""
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        snapshot = self._snapshot()
        looked = [await self._pool(self._backbone, backbone) for backbone in snapshot.backbones.values()]
        for view in snapshot.adapters.values():
            under = None if view.live is None else snapshot.backbone_of(view.live.record.backbone)
            if view.live is not None and under is not None:
                looked.append(await self._pool(self._version, view.live, under))
        served = {found.name: found for found in looked if found is not None}
        families = {found.family for found in served.values()}
        for family in {found.family for found in self._found.values()} - families:
            self._metrics.probe_difference.remove_by_labels({"adapter": family})
        self._found = served
        for found in served.values():
            self._metrics.probe_difference.labels(found.family).set(found.difference)
        await self._pool(self._tell)
        return bool(snapshot.backbones)

    def show(self, snapshot: Snapshot) -> None:
        """Write how much each live version overlaps with the one it was compared with when it was judged."""
        gauge = self._metrics.probe_overlap
        for name, view in snapshot.adapters.items():
            record = view.serving
            found = [] if record is None else _overlaps(record.metrics.get("versions"))
            if found == self._shown.get(name, []):
                continue
            gauge.remove_by_labels({"adapter": name})
            for k, other, value in found:
                gauge.labels(name, k, other).set(value)
            self._shown[name] = found

    def _backbone(self, backbone: LoadedBackbone) -> Found | None:
        encoder, name = backbone.encoder, backbone.record.name
        file = encoder.manifest.files["probes.json"]

        def measure() -> float:
            probes = Probes.from_bytes(self._registry.fetch(file.sha256))
            return self._texts(encoder, None, probes, backbone.record.digest)

        return self._measured(name, name, measure, max(LIMIT, encoder.batch_tolerance))

    def _version(self, version: LoadedVersion, backbone: LoadedBackbone) -> Found | None:
        record, adapter, encoder = version.record, version.adapter, backbone.encoder

        def measure() -> float:
            if isinstance(adapter, Lora):
                return self._texts(encoder, adapter, adapter.probes, record.digest)
            return _head(adapter, self._registry)

        # A head computes in float32 whatever the backbone does.
        limit = max(LIMIT, encoder.batch_tolerance) if isinstance(adapter, Lora) else LIMIT
        return self._measured(record.name, record.adapter, measure, limit)

    def _texts(self, encoder: Encoder, lora: Lora | None, probes: Probes, digest: str) -> float:
        """Texts through the runtime that serves, past the caches."""
        now = _encoded(encoder, lora, probes.texts)
        expected = probes.vectors
        if encoder.session.precision is not Precision.FP32:
            expected = self._first.setdefault(digest, now)
        return float(np.abs(now - expected).max())

    def _measured(self, name: str, family: str, measure: Callable[[], float], limit: float) -> Found | None:
        """What was found; what was found before, if anything, while the recorded probes cannot be read."""
        try:
            return Found(name, family, measure(), limit)
        except RegistryError as error:
            log.warning("probes_not_read", name=name, error=type(error).__name__)
            return self._found.get(name)
        except Exception as error:  # noqa: BLE001  the runtime raises bare exceptions of many kinds
            log.error("probes_not_encoded", name=name, error=type(error).__name__)
            return Found(name, family, float("inf"), limit)

    def _tell(self) -> None:
        """One event when a difference begins, and one when it ends; an outage is made up for at the next look."""
        for name, found in self._found.items():
            if found.differs == (name in self._told):
                continue
            kind = "probe.differs" if found.differs else "probe.agrees"
            (log.error if found.differs else log.info)(kind, name=name, difference=found.difference, limit=found.limit)
            # Infinity is no JSON.
            difference = found.difference if np.isfinite(found.difference) else None
            try:
                with self._registry.writing() as session:
                    events.record(session, kind, name, "service", {"difference": difference, "limit": found.limit})
            except RegistryError as error:
                log.warning("probe_event_not_stored", error=type(error).__name__)
                return
            (self._told.add if found.differs else self._told.discard)(name)


def _encoded(encoder: Encoder, lora: Lora | None, texts: Sequence[str]) -> Vectors:
    tokens = encoder.tokenizer.encode(list(texts), truncate=True)
    found = np.empty((len(texts), encoder.manifest.dimension), dtype=np.float32)
    for batch in encoder.plan(tokens.counts, BATCH_TOKENS):
        found[batch] = encoder.forward_adapted([tokens.ids[row] for row in batch], [lora] * len(batch))
    return found


def _head(head: Head, registry: Registry) -> float:
    inputs, outputs = probes_of(head.manifest, registry.fetch)
    return float(np.abs(head.apply(inputs) - outputs).max())


def _overlaps(found: object) -> list[tuple[str, str, float]]:
    """k, the other version's number, and the overlap, as far as the version's metrics hold them."""
    if not isinstance(found, dict):
        return []
    told = []
    for k in ("10", "50"):
        measure = (found.get("measures") or {}).get(f"jaccard_at_{k}")
        if isinstance(measure, dict):
            told.append((k, str(found.get("other")), float(measure["mean"])))
    return told
