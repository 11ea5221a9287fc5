"""GET /admin/adapters, and moving the live pointer: promote and roll back.

Both prove the version before they move the pointer, so that one that cannot be loaded never becomes live, and both
answer only after this service itself has switched.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from registry import versions
from registry.errors import NotFound
from registry.proven import move_proven
from registry.versions import Version
from service import serialise
from service.auth import MayAdmin, MayRead
from service.errors import Problem
from service.schemas import PromoteRequest, problems
from service.snapshot import AdapterView, LoadedVersion
from service.state import Running, Service

router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=problems(401, 403))


@router.get("", summary="List adapters")
async def listing(service: Running, caller: MayRead) -> Response:
    """Every adapter with its live version."""
    snapshot = await service.catalog.refresh()
    return serialise.answer({"data": [_view(service, view) for view in snapshot.adapters.values()]})


@router.get("/{name}", summary="One adapter", responses=problems(404))
async def one(name: str, service: Running, caller: MayRead) -> Response:
    """All versions with their metrics and verdicts, newest first."""
    await service.catalog.refresh()
    return serialise.answer(_view(service, _adapter(service, name), full=True))


@router.post("/{name}/promote", summary="Make a version live", responses=problems(404, 409, 422))
async def promote(name: str, body: PromoteRequest, service: Running, caller: MayAdmin) -> Response:
    """Point the adapter's name to a version; a rejected one needs `force`."""
    expect = versions.ANY if body.expect_live is None else body.expect_live

    def move(session: Any) -> Version:
        return versions.promote(session, name, body.version, by=caller.name, force=body.force, expect_live=expect)

    return await _switch(service, name, move)


@router.post("/{name}/rollback", summary="Go back to the version before", responses=problems(404, 409))
async def rollback(name: str, service: Running, caller: MayAdmin) -> Response:
    """Undo the last promotion."""

    def move(session: Any) -> Version:
        return versions.rollback(session, name, by=caller.name)

    return await _switch(service, name, move)


async def _switch(service: Service, name: str, move: Callable[[Any], Version]) -> Response:
    def moved() -> LoadedVersion:
        record, proven = move_proven(
            service.registry, move, lambda version: service.catalog.prove(version, reference=True)
        )
        return replace(proven, record=record)

    try:
        version = await service.blocking(moved)
    except Problem:
        service.metrics.swaps.labels(name, "refused").inc()
        raise
    service.catalog.keep(version)
    await service.catalog.refresh()
    view = _adapter(service, name)
    return serialise.answer(_view(service, view, full=True))


def _adapter(service: Service, name: str) -> AdapterView:
    view = service.catalog.snapshot.adapters.get(name)
    if view is None:
        raise NotFound("adapter", name)
    return view


def _view(service: Service, view: AdapterView, *, full: bool = False) -> dict[str, Any]:
    backbone = service.catalog.snapshot.backbone_of(view.record.backbone)
    answer: dict[str, Any] = {
        "name": view.record.name,
        "backbone": backbone.record.name if backbone is not None else None,
        "live": view.serving.name if view.serving is not None else None,
        "loaded": view.live is not None,
        "fault": view.fault,
        "created_at": view.record.created_at,
        "versions": len(view.versions),
    }
    if full:
        answer["versions"] = [{"name": v.name, **asdict(v), "state": v.state.value} for v in view.versions]
    return answer
