"""GET /admin/drift/{adapter} and its acknowledgement: what the monitor of the live version thinks."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query
from starlette.responses import Response

from monitoring.drift_metrics import state_of
from monitoring.monitor import Monitor
from registry import readings
from registry.errors import NotFound, Unavailable
from registry.readings import MonitorState, Reading
from service import serialise
from service.auth import MayRead, MayTrain
from service.errors import Problem
from service.schemas import problems
from service.snapshot import LoadedVersion
from service.state import Running, Service
from service.watched import Watched

router = APIRouter(prefix="/admin/drift", tags=["drift"], responses=problems(401, 403, 404, 503))

T = TypeVar("T")

ANSWER_SECONDS = 10.0


@router.get("/{adapter}", summary="State of the drift monitor", responses=problems(422))
async def drift(
    adapter: str, service: Running, caller: MayRead, history: Annotated[int, Query(ge=0, le=500)] = 20
) -> Response:
    """State, evidence of each detector and its line, run lengths, the alarm with its effect, and stored readings.

    All services that watch a version share this; `unstored` alone is of the one that answers.
    """
    return serialise.answer(await _view(service, adapter, history))


@router.post("/{adapter}/acknowledge", summary="Release the alarm", responses=problems(409))
async def acknowledge(adapter: str, service: Running, caller: MayTrain) -> Response:
    """The alarm is seen: it is released, evidence begins anew at nothing, and may raise it again."""
    await _live(service, adapter)
    released = await _answer(service.watch.acknowledge(adapter, caller.name))
    return serialise.answer({"released": released, **await _view(service, adapter, 1)})


async def _answer(future: "Future[T]") -> T:
    """What the watch thread says, if it says it soon; it may be waiting for the database."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), ANSWER_SECONDS)
    except TimeoutError:
        message = "The drift monitor is busy, perhaps waiting for the registry. Try again later."
        raise Problem(503, message, code="monitor_busy") from None


async def _live(service: Service, adapter: str) -> LoadedVersion | None:
    view = service.catalog.snapshot.adapters.get(adapter)
    if view is None:
        raise NotFound("adapter", adapter)
    if view.asleep:  # its monitor sleeps with it
        return (await service.catalog.load(adapter)).version
    return view.live


async def _view(service: Service, adapter: str, limit: int) -> dict[str, Any]:
    live = await _live(service, adapter)
    if live is None or live.reference is None:
        state = "no_live_version" if live is None else "no_reference"
        return {"adapter": adapter, "version": live.record.name if live else None, "state": state}

    def look(watched: Mapping[str, Watched]) -> dict[str, Any] | None:
        one = watched.get(adapter)
        return None if one is None else _monitor(one)

    seen = await _answer(service.watch.ask(look))
    number = live.record.number
    try:
        stored, kept = await service.blocking(lambda: _stored(service, adapter, number, max(1, limit)))
    except Unavailable:  # the monitor in memory is known all the same
        stored, kept = [], None
    return {
        "adapter": adapter,
        "version": live.record.name,
        **(seen or {"state": "starting"}),
        "alarm_since": kept.alarm_since if kept is not None else None,
        "acknowledged_at": kept.acknowledged_at if kept is not None else None,
        "acknowledged_by": kept.acknowledged_by if kept is not None else None,
        "last": _reading(stored[0]) if stored else None,
        "readings": [_reading(reading) for reading in stored[:limit]],
    }


def _stored(service: Service, adapter: str, number: int, limit: int) -> tuple[list[Reading], MonitorState | None]:
    with service.registry.reading() as session:
        stored = readings.latest(session, adapter, limit, version=number)
        return stored, readings.get_state(session, adapter, number)


def _monitor(watched: Watched) -> dict[str, Any]:
    """What is watched as plain values; runs on the watch thread."""
    watched.prepare()
    monitor, reference = watched.monitor, watched.reference
    alarm, measured = monitor.alarm, monitor.run_length
    return {
        "state": state_of(monitor, watched.why_not),
        "alarm_active": alarm is not None,
        "actionable": alarm is not None and alarm.actionable,
        "alarm": alarm.to_json() if alarm is not None else None,
        "calibrated": watched.why_not is None,
        "why_not": watched.why_not,
        "mode": monitor.settings.mode,
        "observations": monitor.observations,
        "evidence": monitor.evidence,
        "unstored": watched.unstored,
        "windows": monitor.windows,
        "window": {"size": monitor.settings.window, "filled": monitor.pending.n},
        "mean_observations_between_false_alarms": monitor.settings.arl,
        "run_length": {
            "stated": monitor.settings.arl,
            "replay": None if measured is None else {
                "stated": measured.stated, "mean": measured.measured, "low": measured.low, "high": measured.high,
                "observations": measured.observations, "alarms": measured.alarms,
            },
        },
        "detectors": _detectors(monitor),
        "segments": {
            name: {"evidence": counts.n, "novel": counts.novel} for name, counts in monitor.pending.segments.items()
        },
        "reference": {
            "digest": reference.digest,
            "fit": len(reference.fit),
            "calibration": reference.n_cal,
            "replay": len(reference.replay),
            "cells": len(reference.cells),
            "alpha0": reference.alpha0,
            "k": reference.k,
        },
        "sizes": reference.sizes(monitor.settings.arl, monitor.settings.window).to_json(),
    }  # fmt: skip


def _detectors(monitor: Monitor) -> dict[str, dict[str, float]]:
    """How far each detector is from where it would alarm alone: log evidence, or an average's value, and its line."""
    found = {**monitor.evidence_log(), **monitor.occupancy()} if monitor.settings.mode == "sequential" else {}
    return {name: {"value": value, "line": line} for name, (value, line) in found.items()}


def _reading(reading: Reading) -> dict[str, Any]:
    return {"id": reading.id, "at": reading.at, "n": reading.window_n, "cells": reading.cells, **reading.statistics}
