"""The child process of a LoRA fit: `python -m training.lora_child fit|prove FOLDER`; progress as lines of JSON.

`fit` goes on from the folder's checkpoint if there is one, writes the adapter as a PEFT folder and, last, `lora.json`.
`prove` reads that folder back, proves it against PEFT and on the backbone's graph, and writes `lora.safetensors`,
`probes.json` and, last, the manifest without the figures of an evaluation.

The same command is run by one process on a CPU or a GPU, or by several, which then share the work:
`torchrun --standalone --nproc-per-node 2 -m training.lora_child fit FOLDER`, or `accelerate launch`.
It ends when its standard input is closed, so it never outlives the worker that holds the other end.
"""

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from encoder.lora import PROBES, WEIGHTS
from monitoring.errors import MonitoringError
from training import leash, problem
from training.errors import TrainingError
from training.files import WorkFolder
from training.lora_batches import scored_part
from training.lora_fit import FittedLora, fit_lora
from training.lora_masked import mask_ids
from training.lora_pace import measure, planned
from training.lora_proof import Notes, prove_adapter
from training.lora_publish import write_folder
from training.lora_settings import LoraSettings
from training.lora_task import (
    ADAPTER,
    BACKBONE,
    DRAFT,
    NOTES,
    PLAN,
    PROBLEM,
    REPORT,
    TASK,
    TOKENS,
    WITNESS,
    LoraDeclined,
    LoraTask,
    token_arrays,
    tokens_of,
)
from training.peft_folder import read_folder
from training.problem import Problem
from training.selection import Selector
from training.sentence import load_module
from training.sources import open_source
from training.team import Team
from training.weights import HeadWeights

Tell = Callable[[dict[str, Any]], None]


def fit(folder: WorkFolder, team: Team, tell: Tell) -> None:
    """Fit the adapter that the folder describes. Raises FitFailed, LoraDeclined, ExportRefused."""
    task = LoraTask.from_dict(folder.read_json(TASK))
    rows = problem.from_bytes(folder.read(PROBLEM))
    tokens = tokens_of(folder.read_arrays(TOKENS))
    settings = _plan(folder, task, rows, tokens, team)
    last: dict[str, Any] = {"steps": settings.steps, "loss": None, "score": None}

    def measured(message: dict[str, Any]) -> None:
        last.update(message)
        tell(message)

    source = open_source(task.source)
    fitted = fit_lora(
        load_module(source),
        tokens,
        rows,
        settings,
        measured,
        team=team,
        folder=folder,
        beat=lambda step, kept: tell({**last, "step": step, "checkpoint": kept}),
        mask=mask_ids(source.tokenizer) if settings.masked else None,
    )
    if team.rank == 0:
        _write(folder, task, rows, fitted)


def _plan(folder: WorkFolder, task: LoraTask, rows: Problem, tokens: list[list[int]], team: Team) -> LoraSettings:
    """The settings with the machine's pace in them: measured once, so that a fit that was killed goes on as it was."""
    if not team.of_first(float(folder.has(PLAN))):
        pace = measure(load_module(open_source(task.source)), tokens, rows, task.settings, team)
        settings, figures = planned(task.settings, rows, pace, task.budget_s, task.least_share)
        if team.rank == 0:
            folder.write_json(PLAN, {"settings": settings.to_dict(), "figures": figures})
        return settings
    return LoraSettings.from_dict(folder.read_json(PLAN)["settings"])


def _write(folder: WorkFolder, task: LoraTask, rows: Problem, fitted: FittedLora) -> None:
    write_folder(fitted, folder.path / ADAPTER)
    tokens, vectors = fitted.witness
    folder.write_arrays(WITNESS, {**token_arrays(tokens), "vectors": vectors})
    # The curve as a head's is: the base apart, losses among the measures.
    curve = fitted.report["curve"]
    report = {
        **fitted.report,
        "curve": [[int(step), score] for step, _, score in curve],
        "geometry": {
            "step": [0, *(int(step) for step, _, _ in curve)],
            "loss": [None, *(loss for _, loss, _ in curve)],
        },
        "settings": fitted.settings.to_dict(),
        "plan": folder.read_json(PLAN)["figures"],
        "against_head": _against_head(folder, rows, fitted) if task.head else None,
    }
    folder.write_json(REPORT, report)


def _against_head(folder: WorkFolder, rows: Problem, fitted: FittedLora) -> dict[str, Any]:
    """The head's and the LoRA's scores of the same selection items, and the paired standard error between them."""
    head = HeadWeights.from_bytes(folder.read("scored.safetensors"))
    scored, _ = scored_part(rows, fitted.settings.scored_rows, fitted.settings.seed)
    own = Selector(scored).items(head.apply)
    gain = fitted.items - own
    return {
        "items": len(gain),
        "head": float(own.mean()),
        "lora": float(fitted.items.mean()),
        "difference": float(gain.mean()),
        "standard_error": float(gain.std(ddof=1) / math.sqrt(len(gain))) if len(gain) > 1 else math.inf,
    }


def prove(folder: WorkFolder, tell: Tell) -> None:
    """Prove the fitted adapter and write its artifact into the folder. Raises LoraRefused, ExportRefused."""
    task = LoraTask.from_dict(folder.read_json(TASK))
    witness = folder.read_arrays(WITNESS)
    vectors = witness.pop("vectors")
    notes = folder.read_json(NOTES)
    backbone = WorkFolder(folder.path / BACKBONE)
    proven = prove_adapter(
        read_folder(folder.path / ADAPTER),
        open_source(task.source),
        notes.pop("backbone"),
        backbone.read,
        Notes(**notes),
        lambda step, share: tell({"doing": step, "share": share}),
        (tokens_of(witness), vectors),
    )
    folder.write(WEIGHTS, proven.weights)
    folder.write(PROBES, proven.probes)
    folder.write(DRAFT, proven.manifest.to_bytes())


def _teller() -> Tell:
    """Tells the worker by lines of JSON; lines that libraries print go to the log and never between them."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda message: print(json.dumps(message), file=told, flush=True)


def main(arguments: list[str]) -> int:
    """Exit code 0 when the work is done or declined for a told reason, 1 when it failed in a way that was told."""
    tell = _teller()
    leash.on_release(sys.stdin.fileno(), lambda: os._exit(3))
    act, folder = arguments[0], WorkFolder(Path(arguments[1]))
    team = Team.of_environment() if act == "fit" else Team()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // team.size))
    try:
        if act == "prove":
            prove(folder, tell)
        else:
            fit(folder, team, tell)
    except LoraDeclined as error:
        if team.rank == 0:
            folder.write_json(REPORT, {"declined": str(error)})
    except (TrainingError, MonitoringError) as error:
        tell({"failed": str(error)})
        return 1
    team.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
