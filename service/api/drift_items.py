"""Routes on what moved: the explanation, examples of it, texts to label next, and the purge of kept texts."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.responses import Response

from monitoring.explain import Explainer
from monitoring.reference import Reference
from registry import retained
from registry.errors import NotFound
from service import items, serialise
from service.auth import MayAdmin, MayRead
from service.errors import Problem, invalid
from service.schemas import problems
from service.snapshot import LoadedVersion
from service.state import Running, Service
from service.watched import Watched

router = APIRouter(prefix="/admin", tags=["drift"], responses=problems(401, 403, 404, 503))

ANSWER_SECONDS = 10.0
MAX_ITEMS = 1000
MAX_EXAMPLES = 50


@router.get("/drift/{adapter}/explanation", summary="What moved", responses=problems(409))
async def explanation(adapter: str, service: Running, caller: MayRead) -> Response:
    """Which neighbourhoods grew, shrank or appeared in what this service saw lately; since its begin, in an alarm."""
    live, reference = await _watched(service, adapter)
    newest = await _newest(service, adapter)
    found = await service.threads.encode(Explainer(reference).explain, newest)
    return serialise.answer({"adapter": adapter, "version": live.record.name, **found.to_json()})


@router.get("/drift/{adapter}/examples", summary="What moved, with texts", responses=problems(409, 422))
async def examples(
    adapter: str, service: Running, caller: MayAdmin, limit: Annotated[int, Query(ge=1, le=MAX_EXAMPLES)] = 5
) -> Response:
    """As the explanation, with the newest kept texts of each change; there are some only where a key keeps texts."""
    live, reference = await _watched(service, adapter)
    newest = await _newest(service, adapter)
    texts = await _kept(service, live, reference)
    found = await service.threads.encode(items.examples, reference, newest, texts, limit)
    return _private({"adapter": adapter, "version": live.record.name, **found})


@router.get("/drift/{adapter}/informative", summary="Texts to label next", responses=problems(409, 422))
async def informative(
    adapter: str,
    service: Running,
    caller: MayAdmin,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = 50,
    format: Literal["json", "jsonl", "csv"] = "json",
) -> Response:
    """Kept texts by novelty x density x diversity, with reasons; jsonl and csv can be uploaded as a dataset."""
    live, reference = await _watched(service, adapter)
    texts = await _kept(service, live, reference)
    found = await service.threads.encode(items.to_label, reference, texts, limit)
    if format == "json":
        why = None if texts.rows else items.NONE_KEPT
        name = live.record.name
        return _private({"adapter": adapter, "version": name, "kept": len(texts.rows), "why_none": why, "data": found})
    if not found:
        raise Problem(409, f"There is nothing to export: {items.NONE_KEPT}.", code="no_texts_kept")
    body, kind = (items.as_csv(found), "text/csv") if format == "csv" else (items.as_jsonl(found), "application/jsonl")
    name = f"{adapter}-to-label.{format}"
    headers = {"cache-control": "no-store", "content-disposition": f'attachment; filename="{name}"'}
    return Response(body, media_type=kind, headers=headers)


@router.delete("/retained", summary="Delete kept texts", responses=problems(422))
async def purge(service: Running, caller: MayAdmin, adapter: str | None = None, key: str | None = None) -> Response:
    """Delete the kept texts of an adapter, of a key (by id), or of both, and overwrite where they were."""
    if not adapter and not key:
        raise invalid("adapter", "or key must be named")
    await service.retention.settle()  # what waits is of now, and is to go too

    def delete() -> int:
        with service.registry.writing() as session:
            deleted = retained.purge(session, adapter=adapter, key=key, by=caller.name)
        service.registry.database.scrub(retained.TABLE)
        return deleted

    return serialise.answer({"deleted": await service.blocking(delete)})


async def _watched(service: Service, adapter: str) -> tuple[LoadedVersion, Reference]:
    """The adapter's live version and its reference.

    Raises:
        NotFound: There is no such adapter.
        Problem: 409 when it has no live version, or one without a reference.
    """
    view = service.catalog.snapshot.adapters.get(adapter)
    if view is None:
        raise NotFound("adapter", adapter)
    live = (await service.catalog.load(adapter)).version if view.asleep else view.live
    if live is None or live.reference is None:
        raise Problem(409, "The adapter has no live version that is watched.", code="not_watched")
    return live, live.reference


async def _newest(service: Service, adapter: str) -> NDArray[np.float32]:
    """The evidence (n, d) that this service saw last: since the change began where an alarm stands, as far as kept."""

    def look(watched: Mapping[str, Watched]) -> NDArray[np.float32] | None:
        one = watched.get(adapter)
        if one is None:
            return None
        alarm = one.monitor.alarm
        since = None if alarm is None else one.monitor.observations + one.unstored - alarm.change_observation
        return one.newest.newest(since)

    try:
        found = await asyncio.wait_for(asyncio.wrap_future(service.watch.ask(look)), ANSWER_SECONDS)
    except TimeoutError:
        message = "The drift monitor is busy, perhaps waiting for the registry. Try again later."
        raise Problem(503, message, code="monitor_busy") from None
    if found is None:
        raise Problem(409, "The adapter has no live version that is watched.", code="not_watched")
    return found


async def _kept(service: Service, live: LoadedVersion, reference: Reference) -> items.Kept:
    await service.retention.settle()
    record = live.record
    return await service.blocking(
        lambda: items.kept(service.registry, record.adapter, record.number, reference.dimension)
    )


def _private(document: object) -> Response:
    """An answer that holds texts: nobody between keeps it."""
    return serialise.answer(document, 200, {"cache-control": "no-store"})
