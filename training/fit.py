"""Fitting a residual head on cached base vectors: seconds on a CPU, and the best weights on unseen rows are kept."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monitoring.recipe import Recipe
from training.batches import Indices, labelled_batches, shuffled_batches
from training.errors import FitFailed
from training.losses import identity_penalty, info_nce, supcon
from training.modules import ResidualHead
from training.problem import LabelledProblem, PairProblem, Problem
from training.selection import Selector
from training.weights import HeadWeights

EVALUATIONS = 12
MAX_INTERVAL = 25
WARM_UP = 20
AVERAGING = 0.95
ALPHAS = (0.5, 0.75, 1.0)

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The outcome of a fit: the weights to publish, and what happened (plain JSON values)."""

    weights: HeadWeights
    report: dict[str, Any]


def fit_head(problem: Problem, recipe: Recipe, progress: Progress) -> Fitted:
    """Fit a head and restore its best state.

    AdamW with a warm-up and a cosine schedule (Loshchilov & Hutter, arXiv 1711.05101 and 1608.03983). What is scored
    and kept is a moving average of the weights (Polyak averaging), which is steadier than any single step. Every so
    many steps the selection score is measured; the fit ends when it has not risen for `patience` measurements, at the
    last step, or when the time budget is spent. Then the share alpha of the residual is chosen on the same split, and
    the weights that are returned are scored once more.

    Same problem, recipe and machine, same weights.

    Args:
        problem: Base vectors and roles of the rows.
        recipe: How to fit.
        progress: Called at each measurement with {step, steps, loss, score, best}.

    Raises:
        FitFailed: The loss is not finite.
    """
    if recipe.temperature is None or recipe.learning_rate is None or recipe.dropout is None:
        raise ValueError("the recipe must be resolved first")
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    started = time.monotonic()
    head = ResidualHead(problem.vectors.shape[1], recipe.hidden, recipe.dropout)
    decayed = [p for p in head.parameters() if p.ndim > 1]
    others = [p for p in head.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    average = {name: value.detach().clone() for name, value in head.state_dict().items()}
    scored = ResidualHead(problem.vectors.shape[1], recipe.hidden)
    selector = Selector(problem)
    losses = _losses(problem, recipe, recipe.temperature, head)
    base_score = selector.score(lambda vectors: vectors)
    progress({"step": 0, "steps": recipe.steps, "loss": None, "score": base_score, "best": None})

    every = max(1, min(MAX_INTERVAL, recipe.steps // EVALUATIONS))
    curve: list[tuple[int, float]] = []
    best, best_step, best_weights = -1.0, 0, scored.weights()
    stopped = "steps"
    for step in range(1, recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.steps)
        loss = next(losses)
        if not bool(torch.isfinite(loss)):
            raise FitFailed(f"the loss was not finite at step {step}; lower learning_rate or raise temperature")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        _blend(average, head, min(AVERAGING, step / (step + 10)))
        out_of_time = time.monotonic() - started > recipe.time_budget_s
        if step % every and step < recipe.steps and not out_of_time:
            continue
        scored.load_state_dict(average)
        weights = scored.weights()
        score = selector.score(weights.apply)
        curve.append((step, round(score, 5)))
        if score > best:
            best, best_step, best_weights = score, step, weights
        progress({"step": step, "steps": recipe.steps, "loss": float(loss.detach()), "score": score, "best": best})
        if out_of_time:
            stopped = "time"
            break
        if sum(1 for at, _ in curve if at > best_step) >= recipe.patience:
            stopped = "patience"
            break

    alpha, final_score = _choose_alpha(best_weights, recipe, selector)
    report = {
        "base_score": round(base_score, 5),
        "select_score": round(final_score, 5),
        "best_step": best_step,
        "steps_run": curve[-1][0],
        "stopped": stopped,
        "alpha": alpha,
        "curve": [list(point) for point in curve],
        "seconds": round(time.monotonic() - started, 2),
    }
    return Fitted(best_weights.scaled(alpha), report)


def _losses(problem: Problem, recipe: Recipe, temperature: float, head: ResidualHead) -> Iterator[Tensor]:
    """Endless losses, each on a fresh batch, of the head as it is when asked."""
    rng = np.random.default_rng(recipe.seed)
    vectors = torch.from_numpy(problem.vectors)
    if isinstance(problem, LabelledProblem):
        return _labelled_losses(problem, recipe, temperature, head, vectors, rng)
    return _pair_losses(problem, recipe, temperature, head, vectors, rng)


def _labelled_losses(
    problem: LabelledProblem,
    recipe: Recipe,
    temperature: float,
    head: ResidualHead,
    vectors: Tensor,
    rng: np.random.Generator,
) -> Iterator[Tensor]:
    rows, labels = torch.from_numpy(problem.fit), torch.from_numpy(problem.fit_labels)
    for batch in labelled_batches(problem.fit_labels, recipe.batch_size, rng):
        base = vectors[rows[batch]]
        adapted = head(base)
        loss = supcon(adapted, labels[batch], temperature)
        yield loss + recipe.identity * identity_penalty(adapted, base)


def _pair_losses(
    problem: PairProblem,
    recipe: Recipe,
    temperature: float,
    head: ResidualHead,
    vectors: Tensor,
    rng: np.random.Generator,
) -> Iterator[Tensor]:
    for batch in shuffled_batches(len(problem.fit_anchors), recipe.batch_size, rng):
        anchors, positives = _ids(problem.fit_anchors[batch]), _ids(problem.fit_positives[batch])
        given = problem.fit_negatives[batch]
        negatives = _ids(given[given >= 0])
        base = vectors[torch.cat([anchors, positives, negatives])]
        adapted = head(base)
        a, p, n = torch.split(adapted, [len(anchors), len(positives), len(negatives)])
        loss = info_nce(
            a, p, temperature, anchor_ids=anchors, positive_ids=positives, negatives=n, negative_ids=negatives
        )
        yield loss + recipe.identity * identity_penalty(adapted, base)


def _ids(indices: Indices) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))


def _schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to 0."""
    warm = min(WARM_UP, max(1, steps // 5))
    return min(1.0, step / warm) * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps))


def _blend(average: dict[str, Tensor], head: ResidualHead, keep: float) -> None:
    with torch.no_grad():
        for name, value in head.state_dict().items():
            average[name].lerp_(value, 1 - keep)


def _choose_alpha(weights: HeadWeights, recipe: Recipe, selector: Selector) -> tuple[float, float]:
    """The smallest share whose score is within one standard error of the best one's, and that score.

    The one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3), with the
    error of the paired difference: a smaller share stays nearer to the base and keeps more of its generality.
    """
    options = ALPHAS if recipe.alpha is None else (recipe.alpha,)
    items = {alpha: selector.items(weights.scaled(alpha).apply) for alpha in sorted(options)}
    best = max(items.values(), key=lambda scores: float(scores.mean()))
    for alpha, scores in items.items():
        lost = best - scores
        if lost.mean() <= lost.std() / math.sqrt(len(lost)):
            return alpha, float(scores.mean())
    raise AssertionError("the best share loses nothing against itself")
