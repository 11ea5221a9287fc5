"""What to do about drift, with reasons: nothing, rebuild the reference, recalibrate, or retrain.

Significance alone starts nothing: with enough traffic every difference is significant. What counts is how large the
shift is, whether the version knows what the traffic moved to, and whether a retrain would see rows that the version has
not. Only a retrain can be begun without a person, since only its result is judged by a gate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final

from monitoring.alarms import Alarm, Effect
from monitoring.monitor_settings import MonitorSettings

INFORMATIVE: Final = "/admin/drift/{adapter}/informative"


class Action(StrEnum):
    """What is advised.

    NOTHING: leave everything as it is. REBUILD: build the reference anew, on newer rows where traffic has changed for
    good. RECALIBRATE: the line between drift and none lies wrong: calibrate on newer rows, or ask for a longer run
    length. RETRAIN: fit a new version, with the items named.
    """

    NOTHING = "nothing"
    REBUILD = "rebuild_reference"
    RECALIBRATE = "recalibrate_thresholds"
    RETRAIN = "retrain"


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known of an adapter, all of it from our own state.

    Attributes:
        adapter: Its name.
        live: Such as `banking@7`, None where no version is live.
        referenced: Whether the live version has a reference.
        why_not: Why no alarm can be raised, or none be believed; None where both can.
        withdrawn: Whether `why_not` is that alarms come more often on the replay items than stated.
        alarm: The one that stands.
        differing: What encodes its probes otherwise than before, in words; empty where nothing does.
        newer: Revision of its dataset that the live version was not fitted on, None where there is none.
        tried: How a retrain that was asked for since the alarm began has ended: its verdict's outcome or its state;
            None where none has.
        retained: Texts of the traffic that are kept, from which items to label can be chosen.
    """

    adapter: str
    live: str | None
    referenced: bool = False
    why_not: str | None = None
    withdrawn: bool = False
    alarm: Alarm | None = None
    differing: tuple[str, ...] = ()
    newer: str | None = None
    tried: str | None = None
    retained: int = 0


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence, and a word for programs."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, why, and where the items to label first are listed, if any."""

    action: Action
    reasons: tuple[Reason, ...]
    items: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"action": self.action.value, "reasons": [asdict(r) for r in self.reasons], "items": self.items}


def advise(known: Situation, settings: MonitorSettings) -> Advice:
    """The advice for a situation; `settings` say how large a shift must be."""
    if known.live is None:
        return _only(Action.NOTHING, "no_live_version", "No version is live, so there is nothing that could drift.")
    if known.differing:
        text = f"{', '.join(known.differing)}: the same texts get other vectors than before. Mend that first."
        return _only(Action.NOTHING, "probes_differ", text)
    if not known.referenced:
        text = f"{known.live} has no reference, so its traffic is held against nothing: build one, on rows that it was "
        return _only(Action.REBUILD, "no_reference", text + "not fitted on.")
    if known.why_not is not None and not known.withdrawn:
        text = f"The reference raises no alarm ({known.why_not}): build it anew, on more rows."
        return _only(Action.REBUILD, "not_calibrated", text)
    if known.alarm is None:
        return _quiet(known)
    if not known.alarm.actionable:
        return _small(known.alarm, settings)
    if known.withdrawn and not _beyond_doubt(known.alarm, settings):
        text = f"Alarms are not to be believed ({known.why_not}), and the shift is not large beyond doubt."
        return Advice(Action.RECALIBRATE, (Reason("run_length", text), *_sizes(known.alarm, settings)))
    return _large(known, known.alarm, settings)


def _only(action: Action, code: str, text: str) -> Advice:
    return Advice(action, (Reason(code, text),))


def _quiet(known: Situation) -> Advice:
    if known.withdrawn:
        text = f"No alarm stands, and one would not be believed ({known.why_not}): calibrate on newer rows, or ask for "
        return _only(Action.RECALIBRATE, "run_length", text + "a longer run length.")
    return _only(Action.NOTHING, "no_alarm", "No alarm stands: traffic is like what the version was calibrated on.")


