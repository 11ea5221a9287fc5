"""alibi-detect's own work at a run length of 50: its wine stream, and its ten Gaussian dimensions shifted by one sd."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.drift.corpus import Vectors
from benchmarks.drift.environments import ALIBI_DETECT, alone
from benchmarks.drift.settings import Card
from monitoring.reference import Reference, Scored
from monitoring.sequential import Sequential
from monitoring.window import Window

TARGET: Final = 50
RUNS: Final = 250
TUNING_RUNS: Final = 100
LONGEST: Final = 500
"""Items of a run of Driftline at most; a run that gets there counts as that long."""
REACH: Final = 3.0
"""A vector x in standard deviations is laid on the sphere as (x, REACH), its length made 1: near ones stay near."""
_SCRIPT: Final = Path(__file__).parent / "rivals" / "alibi_detect_own.py"


def wine(card: Card, folder: Path | None) -> None:
    """Both tasks; the wine one where `folder` holds winequality-white.csv and winequality-red.csv."""
    print(
        f"\nMean items to the alarm over {RUNS} runs (twice the standard error), all at a run length of {TARGET}. "
        "Driftline's is tuned to it by its stated run length, shown in brackets.\n"
    )
    print("| task | method | without drift | delay |\n| --- | --- | ---: | ---: |")
    tasks: dict[str, tuple[Vectors, ...]] = {}
    if folder is None:
        print("| wine | not run: the data set was not given (--wine) | | |")
    else:
        white, red = (_wines(folder / f"winequality-{colour}.csv") for colour in ("white", "red"))
        tasks["white to red wine, 2 components"] = _wine_task(white, red, 2)
        tasks["white to red wine, all 11 columns"] = _wine_task(white, red, 11)
    rng = np.random.default_rng(3)
    normal = [rng.standard_normal((n, 10)).astype(np.float32) for n in (2_000, 1_000, 20_000, 20_000)]
    tasks["ten dimensions, +1 sd"] = (*normal[:3], normal[3] + 1)
    for name, (fit, usual, quiet, drifted) in tasks.items():
        for method, found in _rivals(card, name, usual, quiet, drifted).items():
            print(f"| {name} | {method} | {found[0]} | {found[1]} |", flush=True)
        print(f"| {name} | {_own(fit, usual, quiet, drifted)} |", flush=True)


def _wine_task(white: Vectors, red: Vectors, components: int) -> tuple[Vectors, ...]:
    """As the notebook cd_online_wine parts and scales it: (fit, reference, quiet, drifted), in its two components, or
    in all 11, which only turns the columns.
    """
    rng = np.random.default_rng(0)
    largest = white.max(axis=0)
    white, red = rng.permutation(white / largest), rng.permutation(red / largest)
    half, three = len(white) // 2, 3 * len(white) // 4
    mean = white[:half].mean(axis=0)
    axes = np.linalg.svd(white[:half] - mean, full_matrices=False)[2][:components]
    parts = (white[:half], white[half:three], white[three:], red)
    return tuple(((part - mean) @ axes.T).astype(np.float32) for part in parts)


def _wines(path: Path) -> Vectors:
    text = path.read_text()
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=";" if ";" in text.split("\n", 1)[0] else ","))
    return np.array(rows[1:], dtype=np.float32)[:, :-1]


def _own(fit: Vectors, usual: Vectors, quiet: Vectors, drifted: Vectors) -> str:
    centre, spread = fit.mean(axis=0), fit.std(axis=0)

    def lift(x: Vectors) -> Vectors:
        longer = np.concatenate([(x - centre) / spread, np.full((len(x), 1), REACH, np.float32)], axis=1)
        return np.asarray(longer / np.linalg.norm(longer, axis=1, keepdims=True), dtype=np.float32)

    reference = Reference.build(
        fit=lift(fit), fit_ids=range(len(fit)), fit_labels=None, calibration=lift(usual), replay=lift(usual[:1])
    )
    scored = {name: reference.score(lift(x)) for name, x in (("quiet", quiet), ("drifted", drifted))}

    def lengths(arl: float, which: str, seed: int, runs: int = RUNS) -> list[int]:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, len(scored[which]), (runs, LONGEST))
        return [_run_time(reference, arl, scored[which].rows(rows)) for rows in drawn]

    stated = _stated(lambda arl: float(np.mean(lengths(arl, "quiet", 0, TUNING_RUNS))))
    without, delay = lengths(stated, "quiet", 1), lengths(stated, "drifted", 2)
    return f"Driftline (stated {stated:.1f}) | {_mean(without)} | {_mean(delay)}"


def _run_time(reference: Reference, arl: float, stream: Scored) -> int:
    """Items to the alarm. The judgement alone: a monitor refuses to be stated so short a run length."""
    judge = Sequential(reference, arl)
    for item in range(len(stream)):
        judge.add(Window.of(reference, stream.part(item, item + 1)), item)
        if judge.cause() is not None:
            return item + 1
    return len(stream)


def _stated(measured: Callable[[float], float]) -> float:
    """The stated run length that measures TARGET, by bisection; 1 where even that runs longer."""
    low, high = 1.0, 100.0
    for _ in range(6):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if measured(middle) < TARGET else (low, middle)
    return high


def _mean(values: list[int]) -> str:
    return f"{np.mean(values):.1f} ({2 * np.std(values) / np.sqrt(len(values)):.1f})"


def _rivals(card: Card, name: str, usual: Vectors, quiet: Vectors, drifted: Vectors) -> dict[str, tuple[str, str]]:
    job = card.folder / ("own-" + name.replace(",", "").replace(" ", "-"))
    card.folder.mkdir(parents=True, exist_ok=True)
    np.savez(job.with_suffix(".npz"), usual=usual, quiet=quiet, drifted=drifted)
    document = {"arrays": str(job.with_suffix(".npz")), "target": TARGET, "runs": RUNS}
    job.with_suffix(".json").write_text(json.dumps(document))
    try:
        done = subprocess.run(
            [str(ALIBI_DETECT.python()), str(_SCRIPT), str(job.with_suffix(".json"))],
            check=True, capture_output=True, text=True, env=alone(),
        )  # fmt: skip
    except (subprocess.CalledProcessError, OSError) as error:
        print(error, file=sys.stderr)
        return {"alibi-detect could not be run here": ("", "")}
    found = json.loads(done.stdout.splitlines()[-1])
    return {method: (_mean(values["quiet"]), _mean(values["drifted"])) for method, values in found.items()}
