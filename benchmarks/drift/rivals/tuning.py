"""Thresholds tuned to one measured run length, and delays at them; runs in every rival's environment (numpy alone)."""

import json
import sys
import time
from pathlib import Path

import numpy as np


class Job:
    """One rival on the streams of a file: what to read, what to run, where to write.

    The document names: vectors (npy), reference (npy of rows), streams (npz: `quiet` (S, T), and for each scenario
    rows and starts), method, window, rows (of the reference), quiet, runs (streams of each kind), targets, out.
    """

    def __init__(self, path):
        self.document = json.loads(Path(path).read_text())
        self.vectors = np.load(self.document["vectors"])
        self.reference = self.vectors[np.load(self.document["reference"])[: self.document["rows"]]]
        self.streams = np.load(self.document["streams"])
        self.method, self.window = self.document["method"], self.document["window"]
        self.targets, self.runs = self.document["targets"], self.document["runs"]

    def quiet(self):
        """Vectors of the quiet streams, one after the other."""
        for rows in self.streams["quiet"][: self.document["quiet"]]:
            yield self.vectors[rows]

    def scenario(self, key):
        """(vectors, quiet items before the change) of each run of one scenario."""
        starts = self.streams[f"{key}/starts"]
        for rows, start in zip(self.streams[f"{key}/rows"][: self.runs], starts[: self.runs], strict=True):
            yield self.vectors[rows[rows >= 0]], int(start)

    @property
    def keys(self):
        return list(self.document["scenarios"])

    def write(self, found):
        Path(self.document["out"]).write_text(json.dumps(found, indent=1))


def run_length(series, threshold, refractory):
    """(steps, alarms) of renewed runs through series (S, T): after an alarm, `refractory` steps are skipped.

    Those steps refill the window, as a detector does that is reset on usual items.
    """
    steps = alarms = 0
    for values in series:
        start = 0
        crossings = np.flatnonzero(values >= threshold)
        while start < len(values):
            later = crossings[crossings >= start]
            if not len(later):
                steps += len(values) - start
                break
            alarms += 1
            steps += int(later[0]) + 1 - start
            start = int(later[0]) + 1 + refractory
    return steps, alarms


def tuned(series, target, refractory):
    """The smallest threshold whose measured run length, in steps, is at least `target`; (threshold, steps, alarms)."""
    values = np.unique(np.concatenate(series))
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        steps, alarms = run_length(series, values[middle], refractory)
        if alarms and steps / alarms < target:
            low = middle + 1
        else:
            high = middle
    return float(values[low]), *run_length(series, values[low], refractory)


def compare(job, series_of, step, refractory):
    """Run quiet streams, tune, run the others until the highest threshold is crossed, and write what was found.

    Args:
        series_of: vectors (T, d) -> generator of one statistic for each `step` items, large when drifted.
    """
    began, items, quiet = time.process_time(), 0, []
    for vectors in job.quiet():
        quiet.append(np.fromiter(series_of(vectors), float))
        items += len(vectors)
    cost = 1e6 * (time.process_time() - began) / items
    lines = {}
    for target in job.targets:
        threshold, steps, alarms = tuned(quiet, target / step, refractory)
        lines[target] = {"threshold": threshold, "quiet_items": steps * step, "quiet_alarms": alarms, "delays": {}}
    print(f"{job.method} window {job.window}: {cost:.0f} us an item, {lines}", file=sys.stderr, flush=True)
    highest = max(line["threshold"] for line in lines.values())
    for key in job.keys:
        for target in job.targets:
            lines[target]["delays"][key] = []
        for vectors, start in job.scenario(key):
            values = []
            for value in series_of(vectors):
                values.append(value)
                if value >= highest and len(values) * step > start:
                    break
            for line in lines.values():
                line["delays"][key].append(delay(np.array(values), line["threshold"], start, step, len(vectors)))
        job.write({"method": job.method, "window": job.window, "us_an_item": cost, "targets": lines})


def delay(values, threshold, start, step, length):
    """Items from the change to the alarm; `early` when it came before the change, None when it never came."""
    ends = step * (1 + np.flatnonzero(values >= threshold))
    if len(ends) and ends[0] <= start:
        return "early"
    return int(ends[0]) - start if len(ends) else None
