"""GET /admin/drift/{adapter}/advice: what to do about the drift of an adapter, with reasons."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service import serialise
from service.auth import MayRead
from service.schemas import problems
from service.state import Running

router = APIRouter(prefix="/admin/drift", tags=["drift"], responses=problems(401, 403, 404, 503))


@router.get("/{adapter}/advice", summary="What to do about drift")
async def advice(adapter: str, service: Running, caller: MayRead) -> Response:
    """Nothing, rebuild the reference, recalibrate thresholds, or retrain; with reasons, and where the items to label
    first are listed.

    From the registry's state, which all services share, and what this one knows of its runtime.
    """
    doubts = await service.advisor.doubts()

    def read() -> dict[str, Any]:
        with service.registry.reading() as session:
            known = service.advisor.situation(session, adapter, doubts)
        found = service.advisor.advise(known)
        alarm = None if known.alarm is None else known.alarm.to_json()
        return {
            "adapter": adapter,
            "version": known.live,
            **found.to_json(),
            "alarm": alarm,
            "newer": known.newer,
            "tried": known.tried,
            "retained": known.retained,
        }

    return serialise.answer(await service.blocking(read))
