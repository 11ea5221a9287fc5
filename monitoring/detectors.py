"""The detectors of a monitor that are nearest to an alarm, few enough to be kept with every reading."""

from typing import Final

from monitoring.monitor import Monitor

ALWAYS: Final = ("total", "novelty")
OTHERS: Final = 3


def leading(monitor: Monitor) -> dict[str, tuple[float, float]]:
    """Value and line of the whole evidence, of novelty, of the OTHERS detectors nearest to their lines, and of the
    averages of the neighbourhoods' shares; nothing in the mode "windows", which gathers no evidence.

    Values of evidence are natural logarithms and may be minus infinity, where there is none yet.
    """
    if monitor.settings.mode == "windows":
        return {}
    found = monitor.evidence_log()
    others = sorted((name for name in found if name not in ALWAYS), key=lambda name: found[name][0] - found[name][1])
    chosen = {name: found[name] for name in (*ALWAYS, *others[::-1][:OTHERS]) if name in found}
    return {**chosen, **monitor.occupancy()}
