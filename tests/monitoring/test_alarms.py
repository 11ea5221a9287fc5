"""Alarms: what they say survives JSON, old ones are still read, and how large a shift must be to call for action."""

import json
from dataclasses import replace

import pytest

from monitoring.alarms import UNEXPLAINED, Alarm, Confirmation, Contribution, Effect
from monitoring.errors import StateRefused
from monitoring.monitor_settings import MonitorSettings

FULL = Alarm(
    statistics=("novelty", "occupancy"),
    window_number=3,
    observation=700,
    moved=({"cell": 1},),
    detectors=(Contribution("segment", 0.7, segment="mobile"), Contribution("cell", 0.3, cell=2, label="card")),
    segment="mobile",
    change_observation=612,
    effects={"novelty_ratio": Effect(4.0, 2.5, 6.0, 88), "tv_excess": Effect(0.01, 0.0, 0.08, 88)},
    actionable=True,
    confirmation=Confirmation(0.7, 0.62, 0.78, 0.001),
)


def test_an_alarm_goes_to_json_and_back() -> None:
    assert Alarm.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert Alarm.from_json(UNEXPLAINED.to_json()) == UNEXPLAINED


def test_an_alarm_of_an_older_release_is_read_and_calls_for_action() -> None:
    old = Alarm.from_json({"statistics": ["novelty"], "window_number": 3, "observation": 700, "moved": [{"cell": 1}]})
    assert (old.statistics, old.observation, old.detectors, old.actionable) == (("novelty",), 700, (), True)


@pytest.mark.parametrize(
    "bad",
    [
        None, {}, [], "x", {**FULL.to_json(), "moved": ["x"]}, {**FULL.to_json(), "observation": "many"},
        {**FULL.to_json(), "effects": {"novelty_ratio": 3}}, {**FULL.to_json(), "detectors": [{"detector": "cell"}]},
        {**FULL.to_json(), "confirmation": {"auc": 0.7}},
    ],
)  # fmt: skip
def test_damaged_alarms_are_refused(bad: object) -> None:
    with pytest.raises(StateRefused):
        Alarm.from_json(bad)


@pytest.mark.parametrize(
    ("ratio", "tv", "auc", "actionable"),
    [
        (1.9, 0.04, None, False),
        (2.0, 0.0, None, True),
        (1.0, 0.05, None, True),
        (1.0, 0.0, 0.59, False),
        (1.0, 0.0, 0.60, True),
    ],
)
def test_one_large_measure_calls_for_action(ratio: float, tv: float, auc: float | None, actionable: bool) -> None:
    confirmation = None if auc is None else Confirmation(auc, auc - 0.05, auc + 0.05, 0.001)
    effects = {"novelty_ratio": Effect(ratio, 0.5, 9.0, 100), "tv_excess": Effect(tv, 0.0, 0.5, 100)}
    judged = replace(FULL, confirmation=confirmation, effects={}).judged(effects, MonitorSettings())
    assert judged.actionable is actionable
    assert judged.effects == effects


def test_an_alarm_without_any_measure_does_not_call_for_action() -> None:
    assert not replace(FULL, confirmation=None).judged({}, MonitorSettings()).actionable
