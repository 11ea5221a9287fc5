"""What a drift report shows, as plain values: the monitor's state in words, and the figures behind each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np

from monitoring.advice import Advice
from monitoring.alarms import Alarm
from monitoring.detectors import leading
from monitoring.drift_map import Plane, shown
from monitoring.monitor import Monitor
from monitoring.statistics import cell_z_scores
from monitoring.window import P_VALUE_EDGES
from registry.readings import MonitorState, Reading

DETECTORS: Final = {
    "total": "all evidence together",
    "novelty": "texts unlike the reference",
    "occupancy_fast": "shares of neighbourhoods, newest traffic",
    "occupancy_slow": "shares of neighbourhoods, longer average",
}
MOVED: Final[dict[str, Any]] = {
    "cell": 0, "label": None, "labels": (), "medoids": (), "expected": 0.0, "observed": 0.0, "z": 0.0, "novel": 0,
    "direction": "more",
}  # fmt: skip
"""What is told of a neighbourhood that moved; an alarm that an older release stored may lack some of it."""
STRIP_CELLS: Final = 24
"""Neighbourhoods of the strip, those that moved most."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a report is made of.

    monitor: resumed from the registry, with the alarm as the registry has it. kept: its stored state, None where none
    is. readings: oldest first. advice: what `driftline drift advice` says. examples: kept texts by neighbourhood,
    where they were asked for.
    """

    adapter: str
    version: str
    made_at: datetime
    monitor: Monitor
    kept: MonitorState | None
    readings: Sequence[Reading]
    advice: Advice
    examples: dict[int, list[str]] | None = None


def document(found: Material) -> dict[str, Any]:
    """Everything the page shows; no text of the traffic unless examples were given."""
    monitor, reference = found.monitor, found.monitor.reference
    alarm = monitor.alarm
    measured = monitor.run_length
    return {
        "adapter": found.adapter,
        "version": found.version,
        "made_at": found.made_at,
        "state": {
            "calibrated": monitor.calibrated,
            "why_not": monitor.why_not,
            "alarm_active": monitor.alarm_active,
            "alarm_since": found.kept.alarm_since if found.kept is not None and monitor.alarm_active else None,
            "actionable": alarm is not None and alarm.actionable,
            "observations": monitor.observations,
            "evidence": monitor.evidence,
            "windows": monitor.windows,
            "updated_at": None if found.kept is None else found.kept.updated_at,
            "words": _words(found),
        },
        "alarm": None if alarm is None else alarm.to_json(),
        "advice": found.advice.to_json(),
        "run_length": {
            "stated": monitor.settings.arl,
            "replay": None if measured is None else {
                "stated": measured.stated, "mean": measured.measured, "low": measured.low,
                "high": None if np.isinf(measured.high) else measured.high,
                "observations": measured.observations, "alarms": measured.alarms,
            },
        },
        "sizes": reference.sizes(monitor.settings.arl, monitor.settings.window).to_json(),
        "reference": {
            "digest": reference.digest, "fit": len(reference.fit), "calibration": reference.n_cal,
            "replay": len(reference.replay), "cells": len(reference.cells),
            "expected_novelty": reference.novel_rank / (reference.n_cal + 1),
        },
        "readings": [_reading(each) for each in found.readings],
        "detectors": _detectors(found),
        "p_values": _p_values(found),
        "occupancy": _occupancy(found),
        "map": _map(found),
        "moved": _moved(found),
        "with_texts": found.examples is not None,
    }  # fmt: skip


def _words(found: Material) -> list[str]:
    """The state in sentences."""
    monitor = found.monitor
    words = [
        f"{monitor.observations:,} texts were observed, {monitor.evidence:,} of them as evidence, in "
        f"{monitor.windows:,} full windows of {monitor.settings.window:,}."
    ]
    if monitor.why_not is not None:
        words.append(f"No alarm can be raised, or none be believed: {monitor.why_not}.")
    else:
        words.append(
            "The monitor is calibrated: while nothing changes, it raises at most one false alarm in "
            f"{monitor.settings.arl:,} texts on average."
        )
    if monitor.alarm is None:
        words.append("No alarm stands.")
        return words
    since = "" if found.kept is None or found.kept.alarm_since is None else f" since {_date(found.kept.alarm_since)}"
    words.append(f"An alarm stands{since}, until somebody acknowledges it.")
    return words + _alarm_words(monitor.alarm)


def _alarm_words(alarm: Alarm) -> list[str]:
    words = []
    if alarm.observation:
        words.append(
            f"It was raised at text {alarm.observation:,}; the change is thought to have begun at text "
            f"{alarm.change_observation + 1:,}."
        )
    if "novelty_ratio" in alarm.effects:
        effect = alarm.effects["novelty_ratio"]
        words.append(
            f"Texts unlike the reference come {effect.value:.3g} times as often as expected (95 % interval "
            f"{effect.low:.3g} to {effect.high:.3g}, from {effect.n:,} texts)."
        )
    if "tv_excess" in alarm.effects:
        effect = alarm.effects["tv_excess"]
        words.append(
            f"{100 * max(0.0, effect.value):.1f} % of the traffic moved between neighbourhoods beyond chance (95 % "
            f"interval {100 * effect.low:.1f} to {100 * effect.high:.1f} %)."
        )
    words.append(
        "The shift is large enough to act on."
        if alarm.actionable
        else "The shift is real, but not known to be large enough to act on."
    )
    return words


def _reading(reading: Reading) -> dict[str, Any]:
    told = reading.statistics
    return {
        "at": reading.at, "n": reading.window_n, "novelty_rate": told.get("novelty_rate"),
        "tv_excess": told.get("total_variation"), "alarm": reading.alarm, "cells": reading.cells,
        "p_values": told.get("p_values"), "evidence": told.get("evidence"),
    }  # fmt: skip


def _detectors(found: Material) -> list[dict[str, Any]]:
    """The course of each detector as a part of its line, 1 where it would alarm alone, and where it is now.

    Readings of older releases stored none; None stands for them.
    """
    now = _now(found.monitor)
    courses = [reading.statistics.get("evidence") or {} for reading in found.readings]
    names = dict.fromkeys((*now, *(n for course in courses for n in course)))
    told = []
    for name in names:
        parts = [_part(course.get(name)) for course in courses]
        if name in now or any(part is not None for part in parts):
            told.append({"name": name, "words": _name(found, name), "now": now.get(name), "course": parts})
    return sorted(told, key=lambda one: (one["name"] != "total", -_highest(one)))


def _now(monitor: Monitor) -> dict[str, dict[str, float | None]]:
    return {
        name: {"value": value if np.isfinite(value) else None, "line": line, "part": _part((value, line))}
        for name, (value, line) in leading(monitor).items()
    }


def _part(pair: Any) -> float | None:
    """A value as a part of its line; evidence below nothing counts as nothing."""
    if not pair or pair[0] is None or not pair[1]:
        return None
    part = float(pair[0]) / float(pair[1])
    return max(0.0, part) if np.isfinite(part) else 0.0


def _highest(one: dict[str, Any]) -> float:
    now = one["now"]["part"] if one["now"] else None
    return max((float(part) for part in (*one["course"], now) if part is not None), default=0.0)


def _name(found: Material, name: str) -> str:
    if name in DETECTORS:
        return DETECTORS[name]
    kind, _, which = name.partition(":")
    if kind == "cell" and which.isdigit() and int(which) < len(found.monitor.reference.cells):
        return _cell_name(found, int(which))
    return f"{kind} {which}"


def _cell_name(found: Material, index: int) -> str:
    label = found.monitor.reference.cells[index].label
    return f"cell {index}" if label is None else f"cell {index}, {label}"


def _p_values(found: Material) -> dict[str, Any]:
    """How many p-values lie between the edges, over the newest readings that stored them, and how many are expected."""
    stored = [reading.statistics.get("p_values") for reading in found.readings]
    rows = [row for row in stored if row and len(row) == len(P_VALUE_EDGES)]
    newest = rows[-1] if rows else [0] * len(P_VALUE_EDGES)
    widths = np.diff((0.0, *P_VALUE_EDGES))
    return {
        "edges": list(P_VALUE_EDGES),
        "expected": widths.tolist(),
        "newest": newest,
        "all": [sum(column) for column in zip(*rows, strict=True)] if rows else [0] * len(P_VALUE_EDGES),
        "readings": len(rows),
    }


def _occupancy(found: Material) -> dict[str, Any]:
    """Standard errors between observed and expected share of the cells that moved most, one row a cell."""
    reference = found.monitor.reference
    usable = [reading for reading in found.readings if len(reading.cells) == len(reference.cells)]
    if not usable or not reference.n_cal:
        return {"cells": [], "at": []}
    scores = np.array([cell_z_scores(reading.cells, reference.pi, reference.n_cal) for reading in usable])
    order = np.argsort(-np.abs(scores[-8:]).max(axis=0), kind="stable")[:STRIP_CELLS].tolist()
    return {
        "at": [reading.at for reading in usable],
        "cells": [
            {"cell": j, "name": _cell_name(found, j), "expected": float(reference.pi[j]),
             "observed": usable[-1].cells[j] / max(1, usable[-1].window_n), "z": np.round(scores[:, j], 2).tolist()}
            for j in order
        ],
    }  # fmt: skip


def _map(found: Material) -> dict[str, Any]:
    """The reference in its own plane; the newest window by its cells, since the registry keeps counts, not vectors."""
    reference = found.monitor.reference
    plane = Plane.of(reference)
    newest = found.readings[-1] if found.readings else None
    known = newest is not None and len(newest.cells) == len(reference.cells)
    counts = newest.cells if newest is not None and known else [0] * len(reference.cells)
    return {
        "explained": plane.explained,
        "fit": np.round(plane.place(shown(reference)), 4).tolist(),
        "window": sum(counts),
        "cells": [
            {"cell": j, "name": _cell_name(found, j), "place": place, "count": count,
             "expected": float(reference.pi[j]) * sum(counts)}
            for j, (place, count) in enumerate(
                zip(np.round(plane.place(reference.centroids), 4).tolist(), counts, strict=True)
            )
        ],
    }  # fmt: skip


def _moved(found: Material) -> list[dict[str, Any]]:
    """The neighbourhoods that moved, as the alarm names them, with texts where they were asked for."""
    alarm = found.monitor.alarm
    told = []
    for cell in () if alarm is None else alarm.moved:
        texts = [] if found.examples is None else found.examples.get(int(cell.get("cell", -1)), [])
        told.append({name: cell.get(name, plain) for name, plain in MOVED.items()} | {"texts": texts})
    return told


def _date(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"
