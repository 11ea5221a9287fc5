"""What is advised in which situation: each branch, and what must hold in all of them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.advice import Action, Situation, advise
from monitoring.alarms import UNEXPLAINED, Alarm, Confirmation, Effect
from monitoring.monitor_settings import MonitorSettings

SETTINGS = MonitorSettings()
QUIET = Situation("desk", "desk@3", referenced=True)


def alarm(ratio=(1.0, 0.8, 1.3), tv=(0.01, 0.0, 0.02), actionable=None, confirmation=None):
    effects = {
        "novelty_ratio": Effect(*ratio, 400),
        "tv_excess": Effect(*tv, 400),
    }
    raised = Alarm(("novelty",), 3, 900, (), effects=effects, confirmation=confirmation)
    judged = raised.judged(effects, SETTINGS)
    return judged if actionable is None else replace(judged, actionable=actionable)


NOVEL = alarm(ratio=(6.0, 4.1, 8.8))
MIXED = alarm(tv=(0.2, 0.15, 0.26))
SMALL = alarm(ratio=(1.4, 1.2, 1.6))
OPEN = alarm(ratio=(1.6, 0.9, 2.6))
WITHDRAWN = {"why_not": "alarms came too often", "withdrawn": True}


@pytest.mark.parametrize(
    ("known", "action", "first"),
    [
        (Situation("desk", None), Action.NOTHING, "no_live_version"),
        (replace(QUIET, differing=("MiniLM",), alarm=NOVEL), Action.NOTHING, "probes_differ"),
        (Situation("desk", "desk@3"), Action.REBUILD, "no_reference"),
        (replace(QUIET, why_not="20 calibration items"), Action.REBUILD, "not_calibrated"),
        (QUIET, Action.NOTHING, "no_alarm"),
        (replace(QUIET, **WITHDRAWN), Action.RECALIBRATE, "run_length"),
        (replace(QUIET, alarm=SMALL), Action.RECALIBRATE, "effect_small"),
        (replace(QUIET, alarm=OPEN), Action.NOTHING, "effect_unknown"),
        (replace(QUIET, alarm=NOVEL), Action.RETRAIN, "novel_texts"),
        (replace(QUIET, alarm=UNEXPLAINED), Action.RETRAIN, "novel_texts"),
        (replace(QUIET, alarm=MIXED), Action.REBUILD, "known_topics"),
        (replace(QUIET, alarm=MIXED, newer="desk@4"), Action.RETRAIN, "known_topics"),
        (replace(QUIET, alarm=NOVEL, **WITHDRAWN), Action.RETRAIN, "novel_texts"),
        (replace(QUIET, alarm=alarm(ratio=(2.2, 1.5, 3.1)), **WITHDRAWN), Action.RECALIBRATE, "run_length"),
    ],
)
def test_each_situation_has_its_advice(known, action, first):
    found = advise(known, SETTINGS)
    assert (found.action, found.reasons[0].code) == (action, first)


def test_a_retrain_names_its_items_or_says_why_it_cannot():
    kept = advise(replace(QUIET, alarm=NOVEL, retained=120), SETTINGS)
    assert kept.items == "/admin/drift/desk/informative"
    assert any("120 texts" in reason.text for reason in kept.reasons)
    without = advise(replace(QUIET, alarm=NOVEL), SETTINGS)
    assert without.items is None
    assert without.reasons[-1].code == "no_items"
    tried = advise(replace(QUIET, alarm=NOVEL, newer="desk@4", tried="fail"), SETTINGS)
    assert [reason.code for reason in tried.reasons] == [
        "novel_texts", "novelty_ratio", "tv_excess", "newer_rows", "tried",
    ]  # fmt: skip
    assert "desk@4" in tried.reasons[3].text
    assert "fail" in tried.reasons[4].text


def test_reasons_tell_how_large_the_shift_is_and_what_would_be_enough():
    (_, ratio, tv, *_) = advise(replace(QUIET, alarm=NOVEL), SETTINGS).reasons
    assert "6 (4.1 to 8.8, 400 texts) times as often" in ratio.text
    assert "2 calls for action" in ratio.text
    assert "0.05 calls for action" in tv.text


def test_reasons_say_where():
    moved = ({"cell": 3, "label": None}, {"cell": 7, "label": "lost card"}, {"cell": 1, "label": "refund"})
    found = advise(replace(QUIET, alarm=replace(NOVEL, segment="emea", moved=moved)), SETTINGS)
    texts = {reason.code: reason.text for reason in found.reasons}
    assert "segment emea" in texts["segment"]
    assert "lost card" in texts["neighbourhood"]


def test_a_classifier_that_confirms_makes_a_shift_large():
    confirmed = alarm(ratio=(2.1, 1.0, 3.0), confirmation=Confirmation(0.8, 0.7, 0.9, 0.01))
    assert advise(replace(QUIET, alarm=confirmed), SETTINGS).action is Action.RETRAIN


interval = st.tuples(st.floats(0, 20), st.floats(0, 5), st.floats(0, 5)).map(lambda t: (t[0], t[0] - t[1], t[0] + t[2]))


@given(
    st.builds(
        Situation,
        adapter=st.just("desk"),
        live=st.sampled_from([None, "desk@3"]),
        referenced=st.booleans(),
        why_not=st.sampled_from([None, "too few"]),
        withdrawn=st.booleans(),
        alarm=st.none() | st.builds(alarm, interval, interval),
        differing=st.sampled_from([(), ("MiniLM",)]),
        newer=st.sampled_from([None, "desk@4"]),
        tried=st.sampled_from([None, "fail"]),
        retained=st.integers(0, 10),
    )
)
def test_a_retrain_is_advised_only_for_a_standing_alarm_that_is_large(known):
    found = advise(known, SETTINGS)
    assert found.reasons
    assert json.loads(json.dumps(found.to_json()))["action"] == found.action.value
    if found.action is Action.RETRAIN:
        assert known.live is not None
        assert known.referenced
        assert known.alarm is not None
        assert known.alarm.actionable
        assert not known.differing
        assert known.why_not is None or known.withdrawn
    else:
        assert found.items is None
