"""GET /admin/drift/{adapter} and its acknowledgement: what the monitor of the live version thinks."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from fastapi import APIRouter
from starlette.responses import Response

from monitoring.monitor import Monitor
from registry import readings
from registry.errors import NotFound, Unavailable
from registry.readings import MonitorState, Reading
from service import serialise
from service.auth import MayRead, MayTrain
from service.errors import Problem, invalid
from service.schemas import problems
from service.snapshot import LoadedVersion
from service.state import Running, Service

router = APIRouter(prefix="/admin/drift", tags=["drift"], responses=problems(401, 403, 404, 503))

T = TypeVar("T")

ANSWER_SECONDS = 10.0


@router.get("/{adapter}", summary="State of the drift monitor", responses=problems(422))
async def drift(adapter: str, service: Running, caller: MayRead, history: int = 20) -> Response:
    """State, statistics with their thresholds, the alarm with the neighbourhoods that moved, and stored readings."""
    if not 0 <= history <= 500:
        raise invalid("history", "must be from 0 to 500")
    return serialise.answer(await _view(service, adapter, history))


@router.post("/{adapter}/acknowledge", summary="Release the alarm", responses=problems(409))
async def acknowledge(adapter: str, service: Running, caller: MayTrain) -> Response:
    """The alarm is seen: it is released, and may be raised again by a later window."""
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

    def look(monitors: Mapping[str, Monitor]) -> dict[str, Any] | None:
        monitor = monitors.get(adapter)
        return None if monitor is None else _monitor(monitor)

    seen = await _answer(service.watch.ask(look))
    number = live.record.number
    try:
        stored, kept = await service.blocking(lambda: _stored(service, adapter, number, limit))
    except Unavailable:  # the monitor in memory is known all the same
        stored, kept = [], None
    return {
        "adapter": adapter,
        "version": live.record.name,
        **(seen or {"state": "starting"}),
        "alarm_since": kept.alarm_since if kept is not None else None,
        "acknowledged_at": kept.acknowledged_at if kept is not None else None,
        "acknowledged_by": kept.acknowledged_by if kept is not None else None,
        "readings": [_reading(reading) for reading in stored],
    }


def _stored(service: Service, adapter: str, number: int, limit: int) -> tuple[list[Reading], MonitorState | None]:
    with service.registry.reading() as session:
        stored = readings.latest(session, adapter, limit, version=number) if limit else []
        return stored, readings.get_state(session, adapter, number)


def _monitor(monitor: Monitor) -> dict[str, Any]:
    """The monitor as plain values; runs on the watch thread."""
    reference, alarm = monitor.reference, monitor.alarm
    if not reference.calibrated:
        state = "not_calibrated"
    elif alarm is not None:
        state = "alarm"
    else:
        state = "watching" if monitor.windows else "warming"
    return {
        "state": state,
        "alarm_active": alarm is not None,
        "alarm": alarm.to_json() if alarm is not None else None,
        "calibrated": reference.calibrated,
        "why_not": reference.why_not,
        "observations": monitor.observations,
        "evidence": monitor.evidence,
        "windows": monitor.windows,
        "window": {"size": monitor.settings.window, "filled": monitor.pending.n},
        "mean_observations_between_false_alarms": monitor.settings.arl,
        "reference": {
            "digest": reference.digest,
            "fit": len(reference.fit),
            "calibration": reference.n_cal,
            "replay": len(reference.replay),
            "cells": len(reference.cells),
            "alpha0": reference.alpha0,
            "k": reference.k,
        },
        "last": monitor.last.to_json() if monitor.last is not None else None,
    }


def _reading(reading: Reading) -> dict[str, Any]:
    return {"id": reading.id, "at": reading.at, "n": reading.window_n, "cells": reading.cells, **reading.statistics}
