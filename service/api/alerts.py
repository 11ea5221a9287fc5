"""POST /admin/alerts: an Alertmanager webhook (version 4) becomes at most one retrain for each alert.

Alertmanager repeats a notification until it gets a 2xx and drops it on a 4xx, so everything that is understood is
answered 202, also what leads to nothing. An alert chooses an adapter that exists and nothing else: dataset and recipe
are those of the adapter's last job, with a gate no laxer than the default. Only an alert that a job answers is
remembered; one that led to nothing may lead to a job when it is sent again, after new rows were uploaded.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from monitoring.errors import RecipeRefused
from monitoring.limits import laxer_fields
from monitoring.recipe import Recipe
from registry import alerts, datasets, jobs, versions
from registry.errors import Conflict, JobWaiting, NotFound, RegistryError
from registry.jobs import Job, JobState
from registry.names import parse_model
from registry.requests import request_retrain
from service import serialise
from service.auth import MayTrain
from service.errors import Problem
from service.schemas import problems
from service.state import Running, Service

router = APIRouter(prefix="/admin", tags=["drift"], responses=problems(400, 401, 403))

MAX_ALERTS = 1000
# How far back the last job that succeeded is looked for.
JOBS_LOOKED_AT = 200

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "Alertmanager's webhook, version 4; unknown fields are ignored.",
                    "properties": {
                        "alerts": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "status": {"type": "string"},
                                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                                    "startsAt": {"type": "string"},
                                    "fingerprint": {"type": "string"},
                                },
                            },
                        }
                    },
                    "required": ["alerts"],
                }
            }
        },
    }
}


@router.post("/alerts", status_code=202, openapi_extra=_BODY, summary="Alertmanager webhook")
async def receive(request: Request, service: Running, caller: MayTrain) -> Response:
    """Queue one retrain, on the adapter's last dataset, for each firing alert that names a known adapter."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Problem(400, "The body is not valid JSON.", code="malformed_json") from None
    found = body.get("alerts") if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise Problem(400, "The body must be an Alertmanager webhook with a list of alerts.", code="malformed_alerts")
    if len(found) > MAX_ALERTS:
        raise Problem(413, f"The webhook has {len(found)} alerts; the limit is {MAX_ALERTS}.")
    results = await service.blocking(lambda: [_take(service, alert, caller.name) for alert in found])
    for result in results:
        service.metrics.retrain_requests.labels("alert", result["outcome"]).inc()
    return serialise.answer({"alerts": results}, 202)


class _Nothing(Exception):
    """An alert leads to nothing: `outcome` says why, and the alert is not remembered."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def _take(service: Service, alert: Any, by: str) -> dict[str, Any]:
    """What one alert leads to, as `outcome`: accepted, waiting, duplicate, nothing_new, no_dataset, refused, …"""
    alert = alert if isinstance(alert, dict) else {}
    labels = alert.get("labels")
    adapter = labels.get("adapter") if isinstance(labels, dict) else None
    if alert.get("status") == "resolved":
        return {"outcome": "resolved"}
    if alert.get("status") != "firing" or not isinstance(labels, dict):
        return {"outcome": "not_understood"}
    if not isinstance(adapter, str):
        return {"outcome": "unknown_adapter"}
    starts_at = _plain(alert.get("startsAt"), 64)
    fingerprint = _plain(alert.get("fingerprint") or _words(labels), 128)
    try:
        with service.registry.writing() as session:  # undone as a whole when it leads to nothing
            if not alerts.claim(session, fingerprint, starts_at, adapter):
                return {"outcome": "duplicate", "job_id": alerts.job_of(session, fingerprint, starts_at)}
            outcome, job_id = _queue(session, adapter, by, f"drift alert {fingerprint}")
            alerts.attach_job(session, fingerprint, starts_at, job_id)
            return {"outcome": outcome, "adapter": adapter, "job_id": job_id}
    except _Nothing as nothing:
        return {"outcome": nothing.outcome, "adapter": adapter}
    except NotFound:
        return {"outcome": "unknown_adapter"}


def _queue(session: Any, adapter: str, by: str, reason: str) -> tuple[str, str]:
    """Ask for the retrain; the outcome and the job that answers the alert. Raises _Nothing."""
    past = jobs.all(session, adapter, JOBS_LOOKED_AT)
    dataset = _last_dataset(session, adapter, past)
    try:
        newest = datasets.get(session, dataset).revision if dataset is not None else None
    except RegistryError:
        newest = None
    if dataset is None or newest is None:
        raise _Nothing("no_dataset")
    recipe = _last_recipe(past)
    if queued := next((job for job in past if job.state is JobState.QUEUED), None):
        return "waiting", queued.id
    done = next((job for job in past if job.state is JobState.SUCCEEDED), None)
    if done is not None and (done.dataset, done.revision) == (dataset, newest) and _read(done.recipe) == recipe:
        raise _Nothing("nothing_new")  # the same rows and recipe would give the same version again
    try:
        job = request_retrain(session, adapter=adapter, dataset=dataset, recipe=recipe.to_dict(), by=by, reason=reason)
    except JobWaiting as waiting:
        return "waiting", waiting.job_id
    except (NotFound, Conflict):
        raise _Nothing("refused") from None
    return "accepted", job.id


def _last_dataset(session: Any, adapter: str, past: list[Job]) -> str | None:
    """The dataset of the adapter's last job, else of its newest version; the job will take its newest revision."""
    if past:
        return past[0].dataset
    history = versions.history(session, adapter)
    try:
        return parse_model(history[0].dataset)[0] if history else None
    except RegistryError:
        return None


def _last_recipe(past: list[Job]) -> Recipe:
    """The recipe of the adapter's last job, or the defaults; where its gate is laxer than the default, that holds."""
    if not past:
        return Recipe()
    recipe = _read(past[0].recipe)
    if recipe is None:  # of another release: how strict it was is not known, so a person decides on the version
        return Recipe(promote=False)
    laxer = set(laxer_fields(recipe.gate_settings()))
    if not laxer:
        return recipe
    gate = {name: value for name, value in recipe.gate.items() if name not in laxer}
    if "geometry" in gate:
        gate["geometry"] = {n: v for n, v in gate["geometry"].items() if f"geometry.{n}" not in laxer}
    return dataclasses.replace(recipe, gate=gate)


def _read(recipe: Mapping[str, Any]) -> Recipe | None:
    try:
        return Recipe.from_mapping(recipe)
    except RecipeRefused:
        return None


def _words(labels: Mapping[str, Any]) -> str:
    """The labels as words: a fingerprint is a digest of them, and where it is missing, another digest does."""
    try:
        return orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # nested too deep to be Alertmanager's
        return "?"


def _plain(value: Any, longest: int) -> str:
    """The value if it is short printable ASCII, else its digest: both name the same alert each time it is delivered."""
    text = value if isinstance(value, str) else ""
    if text and len(text) <= longest and text.isascii() and text.isprintable():
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
