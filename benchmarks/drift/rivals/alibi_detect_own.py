"""alibi-detect's online detectors on its own tasks: run times without and with drift, as its notebook takes them."""

import json
import sys
from pathlib import Path

import numpy as np
from alibi_detect_online import detector

WINDOW = 10
BOOTSTRAPS = 2500


def run_time(found, rows, rng):
    """Items until drift is predicted, rows in random order over and over."""
    found.reset_state()
    order, item = rng.permutation(len(rows)), 0
    while True:
        item += 1
        if found.predict(rows[order[item % len(rows)]])["data"]["is_drift"]:
            return item


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    arrays = np.load(job["arrays"])
    rng, times = np.random.default_rng(0), {}
    for kind in ("mmd", "lsdd"):
        found = detector(kind, arrays["usual"], job["target"], WINDOW, BOOTSTRAPS)
        times[f"alibi-detect online {kind.upper()}, window {WINDOW}"] = {
            part: [run_time(found, arrays[part], rng) for _ in range(job["runs"])] for part in ("quiet", "drifted")
        }
    print(json.dumps(times))


if __name__ == "__main__":
    main()