def _small(alarm: Alarm, settings: MonitorSettings) -> Advice:
    """The shift is real, but too small to act on, or not yet known to be large enough."""
    sizes = _sizes(alarm, settings)
    least = _least(settings)
    if any(effect.high >= least[name] for name, effect in alarm.effects.items() if name in least):
        text = (
            "An alarm stands, but not yet known is whether the shift is large enough to act on: wait for more traffic."
        )
        return Advice(Action.NOTHING, (Reason("effect_unknown", text), *sizes))
    text = "The shift is real and too small to act on: calibrate on newer rows, so that it no longer counts."
    return Advice(Action.RECALIBRATE, (Reason("effect_small", text), *sizes))


def _large(known: Situation, alarm: Alarm, settings: MonitorSettings) -> Advice:
    sizes = _sizes(alarm, settings)
    if not _novel(alarm, settings) and known.newer is None:
        text = (
            "Texts are of the kinds the version knows, in other shares: it needs no other fit. If the shares are here "
            "to stay, build the reference anew on newer rows."
        )
        return Advice(Action.REBUILD, (Reason("known_topics", text), *sizes))
    novel = _novel(alarm, settings)
    sizes += _where(alarm)
    what = "Texts come that are unlike what the version was fitted on." if novel else "The shares of topics changed."
    reasons = [Reason("novel_texts" if novel else "known_topics", what), *sizes]
    if known.newer is not None:
        reasons.append(Reason("newer_rows", f"{known.newer} holds rows that {known.live} was not fitted on."))
    if known.tried is not None:
        text = f"A retrain asked for since the alarm began has ended: {known.tried}. Another one needs other rows."
        reasons.append(Reason("tried", text))
    items = None
    if known.retained:
        items = INFORMATIVE.format(adapter=known.adapter)
        text = f"{known.retained} texts of the traffic are kept; those to label first are listed."
        reasons.append(Reason("items", text))
    elif known.newer is None:
        text = "No text of the traffic is kept, so none can be named: label newer texts, or let a key retain some."
        reasons.append(Reason("no_items", text))
    return Advice(Action.RETRAIN, tuple(reasons), items)


def _where(alarm: Alarm) -> list[Reason]:
    """Which segment an alarm concerns, and the neighbourhood that moved most, as far as they have names."""
    found = []
    if alarm.segment:
        found.append(Reason("segment", f"It concerns the segment {alarm.segment}."))
    names = [str(moved["label"]) for moved in alarm.moved if moved.get("label")]
    if names:
        found.append(Reason("neighbourhood", f"The neighbourhood that moved most is {names[0]}."))
    return found


def _least(settings: MonitorSettings) -> Mapping[str, float]:
    return {"novelty_ratio": settings.min_novelty_ratio, "tv_excess": settings.min_tv}


def _novel(alarm: Alarm, settings: MonitorSettings) -> bool:
    """Whether the version meets what it does not know. An alarm of which nothing is known counts as one."""
    ratio = alarm.effects.get("novelty_ratio")
    return ratio is None or ratio.value >= settings.min_novelty_ratio


def _beyond_doubt(alarm: Alarm, settings: MonitorSettings) -> bool:
    """Whether a measure lies above its least value with its whole interval."""
    least = _least(settings)
    return any(effect.low >= least[name] for name, effect in alarm.effects.items() if name in least)


def _sizes(alarm: Alarm, settings: MonitorSettings) -> list[Reason]:
    words = {
        "novelty_ratio": "Texts unlike the reference come {} times as often as expected",
        "tv_excess": "The shares of the neighbourhoods moved by {} beyond chance",
    }
    least = _least(settings)
    return [
        Reason(name, f"{words[name].format(_range(effect))}; {least[name]:g} calls for action.")
        for name, effect in alarm.effects.items()
        if name in words
    ]


def _range(effect: Effect) -> str:
    return f"{effect.value:.3g} ({effect.low:.3g} to {effect.high:.3g}, {effect.n} texts)"
