"""Retrain requests and the jobs they become: POST /admin/retrain, /admin/jobs, and progress as server-sent events."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from monitoring.recipe import Recipe
from registry import jobs
from registry.errors import JobWaiting, Unavailable
from registry.jobs import Job, JobEvent
from registry.names import parse_model
from registry.requests import request_retrain
from service import serialise
from service.auth import MayRead, MayTrain
from service.errors import Problem, invalid
from service.schemas import RetrainRequest, problems
from service.state import Running, Service
from service.tracing import traceparent_of

router = APIRouter(prefix="/admin", tags=["jobs"], responses=problems(401, 403))

POLL_SECONDS = 0.5
KEEP_ALIVE_SECONDS = 15.0
MAX_RECIPE_BYTES = 16_384
_EVENT = {
    "type": "object",
    "description": "One event; its data is JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data", "retry")},
}


@router.post("/retrain", status_code=202, summary="Ask for a retrain", responses=problems(404, 409, 422))
async def retrain(body: RetrainRequest, request: Request, service: Running, caller: MayTrain) -> Response:
    """Queue one durable job; 409 with the waiting job's id when one waits for the adapter already."""
    try:
        size = len(serialise.dump(body.recipe))
    except TypeError:  # orjson's word for each of these
        raise invalid("recipe", "holds a whole number beyond 64 bits, a lone surrogate, or too many levels") from None
    if size > MAX_RECIPE_BYTES:
        raise invalid("recipe", f"is larger than {MAX_RECIPE_BYTES} bytes")
    recipe = Recipe.from_mapping(body.recipe)
    dataset, revision = parse_model(body.dataset)

    def enqueue() -> Job:
        with service.registry.writing() as session:
            return request_retrain(
                session,
                adapter=body.adapter,
                dataset=dataset,
                revision=revision,
                recipe=recipe.to_dict(),
                by=caller.name,
                reason=body.reason,
                traceparent=traceparent_of(request),
            )

    try:
        job = await service.blocking(enqueue)
    except JobWaiting:
        service.metrics.retrain_requests.labels("api", "waiting").inc()
        raise
    service.metrics.retrain_requests.labels("api", "accepted").inc()
    answer = {
        "job_id": job.id,
        "state": job.state.value,
        "adapter": job.adapter,
        "dataset": f"{dataset}@{job.revision}",
    }
    return serialise.answer(answer, 202, {"location": f"/admin/jobs/{job.id}"})


@router.get("/jobs", summary="List jobs", responses=problems(422))
async def listing(
    service: Running, caller: MayRead, adapter: str | None = None, limit: Annotated[int, Query(ge=1, le=500)] = 50
) -> Response:
    """Jobs, newest first."""

    def read() -> list[Job]:
        with service.registry.reading() as session:
            return jobs.all(session, adapter, limit)

    return serialise.answer({"data": [_view(job) for job in await service.blocking(read)]})


@router.get("/jobs/{job_id}", summary="One job", responses=problems(404))
async def one(job_id: str, service: Running, caller: MayRead) -> Response:
    """State, step, progress, metrics and the verdict with its reasons."""
    return serialise.answer(_view(await _read(service, job_id)))


@router.post("/jobs/{job_id}/cancel", status_code=202, summary="Cancel a job", responses=problems(404, 409))
async def cancel(job_id: str, service: Running, caller: MayTrain) -> Response:
    """A waiting job is cancelled at once, a running one when its worker next looks."""

    def request_cancel() -> Job:
        with service.registry.writing() as session:
            return jobs.request_cancel(session, job_id, by=caller.name)

    return serialise.answer(_view(await service.blocking(request_cancel)), 202)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job",
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": _EVENT}}},
        **problems(404, 422),
    },
)
async def events(job_id: str, request: Request, service: Running, caller: MayRead) -> Response:
    """What happens to a job, as server-sent events, until it ends. Last-Event-ID resumes where a client left off."""
    last = request.headers.get("last-event-id", "0")
    if not (last.isascii() and last.isdigit() and len(last) < 16):
        raise invalid("Last-Event-ID", "must be the id of an event")
    await _read(service, job_id)
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_stream(service, job_id, int(last)), media_type="text/event-stream", headers=headers)


async def _stream(service: Service, job_id: str, after: int) -> AsyncIterator[bytes]:
    def read() -> tuple[list[JobEvent], bool]:
        with service.registry.reading() as session:
            return jobs.events(session, job_id, after), jobs.get(session, job_id).state.finished

    silent = 0.0
    yield b"retry: 2000\n\n"
    while not service.draining:
        try:
            found, finished = await service.threads.follow(read)
        except Unavailable:  # the stream outlives an outage of the database
            found, finished = [], False
        for event in found:
            after = event.id
            data = serialise.dump({"at": event.at, "job_id": job_id, **event.data})
            yield b"id: %d\nevent: %b\ndata: %b\n\n" % (event.id, event.kind.encode(), data)
        if finished and not found:
            return
        if found:
            silent = 0.0
            continue
        await asyncio.sleep(POLL_SECONDS)
        silent += POLL_SECONDS
        if silent >= KEEP_ALIVE_SECONDS:
            silent = 0.0
            yield b": still here\n\n"


async def _read(service: Service, job_id: str) -> Job:
    if len(job_id) > 64:
        raise Problem(404, "There is no such job.", code="not_found")

    def read() -> Job:
        with service.registry.reading() as session:
            return jobs.get(session, job_id)

    return await service.blocking(read)


def _view(job: Job) -> dict[str, Any]:
    return {**asdict(job), "state": job.state.value}
