"""The child process of a head's fit: `python -m training.fit_child FOLDER`; progress as lines of JSON.

It reads `problem.safetensors`, `generic.safetensors` and `recipe.json` and writes `weights.safetensors`,
`scored.safetensors` (the weights that the selection score is of), `witness.safetensors` (what torch gives for the
selection rows) and, last, `head.json`. It ends when its standard input is closed, so it never outlives the worker that
holds the other end.
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
from training.extra import fit_with_extra
from training.extra_texts import POOL
from training.files import WorkFolder
from training.modules import ResidualHead

# Past a few threads a head this small gains nothing, and a fixed number keeps results equal from run to run.
MAX_THREADS = 4
WITNESSES = 512


def run(folder: WorkFolder) -> None:
    """Fit the head that the folder describes. Raises FitFailed."""
    task = problem.from_bytes(folder.read("problem.safetensors"))
    kind = RowKind.LABELLED if isinstance(task, problem.LabelledProblem) else RowKind.PAIRS
    recipe = Recipe.from_mapping(folder.read_json("recipe.json")).resolved(kind)
    generic = folder.read_arrays("generic.safetensors")["judged"]
    pool = folder.read_arrays(POOL)["texts"] if folder.has(POOL) else None
    fitted = fit_with_extra(task, recipe, tell, pool=pool, generic=generic)
    rows = np.arange(min(WITNESSES, len(task.vectors)))
    with torch.no_grad():
        witness = ResidualHead.from_weights(fitted.weights)(torch.from_numpy(task.vectors[rows])).numpy()
    folder.write("weights.safetensors", fitted.weights.to_bytes())
    folder.write("scored.safetensors", fitted.scored.to_bytes())
    folder.write_arrays("witness.safetensors", {"inputs": task.vectors[rows], "outputs": witness})
    folder.write_json("head.json", fitted.report)


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
