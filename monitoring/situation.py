"""Reads what is known of an adapter from the registry: the one state that every service and command shares."""

from datetime import datetime
from typing import Any

from monitoring.advice import Situation
from monitoring.alarms import UNEXPLAINED, Alarm
from monitoring.errors import StateRefused
from registry import datasets, jobs, readings, retained, versions
from registry.errors import RegistryError
from registry.names import parse_model
from registry.readings import MonitorState
from registry.versions import Version

JOBS_LOOKED_AT = 200
"""How far back jobs of an adapter are looked for."""


def situation(
    session: Any,
    adapter: str,
    *,
    why_not: str | None = None,
    withdrawn: bool = False,
    differing: tuple[str, ...] = (),
) -> Situation:
    """What the registry knows, with what the caller knows of the reference and of the runtime.

    Args:
        session: Of the registry, reading or writing.
        why_not, withdrawn, differing: As in `Situation`.

    Raises:
        NotFound: There is no such adapter.
    """
    versions.get_adapter(session, adapter)
    live = versions.live(session, adapter)
    if live is None:
        return Situation(adapter, None)
    kept = readings.get_state(session, adapter, live.number)
    standing = kept is not None and kept.alarm_active
    return Situation(
        adapter=adapter,
        live=live.name,
        referenced=live.reference is not None,
        why_not=why_not,
        withdrawn=withdrawn,
        alarm=alarm_of(kept) if kept is not None and standing else None,
        differing=differing,
        newer=_newer(session, live),
        tried=_tried(session, adapter, kept.alarm_since) if kept is not None and standing else None,
        retained=retained.count(session, adapter),
    )


def alarm_of(kept: MonitorState) -> Alarm:
    """The alarm that stands in the registry, as far as it can be read."""
    try:
        return Alarm.from_json(kept.state["alarm"])
    except (StateRefused, KeyError, TypeError, AttributeError):
        return UNEXPLAINED


def _newer(session: Any, live: Version) -> str | None:
    """The newest revision of the live version's dataset, if it is a later one than the version was fitted on."""
    try:
        name, revision = parse_model(live.dataset)
        newest = datasets.get(session, name).revision
    except RegistryError:
        return None
    return f"{name}@{newest}" if revision is not None and newest > revision else None


def _tried(session: Any, adapter: str, since: datetime | None) -> str | None:
    """How the newest job that was asked for after `since` has ended."""
    for job in jobs.all(session, adapter, JOBS_LOOKED_AT):
        if since is None or job.created_at < since:
            break
        if job.state.finished:
            return str((job.verdict or {}).get("outcome") or job.state.value)
    return None
