"""POST /admin/adapters/{name}/rollout and what follows: serve a candidate beside the live version, look, end it."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from monitoring.rollout_rules import Rules
from monitoring.rollouts import Standing, latest
from registry import rollouts, versions
from registry.errors import Conflict, NotFound
from registry.proven import move_proven
from registry.rollouts import Rollout, RolloutState
from registry.versions import Version
from service import serialise
from service.auth import MayAdmin, MayRead
from service.schemas import RolloutEndRequest, RolloutRequest, problems
from service.state import Running, Service

router = APIRouter(prefix="/admin/adapters/{name}/rollout", tags=["rollouts"], responses=problems(401, 403, 404))


@router.post("", summary="Serve a candidate beside the live version", status_code=201, responses=problems(409, 422))
async def start(name: str, body: RolloutRequest, service: Running, caller: MayAdmin) -> Response:
    """Begin a rollout, in shadow or as a canary, on stated rules; one an adapter at a time."""
    rules = Rules.from_mapping(body.rules())

    def begin() -> Standing:
        with service.registry.writing() as session:
            rollouts.start(session, name, body.version, rules=rules.to_dict(), by=caller.name, force=body.force)
        return latest(service.registry, name)

    standing = await service.blocking(begin)
    await service.catalog.refresh()
    return serialise.answer(standing.to_json(), 201)


@router.get("", summary="Where the rollout stands")
async def status(name: str, service: Running, caller: MayRead) -> Response:
    """The newest rollout: state, counts of all processes, bounds with their limits, and what is missing."""
    return serialise.answer((await service.blocking(lambda: latest(service.registry, name))).to_json())


@router.post("/stop", summary="End the rollout", responses=problems(409, 422))
async def stop(name: str, body: RolloutEndRequest, service: Running, caller: MayAdmin) -> Response:
    """Stop the active rollout; every caller gets the live version again."""

    def end() -> Standing:
        with service.registry.writing() as session:
            rollouts.stop(session, _active(session, name).id, body.reason or "stopped by hand", by=caller.name)
        return latest(service.registry, name)

    return await _answer(service, end)


@router.post("/promote", summary="Promote the candidate now", responses=problems(409, 422))
async def promote(name: str, body: RolloutEndRequest, service: Running, caller: MayAdmin) -> Response:
    """Make the candidate live whatever its rules say; refused where another version went live meanwhile."""

    def move(session: Any) -> Version:
        found = _active(session, name)
        why = body.reason or "promoted by hand"
        return rollouts.promote(session, found.id, why, by=caller.name, force=body.force)[1]

    def end() -> Standing:
        move_proven(service.registry, move, lambda version: service.catalog.prove(version, reference=True))
        standing = latest(service.registry, name)
        if standing.rollout.state is not RolloutState.PROMOTED:
            raise Conflict(f"the rollout of {standing.rollout.name} has ended: {standing.rollout.reason}")
        return standing

    return await _answer(service, end)


async def _answer(service: Service, end: Callable[[], Standing]) -> Response:
    standing = await service.blocking(end)
    await service.catalog.refresh()
    return serialise.answer(standing.to_json())


def _active(session: Any, name: str) -> Rollout:
    versions.get_adapter(session, name)
    found = rollouts.active(session, name)
    if found is None:
        raise NotFound("active rollout of", name)
    return found
