"""POST and GET /admin/datasets: uploads of rows, each an immutable revision."""

from typing import Any, Literal

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from registry import datasets
from registry.datasets import DatasetRevision
from service import serialise
from service.auth import MayRead, MayTrain
from service.errors import Problem
from service.schemas import problems
from service.state import Running

router = APIRouter(prefix="/admin/datasets", tags=["datasets"], responses=problems(401, 403))

_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/jsonl": {"schema": {"type": "string"}},
        },
    }
}
_FORMATS = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/json-lines": "jsonl",
    "application/json": "jsonl",
}


@router.post(
    "/{name}", status_code=201, openapi_extra=_UPLOAD, summary="Upload rows", responses=problems(400, 409, 413, 422)
)
async def upload(
    name: str,
    request: Request,
    service: Running,
    caller: MayTrain,
    format: Literal["csv", "jsonl"] | None = None,
) -> Response:
    """Store a CSV or JSONL body as the next revision; each bad row is named, and then nothing is stored."""
    kind = _format(format, request.headers.get("content-type", ""))
    data = await request.body()
    if not data.strip():
        raise Problem(400, "The body is empty.", code="empty_body")

    def add() -> DatasetRevision:
        with service.registry.writing() as session:
            return datasets.add(session, service.registry.artifacts, name, data, kind, by=caller.name)

    return serialise.answer(_view(await service.threads.upload(add)), 201)


@router.get("", summary="List datasets")
async def listing(service: Running, caller: MayRead) -> Response:
    """Every revision, without its report."""

    def read() -> list[DatasetRevision]:
        with service.registry.reading() as session:
            return datasets.all(session)

    found = await service.blocking(read)
    return serialise.answer({"data": [{**_view(d), "report": None} for d in found]})


@router.get("/{name}", summary="One dataset", responses=problems(404))
async def one(name: str, service: Running, caller: MayRead, revision: int | None = None) -> Response:
    """One revision with its report; the newest when none is named."""

    def read() -> DatasetRevision:
        with service.registry.reading() as session:
            return datasets.get(session, name, revision)

    return serialise.answer(_view(await service.blocking(read)))


def _format(asked: str | None, content_type: str) -> str:
    if asked is not None:
        return asked
    found = _FORMATS.get(content_type.partition(";")[0].strip().lower())
    if found is None:
        message = "Say what the body is: Content-Type text/csv or application/jsonl, or ?format=csv or jsonl."
        raise Problem(422, message, code="unknown_format", param="format")
    return found


def _view(dataset: DatasetRevision) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "revision": dataset.revision,
        "digest": dataset.digest,
        "kind": dataset.kind.value,
        "rows": dataset.rows,
        "labels": dataset.labels,
        "report": dataset.report,
        "created_at": dataset.created_at,
    }
