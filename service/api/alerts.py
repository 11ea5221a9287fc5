"""POST /admin/alerts: an Alertmanager webhook (version 4) becomes at most one retrain for each alert.

Alertmanager repeats a notification until it gets a 2xx and drops it on a 4xx, so everything that is understood is
answered 202, also what leads to nothing. What an alert may lead to, and what holds it back, is in `service.retrains`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from monitoring.advice import Advice
from service import serialise
from service.advisor import Doubt
from service.auth import MayTrain
from service.errors import Problem
from service.retrains import Cause, ask
from service.schemas import problems
from service.state import Running, Service
from service.tracing import traceparent_of

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
                            "maxItems": MAX_ALERTS,
                            "items": {
                                "description": "What is not understood is answered 202 too, and leads to nothing.",
                                "examples": [
                                    {
                                        "status": "firing",
                                        "labels": {"adapter": "support"},
                                        "startsAt": "2026-01-31T12:00:00Z",
                                        "fingerprint": "8f3c",
                                    }
                                ],
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
    """Queue one retrain, on the adapter's last dataset, for each firing alert that names a known adapter, where the
    service's own monitor advises one."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        raise Problem(400, "The body is not valid JSON.", code="malformed_json") from None
    found = body.get("alerts") if isinstance(body, dict) else None
    if not isinstance(found, list):
        raise Problem(400, "The body must be an Alertmanager webhook with a list of alerts.", code="malformed_alerts")
    if len(found) > MAX_ALERTS:
        raise Problem(413, f"The webhook has {len(found)} alerts; the limit is {MAX_ALERTS}.")
    doubts = await service.advisor.doubts()
    trace = traceparent_of(request)
    known: _Known = {}
    results = await service.blocking(
        lambda: [_take(service, alert, caller.name, doubts, trace, known) for alert in found]
    )
    for result in results:
        service.metrics.retrain_requests.labels("alert", result["outcome"]).inc()
    return serialise.answer({"alerts": results}, 202)


_Known = dict[tuple[str, str, str], dict[str, Any]]
"""What the alerts of one webhook led to, by adapter, fingerprint and begin."""


def _take(
    service: Service, alert: Any, by: str, doubts: Mapping[str, Doubt], traceparent: str | None, known: _Known
) -> dict[str, Any]:
    """What one alert leads to, as `outcome`: accepted, waiting, duplicate, not_advised, nothing_new, cooling_down,
    over_budget, no_dataset, refused, …"""
    alert = alert if isinstance(alert, dict) else {}
    labels = alert.get("labels")
    adapter = labels.get("adapter") if isinstance(labels, dict) else None
    if alert.get("status") == "resolved":
        return {"outcome": "resolved"}
    if alert.get("status") != "firing" or not isinstance(labels, dict):
        return {"outcome": "not_understood"}
    if not isinstance(adapter, str):
        return {"outcome": "unknown_adapter"}
    fingerprint = _plain(alert.get("fingerprint") or _words(labels), 128)
    begins, reason = _plain(alert.get("startsAt"), 64), f"drift alert {fingerprint}"
    if (told := known.get((adapter, fingerprint, begins))) is not None:  # again in one webhook: no transaction for it
        return told | {"outcome": "duplicate"} if told["outcome"] == "accepted" else told
    cause = Cause(adapter, fingerprint, begins, by, reason, traceparent)
    advisor = service.advisor

    def advice(session: Any) -> Advice:
        return advisor.advise(advisor.situation(session, adapter, doubts))

    found = ask(service.registry, cause, service.limits, advice)
    told = {"outcome": found.word}
    if found.word != "unknown_adapter":
        told["adapter"] = adapter
        if found.word in ("accepted", "waiting", "duplicate"):
            told["job_id"] = found.job_id
        if found.advice is not None:
            told["advice"] = found.advice.value
    known[adapter, fingerprint, begins] = told
    return told


def _words(labels: Mapping[str, Any]) -> str:
    """The labels as a word: a fingerprint is a digest of them, and where it is missing, another digest does."""
    try:
        return hashlib.sha256(orjson.dumps(labels, option=orjson.OPT_SORT_KEYS)).hexdigest()
    except TypeError:  # nested too deep to be Alertmanager's
        return "?"


def _plain(value: Any, longest: int) -> str:
    """The value if it is short printable ASCII, else its digest: both name the same alert each time it is delivered."""
    text = value if isinstance(value, str) else ""
    if text and len(text) <= longest and text.isascii() and text.isprintable():
        return text
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
