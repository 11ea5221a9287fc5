"""river's ADWIN and Page-Hinkley on the novelty score; run in its own environment with a job file.

The "vectors" of the job are novelty scores (n, 1). Each detector first sees the reference's scores, as it has no other
way to know what is usual. Its parameter is tuned instead of a threshold.
"""

import sys
import time

from river.drift import ADWIN, PageHinkley
from tuning import Job

GRIDS = {
    # Not a probability any more above 1, but shorter run lengths are not to be had otherwise.
    "adwin": [10.0 ** (-exponent / 16) for exponent in range(-15, 240)],
    "page_hinkley": [0.5 * 1.15**step for step in range(50)],
}


def made(method, parameter, usual):
    """A detector that has seen the usual scores; a drift it found among them is forgotten."""
    kinds = {
        "adwin": lambda: ADWIN(delta=parameter),
        "page_hinkley": lambda: PageHinkley(min_instances=1, threshold=parameter),
    }
    detector = kinds[method]()
    for score in usual:
        detector.update(score)
    return detector


def first(detector, scores):
    """Items until it reports drift; None if it never does."""
    for item, score in enumerate(scores, 1):
        detector.update(score)
        if detector.drift_detected:
            return item
    return None


def measured(method, parameter, usual, streams):
    """(items, alarms) over the quiet streams, a fresh detector after each alarm."""
    items = alarms = 0
    for scores in streams:
        start = 0
        while start < len(scores):
            found = first(made(method, parameter, usual), scores[start:])
            items += found or len(scores) - start
            start += found or len(scores) - start
            alarms += found is not None
    return items, alarms


def tuned(method, target, usual, streams):
    """The first parameter of the grid, from lax to strict, whose run length reaches the target; None if none does."""
    low, high = 0, len(GRIDS[method]) - 1
    while low < high:
        middle = (low + high) // 2
        items, alarms = measured(method, GRIDS[method][middle], usual, streams)
        low, high = (middle + 1, high) if alarms and items / alarms < target else (low, middle)
    return GRIDS[method][low], *measured(method, GRIDS[method][low], usual, streams)


def main():
    job = Job(sys.argv[1])
    usual = job.reference[:1000, 0].tolist()
    streams = [scores[:, 0].tolist() for scores in job.quiet()]
    lines, began = {}, time.process_time()
    first(made(job.method, 1e-9 if job.method == "adwin" else 1e9, usual), streams[0])
    cost = 1e6 * (time.process_time() - began) / (len(usual) + len(streams[0]))
    for target in job.targets:
        parameter, items, alarms = tuned(job.method, target, usual, streams)
        line = {"threshold": parameter, "quiet_items": items, "quiet_alarms": alarms, "delays": {}}
        for key in job.keys:
            found = line["delays"][key] = []
            for scores, start in job.scenario(key):
                at = first(made(job.method, parameter, usual), scores[:, 0].tolist())
                found.append(None if at is None else "early" if at <= start else at - start)
        lines[target] = line
    job.write({"method": job.method, "window": None, "us_an_item": cost, "targets": lines})


if __name__ == "__main__":
    main()
