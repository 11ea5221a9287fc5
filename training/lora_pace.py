"""How long a LoRA fit takes on this machine, measured before it begins, and how many steps fit into its budget."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from encoder.batch import TokenIds
from training import gradcache
from training.lora_batches import rows_to_fit, scored_part, steps_of
from training.lora_model import LoraModel, settle_precision
from training.lora_settings import LoraSettings
from training.lora_task import LoraDeclined
from training.problem import Problem
from training.sentence import SentenceModule
from training.team import Team

_STEPS = 3
_SCORED = 256
# Of the budget, what is planned for: steps are not all alike, and the machine may be shared.
_PLANNED = 0.9
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured times of one fit.

    Attributes:
        precision: Number format it was measured in, the faster one where that is left open.
        step_s: Seconds of one optimiser step.
        score_s: Seconds of one selection score.
    """

    precision: str
    step_s: float
    score_s: float


def measure(module: SentenceModule, tokens: TokenIds, task: Problem, settings: LoraSettings, team: Team) -> Pace:
    """Time a few steps and part of a score; every process gives the same. The module is changed and of no more use."""
    model = LoraModel(module, settings, team.device)
    settle_precision(model, tokens, settings.precision, team)
    weights = list(model.parameters.values())
    taken = []
    for number, step in zip(range(_STEPS), steps_of(task, settings, team.device), strict=False):
        started = time.perf_counter()
        with model.fitting():
            gradcache.backward(
                model.encode,
                [tokens[text] for text in step.texts],
                step.loss,
                weights,
                dimension=model.dimension,
                chunk_tokens=settings.chunk_tokens,
                held_tokens=settings.held_tokens,
                seed=(settings.seed, number),
                team=team,
            )
        taken.append(time.perf_counter() - started)
    _, texts = scored_part(task, settings.scored_rows, settings.seed)
    sample = np.random.default_rng(settings.seed).permutation(texts)[:_SCORED]
    started = time.perf_counter()
    model.vectors([tokens[text] for text in sample], team)
    scored = (time.perf_counter() - started) * len(texts) / len(sample)
    return Pace(model.precision, team.of_first(float(np.mean(taken[1:]))), team.of_first(scored))


def planned(
    settings: LoraSettings, task: Problem, pace: Pace, budget_s: float, least_share: float
) -> tuple[LoraSettings, dict[str, Any]]:
    """The settings with the number of steps that the budget holds, and the figures behind it.

    The schedule of the learning rate spans exactly the steps that are made; a fit that merely ran out of time would
    end at a high rate.

    Raises:
        LoraDeclined: The budget holds less than that share of the steps the rows ask for, or hardly any.
    """
    wanted = settings.steps_for(rows_to_fit(task))
    # The first score, those on the way, and one for each share at the end.
    scores = settings.evaluations + 1 + len(settings.shares)
    left = _PLANNED * budget_s - scores * pace.score_s
    held = max(0, int(left / max(pace.step_s, 1e-9)))
    steps = min(wanted, held)
    figures = {
        "steps": steps,
        "steps_wanted": wanted,
        "step_s": round(pace.step_s, 3),
        "score_s": round(pace.score_s, 3),
        "estimated_s": round(wanted * pace.step_s + scores * pace.score_s, 1),
        "budget_s": round(budget_s, 1),
        "precision": pace.precision,
    }
    if steps < max(min(_FEWEST, wanted), math.ceil(least_share * wanted)):
        raise LoraDeclined(
            f"a LoRA fit of {wanted} steps would take about {figures['estimated_s']:.0f} s on this machine, and its "
            f"budget of {budget_s:.0f} s holds {held} of them"
        )
    return replace(settings, steps=steps, precision=pace.precision, time_budget_s=max(1.0, budget_s)), figures
