"""GET /admin/adapters/{name}/versions/{number}/report and /card: what was found when a version was judged."""

from typing import Annotated, Final

from fastapi import APIRouter, Path
from starlette.responses import Response

from registry.version_reports import Document, Stored, fetch_document
from service.auth import MayAdmin, MayRead
from service.schemas import problems
from service.serialise import JSON
from service.state import Running, Service

router = APIRouter(prefix="/admin/adapters", tags=["adapters"], responses=problems(401, 403))

Number = Annotated[int, Path(ge=1, description="Number of the version.")]

_GUARDED: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
}
_HTML = {"content": {"text/html": {"schema": {"type": "string"}}}, "description": "The page"}


@router.get(
    "/{name}/versions/{number}/report",
    summary="The report of a version",
    response_class=Response,
    responses={**problems(404, 409, 422), 200: _HTML},
)
async def report(name: str, number: Number, service: Running, caller: MayAdmin) -> Response:
    """One self-contained HTML page. It quotes texts of the dataset, so it takes the scope `admin`."""
    found = await _stored(service, name, number, Document.REPORT)
    return Response(found.data, headers=_GUARDED, media_type="text/html; charset=utf-8")


@router.get("/{name}/versions/{number}/card", summary="The model card of a version", responses=problems(404, 409, 422))
async def card(name: str, number: Number, service: Running, caller: MayRead) -> Response:
    """Data, recipe, metrics with intervals, verdict and lineage as JSON (`driftline.model_card/1`); no texts."""
    found = await _stored(service, name, number, Document.CARD)
    return Response(found.data, media_type=JSON)


async def _stored(service: Service, name: str, number: int, document: Document) -> Stored:
    return await service.blocking(lambda: fetch_document(service.registry, name, number, document))
