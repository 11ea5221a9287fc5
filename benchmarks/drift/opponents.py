"""Runs every rival on the delay streams, each in its own environment, and reads back what it found."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.drift.corpus import Corpus, Rows
from benchmarks.drift.environments import ALIBI_DETECT, EVIDENTLY, FROUROS, RIVER, Environment, alone
from benchmarks.drift.streams import Partition, Scenario, changed, quiet
from monitoring.reference import Reference

SCRIPTS: Final = Path(__file__).parent / "rivals"
QUIET: Final = (40, 5000)
"""Quiet streams and their items, to tune thresholds on."""
RUNS: Final = 200


@dataclass(frozen=True)
class Rival:
    """One method of one tool.

    Attributes:
        words: Name in the table.
        environment: Where it runs.
        script, method, window: What runs there; window None where the method has none.
        quiet, runs: Streams it gets; fewer for the slow ones.
        targets: Run lengths to tune to; the slow ones are not shown enough items for long ones.
        rows: Reference rows it gets; kernels of all pairs of more would take longer without telling more.
    """

    words: str
    environment: Environment
    script: str
    method: str
    window: int | None
    quiet: int = 40
    runs: int = 100
    targets: tuple[int, ...] = (1000, 10000)
    rows: int = 2000


_SLOW: Final = (1_000,)
RIVALS: Final = (
    Rival("alibi-detect online MMD, window 25", ALIBI_DETECT, "alibi_detect_online.py", "mmd", 25, 10, 24, _SLOW),
    Rival("alibi-detect online MMD, window 100", ALIBI_DETECT, "alibi_detect_online.py", "mmd", 100, 10, 24, _SLOW),
    Rival("alibi-detect online LSDD, window 25", ALIBI_DETECT, "alibi_detect_online.py", "lsdd", 25),
    Rival("alibi-detect online LSDD, window 100", ALIBI_DETECT, "alibi_detect_online.py", "lsdd", 100),
    Rival("Evidently classifier, windows of 100", EVIDENTLY, "evidently_windows.py", "model", 100, 10, 24, _SLOW, 1000),
    Rival("Evidently distance, windows of 100", EVIDENTLY, "evidently_windows.py", "distance", 100),
    Rival("Evidently MMD, windows of 100", EVIDENTLY, "evidently_windows.py", "mmd", 100, 10, 24, _SLOW, 1000),
    Rival("Evidently ratio, windows of 100", EVIDENTLY, "evidently_windows.py", "ratio", 100, 10, 24, _SLOW, 1000),
    Rival("frouros MMD, windows of 100", FROUROS, "frouros_windows.py", "mmd", 100),
    Rival("river ADWIN on the novelty score", RIVER, "river_scores.py", "adwin", None, runs=200),
    Rival("river Page-Hinkley on the novelty score", RIVER, "river_scores.py", "page_hinkley", None, runs=200),
)


@dataclass(frozen=True)
class Field:
    """The streams of the delay table, as files in a folder, and the reference they are judged against."""

    corpus: Corpus
    partition: Partition
    reference: Reference
    folder: Path
    scenarios: list[Scenario]

    def write(self) -> None:
        """Draw the streams once: every method gets the same ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(5)
        arrays: dict[str, Any] = {"quiet": quiet(rng, self.partition.traffic, QUIET)}
        for scenario in self.scenarios:
            streams, starts = changed(rng, self.partition.traffic, scenario, RUNS)
            padded = np.full((RUNS, max(map(len, streams))), -1, dtype=np.int64)
            for row, stream in zip(padded, streams, strict=True):
                row[: len(stream)] = stream
            arrays |= {f"{scenario.key}/rows": padded, f"{scenario.key}/starts": np.array(starts)}
        np.savez(self.folder / "streams.npz", **arrays)
        usual = np.random.default_rng(6).permutation(np.concatenate([self.partition.fit, self.partition.calibration]))
        np.save(self.folder / "reference.npy", usual)
        np.save(self.folder / "calibration.npy", self.partition.calibration)
        # river takes one number an item.
        scores = 1 - self.reference.neighbors(self.corpus.vectors, self.reference.k)[0].astype(float).mean(axis=1)
        np.save(self.folder / "scores.npy", scores[:, None])

    def streams(self, key: str) -> tuple[list[Rows], list[int]]:
        """Rows of each run of a scenario, and where its change is."""
        with np.load(self.folder / "streams.npz") as stored:
            return [row[row >= 0] for row in stored[f"{key}/rows"]], stored[f"{key}/starts"].tolist()

    def quiet(self) -> Rows:
        """The quiet streams, (runs, items)."""
        with np.load(self.folder / "streams.npz") as stored:
            return np.asarray(stored["quiet"])


def run(rival: Rival, field: Field) -> dict[str, Any]:
    """What the rival found, stored in the field's folder; run only where it is not there yet.

    Raises:
        subprocess.CalledProcessError: its environment or its script failed.
    """
    out = field.folder / f"{rival.script[:-3]}-{rival.method}-{rival.window}.json"
    if not out.exists():
        on_scores = rival.environment is RIVER
        job = {
            "vectors": str(field.folder / "scores.npy" if on_scores else field.corpus.folder / "vectors.npy"),
            "reference": str(field.folder / ("calibration.npy" if on_scores else "reference.npy")),
            "streams": str(field.folder / "streams.npz"), "scenarios": [s.key for s in field.scenarios],
            "method": rival.method, "window": rival.window, "targets": rival.targets, "quiet": rival.quiet,
            "runs": rival.runs, "rows": rival.rows, "out": str(out.with_suffix(".part")),
        }  # fmt: skip
        file = out.with_suffix(".job")
        file.write_text(json.dumps(job))
        subprocess.run(
            [str(rival.environment.python()), str(SCRIPTS / rival.script), str(file)],
            check=True,
            env=alone(),
            stdout=sys.stderr,
        )
        out.with_suffix(".part").rename(out)
    found: dict[str, Any] = json.loads(out.read_text())
    return found
