"""GET /healthz, /readyz and /metrics: open to probes and scrapers, and about the thing itself.

Live means that this event loop turns, no run of the model hangs, and the drift monitors' thread runs: nothing
outside the process counts, since a restart would not mend it. Ready means that the model reproduces its probes and no
stop is under way; a database that is away does not make a service unready that serves from memory.
"""

import asyncio
import time
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service import serialise
from service.errors import Problem
from service.schemas import problems
from service.state import Running, Service

router = APIRouter(tags=["operations"])

# The probes cost one small run of the model: not on every call of an eager prober.
PROBE_SECONDS = 5.0
MIN_COSINE = 0.999


@dataclass(slots=True)
class Probe:
    """The last answer of the model to its probe texts; who holds the lock asks anew, the others wait for that."""

    digest: str = ""
    cosine: float = 0.0
    at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@router.get("/healthz", summary="Is the process alive", responses=problems(503))
async def healthz(service: Running) -> Response:
    """200 while the event loop turns, no run of the model hangs and the drift monitors' thread runs."""
    for backbone in service.catalog.snapshot.backbones.values():
        if not backbone.embedder.batcher.alive(service.settings.stuck_seconds):
            raise Problem(503, "The runtime does not answer.", code="runtime_stuck")
    if not service.watch.alive:
        raise Problem(503, "The thread of the drift monitors has ended.", code="monitor_ended")
    return serialise.answer({"status": "alive"})


@router.get("/readyz", summary="Can it answer", responses=problems(503))
async def readyz(request: Request, service: Running) -> Response:
    """200 once the default backbone reproduces its probes and canaries are loaded, until a stop begins."""
    if service.draining:
        raise Problem(503, "The service is stopping.", code="draining")
    catalog = service.catalog
    backbone = next(iter(catalog.snapshot.backbones.values()), None)
    if backbone is None:
        if catalog.fault is not None:
            raise Problem(503, f"The backbone cannot be loaded: {catalog.fault}", code="backbone_unusable")
        if catalog.loaded_once:
            raise Problem(503, "No backbone is imported: run `driftline backbone import`.", code="no_backbone")
        raise Problem(503, "The model is being loaded.", code="loading")
    if service.rollouts.starting:
        raise Problem(503, "The candidate of a canary is being loaded.", code="loading")
    probe: Probe = request.app.state.probe
    async with probe.lock:
        if probe.digest != backbone.record.digest or time.monotonic() - probe.at > PROBE_SECONDS:
            probe.cosine = await service.threads.probe(backbone.encoder.self_check)
            probe.digest, probe.at = backbone.record.digest, time.monotonic()
    if not probe.cosine >= min(MIN_COSINE, backbone.encoder.least_cosine):
        raise Problem(503, f"The model deviates from its probes: cosine {probe.cosine:.6f}.", code="probe_failed")
    return serialise.answer(
        {
            "status": "ready",
            "model": backbone.record.name,
            "probe_cosine": round(probe.cosine, 7),
            "registry_reachable": catalog.registry_reachable,
            "faults": {name: view.fault for name, view in catalog.snapshot.adapters.items() if view.fault},
            "warnings": service.probes.warnings,
        }
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Every instrument"}},
)
async def metrics(service: Running) -> Response:
    """Every instrument, present from the first scrape."""
    _refresh(service)
    body, content_type = service.metrics.exposition()
    return Response(body, media_type=content_type)


def _refresh(service: Service) -> None:
    """Bring the gauges that are read rather than counted up to date."""
    service.recorder.flush()
    service.recorder.cache(service.cache)
    waiting = sum(b.embedder.batcher.waiting_tokens for b in service.catalog.snapshot.backbones.values())
    service.metrics.queue_tokens.set(waiting)
