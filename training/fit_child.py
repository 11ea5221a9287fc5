"""The child process of a fit: `python -m training.fit_child FOLDER`. Progress goes to standard output as JSON lines.

It reads `problem.safetensors`, `generic.safetensors` and `recipe.json` and writes `weights.safetensors`,
`witness.safetensors` (what torch gives for the selection rows) and, last, `fit.json`. It ends when its standard input
is closed, so it never outlives the worker that holds the other end.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monitoring.errors import MonitoringError
from monitoring.recipe import Recipe
from registry.row import RowKind
from training import leash, problem
from training.errors import TrainingError
from training.files import WorkFolder
from training.fit import fit_head
from training.modules import ResidualHead

# Past a few threads a head this small gains nothing, and a fixed number keeps results equal from run to run.
MAX_THREADS = 4
WITNESSES = 512


def run(folder: WorkFolder) -> None:
    """Fit the head that the folder describes. Raises FitFailed."""
    task = problem.from_bytes(folder.read("problem.safetensors"))
    kind = RowKind.LABELLED if isinstance(task, problem.LabelledProblem) else RowKind.PAIRS
    recipe = Recipe.from_mapping(folder.read_json("recipe.json")).resolved(kind)
    apart = folder.read_arrays("generic.safetensors")
    fitted = fit_head(task, recipe, tell, replay=apart["replayed"], generic=apart["judged"])
    rows = np.arange(min(WITNESSES, len(task.vectors)))
    with torch.no_grad():
        witness = ResidualHead.from_weights(fitted.weights)(torch.from_numpy(task.vectors[rows])).numpy()
    folder.write("weights.safetensors", fitted.weights.to_bytes())
    folder.write_arrays("witness.safetensors", {"inputs": task.vectors[rows], "outputs": witness})
    folder.write_json("fit.json", fitted.report)


def tell(message: dict[str, Any]) -> None:
    """One line of JSON for the worker."""
    print(json.dumps(message), flush=True)


def main(arguments: list[str]) -> int:
    """Exit code 0 when the fit is written, 1 when it failed in a way that was told."""
    leash.on_release(sys.stdin.fileno(), lambda: os._exit(3))
    torch.set_num_threads(min(MAX_THREADS, len(os.sched_getaffinity(0))))
    try:
        run(WorkFolder(Path(arguments[0])))
    except (TrainingError, MonitoringError) as error:
        tell({"failed": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
