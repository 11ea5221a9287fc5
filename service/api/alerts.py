"""POST /admin/alerts: an Alertmanager webhook (version 4) becomes at most one retrain for each alert.

Alertmanager repeats a notification until it gets a 2xx and drops it on a 4xx, so everything that is understood is
answered 202, also what leads to nothing. An alert chooses an adapter that exists and nothing else: neither dataset nor
recipe come from its labels.
"""

import hashlib
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from monitoring.recipe import Recipe
from registry import alerts, jobs, versions
from registry.errors import Conflict, JobWaiting, NotFound, RegistryError
from registry.names import parse_model
from registry.requests import request_retrain
from service import serialise
from service.auth import MayTrain
from service.errors import Problem
from service.schemas import problems
from service.state import Running, Service

router = APIRouter(prefix="/admin", tags=["drift"], responses=problems(400, 401, 403))

MAX_ALERTS = 1000

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


def _take(service: Service, alert: Any, by: str) -> dict[str, Any]:
    """What one alert leads to, as `outcome`: accepted, waiting, duplicate, resolved, unknown_adapter, no_dataset, …"""
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
    # A fingerprint is a digest of the labels; where it is missing, another digest of them does.
    fingerprint = _plain(alert.get("fingerprint") or orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode(), 128)
    with service.registry.writing() as session:
        try:
            if not alerts.claim(session, fingerprint, starts_at, adapter):
                return {"outcome": "duplicate", "job_id": alerts.job_of(session, fingerprint, starts_at)}
        except NotFound:
            return {"outcome": "unknown_adapter"}
        dataset = _last_dataset(session, adapter)
        if dataset is None:
            return {"outcome": "no_dataset", "adapter": adapter}
        try:
            reason = f"drift alert {fingerprint}"
            recipe = Recipe().to_dict()
            job = request_retrain(session, adapter=adapter, dataset=dataset, recipe=recipe, by=by, reason=reason)
            outcome, job_id = "accepted", job.id
        except JobWaiting as waiting:
            outcome, job_id = "waiting", waiting.job_id
        except (NotFound, Conflict):
            return {"outcome": "no_dataset", "adapter": adapter}
        alerts.attach_job(session, fingerprint, starts_at, job_id)
        return {"outcome": outcome, "adapter": adapter, "job_id": job_id}


def _last_dataset(session: Any, adapter: str) -> str | None:
    """The dataset of the adapter's last job, else of its newest version; the job will take its newest revision."""
    if last := jobs.all(session, adapter, 1):
        return last[0].dataset
    history = versions.history(session, adapter)
    try:
        return parse_model(history[0].dataset)[0] if history else None
    except RegistryError:
        return None


def _plain(value: Any, longest: int) -> str:
    """The value if it is short printable ASCII, else its digest: both name the same alert each time it is delivered."""
    text = value if isinstance(value, str) else ""
    if text and len(text) <= longest and text.isascii() and text.isprintable():
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
