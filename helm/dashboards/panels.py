"""What a dashboard is made of, and how it becomes Grafana's Classic JSON.

Classic JSON (schema 37) is read by Grafana 9 to 13, which bring it up to date themselves. Every query goes to the data
source that is chosen at the top of the dashboard. Panels flow from left to right, 24 columns wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 37
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Labels every query is narrowed by: those chosen at the top.
JOB = 'job=~"$job"'
ADAPTER = f'{JOB}, adapter=~"$adapter"'

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


@dataclass(frozen=True, slots=True)
class Query:
    """An expression and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        kind: Grafana's name: timeseries, stat, table, heatmap, bargauge, state-timeline.
        unit: Grafana's name of the unit: short, s, reqps, percentunit, bytes, none.
        levels: Colours from a value on, for kinds that are coloured by value; the first holds from the lowest on.
        words: What is shown instead of a value.
        shown: Of a stat: value_and_name, or name where the series' names are what is told.
        dashed: Legends (a regular expression) that are drawn dashed: lines that something is held against.
        hidden: Columns that a table leaves out.
    """

    title: str
    text: str
    kind: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    height: int = 8
    least: float | None = None
    most: float | None = None
    levels: Sequence[tuple[float, str]] = ()
    words: dict[str, str] = field(default_factory=dict)
    shown: str = "value_and_name"
    dashed: str = ""
    hidden: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels under it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Mark:
    """An annotation: where the expression has a value, so it should have one at an event and not before or after."""

    name: str
    expr: str
    title: str
    colour: str


# What the monitor or a person did: without these marks a curve that falls is a riddle. A value is there for two
# minutes, twice the step, so that no event is missed and none is drawn many times.
MARKS = (
    Mark(
        "promotions",
        f"max by (adapter, version) (driftline_live_version_info{{{ADAPTER}}})"
        f" unless max by (adapter, version) (driftline_live_version_info{{{ADAPTER}}} offset 2m)",
        "{{adapter}}@{{version}} is live",
        GREEN,
    ),
    Mark(
        "retrains",
        f"time() - adapter_state:driftline_last_job_timestamp_seconds:max{{{ADAPTER}}} < 120",
        "retrain of {{adapter}} {{state}}",
        BLUE,
    ),
    Mark(
        "drift alarms",
        f"adapter:driftline_drift_alarm_active:max{{{ADAPTER}}} == 1"
        f" unless adapter:driftline_drift_alarm_active:max{{{ADAPTER}}} offset 2m == 1",
        "drift alarm of {{adapter}}",
        RED,
    ),
)


def dashboard(uid: str, title: str, text: str, rows: Sequence[Row], *, many_adapters: bool) -> dict[str, Any]:
    """The dashboard as Grafana's Classic JSON model.

    Args:
        many_adapters: Whether several adapters may be looked at together.
    """
    adapters = f"label_values(driftline_live_version_info{{{JOB}}}, adapter)"
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["driftline"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "title": "Driftline", "tags": ["driftline"], "asDropdown": False, "keepTime": True,
             "includeVars": True},
        ],
        "templating": {
            "list": [
                {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus",
                 "refresh": 1, "hide": 0},
                _choice("job", "Scrape job", "label_values(driftline_build_info, job)", many=True),
                _choice("adapter", "Adapter", adapters, many=many_adapters),
            ]
        },
        "annotations": {"list": [_annotation(mark) for mark in MARKS]},
        "panels": _panels(rows),
    }  # fmt: skip


def _choice(name: str, label: str, query: str, *, many: bool) -> dict[str, Any]:
    every = {"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if many else {}
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "definition": query,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": many, "includeAll": many, **every,
    }  # fmt: skip


def _annotation(mark: Mark) -> dict[str, Any]:
    return {
        "name": mark.name, "datasource": DATASOURCE, "enable": True, "hide": False, "iconColor": mark.colour,
        "expr": mark.expr, "step": "60s", "titleFormat": mark.title, "useValueForTime": False,
        "target": {"refId": "Anno", "datasource": DATASOURCE, "expr": mark.expr, "interval": "60s"},
    }  # fmt: skip


def _panels(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Panels with their places; a line is as high as its highest panel."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        placed.append(
            {"type": "row", "title": row.title, "collapsed": False, "panels": [],
             "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}
        )  # fmt: skip
        y += 1
        x = highest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, highest = 0, y + highest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append({**_panel(panel), "gridPos": place})
            x += panel.width
            highest = max(highest, panel.height)
        y += highest
    for number, panel_json in enumerate(placed, 1):
        panel_json["id"] = number
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    instant = panel.kind in {"table", "stat", "bargauge"}
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "instant": instant,
            "range": not instant,
            "format": "table" if panel.kind == "table" else "time_series",
        }
        for number, query in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
        "transformations": _transformations(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    found: dict[str, Any] = {"unit": panel.unit}
    if panel.least is not None:
        found["min"] = panel.least
    if panel.most is not None:
        found["max"] = panel.most
    if panel.levels:
        steps = [
            {"color": colour, "value": None if number == 0 else value}
            for number, (value, colour) in enumerate(panel.levels)
        ]
        found["thresholds"] = {"mode": "absolute", "steps": steps}
        found["color"] = {"mode": "thresholds"}
    if panel.words:
        options = {value: {"text": word, "index": n} for n, (value, word) in enumerate(panel.words.items())}
        found["mappings"] = [{"type": "value", "options": options}]
    if panel.kind == "timeseries":
        found["custom"] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": 120_000}
    return found


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    if not panel.dashed:
        return []
    line = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}
    empty = {"id": "custom.fillOpacity", "value": 0}
    return [{"matcher": {"id": "byRegexp", "options": panel.dashed}, "properties": [line, empty]}]


def _options(panel: Panel) -> dict[str, Any]:
    """Whole options: what a kind reads without looking whether it is there differs between releases of Grafana."""
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": panel.kind == "timeseries", "calcs": []}
    look: dict[str, Any]
    last = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    match panel.kind:
        case "timeseries":
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "stat":
            look = {"colorMode": "background", "graphMode": "none", "justifyMode": "auto", "orientation": "auto"}
            return {**last, **look, "textMode": panel.shown}
        case "bargauge":
            look = {"orientation": "horizontal", "displayMode": "basic", "valueMode": "color"}
            return {**last, **look, "showUnfilled": True, "minVizWidth": 0, "minVizHeight": 10}
        case "heatmap":
            colours = {"mode": "scheme", "scheme": "Oranges", "scale": "exponential", "exponent": 0.5, "steps": 64}
            return {
                "calculate": False,  # each series is a row; nothing is counted into buckets here
                "color": {**colours, "fill": "dark-orange", "reverse": False},
                "cellGap": 1,
                "cellValues": {},
                "filterValues": {"le": -1},  # 0 is worth seeing: nothing falls there any more
                "rowsFrame": {"layout": "auto"},
                "yAxis": {"axisPlacement": "left", "reverse": False},
                "legend": {"show": True},
                "tooltip": {"show": True, "mode": "single", "yHistogram": False},
                "exemplars": {"color": "rgba(255,0,255,0.7)"},
            }
        case "state-timeline":
            look = {"showValue": "never", "alignValue": "left", "tooltip": {"mode": "single", "sort": "none"}}
            return {**look, "mergeValues": True, "rowHeight": 0.9, "legend": legend}
        case _:
            return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}}


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "table":
        return []
    hidden = dict.fromkeys(("Time", "__name__", *panel.hidden), True)
    merged = [{"id": "merge", "options": {}}] if len(panel.queries) > 1 else []
    return [*merged, {"id": "organize", "options": {"excludeByName": hidden}}]
